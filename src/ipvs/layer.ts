import type { KernelError } from '../lib/errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { PatientTurn, Turn } from '../lib/turn.ts'
import { cidrContains, type Cidr, type Family } from '../model/address.ts'
import { DestinationList, destinationId, destinationOf } from '../model/destination-list.ts'
import { isHeld, Refusals } from '../reconcile/apply.ts'
import {
  repairAll,
  type Count,
  type Drift,
  type Judge,
  type Layer,
  type Outcome,
  type Owner,
} from '../reconcile/layer.ts'
import {
  changesOf,
  destinationKey,
  observedDestinations,
  sameServer,
  serverKey,
  type ConnectionCount,
  type DestinationId,
  type Ipvs,
  type IpvsChange,
  type KnownServer,
  type ServerId,
  type VirtualServer,
} from './ipvs.ts'
import { ServerMap } from './server-map.ts'

/** So many messages are made up before they are written: other work has its turn between them. */
const messagesPerWrite = 1024

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

/** A virtual server as it stands. */
interface PresentServer {
  readonly server: VirtualServer
  readonly destinations: DestinationList
  /** Found with an excluded address while nobody wanted it: somebody else's. */
  readonly elsewhere: boolean
}

/** Virtual servers and destinations of one family. */
export class IpvsLayer implements Layer {
  readonly name = 'ipvs'
  readonly needs: readonly string[] = ['ipset', 'iptables']
  readonly #options: IpvsLayerOptions
  readonly #desired = new ServerMap<KnownServer>()
  readonly #present = new ServerMap<PresentServer>(({ elsewhere }) => !elsewhere)
  readonly #pending = new Set<string>()
  /** Servers with destinations at weight 0 that wait for their last connection; looked at again at each resync. */
  readonly #draining = new Set<string>()
  /** When a destination's draining was first seen, by server, then destination; only of those that drain. */
  readonly #drainingSince = new Map<string, Map<string, number>>()
  /** Virtual servers that were there before us and that nobody wanted when they were found. */
  readonly #foundAtStart = new Set<string>()
  #adopted = false
  #lookAtDraining = false
  /** Keys of servers that are being written. */
  readonly #writing = new Set<string>()
  /** Keys of servers written since the kernel is being read. */
  #touched: Set<string> | undefined
  #connections: ConnectionCount | undefined

  constructor(options: IpvsLayerOptions) {
    this.#options = options
  }

  want(key: string, want: KnownServer): void {
    this.#desired.set(key, want)
    const now = this.#present.get(key)
    if (now !== undefined) this.#present.set(key, this.#shared(key, now.server, now.destinations, false))
    this.#foundAtStart.delete(key)
    this.#pending.add(key)
  }

  unwant(key: string): void {
    this.#desired.delete(key)
    this.#pending.add(key)
  }

  /** Destinations that wait at weight 0 for their connections to end. */
  get drainingCount(): number {
    return this.draining().reduce((count) => count + 1, 0)
  }

