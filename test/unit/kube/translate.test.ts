import { describe, expect, test } from 'vitest'
import {
  ProblemLog,
  problemText,
  translateEndpointSlice,
  translateNode,
  translateService,
} from '../../../src/kube/translate.ts'
import type { ObjectProblem } from '../../../src/kube/translate.ts'
import { silentLog } from '../../../src/lib/log.ts'

type Json = Record<string, unknown>

const metadata = { namespace: 'default', name: 'web' }
const spec = {
  type: 'ClusterIP',
  clusterIP: '10.96.0.10',
  clusterIPs: ['10.96.0.10'],
  ipFamilies: ['IPv4'],
  ports: [{ name: 'http', protocol: 'TCP', port: 80, targetPort: 8080 }],
  sessionAffinity: 'None',
}
const base = {
  key: 'default/web',
  type: 'ClusterIP',
  clusterIPs: ['10.96.0.10'],
  externalIPs: [],
  loadBalancerIPs: [],
  sourceRanges: [],
  ports: [{ name: 'http', protocol: 'TCP', port: 80, nodePort: 0 }],
  affinitySeconds: 0,
  internalLocal: false,
  externalLocal: false,
  healthCheckNodePort: 0,
}
const LB = { type: 'LoadBalancer' }
const ingress = (...list: unknown[]): Json => ({ status: { loadBalancer: { ingress: list } } })
const dual = { clusterIPs: ['10.96.0.10', 'fd00::0:A'], ipFamilies: ['IPv4', 'IPv6'] }

