type Json = Readonly<Record<string, unknown>>

interface Shape {
  readonly name: string
  readonly namespace?: string
  readonly ips: readonly string[]
  readonly ports: readonly Json[]
  readonly spec?: Json
  readonly status?: Json
}

/** A Service as the API server would give it. */
export function serviceObject({ name, namespace = 'shop', ips, ports, spec = {}, status = {} }: Shape): Json {
  const ipFamilies = ips.map((ip) => (ip.includes(':') ? 'IPv6' : 'IPv4'))
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace },
    spec: { type: 'ClusterIP', clusterIP: ips[0], clusterIPs: ips, ipFamilies, ports, ...spec },
    status: { loadBalancer: {}, ...status },
  }
}

/** An endpoint by its address and conditions as letters: r ready, s serving, t terminating, l on the own node. */
export function endpointObject(address: string, letters = 'rs', hints: Json = {}): Json {
  const has = (letter: string): boolean => letters.includes(letter)
  return {
    addresses: [address],
    conditions: { ready: has('r'), serving: has('s'), terminating: has('t') },
    nodeName: has('l') ? 'node1' : 'node-7',
    ...hints,
  }
}

/** The EndpointSlice of a Service. */
export function sliceObject(
  service: string,
  endpoints: readonly Json[],
  ports: readonly Json[],
  { namespace = 'shop', addressType = 'IPv4' } = {},
): Json {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name: `${service}-${addressType.toLowerCase()}`,
      namespace,
      labels: { 'kubernetes.io/service-name': service },
    },
    addressType,
    ports,
    endpoints,
  }
}

const http = { name: 'http', port: 80, protocol: 'TCP' }
const https = { name: 'https', port: 443, protocol: 'TCP' }

/** A shop: a load balancer of both families with local policy, a DNS server, one without a ready endpoint. */
export const shop: readonly Json[] = [
  {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: 'node1', labels: { 'topology.kubernetes.io/zone': 'zone-a' } },
    spec: { podCIDRs: ['10.244.1.0/24', 'fd44:1::/64'] },
    status: {
      addresses: [
        { type: 'InternalIP', address: '192.168.60.1' },
        { type: 'InternalIP', address: 'fd60::1' },
      ],
    },
  },
  serviceObject({
    name: 'cart',
    ips: ['10.111.0.10', 'fd96::10'],
    ports: [
      { ...http, nodePort: 30080 },
      { ...https, nodePort: 30443 },
    ],
    spec: {
      type: 'LoadBalancer',
      externalTrafficPolicy: 'Local',
      healthCheckNodePort: 32000,
      loadBalancerSourceRanges: ['198.51.100.0/24'],
      sessionAffinity: 'ClientIP',
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 10800 } },
    },
    status: { loadBalancer: { ingress: [{ ip: '203.0.113.10' }] } },
  }),
  sliceObject(
    'cart',
    [
      endpointObject('10.244.1.20', 'rsl'),
      endpointObject('10.244.2.21'),
      endpointObject('10.244.2.22'),
      endpointObject('10.244.2.23', 'st'),
      endpointObject('10.244.2.24', ''),
    ],
    [
      { name: 'http', port: 8080, protocol: 'TCP' },
      { name: 'https', port: 8443, protocol: 'TCP' },
    ],
  ),
  sliceObject(
    'cart',
    [endpointObject('fd44:1::20', 'rsl'), endpointObject('fd44:2::21')],
    [
      { name: 'http', port: 8080, protocol: 'TCP' },
      { name: 'https', port: 8443, protocol: 'TCP' },
    ],
    { addressType: 'IPv6' },
  ),
  serviceObject({
    name: 'kube-dns',
    namespace: 'kube-system',
    ips: ['10.111.0.53'],
    ports: [
      { name: 'dns', port: 53, protocol: 'UDP' },
      { name: 'dns-tcp', port: 53, protocol: 'TCP' },
      { name: 'metrics', port: 9153, protocol: 'TCP' },
    ],
  }),
  sliceObject(
    'kube-dns',
    [
      endpointObject('10.244.2.53', 'rs', { hints: { forZones: [{ name: 'zone-b' }] } }),
      endpointObject('10.244.1.53', 'rsl', { hints: { forZones: [{ name: 'zone-a' }] } }),
    ],
    [
      { name: 'dns', port: 53, protocol: 'UDP' },
      { name: 'dns-tcp', port: 53, protocol: 'TCP' },
      { name: 'metrics', port: 9153, protocol: 'TCP' },
    ],
    { namespace: 'kube-system' },
  ),
  serviceObject({ name: 'search', ips: ['10.111.0.11'], ports: [http] }),
  sliceObject(
    'search',
    [endpointObject('10.244.2.30', ''), endpointObject('10.244.2.31', '')],
    [{ name: 'http', port: 8080, protocol: 'TCP' }],
  ),
  serviceObject({ name: 'nobody', ips: ['10.111.0.12'], ports: [http] }),
]
