import type { UdpFlow } from '../conntrack/flows.ts'
import type { SetRoom } from '../ipset/membership.ts'
import type { ObservedServer } from '../ipvs/ipvs.ts'
import { cidrContains, parseCidr, type Family } from '../model/address.ts'
import { serverKey } from '../model/virtual-server.ts'
import { configName } from './answers.ts'
import type { ForeignChain, KernelState, LinkState, RouteAnswer, RouteQuery, RuleSet, Told } from './kernel-state.ts'
import { soughtIn } from './sought.ts'

export interface SnapshotRoute {
  /** "0.0.0.0/0", "10.244.2.0/24" */
  readonly to: string
  readonly link: string
  readonly gateway?: string
  readonly source?: string
}

/** A kernel's state written down: what hand-made set-ups and dumps are walked on. */
export interface Snapshot {
  readonly family: Family
  readonly ruleSets: readonly RuleSet[]
  readonly foreignChains?: readonly ForeignChain[]
  /** By name: type and entries, as `ipset save` prints them. */
  readonly sets: ReadonlyMap<string, { readonly type: string; readonly entries: readonly string[] }>
  readonly servers: readonly ObservedServer[]
  readonly links: readonly LinkState[]
  /** Address → link that has it. */
  readonly addresses: ReadonlyMap<string, string>
  readonly routes: readonly SnapshotRoute[]
  readonly sysctls: ReadonlyMap<string, string>
  /** "TCP 10.0.0.1:22", "TCP *:22" */
  readonly sockets?: readonly string[]
  readonly sendsBack?: Told
  readonly rooms?: ReadonlyMap<string, SetRoom>
  /** Virtual servers by firewall mark. */
  readonly marks?: ReadonlyMap<number, ObservedServer>
  /** "10.96.0.10:80/TCP 10.244.1.9" → "10.244.1.2:8080" */
  readonly pinned?: ReadonlyMap<string, string>
  readonly staleFlows?: readonly UdpFlow[]
  readonly findings?: readonly string[]
}

/** Answers the walk's questions out of a snapshot, as the kernel would. */
export function snapshotState(snapshot: Snapshot): KernelState {
  const { family, sets, addresses, sysctls, sockets = [] } = snapshot
  const sysctl = (name: string): string | undefined => sysctls.get(name)
  return {
    family,
    ruleSets: snapshot.ruleSets,
    foreignChains: snapshot.foreignChains ?? [],
    links: snapshot.links,
    nodeAddresses: [...addresses]
      .filter(([, link]) => link !== 'kube-ipvs0' && link !== 'lo')
      .map(([address]) => address),
    findings: snapshot.findings ?? [],
    inSet: async (name, directions, packet): Promise<Told> => {
      const set = sets.get(name)
      if (set === undefined) return `there is no set ${name}`
      const { sides, protocol } = soughtIn(packet, directions)
      const parts = set.type.slice(set.type.indexOf(':') + 1).split(',')
      if (parts.length > sides.length) return false
      const wanted = parts.map((part, i) => (part === 'port' ? String(sides[i]!.port) : sides[i]!.address))
      return set.entries.some((entry) => isEntry(entry, wanted, protocol.toLowerCase()))
    },
    hasEntry: async (name, entry) => sets.get(name)?.entries.includes(entry) ?? false,
    server: async (id) => snapshot.servers.find(({ server }) => serverKey(server) === serverKey(id)),
    setRoom: async (name) => snapshot.rooms?.get(name),
    serverOfMark: async (mark, id) => {
      const found = snapshot.marks?.get(mark)
      return found && { ...found, server: { ...found.server, ...id } }
    },
    pinned: async (id, client) => snapshot.pinned?.get(`${serverKey(id)} ${client}`),
    staleFlows: async () => snapshot.staleFlows ?? [],
    route: async (query) => findRoute(snapshot, query, sysctl),
    sysctl,
    listens: (protocol, address, port) =>
      sockets.includes(`${protocol} ${address}:${port}`) || sockets.includes(`${protocol} *:${port}`),
    sendsBack: async () => snapshot.sendsBack ?? true,
  }
}

/** "10.0.0.1,tcp:80,10.1.0.0/16" against the addresses and ports of a packet. */
function isEntry(entry: string, wanted: readonly string[], protocol: string): boolean {
  const parts = entry.split(',')
  return (
    parts.length === wanted.length &&
    parts.every((part, i) => {
      const value = wanted[i]!
      if (part.includes('/')) return cidrContains(parseCidr(part)!, value)
      return part === value || part === `${protocol}:${value}`
    })
  )
}

function findRoute(snapshot: Snapshot, query: RouteQuery, sysctl: KernelState['sysctl']): RouteAnswer {
  const { family, addresses, routes } = snapshot
  const { destination, source, inLink } = query
  const best = (address: string): SnapshotRoute | undefined =>
    routes
      .map((route) => ({ route, cidr: parseCidr(route.to)! }))
      .filter(({ cidr }) => cidrContains(cidr, address))
      .sort((a, b) => b.cidr.prefix - a.cidr.prefix)[0]?.route
  const checks = [sysctl(configName(family, 'all', 'rp_filter')), sysctl(configName(family, inLink ?? '', 'rp_filter'))]
  if (family === 'IPv4' && inLink !== undefined && source !== undefined && inLink !== 'lo') {
    const mode = Math.max(...checks.map((value) => Number(value ?? 0)))
    const back = best(source)
    if (addresses.has(source)) return { kind: 'error', errno: 'EINVAL' }
    if ((mode === 1 && back?.link !== inLink) || (mode === 2 && back === undefined))
      return { kind: 'error', errno: 'EXDEV' }
  }
  const own = addresses.get(destination)
  if (own !== undefined) return { kind: 'local', link: own }
  const forwards = family === 'IPv6' ? '1' : sysctl(configName(family, inLink ?? '', 'forwarding'))
  if (inLink !== undefined && forwards === '0') return { kind: 'error', errno: 'EHOSTUNREACH' }
  const route = best(destination)
  if (route === undefined) return { kind: 'error', errno: 'ENETUNREACH' }
  const { link, gateway } = route
  const ownSource = route.source ?? [...addresses].find(([, name]) => name === link)?.[0]
  return {
    kind: 'unicast',
    link,
    ...(gateway === undefined ? {} : { gateway }),
    ...(ownSource === undefined ? {} : { source: ownSource }),
  }
}
