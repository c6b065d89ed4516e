import { replyKey, type UdpFlow } from '../conntrack/flows.ts'
import { describeError, ProxyError } from '../lib/errors.ts'
import { canonicalAddress, cidrContains, familyOf, parseCidr, type Family, type Protocol } from '../model/address.ts'
import type { NodeRecord, ServicePortRecord, ServiceRecord } from '../model/cluster.ts'
import { destinationOf } from '../model/destination-list.ts'
import { destinationKey, serverKey, type ServerId } from '../model/virtual-server.ts'
import { portAt, type Cluster } from './cluster.ts'
import { judgeEndpoints, type Eligibility } from './eligibility.ts'
import type { KernelState, RouteAnswer } from './kernel-state.ts'
import { judge, type Evidence, type Verdict } from './verdict.ts'
import { mostDestinations, Walk, type Origin, type Way } from './walk.ts'
import { compareWanted, planWanted, type Difference, type PlanSettings, type Wanted } from './wanted.ts'

/** What to explain. */
export interface ExplainRequest {
  /** "namespace/name[:port]", "name[:port]" of namespace default, or "IP:PORT[/PROTOCOL]". */
  readonly target: string
  /**
   * "namespace/pod", an IP address, "outside" (where absent) or "node". An address may say by which link its packets
   * come in, "10.0.0.9@eth1"; else it is the one by which the node would answer.
   */
  readonly from?: string
  /** Where the target does not say; TCP. */
  readonly protocol?: Protocol
}

export interface ExplainParts {
  /** The kernel of a family; the caller closes what it gave. */
  readonly kernel: (family: Family) => Promise<KernelState>
  /** Undefined: the cluster's objects cannot be had. */
  readonly cluster?: Cluster
  readonly settings?: PlanSettings
}

export interface Explanation {
  readonly target: ServerId
  /** Undefined: none is known to have the target. */
  readonly service?: { readonly key: string; readonly port: ServicePortRecord }
  readonly origin: Origin
  readonly ways: readonly Way[]
  /** By endpoint of the Service; undefined: not known. */
  readonly endpoints?: readonly Eligibility[]
  readonly differences?: readonly Difference[]
  /** What could not be read or told, one sentence each. */
  readonly findings: readonly string[]
  readonly verdict: Verdict
}

/** Stands for any machine outside the cluster: addresses for documentation (RFC 5737, RFC 3849). */
const somewhere: Readonly<Record<Family, string>> = { IPv4: '192.0.2.1', IPv6: '2001:db8:ffff::1' }

/** A target, and what the kernel and the cluster's objects have around it: what a packet to it is judged by. */
export interface Survey {
  readonly target: ServerId
  readonly service: ServiceRecord | undefined
  readonly kernel: KernelState
  readonly wanted: Wanted | undefined
  readonly places: Places
  readonly differences: readonly Difference[] | undefined
  readonly endpoints: readonly Eligibility[] | undefined
  /** What could not be read or told so far; grows. */
  readonly findings: string[]
  /** The evidence of a packet that went these ways; `clients`: addresses whose older flows count, too. */
  evidence(ways: readonly Way[], clients?: readonly string[]): Promise<Evidence>
  /** Where a packet comes from, by what the command was given. Throws ProxyError CONFIG. */
  origin(from: string): Promise<Origin>
}

/** Looks at a target. Throws ProxyError CONFIG for one that is none. */
export async function survey(request: ExplainRequest, parts: ExplainParts): Promise<Survey> {
  const findings: string[] = []
  const asked = await resolveTarget(request, parts, findings)
  const { target } = asked
  const kernel = await parts.kernel(target.family)
  findings.push(...kernel.findings)
  const node = await noted('the Node', findings, async () => parts.cluster?.node())
  const service = asked.service ?? (await findService(target, parts, findings))
  const wanted = await planOf(service, target, node, kernel, parts, findings)
  const places = await placeFacts(kernel, node, wanted)
  const differences = wanted && (await compareWanted(wanted, target, kernel, parts.settings!, node?.podCIDRs ?? []))
  const isClusterIP = wanted?.service.clusterIPs.includes(target.address) ?? false
  const endpoints = wanted && judgeEndpoints(wanted.service, wanted.port, wanted.endpoints, wanted.facts, isClusterIP)
  return {
    target,
    service,
    kernel,
    wanted,
    places,
    differences,
    endpoints,
    findings,
    evidence: async (ways, clients = []) => {
      const server = await kernel.server(target)
      return {
        target,
        ways,
        differences,
        endpoints,
        addressRefused: wanted?.plan.refused?.find(({ address }) => address === target.address)?.reason,
        isKnown: wanted !== undefined,
        isService: wanted?.plan.servers.some((one) => serverKey(one.server) === serverKey(target)) ?? false,
        hasServer: server !== undefined,
        hasIpvs: !kernel.findings.some((text) => text.includes('ip_vs is not loaded')),
        tracksIpvs: kernel.sysctl('net/ipv4/vs/conntrack') === '1',
        staleFlows: clients.length === 0 ? [] : await findStaleFlows(server, kernel, findings),
        clients,
        isLocalPolicy:
          wanted !== undefined && (isClusterIP ? wanted.service.internalLocal : wanted.service.externalLocal),
      }
    },
    origin: (from) => resolveOrigin(from, target, kernel, parts, places, findings),
  }
}

