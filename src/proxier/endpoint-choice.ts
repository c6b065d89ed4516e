import type { EndpointRecord, EndpointSliceRecord, ServicePortRecord, ServiceRecord } from '../model/cluster.ts'
import { destinationKey } from '../model/virtual-server.ts'

/** An endpoint of one service port. */
export interface PortEndpoint extends EndpointRecord {
  readonly port: number
  /** "address:port" */
  readonly key: string
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
 * All endpoints of one service port over all slices, whatever their conditions, sorted by "address:port". Of duplicates
 * the later slice wins (by slice name, so that the result does not depend on arrival), except that a terminating one
 * never replaces a live one: a pod moves between slices.
 */
export function mergeEndpoints(slices: Iterable<EndpointSliceRecord>, port: ServicePortRecord): PortEndpoint[] {
  const byKey = new Map<string, PortEndpoint>()
  for (const slice of [...slices].sort((a, b) => (a.key < b.key ? -1 : 1))) {
    for (const { name, protocol, port: number } of slice.ports) {
      if (name !== port.name || protocol !== port.protocol) continue
      for (const endpoint of slice.endpoints) {
        const key = destinationKey({ address: endpoint.address, port: number })
        if (byKey.has(key) && endpoint.terminating) continue
        byKey.set(key, { ...endpoint, port: number, key })
      }
    }
  }
  return [...byKey.values()].sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0))
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
    const ready = narrow(
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
function isLastResort(endpoint: EndpointRecord): boolean {
  return endpoint.serving && endpoint.terminating
}

/** A hint counts only when every ready endpoint has one and some names us: a half-written slice must not cut traffic. */
function narrow(ready: PortEndpoint[], { nodeName, zone }: Topology): PortEndpoint[] {
  if (ready.every((endpoint) => endpoint.nodes !== undefined && endpoint.nodes.length > 0)) {
    const own = ready.filter((endpoint) => endpoint.nodes!.includes(nodeName))
    if (own.length > 0) return own
  }
  if (zone !== '' && ready.every((endpoint) => endpoint.zones !== undefined && endpoint.zones.length > 0)) {
    const near = ready.filter((endpoint) => endpoint.zones!.includes(zone))
    if (near.length > 0) return near
  }
  return ready
}
