import { flat } from '../lib/flat.ts'
import { cidrContains, parseCidr, familyOf, type Cidr, type Family, type Protocol } from '../model/address.ts'
import type { ServicePortRecord, ServiceRecord } from '../model/cluster.ts'
import type { SetRole } from '../model/sets.ts'
import { DestinationList, destinationOf } from '../model/destination-list.ts'
import { destinationKey, serverFlags, serverKey } from '../model/virtual-server.ts'
import type { Contribution, FlowFrontend, OutFilterDrop, ServerWant, SetMember } from './contribution.ts'
import { chooseEndpoints, endpointKey, type PortEndpoint, type Topology } from './endpoint-choice.ts'
import { admit, type ExternalRanges } from './external-addresses.ts'

/** What a plan needs to know of the node; a change of any of it dirties every service port. */
export interface NodeFacts extends Topology {
  readonly family: Family
  /** Addresses of the node on any link but the dummy device. */
  readonly nodeAddresses: ReadonlySet<string>
  /** Those that node ports are served on. */
  readonly nodePortAddresses: readonly string[]
  /** The node's IP of this family, "" where unknown: decides whether a source range admits the node itself. */
  readonly nodeIP: string
  readonly scheduler: string
  /** Outside clients of an address with externalTrafficPolicy Local and no local endpoint are refused. */
  readonly strictExternal: boolean
  readonly externalRanges: ExternalRanges
}

const nodePortRoles: Readonly<Record<Protocol, { all: SetRole; local: SetRole }>> = {
  TCP: { all: 'nodePortTCP', local: 'nodePortLocalTCP' },
  UDP: { all: 'nodePortUDP', local: 'nodePortLocalUDP' },
  SCTP: { all: 'nodePortSCTP', local: 'nodePortLocalSCTP' },
}

export const nothing: Contribution = { servers: [], members: [], addresses: [], drops: [], noLocal: [], clashes: [] }

/**
 * What one port of a Service needs in the kernel of this node: pure. `endpoints` are all of the port's, whatever
 * their conditions. A Service without a cluster IP of the family needs nothing.
 */
