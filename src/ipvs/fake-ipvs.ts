import { KernelError } from '../lib/errors.ts'
import { addressBytes, familyOf, type Family } from '../model/address.ts'
import { errno } from '../netlink/errno.ts'
import {
  destinationKey,
  differences,
  makeByChanges,
  serverFlags,
  serverKey,
  standingOf,
  type Destination,
  type DestinationId,
  type FoundServer,
  type Ipvs,
  type IpvsChange,
  type IpvsDifferences,
  type IpvsTimeouts,
  type IpvsTraffic,
  type KnownServer,
  type Made,
  type ObservedDestination,
  type ObservedServer,
  type ServerCounters,
  type ServerId,
  type TrafficVisitor,
  type VirtualServer,
} from './ipvs.ts'
import { changeError, changeObject } from './messages.ts'

interface FakeServer {
  server: VirtualServer
  readonly destinations: Map<string, ObservedDestination>
  counters: ServerCounters
  connectionsPerSecond: number
}

const noTraffic: ServerCounters = {
  connections: 0,
  incomingPackets: 0,
  outgoingPackets: 0,
  incomingBytes: 0,
  outgoingBytes: 0,
}

/**
 * Says what goes wrong: called with the operation ("newServer", "listAll", …) and its object. A KernelError answers
 * that change alone; any other error is thrown, as when the socket failed.
 */
export type Fault = (operation: string, object: string) => Error | undefined

/** An IPVS in memory that refuses what the kernel refuses, with the same errno. */
export class FakeIpvs implements Ipvs, IpvsTraffic {
  /** What was asked for, in order: "newServer virtual server 10.96.0.1:80/TCP", "listServers". */
  readonly calls: string[] = []
  fault: Fault | undefined
  readonly schedulers = new Set(
    'rr wrr lc wlc fo ovf lblc lblcr dh sh mh sed nq twos'.split(' '), // those of Linux 6.1
  )
  readonly #servers = new Map<string, FakeServer>()
  #timeouts: IpvsTimeouts = { tcp: 900, tcpFin: 120, udp: 300 }

  async apply(changes: readonly IpvsChange[]): Promise<readonly (KernelError | undefined)[]> {
    return changes.map((change) => {
      const error = this.#called(change.kind, changeObject(change))
      if (error instanceof KernelError) return error
      if (error !== undefined) throw error
      const result = this.#change(change)
      return result === 0 ? undefined : changeError(change, result)
    })
  }

  async make(servers: readonly KnownServer[]): Promise<readonly Made[]> {
    return makeByChanges(this, servers)
  }

