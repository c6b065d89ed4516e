import { afterEach, describe, expect, test } from 'vitest'
import { translateEndpointSlice, translateService } from '../../../src/kube/translate.ts'
import type { Family } from '../../../src/model/address.ts'
import type { EndpointSliceRecord, ServiceRecord } from '../../../src/model/cluster.ts'
import { EndpointList, type EndpointRecord } from '../../../src/model/endpoint-list.ts'
import { ClusterState } from '../../../src/proxier/cluster-state.ts'
import { endpointKey, mergeEndpoints } from '../../../src/proxier/endpoint-choice.ts'
import { endpoint, port, service, slice } from './objects.ts'
import { Rig } from './rig.ts'

// What kube-proxy's own tests of its change trackers expect, in our shape.

type Json = Record<string, unknown>
const ignore = (): void => {}

function api(spec: Json, status: Json = {}): ServiceRecord | undefined {
  const clusterIP = (spec.clusterIP as string | undefined) ?? '172.16.55.4'
  const metadata = { namespace: 'testing', name: 'svc' }
  const families = { clusterIPs: [clusterIP], ipFamilies: [clusterIP.includes(':') ? 'IPv6' : 'IPv4'] }
  return translateService({ metadata, spec: { type: 'ClusterIP', clusterIP, ...families, ...spec }, status }, ignore)
}
const two = [
  { name: 'one', port: 1234, protocol: 'UDP' },
  { name: 'two', port: 1235, protocol: 'UDP' },
]
const ingress = (...list: Json[]): Json => ({ loadBalancer: { ingress: list } })
/** How many service ports the proxier of a family has of it: those that get a cluster IP's virtual server. */
function portsIn(record: ServiceRecord | undefined, family: Family = 'IPv4'): number {
  const own = record?.clusterIPs.some((address) => address.includes(':') === (family === 'IPv6'))
  return own ? record!.ports.length : 0
}

describe('Services become service ports', () => {
  test.each<{ name: string; record: ServiceRecord | undefined; ports: number; health?: number }>([
    {
      name: 'headless, UDP',
      record: api({ clusterIP: 'None', ports: [{ name: 'a', port: 80, protocol: 'UDP' }] }),
      ports: 0,
    },
    {
      name: 'headless, SCTP',
      record: api({ clusterIP: 'None', ports: [{ name: 'a', port: 80, protocol: 'SCTP' }] }),
      ports: 0,
    },
    { name: 'headless without port', record: api({ clusterIP: 'None' }), ports: 0 },
    { name: 'ClusterIP', record: api({ ports: two }), ports: 2 },
    { name: 'NodePort', record: api({ type: 'NodePort', ports: two }), ports: 2 },
    { name: 'LoadBalancer', record: api({ type: 'LoadBalancer', ports: two }), ports: 2 },
    {
      name: 'LoadBalancer Local with health check',
      record: api({ type: 'LoadBalancer', ports: two, externalTrafficPolicy: 'Local', healthCheckNodePort: 345 }),
      ports: 2,
      health: 345,
    },
    { name: 'ExternalName', record: api({ type: 'ExternalName', ports: two }), ports: 0 },
    { name: 'IPv6 in an IPv4 proxier', record: api({ clusterIP: 'fd00::4', ports: two }), ports: 0 },
  ])('$name: $ports', ({ record, ports, health = 0 }) => {
    expect(portsIn(record)).toBe(ports)
    expect(record?.healthCheckNodePort ?? 0).toBe(health)
  })

  test('IPv4 in an IPv6 proxier: 0', () => expect(portsIn(api({ ports: two }), 'IPv6')).toBe(0))

  test('dual stack: each family its own', () => {
    const dual = {
      clusterIP: '10.96.0.4',
      clusterIPs: ['10.96.0.4', 'fd00::4'],
      ipFamilies: ['IPv4', 'IPv6'],
      ports: two,
    }
    const record = api(dual)
    expect([portsIn(record), portsIn(record, 'IPv6')]).toEqual([2, 2])
    expect(record!.clusterIPs).toEqual(['10.96.0.4', 'fd00::4'])
  })

  test.each<[string, Json, string[]]>([
    ['VIP', { ip: '1.2.3.4', ipMode: 'VIP' }, ['1.2.3.4']],
    ['Proxy', { ip: '1.2.3.4', ipMode: 'Proxy' }, []],
  ])('ipMode %s', (_name, entry, kept) => {
    expect(api({ type: 'LoadBalancer', ports: two }, ingress(entry))!.loadBalancerIPs).toEqual(kept)
  })

  test.each<[string, string[], string[]]>([
    ['spaces', [' 10.1.2.0/28'], ['10.1.2.0/28']],
    ['zero range', ['10.1.2.0/28', '0.0.0.0/0'], []],
  ])('source ranges: %s', (_name, loadBalancerSourceRanges, kept) => {
    expect(api({ type: 'LoadBalancer', ports: two, loadBalancerSourceRanges })!.sourceRanges).toEqual(kept)
  })
})

