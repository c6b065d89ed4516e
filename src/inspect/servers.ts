import { DestinationDigest, DestinationList } from '../model/destination-list.ts'
import type { Family } from '../model/address.ts'
import { serverFlags, serverKey, type KnownServer, type ObservedServer, type ServerId } from '../ipvs/ipvs.ts'
import { ProxyError } from '../lib/errors.ts'
import { readProcFile, type ProcFile } from '../ipvs/kernel-ipvs.ts'
import type { ProcDestination, ProcVisitor } from '../ipvs/proc.ts'

/** A destination at weight 0 that nobody wants any more and that has connections left. */
export interface DrainingDestination {
  readonly server: string
  readonly address: string
  readonly port: number
  readonly activeConnections: number
  readonly inactiveConnections: number
}

/** The virtual servers of one family at a glance. */
export interface ServerSurvey {
  readonly servers: number
  readonly destinations: number
  /** How many virtual servers have which scheduler. */
  readonly schedulers: ReadonlyMap<string, number>
  /** Those with a destination at weight 0. */
  readonly withWeightZero: readonly ServerId[]
  /** Those that may differ from what is wanted, or that nobody wants. */
  readonly suspects: readonly ServerId[]
  /** Wanted ones that the file does not have. */
  readonly missing: readonly ServerId[]
}

/** Frequencies that kernels are built with (CONFIG_HZ): the file shows persistence in ticks. */
const frequencies = [100, 250, 300, 1000]

/** Goes through /proc/net/ip_vs once, for one family: counts, and sums up each server against what is wanted. */
class Survey implements ProcVisitor {
  readonly #family: Family
  readonly #wanted: ReadonlyMap<string, KnownServer>
  readonly #digest = new DestinationDigest()
  readonly #seen = new Set<string>()
  readonly schedulers = new Map<string, number>()
  readonly withWeightZero: ServerId[] = []
  readonly suspects: ServerId[] = []
  destinations = 0
  #current: { readonly id: ServerId; readonly want: KnownServer | undefined; readonly same: boolean } | undefined
  #count = 0
  #weightZero = false

  constructor(family: Family, wanted: ReadonlyMap<string, KnownServer>) {
    this.#family = family
    this.#wanted = wanted
  }

  server(id: ServerId, scheduler: string, ticks: number, onePacket: boolean): void {
    this.end()
    if (id.family !== this.#family) return
    const key = serverKey(id)
    this.#seen.add(key)
    this.schedulers.set(scheduler, (this.schedulers.get(scheduler) ?? 0) + 1)
    const want = this.#wanted.get(key)
    const same = want !== undefined && !onePacket && want.server.scheduler === scheduler && hasTimeout(want, ticks)
    this.#current = { id, want, same }
  }

  destination({ family, words, port, forwarding, weight }: ProcDestination): void {
    if (this.#current === undefined) return
    this.destinations++
    this.#count++
    if (weight === 0) this.#weightZero = true
    // An IPv4 address among IPv6 ones is known by its mapped form, which is a sum of its own: a closer look decides.
    const [a = 0, b = 0, c = 0, d = 0] = family === this.#family ? words : []
    this.#digest.add(a, b, c, d, port, forwarding === 0 ? weight : -1)
  }

  /** Judges the last server. */
  end(): void {
    const current = this.#current
    if (current === undefined) return
    this.#current = undefined
    const { id, want, same } = current
    const [first, second] = this.#digest.sums
    const list = want?.destinations ?? DestinationList.empty
    const matches = same && list.length === this.#count && list.digest[0] === first && list.digest[1] === second
    if (!matches) this.suspects.push(id)
    if (this.#weightZero) this.withWeightZero.push(id)
    this.#digest.reset()
    this.#count = 0
    this.#weightZero = false
  }

  get result(): ServerSurvey {
    const { schedulers, withWeightZero, suspects, destinations } = this
    const missing: ServerId[] = []
    for (const [key, { server }] of this.#wanted) if (!this.#seen.has(key)) missing.push(server)
    return { servers: this.#seen.size, destinations, schedulers, withWeightZero, suspects, missing }
  }
}

function hasTimeout({ server }: KnownServer, ticks: number): boolean {
  const persistent = (server.flags & serverFlags.persistent) !== 0
  return persistent ? frequencies.includes(ticks / server.timeout) : ticks === 0
}

/** Surveys of all families in one reading. `open` stands in for the kernel's file. */
export async function surveyServers(
  wanted: ReadonlyMap<Family, ReadonlyMap<string, KnownServer>>,
  open?: () => ProcFile,
): Promise<ReadonlyMap<Family, ServerSurvey>> {
  const surveys = new Map([...wanted].map(([family, servers]) => [family, new Survey(family, servers)]))
  let current: Survey | undefined
  const visitor: ProcVisitor = {
    server: (...args) => {
      current = surveys.get(args[0].family)
      current?.server(...args)
    },
    destination: (one) => current?.destination(one),
  }
  try {
    await readProcFile(visitor, open)
  } catch (error) {
    throw new ProxyError('PREFLIGHT', 'IPVS is not there in this kernel', { advice: 'load it: modprobe ip_vs' }, error)
  }
  for (const survey of surveys.values()) survey.end()
  return new Map([...surveys].map(([family, survey]) => [family, survey.result]))
}

/** Those of the observed servers' destinations that only wait for their last connections. */
export function drainingOf(
  servers: readonly ObservedServer[],
  wanted: ReadonlyMap<string, KnownServer>,
): readonly DrainingDestination[] {
  return servers.flatMap(({ server, destinations }) => {
    const key = serverKey(server)
    const kept = new Set<string>()
    for (const { address, port } of wanted.get(key)?.destinations ?? []) kept.add(`${address} ${port}`)
    return destinations
      .filter(({ weight, address, port }) => weight === 0 && !kept.has(`${address} ${port}`))
      .map(({ address, port, activeConnections, inactiveConnections }) => ({
        server: key,
        address,
        port,
        activeConnections,
        inactiveConnections,
      }))
  })
}