  async listServers(): Promise<readonly VirtualServer[]> {
    this.#calledOrThrow('listServers', '')
    return [...this.#servers.values()].map((entry) => entry.server)
  }

  async listDestinations(server: ServerId): Promise<readonly ObservedDestination[]> {
    this.#calledOrThrow('listDestinations', serverKey(server))
    return [...(this.#servers.get(serverKey(server))?.destinations.values() ?? [])]
  }

  async find(id: ServerId): Promise<FoundServer | undefined> {
    this.#calledOrThrow('find', serverKey(id))
    const entry = this.#servers.get(serverKey(id))
    if (entry === undefined) return undefined
    const { server, destinations, connectionsPerSecond } = entry
    return { server, destinations: [...destinations.values()], connectionsPerSecond }
  }

  async listAll(): Promise<readonly ObservedServer[]> {
    this.#calledOrThrow('listAll', '')
    return [...this.#servers.values()].map(({ server, destinations }) => ({
      server,
      destinations: [...destinations.values()],
    }))
  }

  async compare(family: Family, known: ReadonlyMap<string, KnownServer>): Promise<IpvsDifferences> {
    this.#calledOrThrow('listAll', '')
    const all = [...this.#servers.values()].map(({ server, destinations }) => ({
      server,
      destinations: [...destinations.values()],
    }))
    return differences(family, all, known)
  }

  async timeouts(): Promise<IpvsTimeouts> {
    this.#calledOrThrow('timeouts', '')
    return this.#timeouts
  }

  async setTimeouts(timeouts: IpvsTimeouts): Promise<void> {
    this.#calledOrThrow('setTimeouts', '')
    const { tcp, tcpFin, udp } = this.#timeouts
    this.#timeouts = { tcp: timeouts.tcp || tcp, tcpFin: timeouts.tcpFin || tcpFin, udp: timeouts.udp || udp }
  }

  async traffic(visitor: TrafficVisitor): Promise<void> {
    this.#calledOrThrow('traffic', '')
    visitor.begin()
    for (const { server, counters } of this.#servers.values()) visitor.counted(server, counters)
    for (const { server, destinations } of this.#servers.values()) {
      visitor.standing(server, standingOf([...destinations.values()]))
    }
  }

  close(): void {
    this.calls.push('close')
  }

  /** Lets traffic have gone through a virtual server. */
  setCounters(server: ServerId, counters: Partial<ServerCounters>): void {
    const present = this.#servers.get(serverKey(server))
    if (present === undefined) throw new Error(`no virtual server ${serverKey(server)}`)
    present.counters = { ...present.counters, ...counters }
  }

  /** Lets so many connections come in a second. */
  setRate(server: ServerId, connectionsPerSecond: number): void {
    const present = this.#servers.get(serverKey(server))
    if (present === undefined) throw new Error(`no virtual server ${serverKey(server)}`)
    present.connectionsPerSecond = connectionsPerSecond
  }

  /** Lets connections stand on a destination, as clients would. */
  setConnections(server: ServerId, destination: DestinationId, active: number, inactive: number): void {
    const destinations = this.#servers.get(serverKey(server))?.destinations
    const present = destinations?.get(destinationKey(destination))
    if (destinations === undefined || present === undefined) throw new Error(`no ${destinationKey(destination)}`)
    destinations.set(destinationKey(destination), {
      ...present,
      activeConnections: active,
      inactiveConnections: inactive,
    })
  }

  /** As `ipvsadm -Sn` prints it, servers and destinations in order of their text. */
  dump(): string {
    const lines: string[] = []
    for (const [, entry] of [...this.#servers].sort(byText)) {
      const { server } = entry
      const name = `-${server.protocol === 'SCTP' ? '-sctp-service' : server.protocol[0]!.toLowerCase()}`
      const at = `${name} ${destinationKey(server)}`
      lines.push(`-A ${at} -s ${server.scheduler}${persistence(server)}${schedulerFlags(server)}`)
      for (const [key, { weight }] of [...entry.destinations].sort(byText)) {
        lines.push(`-a ${at} -r ${key} -m -w ${weight}`)
      }
    }
    return lines.map((line) => `${line}\n`).join('')
  }

  #calledOrThrow(operation: string, object: string): void {
    const error = this.#called(operation, object)
    if (error !== undefined) throw error
  }

  #called(operation: string, object: string): Error | undefined {
    this.calls.push(object === '' ? operation : `${operation} ${object}`)
    return this.fault?.(operation, object)
  }

  /** do_ip_vs_genl_set_cmd: the server is looked up first, then the destination, then the change is made. */
  #change(change: IpvsChange): number {
    const key = serverKey(change.server)
    const present = this.#servers.get(key)
    switch (change.kind) {
      case 'newServer':
        if (present !== undefined) return errno.EEXIST
        if (!this.schedulers.has(change.server.scheduler)) return errno.ENOENT
        this.#servers.set(key, {
          server: storedServer(change.server),
          destinations: new Map(),
          counters: noTraffic,
          connectionsPerSecond: 0,
        })
        return 0
      case 'setServer':
        if (present === undefined) return errno.ESRCH
        if (!this.schedulers.has(change.server.scheduler)) return errno.ENOENT
        present.server = storedServer(change.server)
        return 0
      case 'deleteServer':
        return this.#servers.delete(key) ? 0 : errno.ESRCH
      case 'deleteDestination':
        if (present === undefined) return errno.ESRCH
        return present.destinations.delete(destinationKey(change.destination)) ? 0 : errno.ENOENT
      default:
        return present === undefined ? errno.ESRCH : this.#putDestination(present, change.kind, change.destination)
    }
  }

  #putDestination(entry: FakeServer, kind: 'newDestination' | 'setDestination', destination: Destination): number {
    const key = destinationKey(destination)
    const present = entry.destinations.get(key)
    if (familyOf(destination.address) !== entry.server.family) return errno.EINVAL
    if (destination.weight < 0) return errno.ERANGE
    if (kind === 'newDestination') {
      if (present !== undefined) return errno.EEXIST
      if (!isUnicast(destination.address)) return errno.EINVAL
    } else if (present === undefined) return errno.ENOENT
    const { address, port, weight } = destination
    const { activeConnections, inactiveConnections } = present ?? { activeConnections: 0, inactiveConnections: 0 }
    entry.destinations.set(key, { address, port, weight, forwarding: 0, activeConnections, inactiveConnections })
    return 0
  }
}

function storedServer(server: VirtualServer): VirtualServer {
  const { family, protocol, address, port, scheduler, flags, timeout } = server
  return { family, protocol, address, port, scheduler, flags, timeout }
}

function byText(a: readonly [string, unknown], b: readonly [string, unknown]): number {
  return a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0
}

function persistence(server: VirtualServer): string {
  return (server.flags & serverFlags.persistent) === 0 ? '' : ` -p ${server.timeout}`
}

/** IP_VS_SVC_F_SCHED1…3: ipvsadm knows names for those of sh and mh. */
function schedulerFlags(server: VirtualServer): string {
  const { scheduler } = server
  const known = scheduler === 'sh' || scheduler === 'mh'
  const names = known ? [`${scheduler}-fallback`, `${scheduler}-port`, 'flag-3'] : ['flag-1', 'flag-2', 'flag-3']
  const set = names.filter((_name, bit) => (server.flags & (0x8 << bit)) !== 0)
  return set.length === 0 ? '' : ` -b ${set.join(',')}`
}

/** inet_addr_type and ipv6_addr_type, as far as ip_vs_add_dest looks. */
function isUnicast(address: string): boolean {
  const bytes = addressBytes(address)
  const first = bytes[0] ?? 0
  if (bytes.length === 16) return first !== 0xff && address !== '::' && !(first === 0xfe && (bytes[1]! & 0xc0) === 0x80)
  // 0.0.0.0/8 is unicast but for its first address since Linux 5.3, and 240.0.0.0/4 but for its last.
  return address !== '0.0.0.0' && address !== '255.255.255.255' && (first < 224 || first >= 240)
}
