import { endpointObject, serviceObject, sliceObject } from '../page/objects.ts'

type Json = Readonly<Record<string, unknown>>

/** One object that means harm, or is nonsense. */
export interface Hostile {
  readonly name: string
  readonly kind: 'services' | 'endpointslices' | 'nodes'
  /** As a value, or as JSON text. */
  readonly object: unknown
  /** What its own entries in the kernel have in them; nothing else may be there that was not before. */
  readonly owns: readonly string[]
  /** What the log must say of it: the object and the field. */
  readonly says: readonly string[]
}

const port = { name: 'p', port: 6666, protocol: 'TCP' }
const own = '10.111.66.66'

function evil(spec: Json = {}, { name = 'evil', status = {} }: { name?: string; status?: Json } = {}): Json {
  return serviceObject({ name, namespace: 'evil', ips: [own], ports: [port], spec, status })
}

/** A Service that changes nothing but what its own address has in it, or nothing at all. */
function service(name: string, object: unknown, says: readonly string[] = [], owns: readonly string[] = []): Hostile {
  return { name: `Service: ${name}`, kind: 'services', object, says, owns: [own, ...owns] }
}

/** Shown as JSON, as the log has it within a message. */
const long = 'x'.repeat(100_000)
const texts: readonly (readonly [string, string])[] = [
  ['a rule after a line break', 'web\n-A KUBE-SERVICES -j DROP'],
  ['a rule', '-j DROP'],
  ['a table', '*filter'],
  ['COMMIT in a line of its own', '\nCOMMIT\n'],
  ['double quotes', '"quoted"'],
  ['a shell command', "'; reboot #"],
  ['a substitution', '$(reboot)`reboot`'],
  ['a NUL', 'a\u0000b'],
  ['a script', '<script>alert(1)</script>'],
  ['an attribute', '" onmouseover="alert(1)'],
  ['an entity', '&lt;b&gt;'],
  ['a label of Prometheus', 'a",service="kube-dns'],
  ['a backslash', 'a\\'],
  ['text from right to left', '\u202elive'],
  ['a colour of the terminal', '\u001b[31m\u009b31m'],
  ['line separators', 'a\u2028b\u2029c\u0085d'],
  ['half a character', 'a\ud800b'],
  ['a hundred thousand letters', long],
  ['a way upward', '../../../etc/passwd'],
  ['__proto__', '__proto__'],
]

const names: readonly Hostile[] = texts.map(([name, text]) =>
  service(`named ${name}`, evil({}, { name: text }), ['metadata.name']),
)

const renamed = (metadata: Json): Json => ({ ...evil(), metadata })
const others: readonly Hostile[] = [
  service('without a namespace, named as another with its own', renamed({ name: 'shop/cart' }), ['metadata.name']),
  service('in a namespace that makes it another', renamed({ name: 'x', namespace: 'shop/cart' }), [
    'metadata.namespace',
  ]),
  service('named as the port of another', renamed({ name: 'cart:http', namespace: 'shop' }), ['metadata.name']),
  service('in a namespace of HTML', renamed({ name: 'x', namespace: '<b>' }), ['metadata.namespace']),
  service('with a number for a name', renamed({ name: 1, namespace: 'evil' }), ['metadata.name']),
  service('with a list for a name', renamed({ name: ['evil'], namespace: 'evil' }), ['metadata.name']),
  service('named constructor', evil({}, { name: 'constructor' })),
  service('with a secret in its annotations, and HTML in its labels', {
    ...evil(),
    metadata: {
      name: 'evil',
      namespace: 'evil',
      annotations: { 'kubectl.kubernetes.io/last-applied-configuration': 'hunter2', '<i>': '</i>' },
      labels: { '\n-j DROP': '"><script>' },
    },
  }),
  service('with labels that are a text', { ...evil(), metadata: { name: 'evil', namespace: 'evil', labels: '<b>' } }, [
    'metadata.labels',
  ]),
  service(
    'with members of every object',
    JSON.parse(
      `{"kind":"Service","__proto__":{"metadata":{"name":"cart","namespace":"shop"}},"constructor":{"prototype":{"spec":1}},"metadata":{"name":"evil","namespace":"evil","__proto__":{"name":"cart"}},"spec":{"__proto__":{"clusterIP":"10.111.0.10"},"clusterIP":"${own}","ports":[{"port":6666,"__proto__":{"nodePort":30080}}]}}`,
    ),
  ),
]

const portNames: readonly Hostile[] = texts
  .slice(0, 12)
  .map(([name, text]) =>
    service(`with a port named ${name}`, evil({ ports: [port, { name: text, port: 6667 }] }), [
      'Service evil/evil: spec.ports[1].name',
    ]),
  )