let rig: Rig | undefined
afterEach(async () => {
  await rig?.stop()
  rig = undefined
})

async function start(objects: readonly (ServiceRecord | EndpointSliceRecord)[], family: Family = 'IPv4'): Promise<Rig> {
  const made = new Rig({}, undefined, { family, addresses: [] })
  rig = made
  for (const object of objects) tell(object)
  made.proxier.synced('services')
  made.proxier.synced('endpointslices')
  made.start()
  await made.next()
  return made
}
function tell(object: ServiceRecord | EndpointSliceRecord): void {
  if ('endpoints' in object) rig!.proxier.sliceChanged(object.key, object)
  else rig!.proxier.serviceChanged(object.key, object)
}
const count = (): number => rig!.ipvs.dump().match(/^-A /gm)?.length ?? 0

test('mixed families in external IPs, ranges and ingress: only the own', async () => {
  const mixed = service({
    clusterIPs: ['10.96.0.4', 'fd00::4'],
    externalIPs: ['1.2.3.5', '2001:db8::5'],
    loadBalancerIPs: ['1.2.3.4', '2001:db8::4'],
    sourceRanges: ['10.0.0.0/8', 'fd01::/64'],
  })
  await start([mixed], 'IPv6')
  expect(
    rig!.ipvs
      .dump()
      .match(/(?<=-t )\S+/g)!
      .sort(),
  ).toEqual(['[2001:db8::4]:80', '[2001:db8::5]:80', '[fd00::4]:80'])
  expect(rig!.ipset.dump()).toContain('add KUBE-6-LOAD-BALANCER-SOURCE-CID 2001:db8::4,tcp:80,fd01::/64')
  expect(rig!.ipset.dump()).not.toMatch(/^add .*\b(10\.|1\.2\.3)/m)
})

describe('Services come, change and go', () => {
  const many = (name: string, n: number, change: Partial<ServiceRecord> = {}): ServiceRecord =>
    service({
      key: `ns/${name}`,
      clusterIPs: [`172.16.55.${n}`],
      ports: [port({ name: 'a', port: 1234 }), port({ name: 'b', port: 1235 })],
      ...change,
    })

  test('several types are added; one loses a port and the rest goes', async () => {
    const local = many('only-local', 4, { type: 'LoadBalancer', externalLocal: true, healthCheckNodePort: 345 })
    const all = [
      many('cluster-ip', 1),
      many('node-port', 2, { type: 'NodePort' }),
      many('lb', 3, { type: 'LoadBalancer' }),
      local,
    ]
    await start(all)
    expect(count()).toBe(8)
    expect(rig!.told).toContain('health ns/only-local 345 0')
    expect(rig!.ipset.dump()).toContain('add KUBE-HEALTH-CHECK-NODE-PORT 345')
    tell(many('cluster-ip', 1, { ports: [port({ name: 'a', port: 1234 })] }))
    for (const { key } of all.slice(1)) rig!.proxier.serviceChanged(key, undefined)
    await rig!.next()
    expect(count()).toBe(1)
    expect(rig!.ipset.dump()).not.toContain('add KUBE-HEALTH-CHECK-NODE-PORT')
  })

  test('ClusterIP, load balancer with health check, the same again, and back', async () => {
    const plain = many('svc', 1)
    const lb = many('svc', 1, { type: 'LoadBalancer', externalLocal: true, healthCheckNodePort: 345 })
    const health = (): boolean => rig!.ipset.dump().includes('add KUBE-HEALTH-CHECK-NODE-PORT 345')
    await start([plain])
    expect([count(), health()]).toEqual([2, false])
    tell(lb)
    await rig!.next()
    expect([count(), health()]).toEqual([2, true])
    const passes = rig!.reports.length
    tell({ ...lb })
    await new Promise((wake) => setTimeout(wake, 20))
    expect(rig!.reports).toHaveLength(passes)
    tell(plain)
    await rig!.next()
    expect([count(), health()]).toEqual([2, false])
  })
})

