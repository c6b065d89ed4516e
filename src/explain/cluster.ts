import type { Protocol } from '../model/address.ts'
import type { EndpointSliceRecord, NodeRecord, ServicePortRecord, ServiceRecord } from '../model/cluster.ts'

/** What explaining asks of the cluster's objects. Keys are "namespace/name". */
export interface Cluster {
  service(key: string): Promise<ServiceRecord | undefined>
  /** The Service that has an address and port, or the node port at any address. */
  serviceAt(address: string, port: number, protocol: Protocol): Promise<ServiceRecord | undefined>
  slices(key: string): Promise<readonly EndpointSliceRecord[]>
  node(): Promise<NodeRecord | undefined>
  podAddresses(key: string): Promise<readonly string[]>
}

/** The port of a Service that an address and port stand for; a node port at one of the node's addresses. */
export function portAt(
  service: ServiceRecord,
  address: string,
  port: number,
  protocol: Protocol,
  isNodeAddress: boolean,
): ServicePortRecord | undefined {
  const own = [...service.clusterIPs, ...service.externalIPs, ...service.loadBalancerIPs].includes(address)
  return (
    service.ports.find((one) => own && one.port === port && one.protocol === protocol) ??
    service.ports.find((one) => isNodeAddress && one.nodePort === port && one.protocol === protocol)
  )
}