const at = (clusterIP: unknown): Json => evil({ clusterIP, clusterIPs: [clusterIP], ipFamilies: ['IPv4'] })
const clusterIPs: readonly Hostile[] = [
  ['a range', '10.0.0.1/0'],
  ['a number in another base', '0x7f.1'],
  ['loopback', '127.0.0.1'],
  ['loopback of another kind', '::ffff:127.0.0.1'],
  ['no address', '0.0.0.0'],
  ['all', '255.255.255.255'],
  ['multicast', '224.0.0.1'],
  ['a rule', `${own} -j DROP`],
  ['a set entry', `${own},tcp:80\nadd KUBE-CLUSTER-IP 10.0.0.1,tcp:80`],
  ['a zone', 'fe80::1%eth0'],
  ['long', ` ${own}${' '.repeat(100_000)}`],
].map(([name, text]) => service(`cluster IP that is ${name}`, at(text), ['Service evil/evil: spec.clusterIP']))
const strangeIPs: readonly Hostile[] = [
  service('cluster IP that is a number', at(7), ['spec.clusterIP']),
  service('cluster IP that is null', at(null)),
  service('cluster IP with zeros, which are decimal', at('010.111.066.066')),
  service('another family than it says', evil({ ipFamilies: ['IPv6'] }), ['spec.clusterIPs[0]']),
]

const outside: readonly Hostile[] = [
  ...[
    ['loopback', '127.0.0.1'],
    ['link-local', '169.254.169.254'],
    ['multicast', '239.1.2.3'],
    ['all', '255.255.255.255'],
    ['IPv6 multicast', 'ff02::1'],
    ['IPv6 loopback', '::1'],
    ['a rule', '203.0.113.66 -j DROP'],
    ['null', null],
  ].map(([name, text]) =>
    service(
      `external IP that is ${String(name)}`,
      evil({ externalIPs: [text] }),
      text === null ? [] : ['Service evil/evil: spec.externalIPs[0]'],
    ),
  ),
  service(
    'load balancer of loopback, of a list and of an unknown mode',
    evil(
      { type: 'LoadBalancer' },
      {
        status: { loadBalancer: { ingress: [{ ip: '127.0.0.53' }, [], { ip: '203.0.113.10', ipMode: '<b>' }, null] } },
      },
    ),
    ['status.loadBalancer.ingress[0].ip', 'status.loadBalancer.ingress[1]'],
  ),
  service(
    'source ranges that are rules',
    evil(
      { type: 'LoadBalancer', loadBalancerSourceRanges: ['0.0.0.0/0 -j ACCEPT', '1/0'] },
      {
        status: { loadBalancer: { ingress: [{ ip: '203.0.113.66' }] } },
      },
    ),
    ['spec.loadBalancerSourceRanges[0]', 'load balancer addresses are left out'],
  ),
  service('external IPs that are a text', evil({ externalIPs: '203.0.113.66' }), ['spec.externalIPs']),
  // Its entries in sets stand beside those of the other; the virtual server stays the other's.
  service(
    'external IP and port of another Service’s cluster IP',
    evil({ externalIPs: ['10.111.0.53'], ports: [{ name: 'p', port: 53, protocol: 'UDP' }] }),
    ['Two Services claim one virtual server'],
    ['KUBE-EXTERNAL-IP 10.111.0.53,udp:53'],
  ),
  service(
    'external IP and port of a node port',
    evil({ externalIPs: ['192.168.60.1'], ports: [{ name: 'p', port: 30_080 }] }),
    ['Two Services claim one virtual server'],
    ['KUBE-EXTERNAL-IP 192.168.60.1,tcp:30080'],
  ),
]