describe('endpoints of UDP ports: what serves, whether flows are cleared, local ready ones', () => {
  /** Port names of the table and the Service's port numbers that stand for them. */
  const numbers: Record<string, number> = { p11: 11, p12: 12, 'p11-2': 112, p13: 13, p22: 22 }
  const named = (key: string, n: number): ServiceRecord =>
    service({
      key,
      type: 'LoadBalancer',
      externalLocal: true,
      healthCheckNodePort: 32000 + n,
      clusterIPs: [`172.16.55.${n}`],
      ports: Object.entries(numbers).map(([name, number]) => port({ name, port: number, protocol: 'UDP' })),
    })
  const services = [named('ns1/ep1', 1), named('ns2/ep2', 2), named('ns3/ep3', 3), named('ns4/ep4', 4)]
  /** "1.1.1.1 l": local. */
  const of = (svc: string, ports: Record<string, number>, list: readonly string[], n = 1): EndpointSliceRecord =>
    slice(
      list.map((text) => endpoint(text.split(' ')[0]!, text.endsWith(' l') ? 'rsl' : 'rs')),
      {
        key: `${svc}-${n}`,
        service: svc,
        ports: Object.entries(ports).map(([name, number]) => ({ name, protocol: 'UDP', port: number })),
      },
    )
  interface Case {
    readonly name: string
    readonly before: readonly EndpointSliceRecord[]
    readonly after: readonly EndpointSliceRecord[]
    /** By "service port": destinations as they stand. */
    readonly result: Record<string, string>
    readonly cleared: boolean
    /** Local ready endpoints by Service, where there are any. */
    readonly local: Record<string, number>
  }
  const ep1 = 'ns1/ep1'
  const [ep2, ep3, ep4] = ['ns2/ep2', 'ns3/ep3', 'ns4/ep4']
  const named1 = of(ep1, { p11: 11 }, ['1.1.1.1'])
  const local1 = of(ep1, { p11: 11 }, ['1.1.1.1 l'])
  const complexBefore = [
    of(ep2, { p22: 22 }, ['2.2.2.22', '2.2.2.2 l']),
    of(ep2, { p22: 23 }, ['2.2.2.3 l'], 2),
    of(ep4, { p11: 44 }, ['4.4.4.4 l']),
    of(ep4, { p12: 45 }, ['4.4.4.5 l', '4.4.4.6 l'], 2),
  ]
  const complexAfter = [
    of(ep1, { p11: 11 }, ['1.1.1.1', '1.1.1.11']),
    of(ep1, { p12: 12 }, ['1.1.1.2'], 2),
    of(ep3, { p13: 33 }, ['3.3.3.3']),
    of(ep4, { p11: 44 }, ['4.4.4.4 l']),
  ]

  test.each<Case>([
    { name: 'nothing', before: [], after: [], result: {}, cleared: false, local: {} },
    {
      name: 'no change, one local',
      before: [local1],
      after: [local1],
      result: { 'ep1 p11': '1.1.1.1:11' },
      cleared: false,
      local: { ep1: 1 },
    },
    {
      name: 'no change, two slices',
      before: [named1, of(ep1, { p12: 12 }, ['1.1.1.2'], 2)],
      after: [named1, of(ep1, { p12: 12 }, ['1.1.1.2'], 2)],
      result: { 'ep1 p11': '1.1.1.1:11', 'ep1 p12': '1.1.1.2:12' },
      cleared: false,
      local: {},
    },
    {
      name: 'no change, two slices, 2 local ports + 1 remote',
      before: [of(ep1, { p11: 11, p12: 12 }, ['1.1.1.1 l']), of(ep1, { p13: 13 }, ['1.1.1.3'], 2)],
      after: [of(ep1, { p11: 11, p12: 12 }, ['1.1.1.1 l']), of(ep1, { p13: 13 }, ['1.1.1.3'], 2)],
      result: { 'ep1 p11': '1.1.1.1:11', 'ep1 p12': '1.1.1.1:12', 'ep1 p13': '1.1.1.3:13' },
      cleared: false,
      local: { ep1: 1 },
    },
    {
      name: 'no change, several services',
      before: [of(ep1, { p11: 11 }, ['1.1.1.1 l', '1.1.1.2 l']), of(ep2, { p22: 22 }, ['2.2.2.1 l'])],
      after: [],
      result: { 'ep1 p11': '1.1.1.1:11 1.1.1.2:11', 'ep2 p22': '2.2.2.1:22' },
      cleared: false,
      local: { ep1: 2, ep2: 1 },
    },
    {
      name: 'add first slice',
      before: [],
      after: [local1],
      result: { 'ep1 p11': '1.1.1.1:11' },
      cleared: true,
      local: { ep1: 1 },
    },
    {
      name: 'delete slice',
      before: [local1],
      after: [{ ...local1, endpoints: EndpointList.empty, ports: [] }],
      result: {},
      cleared: true,
      local: {},
    },
    {
      name: 'add IP and port',
      before: [named1],
      after: [of(ep1, { p11: 11, p12: 12 }, ['1.1.1.1', '1.1.1.2 l'])],
      result: { 'ep1 p11': '1.1.1.1:11 1.1.1.2:11', 'ep1 p12': '1.1.1.1:12 1.1.1.2:12' },
      cleared: true,
      local: { ep1: 1 },
    },
    {
      name: 'remove IP and port',
      before: [of(ep1, { p11: 11, p12: 12 }, ['1.1.1.1', '1.1.1.2 l'])],
      after: [named1],
      result: { 'ep1 p11': '1.1.1.1:11' },
      cleared: true,
      local: {},
    },
    {
      name: 'add second slice',
      before: [named1],
      after: [of(ep1, { p12: 12 }, ['1.1.1.2 l'], 2)],
      result: { 'ep1 p11': '1.1.1.1:11', 'ep1 p12': '1.1.1.2:12' },
      cleared: true,
      local: { ep1: 1 },
    },
    {
      name: 'remove second slice',
      before: [named1, of(ep1, { p12: 12 }, ['1.1.1.2 l'], 2)],
      after: [of(ep1, {}, [], 2)],
      result: { 'ep1 p11': '1.1.1.1:11' },
      cleared: true,
      local: {},
    },
    {
      name: 'rename port',
      before: [named1],
      after: [of(ep1, { 'p11-2': 11 }, ['1.1.1.1'])],
      result: { 'ep1 p11-2': '1.1.1.1:11' },
      cleared: true,
      local: {},
    },
    {
      name: 'renumber',
      before: [named1],
      after: [of(ep1, { p11: 22 }, ['1.1.1.1'])],
      result: { 'ep1 p11': '1.1.1.1:22' },
      cleared: true,
      local: {},
    },
    {
      name: 'complex over 4 namespaces',
      before: complexBefore,
      after: [...complexAfter, of(ep2, {}, []), of(ep2, {}, [], 2), of(ep4, {}, [], 2)],
      result: {
        'ep1 p11': '1.1.1.11:11 1.1.1.1:11',
        'ep1 p12': '1.1.1.2:12',
        'ep3 p13': '3.3.3.3:33',
        'ep4 p11': '4.4.4.4:44',
      },
      cleared: true,
      local: { ep4: 1 },
    },
    {
      name: 'from slice with 0 addresses to one',
      before: [of(ep1, { p11: 11 }, [])],
      after: [named1],
      result: { 'ep1 p11': '1.1.1.1:11' },
      cleared: true,
      local: {},
    },
  ])('$name', async ({ before, after, result, cleared, local }) => {
    await start([...services, ...before])
    const health = new Map<string, number>()
    const hear = (): boolean => {
      const lines = rig!.told.splice(0)
      for (const line of lines) {
        const [, key, n] = /^health \S+\/(\S+) \d+ (\d+)$/.exec(line) ?? []
        if (key !== undefined) health.set(key, Number(n))
      }
      return lines.some((line) => line.startsWith('flows'))
    }
    hear()
    const passes = rig!.reports.length
    for (const one of after) tell(one)
    if (cleared) {
      while (rig!.reports.length === passes) await rig!.next()
    } else await new Promise((wake) => setTimeout(wake, 10))
    expect(hear()).toBe(cleared)
    const found: Record<string, string[]> = {}
    for (const [, n, number, to] of rig!.ipvs.dump().matchAll(/^-a -u 172\.16\.55\.(\d):(\d+) -r (\S+) /gm)) {
      const name = Object.keys(numbers).find((one) => numbers[one] === Number(number))
      ;(found[`ep${n} ${name}`] ??= []).push(to!)
    }
    expect(Object.fromEntries(Object.entries(found).map(([key, list]) => [key, list.sort().join(' ')]))).toEqual(
      Object.fromEntries(Object.entries(result).map(([key, text]) => [key, text.split(' ').sort().join(' ')])),
    )
    expect(Object.fromEntries([...health].filter(([, n]) => n > 0))).toEqual(local)
  })
})