/** Follows one packet through this node. Throws ProxyError CONFIG for a target or source that is none. */
export async function explain(request: ExplainRequest, parts: ExplainParts): Promise<Explanation> {
  return explainFrom(await survey(request, parts), request.from ?? 'outside')
}

/** The same where the target has been looked at already. */
export async function explainFrom(surveyed: Survey, from: string): Promise<Explanation> {
  const { target, kernel, wanted, places, differences, endpoints } = surveyed
  const origin = await surveyed.origin(from)
  const ways = await new Walk(kernel, { origin, isOnNode: places.isOnNode }).request(target)
  const clients = origin.address === '' ? kernel.nodeAddresses : [origin.address]
  const verdict = judge(await surveyed.evidence(ways, clients))
  const findings = [
    ...surveyed.findings,
    ...unwalked(ways),
    ...foreignFindings(ways, kernel),
    ...sysctlFindings(kernel),
  ]
  return {
    target,
    ...(wanted === undefined ? {} : { service: { key: wanted.service.key, port: wanted.port } }),
    origin,
    ways,
    ...(endpoints === undefined ? {} : { endpoints }),
    ...(differences === undefined ? {} : { differences }),
    findings,
    verdict: withForeignChains(verdict, ways, kernel),
  }
}

/** UDP flows that new datagrams follow and new flows would not; told by whom they are sent to. */
async function findStaleFlows(
  server: Awaited<ReturnType<KernelState['server']>>,
  kernel: KernelState,
  findings: string[],
): Promise<readonly UdpFlow[]> {
  if (server === undefined || typeof server === 'string' || server.server.protocol !== 'UDP') return []
  const { address, port } = server.server
  const found = await kernel.staleFlows(server)
  if (typeof found === 'string') {
    findings.push(found)
    return []
  }
  const counts = new Map<string, number>()
  for (const flow of found) counts.set(replyKey(flow), (counts.get(replyKey(flow)) ?? 0) + 1)
  for (const [key, count] of counts) {
    const is = key === destinationKey({ address, port }) ? 'nobody, for they are from before there was a server' : key
    findings.push(
      `${count} UDP flows to ${serverKey(server.server)} go past its destinations, to ${is}: conntrack -D -p udp -d ${address} --dport ${port} clears them`,
    )
  }
  return found
}

async function noted<T>(what: string, findings: string[], read: () => Promise<T>): Promise<T | undefined> {
  try {
    return await read()
  } catch (error) {
    findings.push(`${what} cannot be read: ${describeError(error)}`)
    return undefined
  }
}

function wrong(message: string, advice: string): ProxyError {
  return new ProxyError('CONFIG', message, { operation: 'explain', advice })
}

/** "10.96.0.10:80", "10.96.0.10:53/UDP", "[fd96::10]:80"; undefined where the text is no such. */
export function parseTarget(text: string, protocol: Protocol): ServerId | undefined {
  const [, six, four, port, given] = /^(?:\[([^\]]+)\]|([0-9.]+)):(\d+)(?:\/(\w+))?$/.exec(text) ?? []
  const address = canonicalAddress(six ?? four ?? '')
  const number = Number(port)
  const named = given?.toUpperCase() ?? protocol
  if (address === undefined || number < 1 || number > 65535) return undefined
  if (named !== 'TCP' && named !== 'UDP' && named !== 'SCTP') return undefined
  return { family: familyOf(address), protocol: named, address, port: number }
}

