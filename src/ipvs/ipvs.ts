import type { KernelError } from '../lib/errors.ts'
import { PatientTurn } from '../lib/turn.ts'
import type { Family } from '../model/address.ts'
import { DestinationList } from '../model/destination-list.ts'
import type { Destination, DestinationId, ServerId, VirtualServer } from '../model/virtual-server.ts'

import { serverKey } from '../model/virtual-server.ts'

export { destinationKey, serverFlags, serverKey } from '../model/virtual-server.ts'
export type { Destination, DestinationId, ServerId, VirtualServer } from '../model/virtual-server.ts'

export interface ObservedDestination extends Destination {
  readonly activeConnections: number
  readonly inactiveConnections: number
  /** IP_VS_CONN_F_FWD_MASK bits; 0 is masquerading. */
  readonly forwarding: number
}

export interface ObservedServer {
  readonly server: VirtualServer
  readonly destinations: readonly ObservedDestination[]
}

/** A virtual server that was asked for by itself. */
export interface FoundServer extends ObservedServer {
  /** New connections in a second, as the kernel estimates it over the last seconds; 0 where it does not. */
  readonly connectionsPerSecond: number
}

/** A virtual server with its destinations, as wanted or as last seen. */
export interface KnownServer {
  readonly server: VirtualServer
  readonly destinations: DestinationList
}

/** Where the kernel differs from what is known. */
export interface IpvsDifferences {
  /** Those that stand otherwise than known, or are not known, as they stand. */
  readonly found: readonly ObservedServer[]
  /** Keys of those that do not stand. */
  readonly missing: readonly string[]
  /** Of all virtual servers of the family; undefined where a thrifty look has not come to the end. */
  readonly connections: ConnectionCount | undefined
}

export interface ConnectionCount {
  readonly active: number
  readonly inactive: number
}

export type IpvsChange =
  | { readonly kind: 'newServer' | 'setServer'; readonly server: VirtualServer }
  | { readonly kind: 'deleteServer'; readonly server: ServerId }
  | { readonly kind: 'newDestination' | 'setDestination'; readonly server: ServerId; readonly destination: Destination }
  | { readonly kind: 'deleteDestination'; readonly server: ServerId; readonly destination: DestinationId }

/** How a virtual server was made: undefined where all of it was, else an answer for each of `changesOf` it. */
export type Made = readonly (KernelError | undefined)[] | undefined

/** The changes that make a virtual server with its destinations. */
export function changesOf({ server, destinations }: KnownServer): IpvsChange[] {
  const changes: IpvsChange[] = [{ kind: 'newServer', server }]
  for (const destination of destinations) changes.push({ kind: 'newDestination', server, destination })
  return changes
}

/** `Ipvs.make` by single changes. */
export async function makeByChanges(ipvs: Pick<Ipvs, 'apply'>, servers: readonly KnownServer[]): Promise<Made[]> {
  const changes = servers.map(changesOf)
  return answersOf(changes, await ipvs.apply(changes.flat()))
}

/** Answers to all changes of virtual servers that were to be made, by server. */
export function answersOf(
  changes: readonly (readonly IpvsChange[])[],
  answers: readonly (KernelError | undefined)[],
): Made[] {
  let next = 0
  return changes.map(({ length }) => {
    const own = answers.slice(next, (next += length))
    return own.every((answer) => answer === undefined) ? undefined : own
  })
}

/** Seconds; 0 means "keep" when setting. */
export interface IpvsTimeouts {
  readonly tcp: number
  readonly tcpFin: number
  readonly udp: number
}

