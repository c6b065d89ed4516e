import type { EndpointSliceRecord, ServicePortRecord, ServiceRecord } from '../../../src/model/cluster.ts'
import { EndpointList, type EndpointRecord } from '../../../src/model/endpoint-list.ts'
import { anyExternal } from '../../../src/proxier/external-addresses.ts'
import type { NodeFacts } from '../../../src/proxier/planner.ts'

/** Short ways to the objects of the tables. */
export function port(change: Partial<ServicePortRecord> = {}): ServicePortRecord {
  return { name: '', protocol: 'TCP', port: 80, nodePort: 0, ...change }
}

export function service(change: Partial<ServiceRecord> = {}): ServiceRecord {
  return {
    key: 'default/web',
    type: 'ClusterIP',
    clusterIPs: ['10.96.0.10'],
    externalIPs: [],
    loadBalancerIPs: [],
    sourceRanges: [],
    ports: [port()],
    affinitySeconds: 0,
    internalLocal: false,
    externalLocal: false,
    healthCheckNodePort: 0,
    ...change,
  }
}

/** "10.0.0.1" with conditions as letters: r ready, s serving, t terminating, l local; ready and serving without any. */
export function endpoint(address: string, letters = 'rs', hints: Partial<EndpointRecord> = {}): EndpointRecord {
  const has = (letter: string): boolean => letters.includes(letter)
  return { address, ready: has('r'), serving: has('s'), terminating: has('t'), local: has('l'), ...hints }
}

export function slice(
  endpoints: readonly EndpointRecord[],
  change: Partial<EndpointSliceRecord> = {},
): EndpointSliceRecord {
  return {
    key: 'default/web-1',
    service: 'default/web',
    family: 'IPv4',
    ports: [{ name: '', protocol: 'TCP', port: 8080 }],
    endpoints: EndpointList.of(endpoints),
    triggerTime: 0,
    ...change,
  }
}

export function facts(change: Partial<NodeFacts> = {}): NodeFacts {
  return {
    family: 'IPv4',
    nodeName: 'node1',
    zone: '',
    nodeIP: '192.168.0.1',
    nodeAddresses: new Set(['192.168.0.1']),
    nodePortAddresses: ['192.168.0.1'],
    scheduler: 'rr',
    strictExternal: false,
    externalRanges: anyExternal,
    ...change,
  }
}