describe('slices of one Service', () => {
  const keys = (slices: readonly EndpointSliceRecord[], name = 'a'): string[] =>
    mergeEndpoints(slices, port({ name })).map(endpointKey)
  const listed = (count: number, letters: (i: number) => string = () => 'rs', from = 1) =>
    Array.from({ length: count }, (_, i) => endpoint(`10.0.1.${from + i}`, letters(from + i)))
  const of = (endpoints: readonly EndpointRecord[], n = 1, number = 80): EndpointSliceRecord =>
    slice(endpoints, { key: `default/web-${n}`, ports: [{ name: 'a', protocol: 'TCP', port: number }] })

  test('one slice, ports 80 and 443, hosts alternate', () => {
    const both = slice(
      listed(4, (i) => (i % 2 === 0 ? 'rsl' : 'rs')),
      {
        ports: [
          { name: 'a', protocol: 'TCP', port: 80 },
          { name: 'b', protocol: 'TCP', port: 443 },
        ],
      },
    )
    expect(keys([both])).toEqual(['10.0.1.1:80', '10.0.1.2:80', '10.0.1.3:80', '10.0.1.4:80'])
    expect(keys([both], 'b')).toEqual(['10.0.1.1:443', '10.0.1.2:443', '10.0.1.3:443', '10.0.1.4:443'])
    expect(mergeEndpoints([both], port({ name: 'a' })).map(({ local }) => local)).toEqual([false, true, false, true])
  })

  test.each<[string, EndpointSliceRecord[], string[]]>([
    [
      'two slices, same port: union',
      [of(listed(2)), of(listed(2, undefined, 3), 2)],
      ['10.0.1.1:80', '10.0.1.2:80', '10.0.1.3:80', '10.0.1.4:80'],
    ],
    [
      'two overlapping slices: union without duplicates',
      [of(listed(3)), of(listed(3, undefined, 2), 2)],
      ['10.0.1.1:80', '10.0.1.2:80', '10.0.1.3:80', '10.0.1.4:80'],
    ],
    [
      'same IPs with different ports for the same port name',
      [of(listed(2), 1, 8080), of(listed(2), 2, 8081)],
      ['10.0.1.1:8080', '10.0.1.1:8081', '10.0.1.2:8080', '10.0.1.2:8081'],
    ],
    ['bytewise order', [of([endpoint('10.0.1.10'), endpoint('10.0.1.9')])], ['10.0.1.9:80', '10.0.1.10:80']],
  ])('%s', (_name, slices, wanted) => expect(keys(slices)).toEqual(wanted))

  test('overlapping, unready in one and in other: the later one wins', () => {
    const every = (n: number) => (i: number) => (i % n === 0 ? '' : 'rs')
    const merged = mergeEndpoints([of(listed(10, every(3))), of(listed(10, every(6)), 2)], port({ name: 'a' }))
    expect(merged.filter(({ ready }) => !ready).map(endpointKey)).toEqual(['10.0.1.6:80'])
  })

  test('overlapping, some terminating: a live one is kept', () => {
    const leaving = (i: number): string => (i % 5 === 0 ? 'st' : 'rs')
    const both = mergeEndpoints([of(listed(10, leaving)), of(listed(10, leaving), 2)], port({ name: 'a' }))
    const gone = both.filter(({ terminating }) => terminating)
    expect(gone.map((one) => [endpointKey(one), one.ready, one.serving])).toEqual([
      ['10.0.1.5:80', false, true],
      ['10.0.1.10:80', false, true],
    ])
    const live = mergeEndpoints([of(listed(10)), of(listed(10, leaving), 2)], port({ name: 'a' }))
    expect(live.filter(({ terminating }) => terminating)).toEqual([])
  })

  test('all unready everywhere: kept, not ready', () => {
    const merged = mergeEndpoints(
      [
        of(listed(4, () => '')),
        of(
          listed(4, () => ''),
          2,
        ),
      ],
      port({ name: 'a' }),
    )
    expect(merged.map(({ ready }) => ready)).toEqual([false, false, false, false])
  })

  test('three slices of different services and namespaces: only the asked service’s', () => {
    const state = new ClusterState()
    for (const [key, name] of [
      ['default/web-1', 'default/web'],
      ['default/other-1', 'default/other'],
      ['ns/web-1', 'ns/web'],
    ] as const) {
      state.setSlice(key, slice(listed(1), { key, service: name }))
    }
    expect([...state.slices('default/web')].map(({ key }) => key)).toEqual(['default/web-1'])
  })

  test('port value nil: no entries', () => {
    const object = {
      metadata: { namespace: 'default', name: 'web-1', labels: { 'kubernetes.io/service-name': 'web' } },
      addressType: 'IPv4',
      ports: [{ name: 'a', port: null }],
      endpoints: [{ addresses: ['10.0.1.1'] }],
    }
    expect(keys([translateEndpointSlice(object, 'node1', ignore)!])).toEqual([])
  })

  const first = slice(listed(3), {
    ports: [
      { name: 'a', protocol: 'TCP', port: 80 },
      { name: 'b', protocol: 'TCP', port: 443 },
    ],
  })
  test.each<[string, EndpointSliceRecord, boolean]>([
    [
      'identical',
      { ...structuredClone({ ...first, endpoints: undefined }), endpoints: EndpointList.of([...first.endpoints]) },
      false,
    ],
    ['ports reordered', { ...first, ports: first.ports.toReversed() }, true],
    ['a port removed', { ...first, ports: first.ports.slice(1) }, true],
    ['a port added', { ...first, ports: [...first.ports, { name: 'c', protocol: 'UDP', port: 1 }] }, true],
    ['endpoints reordered', { ...first, endpoints: EndpointList.of([...first.endpoints].toReversed()) }, true],
    ['an endpoint added', { ...first, endpoints: EndpointList.of(listed(4)) }, true],
    ['a condition flipped', { ...first, endpoints: EndpointList.of(listed(3, (i) => (i === 2 ? '' : 'rs'))) }, true],
  ])('change detection: %s', (_name, next, changed) => {
    const state = new ClusterState()
    state.setSlice(first.key, first)
    expect(state.setSlice(next.key, next)).toBe(changed)
  })

  test('deleting a slice that never existed is no change', () => {
    expect(new ClusterState().setSlice('default/never', undefined)).toBe(false)
  })

  test('records are never changed: all work is done on frozen ones', () => {
    const frozen = (value: object): void => {
      Object.freeze(value)
      for (const member of Object.values(value))
        if (typeof member === 'object' && member !== null) frozen(member as object)
    }
    const one = {
      ...structuredClone({ ...first, endpoints: undefined }),
      endpoints: EndpointList.of([...first.endpoints]),
    }
    frozen(one)
    const state = new ClusterState()
    state.setSlice(one.key, one)
    expect(keys([...state.slices(one.service)])).toHaveLength(3)
  })
})

