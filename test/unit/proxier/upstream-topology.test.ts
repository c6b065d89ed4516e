import { describe, expect, test } from 'vitest'
import type { ServiceRecord } from '../../../src/model/cluster.ts'
import type { EndpointRecord } from '../../../src/model/endpoint-list.ts'
import { chooseEndpoints, mergeEndpoints, type PortEndpoint } from '../../../src/proxier/endpoint-choice.ts'
import { nodePortAddresses } from '../../../src/proxier/node-addresses.ts'
import { parseCidr } from '../../../src/model/address.ts'
import { endpoint, port, service, slice } from './objects.ts'

const zone = (...zones: string[]): Partial<EndpointRecord> => ({ zones })
const node = (...nodes: string[]): Partial<EndpointRecord> => ({ nodes })
const external: Partial<ServiceRecord> = { type: 'LoadBalancer', loadBalancerIPs: ['203.0.113.1'], externalLocal: true }
const internal: Partial<ServiceRecord> = { internalLocal: true }

/** Endpoints by last octet; letters: r ready, s serving, t terminating, l local. The own node is node1 in zone a. */
const e = (last: number, letters = 'rs', hints: Partial<EndpointRecord> = {}): EndpointRecord =>
  endpoint(`10.1.0.${last}`, letters, hints)

interface Case {
  readonly name: string
  readonly service?: Partial<ServiceRecord>
  readonly zone?: string
  readonly endpoints: readonly EndpointRecord[]
  readonly cluster: readonly number[] | undefined
  readonly local: readonly number[] | undefined
  readonly usable?: boolean
}

describe('topology and policies', () => {
  test.each<Case>([
    {
      name: 'zone hints on all, node zone matches some',
      endpoints: [e(1, 'rs', zone('a')), e(2, 'rs', zone('b')), e(3, 'rs', zone('a'))],
      cluster: [1, 3],
      local: undefined,
    },
    {
      name: 'hints enabled but one ready endpoint lacks hint',
      endpoints: [e(1, 'rs', zone('a')), e(2), e(3, 'rs', zone('b'))],
      cluster: [1, 2, 3],
      local: undefined,
    },
    {
      name: 'node without zone label',
      zone: '',
      endpoints: [e(1, 'rs', zone('a')), e(2, 'rs', zone('b'))],
      cluster: [1, 2],
      local: undefined,
    },
    {
      name: 'no hint for own zone',
      zone: 'c',
      endpoints: [e(1, 'rs', zone('a')), e(2, 'rs', zone('b'))],
      cluster: [1, 2],
      local: undefined,
    },
    {
      name: 'unready endpoint in zone and ready ones',
      endpoints: [e(1, 'rs', zone('a')), e(2, '', zone('a')), e(3, 'rs', zone('b'))],
      cluster: [1],
      local: undefined,
    },
    {
      name: 'only unready in zone',
      endpoints: [e(1, '', zone('a')), e(2, 'rs', zone('b')), e(3, 'rs', zone('c'))],
      cluster: [2, 3],
      local: undefined,
    },
    {
      name: 'several hints per endpoint',
      endpoints: [e(1, 'rs', zone('b', 'a')), e(2, 'rs', zone('b', 'c')), e(3, 'rs', zone('a', 'c'))],
      cluster: [1, 3],
      local: undefined,
    },
    {
      name: 'eTP Local with hints',
      service: external,
      endpoints: [e(1, 'rsl', zone('a')), e(2, 'rsl', zone('b')), e(3, 'rs', zone('a'))],
      cluster: [1, 3],
      local: [1, 2],
    },
    {
      name: 'iTP Local with hints',
      service: internal,
      endpoints: [e(1, 'rsl', zone('a')), e(2, 'rsl', zone('b')), e(3, 'rs', zone('a'))],
      cluster: undefined,
      local: [1, 2],
    },
    {
      name: 'node hints, all have them, one names this node',
      endpoints: [e(1, 'rs', node('node1')), e(2, 'rs', node('node2')), e(3, 'rs', node('node2'))],
      cluster: [1],
      local: undefined,
    },
    {
      name: 'node hints, none names this node, zone hints match',
      endpoints: [e(1, 'rs', { ...node('node2'), ...zone('a') }), e(2, 'rs', { ...node('node3'), ...zone('b') })],
      cluster: [1],
      local: undefined,
    },
    {
      name: 'node hints missing on one',
      endpoints: [e(1, 'rs', { ...node('node1'), ...zone('b') }), e(2, 'rs', zone('a'))],
      cluster: [2],
      local: undefined,
    },
    {
      name: 'iTP Local, internal only: none',
      service: internal,
      endpoints: [],
      cluster: undefined,
      local: [],
      usable: false,
    },
    {
      name: 'iTP Local, internal only: all remote',
      service: internal,
      endpoints: [e(1), e(2)],
      cluster: undefined,
      local: [],
    },
    {
      name: 'iTP Local, internal only: all local',
      service: internal,
      endpoints: [e(1, 'rsl'), e(2, 'rsl')],
      cluster: undefined,
      local: [1, 2],
    },
    {
      name: 'iTP Local, internal only: some local',
      service: internal,
      endpoints: [e(1, 'rsl'), e(2)],
      cluster: undefined,
      local: [1],
    },
    {
      name: 'iTP Local, all local not ready and not serving',
      service: internal,
      endpoints: [e(1, 'l'), e(2, 'l')],
      cluster: undefined,
      local: [],
      usable: false,
    },
    {
      name: 'iTP Local, local terminating+serving only',
      service: internal,
      endpoints: [e(1, 'stl'), e(2, 'stl'), e(3)],
      cluster: undefined,
      local: [1, 2],
    },
    { name: 'Cluster policy, some not ready', endpoints: [e(1), e(2, '')], cluster: [1], local: undefined },
    {
      name: 'Cluster policy, only serving+terminating',
      endpoints: [e(1, 'st'), e(2, 'st'), e(3, 't')],
      cluster: [1, 2],
      local: undefined,
    },
    { name: 'Cluster policy, ready and terminating', endpoints: [e(1), e(2, 'st')], cluster: [1], local: undefined },
    {
      name: 'eTP Local, local terminating, remote ready',
      service: external,
      endpoints: [e(1, 'stl'), e(2)],
      cluster: [2],
      local: [1],
    },
    {
      name: 'eTP Local + iTP Local',
      service: { ...external, ...internal },
      endpoints: [e(1, 'rsl'), e(2)],
      cluster: [1, 2],
      local: [1],
    },
  ])('$name', ({ service: change = {}, zone: own = 'a', endpoints, cluster, local, usable = true }) => {
    const subject = service(change)
    const merged = mergeEndpoints([slice(endpoints)], port())
    const choice = chooseEndpoints(subject, port(), merged, { nodeName: 'node1', zone: own })
    const lasts = (list: readonly PortEndpoint[] | undefined): number[] | undefined =>
      list?.map(({ id }) => id.charCodeAt(3))
    expect({ cluster: lasts(choice.cluster), local: lasts(choice.local) }).toEqual({ cluster, local })
    // The fourth result of every case: whether anything at all can serve.
    expect(choice.hasUsable).toBe(usable)
  })
})

