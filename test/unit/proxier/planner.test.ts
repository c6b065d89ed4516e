import { expect, test } from 'vitest'
import type { ServicePortRecord, ServiceRecord } from '../../../src/model/cluster.ts'
import { destinationKey, serverKey } from '../../../src/model/virtual-server.ts'
import type { Contribution } from '../../../src/proxier/contribution.ts'
import { endpointKey, mergeEndpoints } from '../../../src/proxier/endpoint-choice.ts'
import { planPort, type NodeFacts } from '../../../src/proxier/planner.ts'
import { endpoint, facts, port, service, slice } from './objects.ts'

/** A contribution as lines: "server > destinations", "role entry", "bind address", "drop address". */
function lines(contribution: Contribution): string[] {
  return [
    ...contribution.servers.map(
      ({ server, destinations }) =>
        `${serverKey(server)} ${server.scheduler}${server.flags ? ` flags ${server.flags}` : ''}${server.timeout ? ` timeout ${server.timeout}` : ''} > ${[...destinations].map(destinationKey).join(' ')}`,
    ),
    ...contribution.members.map(({ role, entry }) => `${role} ${entry}`),
    ...contribution.addresses.map((address) => `bind ${address}`),
    ...contribution.drops.map(({ address, protocol, port }) => `drop ${address}:${port}/${protocol}`),
    ...contribution.noLocal.map((policy) => `no local ${policy}`),
  ]
}

const three = [endpoint('10.1.0.1', 'rsl'), endpoint('10.1.0.2'), endpoint('10.1.0.3')]
const localSet = 'loopBack 10.1.0.1,tcp:8080,10.1.0.1'
const cluster = ['clusterIP 10.96.0.10,tcp:80', 'ipvsIPs 10.96.0.10', 'bind 10.96.0.10']

interface Case {
  name: string
  service?: Partial<ServiceRecord>
  port?: Partial<ServicePortRecord>
  endpoints?: typeof three
  facts?: Partial<NodeFacts>
  want: string[]
}

test.each<Case>([
  {
    name: 'ClusterIP with three endpoints, one local',
    want: ['10.96.0.10:80/TCP rr > 10.1.0.1:8080 10.1.0.2:8080 10.1.0.3:8080', localSet, ...cluster],
  },
  {
    name: 'ClusterIP without endpoints keeps an empty virtual server',
    endpoints: [],
    want: ['10.96.0.10:80/TCP rr > ', ...cluster],
  },
  { name: 'no cluster IP of the family: nothing', service: { clusterIPs: ['fd00::10'] }, want: [] },
  {
    name: 'node port on every address',
    port: { nodePort: 30080 },
    endpoints: [three[1]!],
    facts: { nodePortAddresses: ['192.168.0.1', '192.168.1.1'] },
    want: [
      '10.96.0.10:80/TCP rr > 10.1.0.2:8080',
      '192.168.0.1:30080/TCP rr > 10.1.0.2:8080',
      '192.168.1.1:30080/TCP rr > 10.1.0.2:8080',
      'nodePortTCP 30080',
      ...cluster,
    ],
  },
  {
    name: 'node port without a node address',
    port: { nodePort: 30080 },
    endpoints: [],
    facts: { nodePortAddresses: [] },
    want: ['10.96.0.10:80/TCP rr > ', ...cluster],
  },
  {
    name: 'SCTP node port is kept by address',
    port: { nodePort: 30080, protocol: 'SCTP' },
    endpoints: [],
    want: [
      '10.96.0.10:80/SCTP rr > ',
      '192.168.0.1:30080/SCTP rr > ',
      'clusterIP 10.96.0.10,sctp:80',
      'nodePortSCTP 192.168.0.1,sctp:30080',
      'ipvsIPs 10.96.0.10',
      'bind 10.96.0.10',
    ],
  },
  {
    name: 'external policy Local takes local endpoints for the node port only',
    service: { externalLocal: true },
    port: { nodePort: 30080 },
    want: [
      '10.96.0.10:80/TCP rr > 10.1.0.1:8080 10.1.0.2:8080 10.1.0.3:8080',
      '192.168.0.1:30080/TCP rr > 10.1.0.1:8080',
      localSet,
      'nodePortTCP 30080',
      'nodePortLocalTCP 30080',
      ...cluster,
    ],
  },
  {
    name: 'external policy Local without local endpoint falls back to all and says so',
    service: { externalLocal: true },
    port: { nodePort: 30080 },
    endpoints: [three[1]!],
    want: [
      '10.96.0.10:80/TCP rr > 10.1.0.2:8080',
      '192.168.0.1:30080/TCP rr > 10.1.0.2:8080',
      'nodePortTCP 30080',
      'nodePortLocalTCP 30080',
      ...cluster,
      'no local external',
    ],
  },
  {
    name: 'internal policy Local without local endpoint has none',
    service: { internalLocal: true },
    endpoints: [three[1]!],
    want: ['10.96.0.10:80/TCP rr > ', ...cluster, 'no local internal'],
  },
  {
    name: 'affinity is persistence',
    service: { affinitySeconds: 10800 },
    endpoints: [],
    want: ['10.96.0.10:80/TCP rr flags 1 timeout 10800 > ', ...cluster],
  },
  {
    name: 'mh hashes the port, too',
    facts: { scheduler: 'mh' },
    endpoints: [],
    want: ['10.96.0.10:80/TCP mh flags 16 > ', ...cluster],
  },
  {
    name: 'a load balancer with source ranges that leave the node out',
    service: { loadBalancerIPs: ['1.2.3.4'], sourceRanges: ['10.0.0.0/8', '11.0.0.1/32'] },
    endpoints: [],
    want: [
      '10.96.0.10:80/TCP rr > ',
      '1.2.3.4:80/TCP rr > ',
      'clusterIP 10.96.0.10,tcp:80',
      'ipvsIPs 10.96.0.10',
      'loadBalancer 1.2.3.4,tcp:80',
      'loadBalancerFirewall 1.2.3.4,tcp:80',
      'loadBalancerSourceCIDR 1.2.3.4,tcp:80,10.0.0.0/8',
      'loadBalancerSourceCIDR 1.2.3.4,tcp:80,11.0.0.1',
      'ipvsIPs 1.2.3.4',
      'bind 10.96.0.10',
      'bind 1.2.3.4',
      'drop 1.2.3.4:80/TCP',
    ],
  },
  {
    name: 'an external IP that is the node’s own is served but not bound',
    service: { externalIPs: ['192.168.0.1'] },
    endpoints: [],
    want: [
      '10.96.0.10:80/TCP rr > ',
      '192.168.0.1:80/TCP rr > ',
      'clusterIP 10.96.0.10,tcp:80',
      'ipvsIPs 10.96.0.10',
      'externalIP 192.168.0.1,tcp:80',
      'bind 10.96.0.10',
    ],
  },
])('$name', (row) => {
  const own = port(row.port)
  const endpoints = mergeEndpoints([slice(row.endpoints ?? three, { ports: [{ ...own, port: 8080 }] })], own)
  expect(lines(planPort(service({ ...row.service, ports: [own] }), own, endpoints, facts(row.facts))).sort()).toEqual(
    row.want.sort(),
  )
})

