import type { Family, Protocol } from './address.ts'
import type { EndpointList } from './endpoint-list.ts'

/** What the proxy keeps of a Service: canonical addresses of both families, values already defaulted. */
export interface ServiceRecord {
  /** "namespace/name" */
  readonly key: string
  readonly type: 'ClusterIP' | 'NodePort' | 'LoadBalancer'
  readonly clusterIPs: readonly string[]
  readonly externalIPs: readonly string[]
  /** Ingress IPs of the load balancer with ipMode VIP (or none, KEP-1860). */
  readonly loadBalancerIPs: readonly string[]
  /** Canonical CIDRs; none of a family of which one is a zero prefix. */
  readonly sourceRanges: readonly string[]
  readonly ports: readonly ServicePortRecord[]
  /** Client affinity in seconds; 0: none. */
  readonly affinitySeconds: number
  readonly internalLocal: boolean
  /** externalTrafficPolicy Local of a Service that is externally accessible by its type. */
  readonly externalLocal: boolean
  /** 0: none. */
  readonly healthCheckNodePort: number
}

export interface ServicePortRecord {
  /** "" where unnamed. */
  readonly name: string
  readonly protocol: Protocol
  readonly port: number
  /** 0: none. */
  readonly nodePort: number
}

/** What the proxy keeps of an EndpointSlice of addressType IPv4 or IPv6. */
export interface EndpointSliceRecord {
  /** "namespace/name" of the slice */
  readonly key: string
  /** "namespace/name" of the Service by label kubernetes.io/service-name */
  readonly service: string
  readonly family: Family
  readonly ports: readonly EndpointPortRecord[]
  readonly endpoints: EndpointList
  /** Annotation endpoints.kubernetes.io/last-change-trigger-time as milliseconds since the epoch; 0: none. */
  readonly triggerTime: number
}

export interface EndpointPortRecord {
  readonly name: string
  readonly protocol: Protocol
  readonly port: number
}

/** What the proxy keeps of its own Node. */
export interface NodeRecord {
  readonly name: string
  /** InternalIPs first, then ExternalIPs; canonical. */
  readonly addresses: readonly string[]
  readonly podCIDRs: readonly string[]
  /** Label topology.kubernetes.io/zone; "" where absent. */
  readonly zone: string
  /** Whether a load balancer may use the node: not being deleted and without the taint ToBeDeletedByClusterAutoscaler. */
  readonly eligible: boolean
}

export type ClusterKind = 'services' | 'endpointslices' | 'node'

/**
 * Receives the cluster's objects. `undefined` means gone. A source tells each object at least once before it says
 * `synced` of its kind, may repeat an unchanged object, and says a deletion only when it is sure of it.
 */
export interface ClusterListener {
  serviceChanged(key: string, service: ServiceRecord | undefined): void
  sliceChanged(key: string, slice: EndpointSliceRecord | undefined): void
  nodeChanged(node: NodeRecord | undefined): void
  synced(kind: ClusterKind): void
}

/** Where Services, EndpointSlices and the own Node come from. */
export interface ClusterSource {
  /** Runs until the signal fires; never throws for a fault of the source, which it logs and retries. */
  run(listener: ClusterListener, signal: AbortSignal): Promise<void>
}
