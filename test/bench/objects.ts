/** Services and EndpointSlices of a cluster of any size, as the API server would give them. */
export interface Size {
  readonly services: number
  readonly endpoints: number
}

type Json = Record<string, unknown>

/** 10.96.0.0/12, the range of kubeadm; the first address is the API server's own. */
export function clusterIP(index: number): string {
  const n = index + 1
  return `10.${96 + (n >> 16)}.${(n >> 8) & 255}.${n & 255}`
}

/** `generation`: a rollout replaces all addresses. */
export function endpointIP(service: number, endpoint: number, endpoints: number, generation = 0): string {
  const n = service * endpoints + endpoint
  return `10.${128 + ((n >> 16) & 31) + 32 * generation}.${(n >> 8) & 255}.${n & 255}`
}

export function serviceName(index: number): string {
  return index === 0 ? 'kubernetes' : `service-${index}`
}

export function serviceOf(index: number): Json {
  const ip = clusterIP(index)
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: {
      name: serviceName(index),
      namespace: 'default',
      uid: `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`,
      creationTimestamp: '2026-01-01T00:00:00Z',
      labels: { app: serviceName(index) },
    },
    spec: {
      type: 'ClusterIP',
      clusterIP: ip,
      clusterIPs: [ip],
      ipFamilies: ['IPv4'],
      ipFamilyPolicy: 'SingleStack',
      internalTrafficPolicy: 'Cluster',
      sessionAffinity: 'None',
      selector: { app: serviceName(index) },
      ports: [{ name: 'http', port: 80, protocol: 'TCP', targetPort: 8080 }],
    },
    status: { loadBalancer: {} },
  }
}

/** Every tenth endpoint is on the own node. `without`: so many endpoints fewer, for changes. */
export function sliceOf(index: number, endpoints: number, without = 0, generation = 0): Json {
  const name = serviceName(index)
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name: `${name}-abcde`,
      namespace: 'default',
      generateName: `${name}-`,
      creationTimestamp: '2026-01-01T00:00:00Z',
      labels: {
        'kubernetes.io/service-name': name,
        'endpointslice.kubernetes.io/managed-by': 'endpointslice-controller.k8s.io',
      },
      ownerReferences: [{ apiVersion: 'v1', kind: 'Service', name, controller: true, blockOwnerDeletion: true }],
    },
    addressType: 'IPv4',
    ports: [{ name: 'http', port: 8080, protocol: 'TCP' }],
    endpoints: Array.from({ length: endpoints - without }, (_, i) => ({
      addresses: [endpointIP(index, i, endpoints, generation)],
      conditions: { ready: true, serving: true, terminating: false },
      nodeName: (index + i) % 10 === 0 ? 'node1' : `node-${(index + i) % 100}`,
      targetRef: { kind: 'Pod', namespace: 'default', name: `${name}-${i}` },
    })),
  }
}

export function nodeOf(zone = 'a'): Json {
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: 'node1', labels: { 'topology.kubernetes.io/zone': zone } },
    spec: { podCIDRs: ['10.244.1.0/24'] },
    status: { addresses: [{ type: 'InternalIP', address: '192.168.60.1' }] },
  }
}

export function* clusterOf({ services, endpoints }: Size): Generator<Json> {
  yield nodeOf()
  for (let i = 0; i < services; i++) {
    yield serviceOf(i)
    yield sliceOf(i, endpoints)
  }
}