describe('change trigger times', () => {
  const at = (n: number, key = 'default/web-1'): EndpointSliceRecord =>
    slice([endpoint(`10.0.1.${n}`)], { key, triggerTime: Date.now() + n })

  test('those of slices that changed are told by the pass that brought them in; a deletion has none', async () => {
    await start([service()])
    const [a, b] = [at(1), at(2, 'default/web-2')]
    tell(a)
    tell(b)
    await rig!.next()
    expect(new Set(rig!.reports.at(-1)!.triggerTimes)).toEqual(new Set([a.triggerTime, b.triggerTime]))
    const next = at(3)
    tell(next)
    await rig!.next()
    expect(rig!.reports.at(-1)!.triggerTimes).toEqual([next.triggerTime])
    rig!.proxier.sliceChanged('default/web-1', undefined)
    await rig!.next()
    expect(rig!.reports.at(-1)!.triggerTimes).toEqual([])
  })

  test('a time from before the start is not told', async () => {
    await start([service()])
    tell({ ...at(1), triggerTime: Date.now() - 3_600_000 })
    await rig!.next()
    expect(rig!.reports.at(-1)!.triggerTimes).toEqual([])
  })

  test('a malformed one is none', () => {
    const object = {
      metadata: {
        namespace: 'default',
        name: 'web-1',
        labels: { 'kubernetes.io/service-name': 'web' },
        annotations: { 'endpoints.kubernetes.io/last-change-trigger-time': 'yesterday' },
      },
      addressType: 'IPv4',
      ports: [],
      endpoints: [],
    }
    expect(translateEndpointSlice(object, 'node1', ignore)!.triggerTime).toBe(0)
  })
})