  /** Each of them, with its virtual server. */
  *draining(): Generator<{ readonly server: VirtualServer; readonly destination: DestinationId }, undefined> {
    for (const key of this.#draining) {
      const wanted = idsOf(this.#desired.get(key)?.destinations)
      const now = this.#present.get(key)
      for (const id of idsOf(now?.destinations)) {
        if (!wanted.has(id)) yield { server: now!.server, destination: destinationOf(id) }
      }
    }
  }

  /** Milliseconds for which the destination that drains longest has drained, since we first saw it; 0 where none does. */
  get longestDrain(): number {
    const now = this.#options.clock.now()
    let first = now
    for (const [key, times] of this.#drainingSince) {
      // A server that somebody else has removed took them with it.
      if (this.#present.get(key) === undefined) continue
      for (const since of times.values()) first = Math.min(first, since)
    }
    return now - first
  }

  /** Connections by the last look; undefined before the first. */
  get connections(): ConnectionCount | undefined {
    return this.#connections
  }

  *counts(): Iterable<Count> {
    const [wanted, present] = [this.#desired, this.#present]
    yield { kind: 'virtual server', wanted: wanted.serverCount, present: present.serverCount }
    yield { kind: 'destination', wanted: wanted.destinationCount, present: present.destinationCount }
  }

  async resync(thrifty = false, judge: Judge = repairAll): Promise<readonly Drift[]> {
    const drifts: Drift[] = []
    const isTaken = (drift: Drift): boolean => !this.#adopted || judge(drift)
    // What is written while the kernel is read may be in the answer or not: the next look judges it.
    const touched = new Set(this.#writing)
    this.#touched = touched
    const { ipvs, family } = this.#options
    const { found, missing, connections } = await ipvs.compare(family, this.#present, thrifty).finally(() => {
      this.#touched = undefined
    })
    this.#connections = connections ?? this.#connections
    const turn = new PatientTurn()
    for (const { server, destinations } of found) {
      if (turn.isOver) await turn.next()
      const key = serverKey(server)
      if (touched.has(key)) continue
      drifts.push(...this.#take(key, server, observedDestinations(destinations), isTaken))
    }
    for (const key of missing) {
      const former = this.#present.get(key)
      if (former === undefined || touched.has(key)) continue
      // Its destinations went with it: one thing happened, one line says so.
      if (!former.elsewhere) {
        const drift = this.#drift('virtual server', key, 'missing')
        if (!isTaken(drift)) continue
        drifts.push(drift)
      }
      this.#present.delete(key)
      if (this.#desired.has(key)) this.#pending.add(key)
    }
    this.#lookAtDraining = true
    for (const key of this.#draining) this.#pending.add(key)
    if (this.#adopted) return drifts
    this.#adopted = true
    return []
  }

  /** The kernel has a server otherwise than it was known. Answers what of it is drift, nothing where that is put off. */
  #take(key: string, server: VirtualServer, destinations: DestinationList, isTaken: Judge): readonly Drift[] {
    const drifts: Drift[] = []
    const former = this.#present.get(key)
    const isExcluded = (): boolean => this.#options.excludeCIDRs.some((cidr) => cidrContains(cidr, server.address))
    const elsewhere = !this.#desired.has(key) && (former === undefined ? isExcluded() : former.elsewhere)
    if (former === undefined) {
      if (!elsewhere) drifts.push(this.#drift('virtual server', key, 'foreign'))
    } else if (!elsewhere) {
      if (!sameServer(former.server, server)) drifts.push(this.#drift('virtual server', key, 'changed'))
      drifts.push(...this.#driftOfDestinations(key, former.destinations, destinations))
    }
    // Each is asked, so that each counts; a server is put right as a whole.
    if (drifts.length > 0 && drifts.map(isTaken).every((one) => !one)) return []
    if (former === undefined && !this.#adopted && !this.#desired.has(key) && !elsewhere) this.#foundAtStart.add(key)
    this.#present.set(key, this.#shared(key, server, destinations, elsewhere))
    this.#pending.add(key)
    return drifts
  }

  /** What stands as wanted is kept once, not twice. */
  #shared(key: string, server: VirtualServer, destinations: DestinationList, elsewhere: boolean): PresentServer {
    const wanted = this.#desired.get(key)
    if (wanted === undefined) return { server, destinations, elsewhere }
    return {
      server: sameServer(wanted.server, server) ? wanted.server : server,
      destinations: wanted.destinations.equals(destinations) ? wanted.destinations : destinations,
      elsewhere,
    }
  }

  #drift(kind: string, object: string, state: string): Drift {
    return { layer: this.name, kind, object, state }
  }

  *#driftOfDestinations(server: string, former: DestinationList, now: DestinationList): Generator<Drift> {
    const [was, is] = sameWidth(former, now).map((list) => new Map(list.weights()))
    for (const [id, weight] of was!) {
      const there = is!.get(id)
      const object = `${destinationKey(destinationOf(id))} of virtual server ${server}`
      if (there === undefined) yield this.#drift('destination', object, 'missing')
      else if (there !== weight) yield this.#drift('weight', object, 'changed')
    }
    for (const id of is!.keys()) {
      if (was!.has(id)) continue
      yield this.#drift('destination', `${destinationKey(destinationOf(id))} of virtual server ${server}`, 'foreign')
    }
  }

  async add(held: ReadonlySet<Owner>): Promise<Outcome> {
    const total = { applied: 0, refused: new Map<Owner, Error>() }
    const turn = new Turn()
    let changes: IpvsChange[] = []
    let touched: string[] = []
    /** Those that do not stand at all. */
    let missing = new Map<string, KnownServer>()
    let messages = 0
    const write = async (): Promise<void> => {
      for (const { applied, refused } of [await this.#apply(changes), await this.#make(missing)]) {
        total.applied += applied
        for (const [owner, error] of refused) if (!total.refused.has(owner)) total.refused.set(owner, error)
      }
      // What stands as wanted need not be looked at again.
      for (const key of touched) this.#forgetIfSettled(key)
      changes = []
      touched = []
      missing = new Map()
      messages = 0
    }
    for (const key of this.#pending) {
      if (turn.isOver) await turn.next()
      const wanted = this.#desired.get(key)
      if (wanted === undefined || isHeld(() => this.#options.ownersOf(key), held)) continue
      const now = this.#present.get(key)
      if (now === undefined) {
        missing.set(key, wanted)
        messages += 1 + wanted.destinations.length
      } else this.#compare(wanted, now, changes)
      touched.push(key)
      if (messages + changes.length >= messagesPerWrite) await write()
    }
    await write()
    return total
  }

  /** Adds what a virtual server lacks. */
  #compare({ server, destinations }: KnownServer, now: PresentServer, changes: IpvsChange[]): void {
    if (!sameServer(now.server, server)) changes.push({ kind: 'setServer', server })
    if (now.destinations.equals(destinations)) return
    const [wanted, present] = sameWidth(destinations, now.destinations)
    const there = new Map(present.weights())
    for (const [id, weight] of wanted.weights()) {
      const standing = there.get(id)
      if (standing === weight) continue
      const kind = standing === undefined ? 'newDestination' : 'setDestination'
      changes.push({ kind, server, destination: { ...destinationOf(id), weight } })
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
      if (wanted === undefined && now.elsewhere) continue
      if (wanted === undefined) {
        if (this.#foundAtStart.delete(key)) {
          this.#options.log.warn('Removing a virtual server that was here before and that no Service wants', {
            object: key,
            destinations: now.destinations.length,
            advice: 'to keep what is not Kubernetes’ own, put its address into ipvs.excludeCIDRs',
          })
        }
        changes.push({ kind: 'deleteServer', server: now.server })
        continue
      }
      // While the new destinations of a server could not be written, the old ones are better than none.
      if (isHeld(() => this.#options.ownersOf(key), held)) continue
      const [standing, successors] = sameWidth(now.destinations, wanted.destinations)
      const keep = idsOf(successors)
      const weights = new Map(standing.weights())
      // Growth may also have had to wait for a layer below, or have torn off: the last that work stay until one of
      // their successors stands.
      if (keep.size > 0 && ![...keep].some((id) => (weights.get(id) ?? 0) !== 0)) continue
      let drains = this.#lookAtDraining && this.#draining.has(key)
      for (const [id, weight] of weights) {
        if (keep.has(id)) continue
        const destination = destinationOf(id)
        if (now.server.protocol === 'UDP') {
          changes.push({ kind: 'deleteDestination', server: now.server, destination })
          continue
        }
        // Those that drain already are looked at once a period, not in every pass.
        drains ||= weight !== 0 || !this.#draining.has(key)
        if (weight !== 0) {
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
      const idOf = (one: { address: string; port: number }): string => destinationId(one.address, one.port, 16)
      const keep = idsOf(this.#desired.get(key)?.destinations.widened())
      const known = idsOf(now.destinations.widened())
      this.#draining.delete(key)
      const before = this.#drainingSince.get(key)
      const times = new Map<string, number>()
      for (const observed of await this.#options.ipvs.listDestinations(server)) {
        const id = idOf(observed)
        if (keep.has(id) || !known.has(id)) continue
        const name = destinationKey(observed)
        const connections = observed.activeConnections + observed.inactiveConnections
        const since = before?.get(name) ?? this.#options.clock.now()
        // One whose removal is refused goes on being overdue.
        if (connections > 0) times.set(name, since)
        if (connections === 0 || this.#isOverdue(key, name, connections, since)) {
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
      if (times.size > 0) this.#drainingSince.set(key, times)
      else this.#drainingSince.delete(key)
    }
    return this.#apply(changes)
  }

  /** Whether a destination has drained for longer than it may. */
  #isOverdue(server: string, destination: string, connections: number, since: number): boolean {
    const { drainTimeout, clock, log } = this.#options
    if (drainTimeout === 0 || clock.now() - since < drainTimeout) return false
    log.warn('A destination has drained for as long as it may; its connections are cut', {
      server,
      destination,
      connections,
    })
    return true
  }

  async #apply(changes: readonly IpvsChange[]): Promise<Outcome> {
    if (changes.length === 0) return { applied: 0, refused: new Map() }
    const keys = keysOf(changes)
    return this.#whileWriting(keys, async () => this.#record(changes, keys, await this.#options.ipvs.apply(changes)))
  }

  /** Makes virtual servers, by key, with all that they need. */
  async #make(missing: ReadonlyMap<string, KnownServer>): Promise<Outcome> {
    if (missing.size === 0) return { applied: 0, refused: new Map() }
    const { ipvs, log } = this.#options
    return this.#whileWriting([...missing.keys()], async () => {
      const answers = await ipvs.make([...missing.values()])
      let applied = 0
      const changes: IpvsChange[] = []
      const errors: (KernelError | undefined)[] = []
      let next = 0
      for (const [key, one] of missing) {
        const answer = answers[next++]
        if (answer !== undefined) {
          changes.push(...changesOf(one))
          errors.push(...answer)
          continue
        }
        this.#present.set(key, { ...one, elsewhere: false })
        this.#drainingSince.delete(key)
        applied += 1 + one.destinations.length
        if (log.isOn(3)) for (const change of changesOf(one)) this.#tell(key, change)
      }
      const rest = this.#record(changes, keysOf(changes), errors)
      return { applied: applied + rest.applied, refused: rest.refused }
    })
  }

  /** A look at the kernel meanwhile may have them or not. */
  async #whileWriting(keys: readonly string[], write: () => Promise<Outcome>): Promise<Outcome> {
    for (const key of keys) {
      this.#writing.add(key)
      this.#touched?.add(key)
    }
    try {
      return await write()
    } finally {
      for (const key of keys) this.#writing.delete(key)
    }
  }

  #record(
    changes: readonly IpvsChange[],
    keys: readonly string[],
    answers: readonly (KernelError | undefined)[],
  ): Outcome {
    const refusals = new Refusals()
    let applied = 0
    const serverRefused = new Set<string>()
    const desk = new Desk(this.#present, (key, server, destinations) => this.#shared(key, server, destinations, false))
    for (const [i, change] of changes.entries()) {
      const key = keys[i]!
      const error = answers[i]
      if (error === undefined || isAbsentAnyway(change, error)) {
        desk.record(key, change, error !== undefined)
        this.#tell(key, change)
        applied++
        continue
      }
      if (change.kind === 'newServer') serverRefused.add(key)
      // A refused server has its destinations refused, too: the first error says why.
      else if (serverRefused.has(key)) continue
      const owners = [...this.#options.ownersOf(key)]
      refusals.add(owners.length > 0 ? owners : [`virtual server ${key}`], error)
    }
    desk.close()
    return { applied, refused: refusals.byOwner }
  }

  /** Says what was done, and forgets since when what is gone or revived has drained. */
  #tell(key: string, change: IpvsChange): void {
    const { log } = this.#options
    if (change.kind === 'deleteServer') {
      this.#draining.delete(key)
      this.#drainingSince.delete(key)
    } else if ('destination' in change && this.#drainingSince.has(key)) {
      const ends = change.kind === 'deleteDestination' || change.destination.weight > 0
      if (ends) this.#drainingSince.get(key)!.delete(destinationKey(change.destination))
    }
    const level = 'destination' in change ? 4 : 3
    if (!log.isOn(level)) return
    log.v(level, messages[change.kind], {
      server: key,
      ...('destination' in change ? { destination: destinationKey(change.destination) } : {}),
      ...(change.kind === 'newDestination' || change.kind === 'setDestination'
        ? { weight: change.destination.weight }
        : {}),
    })
  }

  #forgetIfSettled(key: string): void {
    const wanted = this.#desired.get(key)
    const now = this.#present.get(key)
    if (wanted === undefined ? now === undefined || now.elsewhere : now !== undefined && settled(wanted, now))
      this.#pending.delete(key)
  }
}

const messages: Readonly<Record<IpvsChange['kind'], string>> = {
  newServer: 'Virtual server added',
  setServer: 'Virtual server changed',
  deleteServer: 'Virtual server removed',
  newDestination: 'Destination written',
  setDestination: 'Destination written',
  deleteDestination: 'Destination removed',
}

/** Where changes that the kernel has made are entered; packs each server's destinations once. */
class Desk {
  readonly #present: Map<string, PresentServer>
  readonly #pack: (key: string, server: VirtualServer, destinations: DestinationList) => PresentServer
  #key = ''
  #server: VirtualServer | undefined
  /** Weights by id. */
  #weights = new Map<string, number>()

  constructor(
    present: Map<string, PresentServer>,
    pack: (key: string, server: VirtualServer, destinations: DestinationList) => PresentServer,
  ) {
    this.#present = present
    this.#pack = pack
  }

  /** `isAbsent`: the kernel did not have it any more. */
  record(key: string, change: IpvsChange, isAbsent: boolean): void {
    if (key !== this.#key) this.#open(key)
    switch (change.kind) {
      case 'newServer':
        this.#server = change.server
        this.#weights.clear()
        break
      case 'setServer':
        if (this.#server !== undefined) this.#server = change.server
        break
      case 'deleteServer':
        this.#server = undefined
        break
      default: {
        const id = this.#id(change.destination)
        if (change.kind === 'deleteDestination' || isAbsent) this.#weights.delete(id)
        else this.#weights.set(id, change.destination.weight)
      }
    }
  }

  /** All ids of a server are of one length: with an IPv6 destination all become long. */
  #id({ address, port }: DestinationId): string {
    const id = destinationId(address, port)
    const [other = id] = this.#weights.keys()
    if (other.length === id.length) return id
    if (other.length < id.length) {
      this.#weights = new Map(
        DestinationList.ofIds([...this.#weights.keys()], [...this.#weights.values()])
          .widened()
          .weights(),
      )
    }
    return destinationId(address, port, 16)
  }

  #open(key: string): void {
    this.close()
    const now = this.#present.get(key)
    this.#key = key
    this.#server = now?.server
    this.#weights = new Map(now?.destinations.weights())
  }

  close(): void {
    if (this.#key === '') return
    if (this.#server === undefined) this.#present.delete(this.#key)
    else {
      const list = DestinationList.ofIds([...this.#weights.keys()], [...this.#weights.values()])
      this.#present.set(this.#key, this.#pack(this.#key, this.#server, list))
    }
  }
}

/** Key of each change's server; those of one server come one after another. */
function keysOf(changes: readonly IpvsChange[]): string[] {
  let last: ServerId | undefined
  let key = ''
  return changes.map(({ server }) => {
    if (server !== last) {
      last = server
      key = serverKey(server)
    }
    return key
  })
}

function idsOf(list: DestinationList | undefined): Set<string> {
  const ids = new Set<string>()
  for (const [id] of list?.weights() ?? []) ids.add(id)
  return ids
}

/** Both with addresses of one length, so that ids can be compared. */
function sameWidth(a: DestinationList, b: DestinationList): [DestinationList, DestinationList] {
  return a.width === b.width || a.length === 0 || b.length === 0 ? [a, b] : [a.widened(), b.widened()]
}

function settled(wanted: KnownServer, now: PresentServer): boolean {
  return sameServer(wanted.server, now.server) && wanted.destinations.equals(now.destinations)
}

/** What was to be removed, or to drain, is not there: that is what was wanted. */
function isAbsentAnyway(change: IpvsChange, error: KernelError): boolean {
  if (error.errnoName !== 'ESRCH' && error.errnoName !== 'ENOENT') return false
  return change.kind.startsWith('delete') || (change.kind === 'setDestination' && change.destination.weight === 0)
}
