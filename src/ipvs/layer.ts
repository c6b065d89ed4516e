import type { KernelError } from '../lib/errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { Turn } from '../lib/turn.ts'
import { cidrContains, type Cidr, type Family } from '../model/address.ts'
import { isHeld, Refusals } from '../reconcile/apply.ts'
import type { Drift, Layer, Outcome, Owner } from '../reconcile/layer.ts'
import {
  destinationKey,
  serverKey,
  type Destination,
  type Ipvs,
  type IpvsChange,
  type ObservedDestination,
  type VirtualServer,
} from './ipvs.ts'

/** So many changes are made up before they are written: 100,000 of them are never there at once. */
const changesPerWrite = 4096

export interface IpvsLayerOptions {
  readonly family: Family
  readonly ipvs: Ipvs
  readonly log: Log
  /** Virtual servers with an address in these ranges are somebody else's. */
  readonly excludeCIDRs: readonly Cidr[]
  /** Who wants the virtual server of this key. */
  readonly ownersOf: (key: string) => Iterable<Owner>
  /** Milliseconds that a destination may drain; 0: as long as it has connections. Counted from when we first see it. */
  readonly drainTimeout: number
  readonly clock: Clock
}

/** A virtual server with its destinations, as wanted. */
export interface WantedServer {
  readonly server: VirtualServer
  readonly destinations: readonly Destination[]
}

interface PresentServer {
  server: VirtualServer
  readonly destinations: Map<string, PresentDestination>
}

interface PresentDestination {
  readonly address: string
  readonly port: number
  weight: number
  /** Active and inactive connections at the last look. */
  connections: number
}

/** Virtual servers and destinations of one family. */
export class IpvsLayer implements Layer {
  readonly name = 'ipvs'
  readonly needs: readonly string[] = ['ipset', 'iptables']
  readonly #options: IpvsLayerOptions
  readonly #desired = new Map<string, WantedServer>()
  readonly #present = new Map<string, PresentServer>()
  readonly #pending = new Set<string>()
  /** Servers with destinations at weight 0 that wait for their last connection; looked at again at each resync. */
  readonly #draining = new Set<string>()
  /** When a destination's draining was first seen, by server, then destination. */
  readonly #drainingSince = new Map<string, Map<string, number>>()
  /** Virtual servers that were there before us and that nobody wanted when they were found. */
  readonly #foundAtStart = new Set<string>()
  #adopted = false
  #lookAtDraining = false

  constructor(options: IpvsLayerOptions) {
    this.#options = options
  }

  want(key: string, want: WantedServer): void {
    this.#desired.set(key, want)
    this.#foundAtStart.delete(key)
    this.#pending.add(key)
  }

  unwant(key: string): void {
    this.#desired.delete(key)
    this.#pending.add(key)
  }