/** name, additions to spec, what differs in the record (null: ignored), fields with problems, additions to the object */
const services: readonly (readonly [string, Json, Json | null, string[]?, Json?])[] = [
  ['a plain service', {}, {}],
  ['no clusterIP', { clusterIP: undefined }, null],
  ['empty clusterIP', { clusterIP: '' }, null],
  ['headless', { clusterIP: 'None' }, null],
  ['ExternalName with a clusterIP', { type: 'ExternalName' }, null],
  [
    'another proxy',
    {},
    null,
    [],
    { metadata: { ...metadata, labels: { 'service.kubernetes.io/service-proxy-name': '' } } },
  ],
  ['labelled headless', {}, null, [], { metadata: { ...metadata, labels: { 'service.kubernetes.io/headless': '' } } }],
  ['no name', {}, null, ['metadata.name'], { metadata: { namespace: 'default' } }],
  ['dual stack', dual, { clusterIPs: ['10.96.0.10', 'fd00::a'] }],
  [
    'dual stack of swapped families',
    { ...dual, ipFamilies: ['IPv6', 'IPv4'] },
    { clusterIPs: [] },
    ['spec.clusterIPs[0]', 'spec.clusterIPs[1]'],
  ],
  ['more addresses than families', { ...dual, ipFamilies: ['IPv4'] }, {}],
  ['an old object without families', { clusterIPs: undefined, ipFamilies: undefined }, {}],
  [
    'an invalid clusterIP',
    { clusterIP: '10.96.0', clusterIPs: ['10.96.0'] },
    { clusterIPs: [] },
    ['spec.clusterIPs[0]'],
  ],
  ['a clusterIP with leading zeros', { clusterIP: '010.096.000.010', clusterIPs: undefined }, {}],
  ['an unknown type', { type: 'Odd' }, {}, ['spec.type']],
  [
    'several ports',
    {
      ports: [
        { name: 'a', port: 53, protocol: 'UDP' },
        { name: 'b', port: 53 },
        { name: 'c', port: 9, protocol: 'SCTP', nodePort: 30009 },
      ],
    },
    {
      ports: [
        { name: 'a', protocol: 'UDP', port: 53, nodePort: 0 },
        { name: 'b', protocol: 'TCP', port: 53, nodePort: 0 },
        { name: 'c', protocol: 'SCTP', port: 9, nodePort: 30009 },
      ],
    },
  ],
  [
    'bad ports drop themselves',
    {
      ports: [
        { port: 0 },
        { name: 'x', port: 'http' },
        { name: 'y', port: 1, protocol: 'ICMP' },
        7,
        { name: 'z' },
        { name: 'ok', port: 2 },
      ],
    },
    { ports: [{ name: 'ok', protocol: 'TCP', port: 2, nodePort: 0 }] },
    ['spec.ports[0].port', 'spec.ports[1].port', 'spec.ports[2].protocol', 'spec.ports[3]', 'spec.ports[4].port'],
  ],
  [
    'a bad nodePort is none',
    { ports: [{ port: 80, nodePort: 70000 }] },
    { ports: [{ name: '', protocol: 'TCP', port: 80, nodePort: 0 }] },
    ['spec.ports[0].nodePort'],
  ],
  [
    'a port twice',
    {
      ports: [
        { name: 'a', port: 80 },
        { name: 'b', port: 80 },
        { name: 'a', port: 81 },
      ],
    },
    { ports: [{ name: 'a', protocol: 'TCP', port: 80, nodePort: 0 }] },
    ['spec.ports[1]', 'spec.ports[2].name'],
  ],
  ['ports that are no list', { ports: 80 }, { ports: [] }, ['spec.ports']],
  [
    'external IPs with spaces, zeros and a fault',
    { externalIPs: [' 192.0.2.1', '192.0.02.001', 'x', 'FD00::1'] },
    { externalIPs: ['192.0.2.1', 'fd00::1'] },
    ['spec.externalIPs[2]'],
  ],
  [
    'ingress by mode',
    LB,
    { ...LB, loadBalancerIPs: ['192.0.2.1', '192.0.2.2'] },
    [],
    ingress(
      { ip: '192.0.2.1' },
      { ip: '192.0.2.2', ipMode: 'VIP' },
      { ip: '192.0.2.3', ipMode: 'Proxy' },
      { hostname: 'x' },
    ),
  ],
  ['ingress of a ClusterIP service', {}, { loadBalancerIPs: ['192.0.2.1'] }, [], ingress({ ip: '192.0.2.1' })],
  [
    'an invalid ingress',
    LB,
    { ...LB, loadBalancerIPs: ['192.0.2.1'] },
    ['status.loadBalancer.ingress[0].ip'],
    ingress({ ip: 'lb' }, { ip: '192.0.2.1' }),
  ],
  [
    'source ranges',
    { loadBalancerSourceRanges: [' 10.0.0.1/8 ', 'fd00::/8'] },
    { sourceRanges: ['10.0.0.0/8', 'fd00::/8'] },
  ],
  [
    'a zero prefix opens its family',
    { loadBalancerSourceRanges: ['10.0.0.0/8', '0.0.0.0/0', 'fd00::/8'] },
    { sourceRanges: ['fd00::/8'] },
  ],
  [
    'an invalid source range among valid ones',
    { loadBalancerSourceRanges: ['10/8', '10.0.0.0/8'] },
    { sourceRanges: ['10.0.0.0/8'] },
    ['spec.loadBalancerSourceRanges[0]'],
  ],
  [
    'only invalid source ranges close the address',
    { ...LB, loadBalancerSourceRanges: ['10/8'] },
    LB,
    ['spec.loadBalancerSourceRanges[0]', 'spec.loadBalancerSourceRanges'],
    ingress({ ip: '192.0.2.1' }),
  ],
  ['affinity by default', { sessionAffinity: 'ClientIP' }, { affinitySeconds: 10800 }],
  [
    'affinity',
    { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } } },
    { affinitySeconds: 60 },
  ],
  [
    'affinity out of range',
    { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 0 } } },
    { affinitySeconds: 10800 },
    ['spec.sessionAffinityConfig.clientIP.timeoutSeconds'],
  ],
  ['a timeout without affinity', { sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } } }, {}],
  ['internal traffic policy', { internalTrafficPolicy: 'Local' }, { internalLocal: true }],
  ['an unknown policy', { internalTrafficPolicy: 'Zone' }, {}, ['spec.internalTrafficPolicy']],
  ['external policy without external access', { externalTrafficPolicy: 'Local' }, {}],
  [
    'external policy with external IPs',
    { externalTrafficPolicy: 'Local', externalIPs: ['192.0.2.1'] },
    { externalLocal: true, externalIPs: ['192.0.2.1'] },
  ],
  [
    'external policy of NodePort',
    { type: 'NodePort', externalTrafficPolicy: 'Local' },
    { type: 'NodePort', externalLocal: true },
  ],
  [
    'health check port',
    { ...LB, externalTrafficPolicy: 'Local', healthCheckNodePort: 31000 },
    { ...LB, externalLocal: true, healthCheckNodePort: 31000 },
  ],
  ['health check port without effect', { ...LB, healthCheckNodePort: 31000 }, LB, ['spec.healthCheckNodePort']],
]