const ports: readonly Hostile[] = [0, -1, 65_536, 1e9, '80', 80.5, '80 -j DROP', [80], { port: 80 }, true].map(
  (number) =>
    service(`port ${JSON.stringify(number)}`, evil({ ports: [{ name: 'bad', port: number }, port] }), [
      'Service evil/evil: spec.ports[0].port',
    ]),
)
const morePorts: readonly Hostile[] = [
  service('node port out of range', evil({ type: 'NodePort', ports: [{ ...port, nodePort: 65_536 }] }), [
    'spec.ports[0].nodePort',
  ]),
  service('node port that is a text', evil({ type: 'NodePort', ports: [{ ...port, nodePort: '22' }] }), [
    'spec.ports[0].nodePort',
  ]),
  service('a protocol that is a rule', evil({ ports: [{ ...port, protocol: 'tcp -j DROP' }] }), [
    'spec.ports[0].protocol',
  ]),
  service('a protocol in small letters', evil({ ports: [{ ...port, protocol: 'tcp' }] }), ['spec.ports[0].protocol']),
  service('a port twice', evil({ ports: [port, port] }), ['spec.ports[1]']),
  service('ports that are no list', evil({ ports: { length: 5 } }), ['spec.ports']),
  service('ports that are null', evil({ ports: [null, [], 'x'] }), ['spec.ports[1]']),
  service(
    'an affinity of ten years',
    evil({ sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 1e9 } } }),
    ['timeoutSeconds'],
  ),
  service('a health check node port that is none', evil({ healthCheckNodePort: -1 }), ['spec.healthCheckNodePort']),
  service(
    'a type and policies that are HTML',
    evil({ type: '<b>', internalTrafficPolicy: '<i>', externalTrafficPolicy: {} }),
    ['spec.type', 'spec.internalTrafficPolicy'],
  ),
]

const shapes: readonly Hostile[] = [
  service('a spec that is null', { ...evil(), spec: null }),
  service('a spec that is a list', { ...evil(), spec: [] }, ['spec']),
  service('a status that is a text', { ...evil(), status: 'x' }, ['status']),
  service('metadata that are a list', { ...evil(), metadata: [] }, ['metadata.name']),
  service('null', null, ['metadata.name']),
  service('a text', '"DROP"', ['metadata.name']),
  service(
    'nested ten thousand deep',
    JSON.stringify(evil({ externalIPs: ['deep'] })).replace('"deep"', '['.repeat(10_000) + ']'.repeat(10_000)),
    ['Service evil/evil: spec.externalIPs[0]'],
  ),
]

const many = (count: number): readonly string[] =>
  Array.from({ length: count }, (_, i) => `203.113.${i >> 8}.${i & 255}`)
const gigantic: readonly Hostile[] = [
  service(
    'a thousand ports',
    evil({ ports: Array.from({ length: 1000 }, (_, i) => ({ name: `p${i}`, port: 1000 + i })) }),
  ),
  service('three thousand external IPs', evil({ externalIPs: many(3000) }), [], ['203.113.']),
  service(
    'three thousand source ranges',
    evil(
      { type: 'LoadBalancer', loadBalancerSourceRanges: many(3000).map((one) => `${one}/32`) },
      {
        status: { loadBalancer: { ingress: [{ ip: '203.0.113.66' }] } },
      },
    ),
    [],
    ['203.0.113.66'],
  ),
  service(
    'a thousand ports at a thousand external IPs',
    evil({
      externalIPs: many(1000),
      ports: Array.from({ length: 1000 }, (_, i) => ({ name: `p${i}`, port: 1000 + i })),
    }),
    ['more than 200000 entries'],
  ),
  service('ten thousand wrong external IPs', evil({ externalIPs: Array.from({ length: 10_000 }, () => '<b>') }), [
    'its further problems are not logged',
  ]),
]

/** Slices of the Service evil/target, which stands before and after. */
const target = '10.111.66.1'
function slice(name: string, object: unknown, says: readonly string[] = []): Hostile {
  return { name: `EndpointSlice: ${name}`, kind: 'endpointslices', object, says, owns: [target, '10.244.66.'] }
}
const inNamespace = { namespace: 'evil' }
const endpoints = (...list: readonly Json[]): Json => ({
  ...sliceObject('target', list, [port], inNamespace),
  metadata: labelled('target'),
})
const labelled = (serviceName: unknown, more: Json = {}): Json => ({
  name: 'evil-1',
  namespace: 'evil',
  labels: { 'kubernetes.io/service-name': serviceName },
  ...more,
})
const healthy = endpointObject('10.244.66.1')