  /** Destinations that wait at weight 0 for their connections to end. */
  get drainingCount(): number {
    let count = 0
    for (const key of this.#draining) {
      const wanted = new Set(this.#desired.get(key)?.destinations.map(destinationKey))
      for (const destination of this.#present.get(key)?.destinations.keys() ?? []) if (!wanted.has(destination)) count++
    }
    return count
  }

  async resync(): Promise<readonly Drift[]> {
    const drifts: Drift[] = []
    const report = (kind: string, object: string, state: string): void => {
      if (this.#adopted) drifts.push({ layer: this.name, kind, object, state })
    }
    const seen = new Set<string>()
    const turn = new Turn()
    for (const { server, destinations } of await this.#options.ipvs.listAll()) {
      if (turn.isOver) await turn.next()
      if (server.family !== this.#options.family) continue
      const key = serverKey(server)
      if (!this.#desired.has(key) && this.#options.excludeCIDRs.some((cidr) => cidrContains(cidr, server.address))) {
        continue
      }
      seen.add(key)
      const former = this.#present.get(key)
      if (!this.#adopted) this.#foundAtStart.add(key)
      const now = new Map(destinations.map((destination) => [destinationKey(destination), present(destination)]))
      if (former === undefined) {
        report('virtual server', key, 'foreign')
      } else {
        if (!sameServer(former.server, server)) report('virtual server', key, 'changed')
        reportDestinations(key, former.destinations, now, report)
      }
      this.#present.set(key, { server, destinations: now })
      this.#pending.add(key)
    }
    for (const key of this.#present.keys()) {
      if (seen.has(key)) continue
      // Its destinations went with it: one thing happened, one line says so.
      report('virtual server', key, 'missing')
      this.#present.delete(key)
    }
    for (const key of this.#desired.keys()) if (!seen.has(key)) this.#pending.add(key)
    this.#adopted = true
    this.#lookAtDraining = true
    return drifts
  }

  async add(held: ReadonlySet<Owner>): Promise<Outcome> {
    const total = { applied: 0, refused: new Map<Owner, Error>() }
    const turn = new Turn()
    let changes: IpvsChange[] = []
    let touched: string[] = []
    const write = async (): Promise<void> => {
      const { applied, refused } = await this.#apply(changes)
      total.applied += applied
      for (const [owner, error] of refused) if (!total.refused.has(owner)) total.refused.set(owner, error)
      // What stands as wanted need not be looked at again.
      for (const key of touched) this.#forgetIfSettled(key)
      changes = []
      touched = []
    }
    for (const key of this.#pending) {
      if (turn.isOver) await turn.next()
      const wanted = this.#desired.get(key)
      if (wanted === undefined || isHeld(this.#options.ownersOf(key), held)) continue
      this.#compare(wanted, this.#present.get(key), changes)
      touched.push(key)
      if (changes.length >= changesPerWrite) await write()
    }
    await write()
    return total
  }

  /** Adds what a virtual server lacks. */
  #compare({ server, destinations }: WantedServer, now: PresentServer | undefined, changes: IpvsChange[]): void {
    if (now === undefined) changes.push({ kind: 'newServer', server })
    else if (!sameServer(now.server, server)) changes.push({ kind: 'setServer', server })
    for (const destination of destinations) {
      const there = now?.destinations.get(destinationKey(destination))
      if (there === undefined) changes.push({ kind: 'newDestination', server, destination })
      else if (there.weight !== destination.weight) changes.push({ kind: 'setDestination', server, destination })
    }
  }

  async remove(held: ReadonlySet<Owner>): Promise<Outcome> {
    const changes: IpvsChange[] = []
    const toDrain: { key: string; server: VirtualServer }[] = []
    const turn = new Turn()
    for (const key of this.#pending) {
      if (turn.isOver) await turn.next()
      const now = this.#present.get(key)
      if (now === undefined) continue
      const wanted = this.#desired.get(key)
      if (wanted === undefined) {
        if (this.#foundAtStart.delete(key)) {
          this.#options.log.warn('Removing a virtual server that was here before and that no Service wants', {
            object: key,
            destinations: now.destinations.size,
            advice: 'to keep what is not Kubernetes’ own, put its address into ipvs.excludeCIDRs',
          })
        }
        changes.push({ kind: 'deleteServer', server: now.server })
        continue
      }
      // While the new destinations of a server could not be written, the old ones are better than none.
      if (isHeld(this.#options.ownersOf(key), held)) continue
      // Growth may also have had to wait for a layer below, or have torn off: the last that work stay until one of
      // their successors stands.
      if (wanted.destinations.length > 0 && !wanted.destinations.some((one) => isAtWork(now, one))) continue
      const keep = new Set(wanted.destinations.map(destinationKey))
      let drains = this.#lookAtDraining && this.#draining.has(key)
      for (const [name, destination] of now.destinations) {
        if (keep.has(name)) continue
        if (now.server.protocol === 'UDP') {
          changes.push({ kind: 'deleteDestination', server: now.server, destination })
          continue
        }
        // Those that drain already are looked at once a period, not in every pass.
        drains ||= destination.weight !== 0 || !this.#draining.has(key)
        if (destination.weight !== 0) {
          changes.push({ kind: 'setDestination', server: now.server, destination: { ...destination, weight: 0 } })
        }
      }
      if (drains) toDrain.push({ key, server: now.server })
    }
    this.#lookAtDraining = false
    const first = await this.#apply(changes)
    const second = await this.#drain(toDrain)
    for (const key of this.#pending) this.#forgetIfSettled(key)
    return {
      applied: first.applied + second.applied,
      refused: new Map([...first.refused, ...second.refused]),
    }
  }

  /** Removes destinations at weight 0 that have no connection left; the others keep theirs and are asked again later. */
  async #drain(servers: readonly { key: string; server: VirtualServer }[]): Promise<Outcome> {
    const changes: IpvsChange[] = []
    for (const { key, server } of servers) {
      const now = this.#present.get(key)
      if (now === undefined) continue
      const keep = new Set(this.#desired.get(key)?.destinations.map(destinationKey))
      this.#draining.delete(key)
      for (const observed of await this.#options.ipvs.listDestinations(server)) {
        const name = destinationKey(observed)
        if (keep.has(name) || !now.destinations.has(name)) continue
        const connections = observed.activeConnections + observed.inactiveConnections
        if (connections === 0 || this.#isOverdue(key, name, connections)) {
          changes.push({ kind: 'deleteDestination', server, destination: observed })
        } else {
          this.#draining.add(key)
          this.#options.log.v(2, 'Destination drains', {
            server: key,
            destination: name,
            activeConnections: observed.activeConnections,
            inactiveConnections: observed.inactiveConnections,
          })
        }
      }
    }
    return this.#apply(changes)
  }

  /** Whether a destination has drained for longer than it may. */
  #isOverdue(server: string, destination: string, connections: number): boolean {
    const { drainTimeout, clock, log } = this.#options
    if (drainTimeout === 0) return false
    const times = this.#drainingSince.get(server) ?? new Map<string, number>()
    const since = times.get(destination) ?? clock.now()
    this.#drainingSince.set(server, times.set(destination, since))
    if (clock.now() - since < drainTimeout) return false
    log.warn('A destination has drained for as long as it may; its connections are cut', {
      server,
      destination,
      connections,
    })
    return true
  }

  async #apply(changes: readonly IpvsChange[]): Promise<Outcome> {
    if (changes.length === 0) return { applied: 0, refused: new Map() }
    const refusals = new Refusals()
    let applied = 0
    const answers = await this.#options.ipvs.apply(changes)
    const serverRefused = new Set<string>()
    changes.forEach((change, i) => {
      const key = serverKey(change.server)
      const error = answers[i]
      if (error === undefined || isAbsentAnyway(change, error)) {
        this.#record(key, change)
        applied++
        return
      }
      if (change.kind === 'newServer') serverRefused.add(key)
      // A refused server has its destinations refused, too: the first error says why.
      else if (serverRefused.has(key)) return
      const owners = [...this.#options.ownersOf(key)]
      refusals.add(owners.length > 0 ? owners : [`virtual server ${key}`], error)
    })
    return { applied, refused: refusals.byOwner }
  }

  #record(key: string, change: IpvsChange): void {
    switch (change.kind) {
      case 'newServer':
        this.#present.set(key, { server: change.server, destinations: new Map() })
        this.#options.log.v(3, 'Virtual server added', { server: key })
        break
      case 'setServer': {
        const now = this.#present.get(key)
        if (now) now.server = change.server
        this.#options.log.v(3, 'Virtual server changed', { server: key })
        break
      }
      case 'deleteServer':
        this.#present.delete(key)
        this.#draining.delete(key)
        this.#drainingSince.delete(key)
        this.#options.log.v(3, 'Virtual server removed', { server: key })
        break
      case 'newDestination':
      case 'setDestination': {
        const { address, port, weight } = change.destination
        if (weight > 0) this.#drainingSince.get(key)?.delete(destinationKey(change.destination))
        this.#present
          .get(key)
          ?.destinations.set(destinationKey(change.destination), { address, port, weight, connections: 0 })
        this.#options.log.v(4, 'Destination written', {
          server: key,
          destination: destinationKey({ address, port }),
          weight,
        })
        break
      }
      case 'deleteDestination':
        this.#present.get(key)?.destinations.delete(destinationKey(change.destination))
        this.#drainingSince.get(key)?.delete(destinationKey(change.destination))
        this.#options.log.v(4, 'Destination removed', { server: key, destination: destinationKey(change.destination) })
        break
    }
  }

  #forgetIfSettled(key: string): void {
    const wanted = this.#desired.get(key)
    const now = this.#present.get(key)
    if (wanted === undefined ? now === undefined : now !== undefined && settled(wanted, now)) this.#pending.delete(key)
  }
}

function present(destination: ObservedDestination): PresentDestination {
  return {
    address: destination.address,
    port: destination.port,
    weight: destination.weight,
    connections: destination.activeConnections + destination.inactiveConnections,
  }
}

function sameServer(a: VirtualServer, b: VirtualServer): boolean {
  return a.scheduler === b.scheduler && a.flags === b.flags && a.timeout === b.timeout
}

function settled(wanted: WantedServer, now: PresentServer): boolean {
  return (
    sameServer(wanted.server, now.server) &&
    wanted.destinations.length === now.destinations.size &&
    wanted.destinations.every((d) => now.destinations.get(destinationKey(d))?.weight === d.weight)
  )
}

function isAtWork(now: PresentServer, destination: Destination): boolean {
  return (now.destinations.get(destinationKey(destination))?.weight ?? 0) > 0
}

/** What was to be removed is not there: that is what was wanted. */
function isAbsentAnyway(change: IpvsChange, error: KernelError): boolean {
  return change.kind.startsWith('delete') && (error.errnoName === 'ESRCH' || error.errnoName === 'ENOENT')
}

function reportDestinations(
  server: string,
  former: ReadonlyMap<string, PresentDestination>,
  now: ReadonlyMap<string, PresentDestination>,
  report: (kind: string, object: string, state: string) => void,
): void {
  for (const [name, { weight }] of former) {
    const there = now.get(name)
    const object = `${name} of virtual server ${server}`
    if (there === undefined) report('destination', object, 'missing')
    else if (there.weight !== weight) report('weight', object, 'changed')
  }
  for (const name of now.keys()) {
    if (!former.has(name)) report('destination', `${name} of virtual server ${server}`, 'foreign')
  }
}