const zones = (...names: string[]) => ({ zones: names })
const nodes = (...names: string[]) => ({ nodes: names })

test.each([
  { name: 'ready ones only', endpoints: [endpoint('10.1.0.1'), endpoint('10.1.0.2', '')], want: ['10.1.0.1'] },
  {
    name: 'serving and terminating ones when none is ready',
    endpoints: [endpoint('10.1.0.1', 'st'), endpoint('10.1.0.2', 't'), endpoint('10.1.0.3', 's')],
    want: ['10.1.0.1'],
  },
  {
    name: 'own zone when all have hints',
    endpoints: [
      endpoint('10.1.0.1', 'rs', zones('a')),
      endpoint('10.1.0.2', 'rs', zones('b', 'a')),
      endpoint('10.1.0.3', 'rs', zones('b')),
    ],
    want: ['10.1.0.1', '10.1.0.2'],
  },
  {
    name: 'all when one lacks a hint',
    endpoints: [endpoint('10.1.0.1', 'rs', zones('a')), endpoint('10.1.0.2')],
    want: ['10.1.0.1', '10.1.0.2'],
  },
  {
    name: 'all when no hint names our zone',
    endpoints: [endpoint('10.1.0.1', 'rs', zones('b'))],
    want: ['10.1.0.1'],
  },
  {
    name: 'own node before own zone',
    endpoints: [
      endpoint('10.1.0.1', 'rs', { ...zones('a'), ...nodes('node2') }),
      endpoint('10.1.0.2', 'rs', { ...zones('a'), ...nodes('node1') }),
    ],
    want: ['10.1.0.2'],
  },
])('endpoints: $name', ({ endpoints, want }) => {
  const plan = planPort(service(), port(), mergeEndpoints([slice(endpoints)], port()), facts({ zone: 'a' }))
  expect([...plan.servers[0]!.destinations].map(({ address }) => address)).toEqual(want)
})

test.each([
  {
    name: 'union over slices, sorted bytewise',
    slices: [slice([endpoint('10.1.0.1')]), slice([endpoint('10.1.0.10')], { key: 'default/web-2' })],
    want: ['10.1.0.1:8080', '10.1.0.10:8080'],
  },
  {
    name: 'a terminating duplicate does not replace a live one',
    slices: [slice([endpoint('10.1.0.1')]), slice([endpoint('10.1.0.1', 'st')], { key: 'default/web-2' })],
    want: ['10.1.0.1:8080'],
  },
  {
    name: 'another port name or protocol is another port',
    slices: [
      slice([endpoint('10.1.0.1')], {
        ports: [
          { name: 'x', protocol: 'TCP', port: 1 },
          { name: '', protocol: 'UDP', port: 2 },
        ],
      }),
    ],
    want: [],
  },
])('merge: $name', ({ slices, want }) => {
  const merged = mergeEndpoints(slices, port())
  expect(merged.map(endpointKey)).toEqual(want)
  expect(merged.every(({ terminating }) => !terminating)).toBe(true)
})