const slices: readonly Hostile[] = [
  ...[
    ['loopback', '127.0.0.1'],
    ['link-local', '169.254.169.254'],
    ['no address', '0.0.0.0'],
    ['multicast', '224.0.0.1'],
    ['of another family', 'fd44::1'],
    ['a rule', '10.244.66.1 -j DROP'],
    ['a range', '10.244.66.1/0'],
    ['long', '1'.repeat(100_000)],
  ].map(([name, address]) =>
    slice(`an endpoint that is ${name}`, endpoints(endpointObject(address!), healthy), [
      'EndpointSlice evil/evil-1: endpoints[0].addresses[0]',
    ]),
  ),
  ...texts
    .slice(0, 8)
    .map(([name, text]) =>
      slice(`of a Service named ${name}`, { ...endpoints(healthy), metadata: labelled(text) }, ['service-name']),
    ),
  slice('of another namespace’s Service', { ...endpoints(healthy), metadata: labelled('../shop/cart') }, [
    'service-name',
  ]),
  slice('named as HTML', { ...endpoints(healthy), metadata: labelled('target', { name: '<b>' }) }, ['metadata.name']),
  slice('a trigger time that is a rule', {
    ...endpoints(healthy),
    metadata: labelled('target', {
      annotations: { 'endpoints.kubernetes.io/last-change-trigger-time': '2999-01-01T00:00:00Z -j DROP' },
    }),
  }),
  slice(
    'hints that are HTML',
    endpoints({ ...healthy, hints: { forZones: [{ name: '<b>' }, { name: 7 }], forNodes: 'x' } }),
    ['endpoints[0].hints.forZones[0].name'],
  ),
  slice(
    'hints at ten thousand zones',
    endpoints({ ...healthy, hints: { forZones: Array.from({ length: 10_000 }, (_, i) => ({ name: `z${i}` })) } }),
    ['endpoints[0].hints.forZones'],
  ),
  slice(
    'conditions that are texts',
    endpoints({ ...healthy, conditions: { ready: 'true', serving: 1, terminating: {} } }),
    ['conditions.ready'],
  ),
  slice(
    'endpoints that are null, lists and texts',
    { ...endpoints(), endpoints: [null, [], 'x', { addresses: 'x' }, { addresses: [null] }] },
    ['endpoints[1]', 'endpoints[3].addresses'],
  ),
  slice(
    'ports that are rules',
    {
      ...endpoints(healthy),
      ports: [{ name: '-j', port: 1 }, { name: 'p', port: '1 -j' }, { name: 'p', port: -1 }, null],
    },
    ['ports[0].name', 'ports[1].port'],
  ),
  slice(
    'a port a thousand times',
    { ...endpoints(healthy), ports: Array.from({ length: 1000 }, (_, i) => ({ ...port, port: 1000 + i })) },
    ['ports[1].name'],
  ),
  slice(
    'two thousand endpoints',
    endpoints(...Array.from({ length: 2000 }, (_, i) => endpointObject(`10.66.${i >> 8}.${i & 255}`))),
  ),
  slice('an address type that is a rule', { ...endpoints(healthy), addressType: 'IPv4 -j DROP' }),
  slice('metadata that are null', { ...endpoints(healthy), metadata: null }, ['metadata.name']),
]

function node(name: string, metadata: Json, change: Json, says: readonly string[] = []): Hostile {
  const object = {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { labels: { 'topology.kubernetes.io/zone': 'zone-a' }, ...metadata },
    spec: {},
    status: {
      addresses: [
        { type: 'InternalIP', address: '192.168.60.1' },
        { type: 'InternalIP', address: 'fd60::1' },
      ],
    },
    ...change,
  }
  return { name: `Node: ${name}`, kind: 'nodes', object, says, owns: [] }
}

const nodes: readonly Hostile[] = [
  node('another one', { name: 'node2', labels: { 'topology.kubernetes.io/zone': 'zone-b' } }, {}),
  node('named as a rule', { name: 'node1 -j DROP' }, {}, ['metadata.name']),
  node('ranges that are rules', { name: 'node1' }, { spec: { podCIDRs: ['10.244.1.0/24 -j ACCEPT', '0.0.0.0', 7] } }, [
    'Node node1: spec.podCIDRs[0]',
  ]),
  node(
    'addresses that are rules',
    { name: 'node1' },
    {
      status: {
        addresses: [
          { type: 'InternalIP', address: '192.168.60.1' },
          { type: 'InternalIP', address: 'fd60::1' },
          { type: 'ExternalIP', address: '-j DROP' },
          null,
          { type: {} },
        ],
      },
    },
    ['status.addresses[2].address'],
  ),
  node(
    'taints that are texts',
    { name: 'node1' },
    { spec: { taints: ['ToBeDeletedByClusterAutoscaler', null, { key: {} }] } },
  ),
]

export const hostile: readonly Hostile[] = [
  ...names,
  ...others,
  ...portNames,
  ...clusterIPs,
  ...strangeIPs,
  ...outside,
  ...ports,
  ...morePorts,
  ...shapes,
  ...gigantic,
  ...slices,
  ...nodes,
]

/** Stands before, for the slices. */
export const standing: readonly Json[] = [
  serviceObject({ name: 'target', namespace: 'evil', ips: [target], ports: [port] }),
  { ...endpoints(endpointObject('10.244.66.9')), metadata: labelled('target', { name: 'target-1' }) },
]