async function resolveTarget(
  request: ExplainRequest,
  { cluster }: ExplainParts,
  findings: string[],
): Promise<{ target: ServerId; service?: ServiceRecord }> {
  const direct = parseTarget(request.target, request.protocol ?? 'TCP')
  if (direct !== undefined) return { target: direct }
  const [, namespace = 'default', name, part] =
    /^(?:([a-z0-9.-]+)\/)?([a-z0-9.-]*[a-z][a-z0-9.-]*)(?::([a-z0-9-]+))?$/.exec(request.target) ?? []
  const forms = 'give NAMESPACE/SERVICE[:PORT] or IP:PORT[/PROTOCOL]'
  if (name === undefined) throw wrong(`${request.target} is neither a Service nor IP:PORT`, forms)
  if (cluster === undefined) {
    throw wrong(
      `Service ${namespace}/${name} cannot be looked up without the cluster's objects`,
      'give --manifests or access to the API server, or IP:PORT',
    )
  }
  const service = await cluster.service(`${namespace}/${name}`)
  if (service === undefined) {
    throw wrong(
      `there is no Service ${namespace}/${name} with a cluster IP that this proxy serves`,
      'is it headless, of type ExternalName, or another proxy’s?',
    )
  }
  const fits = service.ports.filter(
    (port) =>
      (part === undefined || port.name === part || String(port.port) === part) &&
      (request.protocol === undefined || port.protocol === request.protocol),
  )
  const [port] = fits
  if (port === undefined) {
    const ports = service.ports.map((one) => `${one.name === '' ? '' : `${one.name} `}${one.port}/${one.protocol}`)
    throw wrong(`Service ${service.key} has no such port`, `its ports: ${ports.join(', ')}`)
  }
  if (fits.length > 1)
    findings.push(`Service ${service.key} has ${fits.length} such ports; this is ${port.port}/${port.protocol}`)
  const families = addressesOf(request.from ?? '').map(familyOf)
  const address = service.clusterIPs.find((one) => families.length === 0 || families.includes(familyOf(one)))
  if (address === undefined) throw wrong(`Service ${service.key} has no cluster IP of the source's family`, forms)
  return { target: { family: familyOf(address), protocol: port.protocol, address, port: port.port }, service }
}

function findService(
  { address, port, protocol }: ServerId,
  { cluster }: ExplainParts,
  findings: string[],
): Promise<ServiceRecord | undefined> {
  return noted('Services', findings, async () => cluster?.serviceAt(address, port, protocol))
}

async function planOf(
  service: ServiceRecord | undefined,
  target: ServerId,
  node: NodeRecord | undefined,
  kernel: KernelState,
  { cluster, settings }: ExplainParts,
  findings: string[],
): Promise<Wanted | undefined> {
  if (service === undefined || cluster === undefined || settings === undefined) return undefined
  const isNode = kernel.nodeAddresses.includes(target.address)
  const port = portAt(service, target.address, target.port, target.protocol, isNode)
  if (port === undefined) return undefined
  const slices = await noted('EndpointSlices', findings, () => cluster.slices(service.key))
  return slices && planWanted(service, port, slices, node, kernel, settings)
}

export interface Places {
  /** Links towards other machines. */
  readonly uplinks: ReadonlySet<string>
  readonly isOnNode: (address: string, route: RouteAnswer) => boolean
}

/** Tells what is on this node: by endpoints' own word, the node's pod ranges, else by the route to it. */
async function placeFacts(
  kernel: KernelState,
  node: NodeRecord | undefined,
  wanted: Wanted | undefined,
): Promise<Places> {
  const uplinks = new Set<string>()
  const find = (destination: string): Promise<RouteAnswer> =>
    kernel.route({ destination, mark: 0, protocol: 'TCP', destinationPort: 0 })
  const outside = await find(somewhere[kernel.family])
  if (outside.kind === 'unicast') uplinks.add(outside.link)
  for (const address of node?.addresses ?? []) {
    if (familyOf(address) !== kernel.family) continue
    const route = await find(address)
    if (route.kind === 'local' && route.link !== '') uplinks.add(route.link)
  }
  if (uplinks.size === 0) for (const { name, kind } of kernel.links) if (kind === '' && name !== 'lo') uplinks.add(name)
  const ranges = (node?.podCIDRs ?? []).flatMap((text) => parseCidr(text) ?? [])
  const endpoints = new Map(wanted?.endpoints.map(({ id, local }) => [destinationOf(id).address, local]))
  return {
    uplinks,
    isOnNode: (address, route) => {
      const said = endpoints.get(address)
      if (said === true || route.kind === 'local') return true
      if (ranges.some((range) => cidrContains(range, address))) return true
      return route.kind === 'unicast' && route.gateway === undefined && !uplinks.has(route.link)
    },
  }
}