export function planPort(
  given: ServiceRecord,
  port: ServicePortRecord,
  endpoints: readonly PortEndpoint[],
  facts: NodeFacts,
): Contribution {
  const ofFamily = (address: string): boolean => familyOf(address) === facts.family
  const clusterIP = given.clusterIPs.find(ofFamily)
  if (clusterIP === undefined) return nothing
  const { service, refused } = admit(given, facts.externalRanges)

  const choice = chooseEndpoints(service, port, endpoints, facts)
  const servers: ServerWant[] = []
  const members: SetMember[] = []
  const addresses = new Set<string>()
  const drops: OutFilterDrop[] = []
  const noLocal = new Set<'internal' | 'external'>()
  const clashes = new Set<string>()
  const frontends: FlowFrontend[] = []
  const protocol = port.protocol.toLowerCase()
  const add = (role: SetRole, entry: string): void => void members.push({ role, entry })

  // Most ports have the same list at each of their addresses.
  const lists = new Map<readonly PortEndpoint[], DestinationList>()
  const destinationsOf = (list: readonly PortEndpoint[]): DestinationList => {
    const made =
      lists.get(list) ??
      DestinationList.ofIds(
        list.map(({ id }) => id),
        1,
      )
    lists.set(list, made)
    return made
  }
  const serve = (address: string, number: number, localOnly: boolean, frontend = '', outside = false): void => {
    const local = localOnly ? (choice.local ?? []) : []
    // With no local endpoint kube-proxy falls back to all: pods of this node must still reach the address.
    const list = local.length > 0 ? local : (choice.cluster ?? [])
    if (localOnly && local.length === 0 && choice.hasUsable) {
      if (service.internalLocal) noLocal.add('internal')
      if (service.externalLocal) noLocal.add('external')
    }
    const server = {
      family: facts.family,
      protocol: port.protocol,
      address,
      port: number,
      scheduler: facts.scheduler,
      flags:
        (service.affinitySeconds > 0 ? serverFlags.persistent : 0) |
        (facts.scheduler === 'mh' ? serverFlags.schedulerFlag2 : 0),
      timeout: service.affinitySeconds,
    }
    servers.push({ server, destinations: destinationsOf(list), ...(outside ? { outside } : {}) })
    if (port.protocol === 'UDP') {
      frontends.push({ name: frontend || destinationKey({ address, port: number }), server: serverKey(server) })
    }
  }
  const serveOutside = (address: string, number: number, frontend = ''): void => {
    serve(address, number, service.externalLocal, frontend, frontend === '')
    if (facts.strictExternal && service.externalLocal && choice.local?.length === 0) {
      add('externalNoLocal', flat(address, ',', protocol, ':', number))
    }
  }
  // An address of the node's own stays where it is: bound to the dummy device, it would shut out the node's services.
  const bind = (address: string, always: boolean): void => {
    if (facts.nodeAddresses.has(address)) clashes.add(address)
    if (!always && facts.nodeAddresses.has(address)) return
    addresses.add(address)
    add('ipvsIPs', address)
  }

  for (const endpoint of endpoints) {
    if (!endpoint.local) continue
    const { address, port: number } = destinationOf(endpoint.id)
    add('loopBack', flat(address, ',', protocol, ':', number, ',', address))
  }

  serve(clusterIP, port.port, service.internalLocal)
  add('clusterIP', flat(clusterIP, ',', protocol, ':', port.port))
  bind(clusterIP, true)

  for (const address of service.externalIPs.filter(ofFamily)) {
    serveOutside(address, port.port)
    add(service.externalLocal ? 'externalIPLocal' : 'externalIP', flat(address, ',', protocol, ':', port.port))
    bind(address, false)
  }

  for (const address of service.loadBalancerIPs.filter(ofFamily)) {
    const entry = flat(address, ',', protocol, ':', port.port)
    serveOutside(address, port.port)
    add('loadBalancer', entry)
    if (service.externalLocal) add('loadBalancerLocal', entry)
    const ranges = service.sourceRanges.map((text) => parseCidr(text)!).filter((range) => range.family === facts.family)
    if (ranges.length > 0) {
      add('loadBalancerFirewall', entry)
      for (const range of ranges) add('loadBalancerSourceCIDR', flat(entry, ',', rangeText(range)))
      // The node's packets to a bound address carry that address as source.
      if (facts.nodeIP !== '' && ranges.some((range) => cidrContains(range, facts.nodeIP))) {
        add('loadBalancerSourceIP', flat(entry, ',', address))
      } else drops.push({ address, protocol: port.protocol, port: port.port })
    }
    bind(address, false)
  }

  if (port.nodePort !== 0 && facts.nodePortAddresses.length > 0) {
    const roles = nodePortRoles[port.protocol]
    const entries =
      port.protocol === 'SCTP'
        ? facts.nodePortAddresses.map((address) => `${address},sctp:${port.nodePort}`)
        : [String(port.nodePort)]
    for (const entry of entries) {
      add(roles.all, entry)
      if (service.externalLocal) add(roles.local, entry)
    }
    for (const address of facts.nodePortAddresses) serveOutside(address, port.nodePort, `:${port.nodePort}`)
  }

  if (service.healthCheckNodePort !== 0) add('healthCheckNodePort', String(service.healthCheckNodePort))

  const refusedOfFamily = refused.filter(({ address }) => ofFamily(address))
  const result = {
    servers: orNone(servers),
    members: orNone(members),
    addresses: [...addresses],
    drops: orNone(drops),
    noLocal: orNone([...noLocal]),
    clashes: orNone([...clashes]),
    ...(refusedOfFamily.length > 0 ? { refused: refusedOfFamily } : {}),
  }
  if (port.protocol !== 'UDP') return result
  const backends = endpoints.filter(({ serving }) => serving).map(endpointKey)
  return { ...result, flows: { frontends, backends } }
}

/** As the kernel lists it: a whole address has no prefix. */
function rangeText({ address, prefix, family }: Cidr): string {
  return prefix === (family === 'IPv4' ? 32 : 128) ? address : `${address}/${prefix}`
}

const none: readonly never[] = []

/** One empty list for all; a copy of another, which has no room to spare as a list grown by push has. */
function orNone<T>(list: readonly T[]): readonly T[] {
  return list.length === 0 ? none : list.slice()
}