describe('translateService', () => {
  for (const [name, change, expected, fields = [], object = {}] of services) {
    test(name, () => {
      const problems: ObjectProblem[] = []
      const record = translateService({ metadata, spec: { ...spec, ...change }, ...object }, (p) => problems.push(p))
      expect(record).toEqual(expected === null ? undefined : { ...base, ...expected })
      expect(problems.map((problem) => problem.field)).toEqual(fields)
    })
  }

  for (const object of [null, 7, 'x', [], {}, { metadata: 3 }, { metadata, spec: [] }]) {
    test(`survives ${JSON.stringify(object)}`, () => expect(translateService(object, () => {})).toBeUndefined())
  }
})

const LABEL = 'kubernetes.io/service-name'
const sliceMetadata = { namespace: 'default', name: 'web-1', labels: { [LABEL]: 'web' } }
const sliceBase = {
  key: 'default/web-1',
  service: 'default/web',
  family: 'IPv4',
  ports: [{ name: 'http', protocol: 'TCP', port: 8080 }],
  endpoints: [{ address: '10.0.1.1', ready: true, serving: true, terminating: false, local: false }],
  triggerTime: 0,
}
const endpoint = sliceBase.endpoints[0]!
const of = (...endpoints: unknown[]): Json => ({ endpoints })

const slices: readonly (readonly [string, Json, Json | null, string[]?])[] = [
  ['a plain slice', {}, {}],
  ['FQDN', { addressType: 'FQDN' }, null],
  ['no service label', { metadata: { namespace: 'default', name: 'web-1' } }, null, [`metadata.labels[${LABEL}]`]],
  [
    'labelled headless',
    { metadata: { ...sliceMetadata, labels: { [LABEL]: 'web', 'service.kubernetes.io/headless': '' } } },
    null,
  ],
  [
    'trigger time',
    {
      metadata: {
        ...sliceMetadata,
        annotations: { 'endpoints.kubernetes.io/last-change-trigger-time': '2026-01-02T03:04:05.678901234Z' },
      },
    },
    { triggerTime: Date.UTC(2026, 0, 2, 3, 4, 5, 678) },
  ],
  [
    'IPv6',
    { addressType: 'IPv6', ...of({ addresses: ['FD00::0:1'] }) },
    { family: 'IPv6', endpoints: [{ ...endpoint, address: 'fd00::1' }] },
  ],
  [
    'ports without name or number',
    { ports: [{ port: 1 }, { name: 'a' }, { name: 'b', port: 0 }, { name: '', port: 2, protocol: 'UDP' }] },
    { ports: [{ name: '', protocol: 'UDP', port: 2 }] },
  ],
  [
    'a bad port',
    {
      ports: [
        { name: 'a', port: 70000 },
        { name: 'b', port: 2 },
      ],
    },
    { ports: [{ name: 'b', protocol: 'TCP', port: 2 }] },
    ['ports[0].port'],
  ],
  ['no ports', { ports: null }, { ports: [] }],
  ['no endpoints', { endpoints: null }, { endpoints: [] }],
  ['only the first address', of({ addresses: ['010.0.1.1', '10.0.1.2'] }, { addresses: [] }, {}), {}],
  [
    'a bad address',
    of({ addresses: ['x'] }, { addresses: ['fd00::1'] }, { addresses: ['10.0.1.1'] }),
    {},
    ['endpoints[0].addresses[0]', 'endpoints[1].addresses[0]'],
  ],
  [
    'conditions',
    of({ addresses: ['10.0.1.1'], conditions: { ready: false, serving: true, terminating: true } }),
    { endpoints: [{ ...endpoint, ready: false, terminating: true }] },
  ],
  ['nil conditions', of({ addresses: ['10.0.1.1'], conditions: { ready: null } }), {}],
  [
    'a bad condition',
    of({ addresses: ['10.0.1.1'], conditions: { ready: 'no' } }),
    {},
    ['endpoints[0].conditions.ready'],
  ],
  ['local', of({ addresses: ['10.0.1.1'], nodeName: 'node-a' }), { endpoints: [{ ...endpoint, local: true }] }],
  ['another node', of({ addresses: ['10.0.1.1'], nodeName: 'node-b' }), {}],
  [
    'hints',
    of({ addresses: ['10.0.1.1'], hints: { forZones: [{ name: 'a' }, { name: 'b' }], forNodes: [{ name: 'n' }] } }),
    { endpoints: [{ ...endpoint, zones: ['a', 'b'], nodes: ['n'] }] },
  ],
  ['empty hints are none', of({ addresses: ['10.0.1.1'], hints: { forZones: [] } }), {}],
]