/** The addresses that a source is given by; none where it is given by a name. */
function addressesOf(from: string): readonly string[] {
  const addresses = from.split('@')[0]!.split(',').map(canonicalAddress)
  return addresses.every((one) => one !== undefined) ? addresses : []
}

async function resolveOrigin(
  from: string,
  target: ServerId,
  kernel: KernelState,
  { cluster }: ExplainParts,
  places: Places,
  findings: string[],
): Promise<Origin> {
  const { family } = target
  if (from === 'node') return { kind: 'node', address: '', inLink: '', isOnNode: true }
  const [host = '', link] = from.split('@')
  const given = from === 'outside' ? [somewhere[family]] : addressesOf(from)
  const key = host.includes('/') ? host : `default/${host}`
  const known = given.length > 0 ? given : ((await cluster?.podAddresses(key)) ?? [])
  const address = known.find((one) => familyOf(one) === family)
  if (address === undefined) {
    throw given.length > 0
      ? wrong(`${from} is not of ${family}, as the target is`, 'give an address of its family')
      : wrong(`no address of ${family} is known of pod ${key}`, "give the pod's IP, outside or node")
  }
  const route = await kernel.route({ destination: address, mark: 0, protocol: target.protocol, destinationPort: 0 })
  if (route.kind === 'local') return { kind: 'node', address, inLink: '', isOnNode: true }
  const isOnNode = places.isOnNode(address, route)
  if (link !== undefined && !kernel.links.some(({ name }) => name === link)) {
    throw wrong(`there is no link ${link}`, `one of ${kernel.links.map(({ name }) => name).join(', ')}`)
  }
  const inLink = link ?? (route.kind === 'unicast' ? route.link : ([...places.uplinks][0] ?? ''))
  if (route.kind !== 'unicast' && from !== 'outside') findings.push(`this node has no route to ${address}`)
  return { kind: isOnNode ? 'pod' : 'outside', address, inLink, isOnNode }
}

function unwalked(ways: readonly Way[]): string[] {
  return ways.flatMap(({ balanced }) => {
    if (balanced === undefined) return []
    const count = balanced.server.destinations.filter(({ weight }) => weight > 0).length
    return count > mostDestinations ? [`only ${mostDestinations} of ${count} destinations are followed`] : []
  })
}

/** Base chains of nftables on the way that nobody here has read. */
function passedForeign(ways: readonly Way[], kernel: KernelState): readonly KernelState['foreignChains'][number][] {
  const all = ways.flatMap((way) => [way, ...(way.balanced?.results.flatMap(({ ways: own }) => own) ?? [])])
  const hooks = new Set(all.flatMap((way) => way.hooks.map((hook) => hook.split(' ')[1]!)))
  return kernel.foreignChains.filter(({ hook }) => hooks.has(hook))
}

function foreignFindings(ways: readonly Way[], kernel: KernelState): string[] {
  return passedForeign(ways, kernel).map(
    ({ name, hook, policy }) =>
      `nftables chain ${name} at ${hook} (policy ${policy}) is passed, and its rules are not looked into`,
  )
}

/** What an unread chain could drop is not surely served. */
function withForeignChains(verdict: Verdict, ways: readonly Way[], kernel: KernelState): Verdict {
  const chains = passedForeign(ways, kernel)
  if (chains.length === 0) return verdict
  const names = chains.map(({ name }) => name).join(', ')
  return { ...verdict, isCertain: false, text: `${verdict.text}; unless nftables decides otherwise (${names})` }
}

function sysctlFindings(kernel: KernelState): string[] {
  const findings: string[] = []
  if (kernel.sysctl('net/ipv4/vs/conntrack') === '0')
    findings.push('net.ipv4.vs.conntrack is 0: nothing that IPVS sends is masqueraded')
  if (kernel.family === 'IPv4' && kernel.sysctl('net/ipv4/ip_forward') === '0')
    findings.push('net.ipv4.ip_forward is 0: answers to others than the node itself are not forwarded')
  return findings
}