describe('node port addresses', () => {
  const all4 = ['10.20.30.51', '100.200.201.1']
  test.each<{ cidrs: string[]; addresses: string[]; v4: string[]; v6: string[] }>([
    { cidrs: ['10.20.30.0/24'], addresses: [...all4, '2001:db8::1'], v4: ['10.20.30.51'], v6: ['2001:db8::1'] },
    { cidrs: ['0.0.0.0/0'], addresses: [...all4, '127.0.0.1'], v4: all4, v6: [] },
    {
      cidrs: ['2001:db8::/64', '::1/128'],
      addresses: ['10.20.30.51', '2001:db8::1', '2001:db8:1::1', '::1'],
      v4: ['10.20.30.51'],
      v6: ['2001:db8::1'],
    },
    { cidrs: ['127.0.0.1/32'], addresses: ['10.20.30.51', '127.0.0.1'], v4: [], v6: [] },
    { cidrs: ['10.0.0.0/8', '172.16.0.0/12'], addresses: ['192.168.1.2'], v4: [], v6: [] },
    { cidrs: [], addresses: ['192.168.1.2', 'fd00::1'], v4: ['192.168.1.2'], v6: ['fd00::1'] },
    { cidrs: ['1.2.3.0/24', '0.0.0.0/0'], addresses: ['1.2.3.4', '5.6.7.8'], v4: ['1.2.3.4', '5.6.7.8'], v6: [] },
    {
      cidrs: ['0.0.0.0/0', '1.2.3.0/24', '2001:db8::1/128'],
      addresses: ['1.2.3.4', '5.6.7.8', '2001:db8::1', '2001:db8::2'],
      v4: ['1.2.3.4', '5.6.7.8'],
      v6: ['2001:db8::1'],
    },
  ])('$cidrs of $addresses', ({ cidrs, addresses, v4, v6 }) => {
    const ranges = cidrs.map((text) => parseCidr(text)!)
    const ofFamily = (colon: boolean): string[] => addresses.filter((address) => address.includes(':') === colon)
    expect(nodePortAddresses(ofFamily(false), ranges, 'IPv4')).toEqual(v4)
    expect(nodePortAddresses(ofFamily(true), ranges, 'IPv6')).toEqual(v6)
  })
})