describe('translateEndpointSlice', () => {
  for (const [name, change, expected, fields = []] of slices) {
    test(name, () => {
      const problems: ObjectProblem[] = []
      const object = {
        metadata: sliceMetadata,
        addressType: 'IPv4',
        ports: [{ name: 'http', port: 8080 }],
        endpoints: [{ addresses: ['10.0.1.1'] }],
        ...change,
      }
      const record = translateEndpointSlice(object, 'node-a', (p) => problems.push(p))
      const plain = record && { ...record, endpoints: [...record.endpoints] }
      expect(plain).toEqual(expected === null ? undefined : { ...sliceBase, ...expected })
      expect(problems.map((problem) => problem.field)).toEqual(fields)
    })
  }
})

const address = (type: string, text: string): Json => ({ type, address: text })

describe('translateNode', () => {
  const nodeBase = { name: 'node-a', addresses: [], podCIDRs: [], zone: '', eligible: true }
  const nodes: readonly (readonly [string, Json, Json])[] = [
    ['bare', {}, {}],
    [
      'addresses',
      {
        status: {
          addresses: [
            address('Hostname', 'x'),
            address('ExternalIP', '192.0.2.1'),
            address('InternalIP', '10.0.0.1'),
            address('InternalIP', 'bad'),
            address('InternalIP', 'fd00::1'),
          ],
        },
      },
      { addresses: ['10.0.0.1', 'fd00::1', '192.0.2.1'] },
    ],
    [
      'pod CIDRs',
      { spec: { podCIDRs: ['10.1.0.0/24', 'x', 'fd01::/64'], podCIDR: '10.1.0.0/24' } },
      { podCIDRs: ['10.1.0.0/24', 'fd01::/64'] },
    ],
    ['one pod CIDR', { spec: { podCIDR: '10.1.0.0/24' } }, { podCIDRs: ['10.1.0.0/24'] }],
    ['zone', { metadata: { name: 'node-a', labels: { 'topology.kubernetes.io/zone': 'z1' } } }, { zone: 'z1' }],
    ['being deleted', { metadata: { name: 'node-a', deletionTimestamp: '2026-01-01T00:00:00Z' } }, { eligible: false }],
    ['tainted', { spec: { taints: [{ key: 'x' }, { key: 'ToBeDeletedByClusterAutoscaler' }] } }, { eligible: false }],
  ]
  for (const [name, change, expected] of nodes) {
    test(name, () => {
      expect(translateNode({ metadata: { name: 'node-a' }, ...change }, () => {})).toEqual({ ...nodeBase, ...expected })
    })
  }
})

test('problems are logged once for each version', () => {
  const lines: string[] = []
  const problems = new ProblemLog({ ...silentLog, error: (message) => lines.push(message) })
  const problem = { object: 'Service a/b', field: 'spec.x', value: 1, reason: 'is wrong' }
  for (const version of ['1', '1', '2']) {
    const report = problems.for('Service a/b', version)
    report(problem)
    report({ ...problem, field: 'spec.y' })
  }
  expect(lines).toHaveLength(4)
  expect(lines[0]).toBe(problemText(problem))
  expect(lines[0]).toBe('Service a/b: spec.x is wrong (1)')
})
