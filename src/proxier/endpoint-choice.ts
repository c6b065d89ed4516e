import type { EndpointSliceRecord, ServicePortRecord, ServiceRecord } from '../model/cluster.ts'
import { destinationOf } from '../model/destination-list.ts'
import type { PortEndpoint } from '../model/endpoint-list.ts'
import { destinationKey } from '../model/virtual-server.ts'

export type { PortEndpoint } from '../model/endpoint-list.ts'

/** "address:port" */
export function endpointKey(endpoint: PortEndpoint): string {
  return destinationKey(destinationOf(endpoint.id))
}

export interface Topology {
  readonly nodeName: string
  readonly zone: string
}

export interface Choice {
  /** Undefined where no policy of the Service uses them. */
  readonly cluster?: readonly PortEndpoint[]
  readonly local?: readonly PortEndpoint[]
  readonly hasUsable: boolean
}

/**
 * All endpoints of one service port over all slices, whatever their conditions, in order of address and port. Of
 * duplicates the later slice wins (by slice name, so that the result does not depend on arrival), except that a
 * terminating one never replaces a live one: a pod moves between slices.
 */
export function mergeEndpoints(slices: Iterable<EndpointSliceRecord>, port: ServicePortRecord): PortEndpoint[] {
  const lists: PortEndpoint[][] = []
  for (const slice of [...slices].sort((a, b) => (a.key < b.key ? -1 : 1))) {
    for (const { name, protocol, port: number } of slice.ports) {
      if (name === port.name && protocol === port.protocol) lists.push(slice.endpoints.ofPort(number))
    }
  }
  const all = lists.length === 1 ? lists[0]! : lists.flat()
  // Duplicates keep the order in which they came.
  all.sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
  return all.some(({ id }, i) => id === all[i + 1]?.id) ? distinct(all) : all
}

function distinct(sorted: readonly PortEndpoint[]): PortEndpoint[] {
  const list: PortEndpoint[] = []
  for (const endpoint of sorted) {
    if (list.at(-1)?.id !== endpoint.id) list.push(endpoint)
    else if (!endpoint.terminating) list[list.length - 1] = endpoint
  }
  return list
}

/** Whether anything outside the cluster can reach the Service: a node port, a load balancer or an external IP. */
export function isExternallyAccessible(service: ServiceRecord, port: ServicePortRecord): boolean {
  return port.nodePort !== 0 || service.loadBalancerIPs.length > 0 || service.externalIPs.length > 0
}

/**
 * Endpoints by traffic policy, readiness and topology hints (KEP-1669 terminating endpoints, KEP-2086 internal
 * policy, KEP-3015 hints).
 */
export function chooseEndpoints(
  service: ServiceRecord,
  port: ServicePortRecord,
  endpoints: readonly PortEndpoint[],
  topology: Topology,
): Choice {
  const external = isExternallyAccessible(service, port)
  const usesCluster = !service.internalLocal || external
  const usesLocal = service.internalLocal || (service.externalLocal && external)
  const choice: { cluster?: PortEndpoint[]; local?: PortEndpoint[]; hasUsable: boolean } = {
    hasUsable: endpoints.some((endpoint) => endpoint.ready || isLastResort(endpoint)),
  }
  if (usesCluster) {
    const { kept: ready } = narrow(
      endpoints.filter((endpoint) => endpoint.ready),
      topology,
    )
    choice.cluster = ready.length > 0 ? ready : endpoints.filter(isLastResort)
  }
  if (usesLocal) {
    const ready = endpoints.filter((endpoint) => endpoint.local && endpoint.ready)
    choice.local = ready.length > 0 ? ready : endpoints.filter((endpoint) => endpoint.local && isLastResort(endpoint))
  }
  return choice
}

/** Used only while there is nothing ready: still serving on its way out. */
function isLastResort(endpoint: PortEndpoint): boolean {
  return endpoint.serving && endpoint.terminating
}

/** Which hints narrow the ready endpoints, and to whom. */
interface Narrowing {
  readonly by?: 'nodes' | 'zones'
  readonly kept: PortEndpoint[]
}

/** A hint counts only when every ready endpoint has one and some names us: a half-written slice must not cut traffic. */
function narrow(ready: PortEndpoint[], { nodeName, zone }: Topology): Narrowing {
  if (ready.every((endpoint) => endpoint.nodes !== undefined && endpoint.nodes.length > 0)) {
    const kept = ready.filter((endpoint) => endpoint.nodes!.includes(nodeName))
    if (kept.length > 0) return { by: 'nodes', kept }
  }
  if (zone !== '' && ready.every((endpoint) => endpoint.zones !== undefined && endpoint.zones.length > 0)) {
    const kept = ready.filter((endpoint) => endpoint.zones!.includes(zone))
    if (kept.length > 0) return { by: 'zones', kept }
  }
  return { kept: ready }
}

/** Why an endpoint is not in a list of a `Choice`; undefined: it is, or the list is not used. */
export interface Exclusion {
  readonly endpoint: PortEndpoint
  readonly cluster: string | undefined
  readonly local: string | undefined
}

/** For each endpoint why `chooseEndpoints` left it out, out of what it chose. */
export function explainChoice(
  choice: Choice,
  endpoints: readonly PortEndpoint[],
  topology: Topology,
): readonly Exclusion[] {
  const { by } = narrow(
    endpoints.filter(({ ready }) => ready),
    topology,
  )
  const reason = (endpoint: PortEndpoint): string => {
    if (!endpoint.ready && isLastResort(endpoint)) return 'terminating: used only while none is ready'
    if (!endpoint.ready) return endpoint.terminating ? 'terminating, and serves no more' : 'not ready'
    if (by === 'nodes') return `for other nodes by its hints: ${endpoint.nodes?.join(', ') ?? ''}`
    return `for other zones than ${topology.zone} by its hints: ${endpoint.zones?.join(', ') ?? ''}`
  }
  return endpoints.map((endpoint) => ({
    endpoint,
    cluster: (choice.cluster?.includes(endpoint) ?? true) ? undefined : reason(endpoint),
    local:
      (choice.local?.includes(endpoint) ?? true) ? undefined : endpoint.local ? reason(endpoint) : 'not on this node',
  }))
}