/** What we need of the kernel's IP virtual server, in our words. Changes are carried out in order. */
export interface Ipvs {
  /** One answer per change, same order: undefined where the kernel did it. Throws only when the socket itself failed. */
  apply(changes: readonly IpvsChange[]): Promise<readonly (KernelError | undefined)[]>
  /** Makes virtual servers with their destinations, many of them at little cost; one answer each, same order. */
  make(servers: readonly KnownServer[]): Promise<readonly Made[]>
  /** All virtual servers of the namespace, both families; firewall-mark services are left out. */
  listServers(): Promise<readonly VirtualServer[]>
  /** A missing server has no destinations. */
  listDestinations(server: ServerId): Promise<readonly ObservedDestination[]>
  /** One virtual server as it stands; undefined where it does not. */
  find(server: ServerId): Promise<FoundServer | undefined>
  listAll(): Promise<readonly ObservedServer[]>
  /**
   * Looks through all virtual servers of a family for differences from what is known, by key. Others may write
   * meanwhile: what they touched is in the answer or not. Where there are very many it takes long: a thrifty look goes on
   * where the one before it stopped, as far as a small share of the time since allows.
   */
  compare(family: Family, known: ReadonlyMap<string, KnownServer>, thrifty?: boolean): Promise<IpvsDifferences>
  timeouts(): Promise<IpvsTimeouts>
  setTimeouts(timeouts: IpvsTimeouts): Promise<void>
  close(): void
}

/** What went through a virtual server since it was made. Exact up to 2^53. */
export interface ServerCounters {
  readonly connections: number
  readonly incomingPackets: number
  readonly outgoingPackets: number
  readonly incomingBytes: number
  readonly outgoingBytes: number
}

/** How the destinations of a virtual server stand: those of weight 0 drain. */
export interface ServerStanding {
  readonly ready: number
  readonly draining: number
  readonly activeConnections: number
  readonly inactiveConnections: number
}

/** Hears what goes through the virtual servers; the objects are filled again for the next one. */
export interface TrafficVisitor {
  /** What was told before is void. */
  begin(): void
  counted(server: ServerId, counters: ServerCounters): void
  /** After the counters of all; may leave out virtual servers, each with its destinations. */
  standing(server: ServerId, standing: ServerStanding): void
}

/** Where the counters of virtual servers come from. */
export interface IpvsTraffic {
  /**
   * One reading of all virtual servers of the namespace, as they are told. None that stands all along is left out of the
   * counters: a sum over several would seem to fall.
   */
  traffic(visitor: TrafficVisitor): Promise<void>
}

/** How these destinations of a virtual server stand. */
export function standingOf(destinations: readonly ObservedDestination[]): ServerStanding {
  const sums = { ready: 0, draining: 0, activeConnections: 0, inactiveConnections: 0 }
  for (const { weight, activeConnections, inactiveConnections } of destinations) {
    if (weight === 0) sums.draining++
    else sums.ready++
    sums.activeConnections += activeConnections
    sums.inactiveConnections += inactiveConnections
  }
  return sums
}

/** Whether nothing of a virtual server has to be written. */
export function sameServer(a: VirtualServer, b: VirtualServer): boolean {
  return a === b || (a.scheduler === b.scheduler && a.flags === b.flags && a.timeout === b.timeout)
}

/** Destinations as they stand. One that does not masquerade has a weight that nobody wants: it is to be written. */
export function observedDestinations(destinations: readonly ObservedDestination[]): DestinationList {
  return DestinationList.of(destinations.map((one) => (one.forwarding === 0 ? one : { ...one, weight: -1 })))
}

/** The differences between what stands and what is known. */
export async function differences(
  family: Family,
  standing: readonly ObservedServer[],
  known: ReadonlyMap<string, KnownServer>,
): Promise<IpvsDifferences> {
  const turn = new PatientTurn()
  const seen = new Set<string>()
  const found: ObservedServer[] = []
  const connections = { active: 0, inactive: 0 }
  for (const one of standing) {
    if (turn.isOver) await turn.next()
    const { server, destinations } = one
    if (server.family !== family) continue
    for (const { activeConnections, inactiveConnections } of destinations) {
      connections.active += activeConnections
      connections.inactive += inactiveConnections
    }
    const key = serverKey(server)
    seen.add(key)
    const former = known.get(key)
    const same =
      former !== undefined &&
      sameServer(former.server, server) &&
      former.destinations.equals(observedDestinations(destinations))
    if (!same) found.push(one)
  }
  return { found, missing: [...known.keys()].filter((key) => !seen.has(key)), connections }
}
