import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { FamilySettings } from '../../../src/compose.ts'
import type { NodeRecord, ServiceRecord } from '../../../src/model/cluster.ts'
import { endpoint, port, service, slice } from './objects.ts'
import { Rig } from './rig.ts'

let rig: Rig
beforeEach(() => {
  rig = new Rig()
})
afterEach(() => rig.stop())

async function start(change: Partial<FamilySettings> = {}, ...services: ServiceRecord[]): Promise<void> {
  if (Object.keys(change).length > 0) {
    await rig.stop()
    rig = new Rig(change)
  }
  for (const one of services) rig.proxier.serviceChanged(one.key, one)
  rig.proxier.synced('services')
  rig.proxier.synced('endpointslices')
  rig.start()
}

const node = (change: Partial<NodeRecord> = {}): NodeRecord => ({
  name: 'node1',
  addresses: ['192.168.0.1'],
  podCIDRs: [],
  zone: '',
  eligible: true,
  ...change,
})

const dns = service({ ports: [port({ protocol: 'UDP', port: 53, nodePort: 30053 })], externalIPs: ['203.0.113.5'] })
const dnsSlice = (...addresses: string[]) =>
  slice(
    addresses.map((address) => endpoint(address)),
    { ports: [{ name: '', protocol: 'UDP', port: 5353 }] },
  )

describe('UDP flows', () => {
  beforeEach(async () => {
    rig.proxier.sliceChanged('default/web-1', dnsSlice('10.1.0.1', '10.1.0.2'))
    await start({}, dns)
    await rig.next()
  })

  test('at the start every frontend is checked', () => {
    expect(rig.told).toEqual([
      'flows 10.96.0.10:53 10.1.0.1:5353,10.1.0.2:5353',
      'flows 203.0.113.5:53 10.1.0.1:5353,10.1.0.2:5353',
      'flows :30053 10.1.0.1:5353,10.1.0.2:5353',
    ])
  })

  test.each<{ name: string; change: () => void; told: string[] }>([
    {
      name: 'an endpoint less',
      change: () => rig.proxier.sliceChanged('default/web-1', dnsSlice('10.1.0.1')),
      told: ['flows 10.96.0.10:53 10.1.0.1:5353', 'flows 203.0.113.5:53 10.1.0.1:5353', 'flows :30053 10.1.0.1:5353'],
    },
    {
      name: 'no endpoint left: nobody else to go to',
      change: () => rig.proxier.sliceChanged('default/web-1', undefined),
      told: ['flows 10.96.0.10:53 ', 'flows 203.0.113.5:53 ', 'flows :30053 '],
    },
    {
      name: 'an address of the Service less',
      change: () => rig.proxier.serviceChanged('default/web', { ...dns, externalIPs: [] }),
      told: [
        'flows 10.96.0.10:53 10.1.0.1:5353,10.1.0.2:5353',
        'flows 203.0.113.5:53 gone',
        'flows :30053 10.1.0.1:5353,10.1.0.2:5353',
      ],
    },
    {
      name: 'the Service gone',
      change: () => rig.proxier.serviceChanged('default/web', undefined),
      told: ['flows 10.96.0.10:53 gone', 'flows 203.0.113.5:53 gone', 'flows :30053 gone'],
    },
  ])('$name', async ({ change, told }) => {
    rig.told.length = 0
    change()
    await rig.next()
    expect(rig.told).toEqual(told)
  })

  test.each<{ name: string; change: () => void }>([
    { name: 'a policy', change: () => rig.proxier.serviceChanged('default/web', { ...dns, externalLocal: true }) },
    { name: 'affinity', change: () => rig.proxier.serviceChanged('default/web', { ...dns, affinitySeconds: 10 }) },
  ])('$name changes no flow', async ({ change }) => {
    rig.told.length = 0
    change()
    await rig.next()
    expect(rig.told).toEqual([])
  })

  test('an address that another Service claims, too, stays with its winner', async () => {
    const other = service({
      ...dns,
      key: 'default/zzz',
      clusterIPs: ['10.96.0.11'],
      ports: [port({ protocol: 'UDP', port: 53 })],
    })
    rig.proxier.serviceChanged(other.key, other)
    await rig.next()
    rig.told.length = 0
    rig.proxier.serviceChanged(other.key, undefined)
    await rig.next()
    expect(rig.told).toEqual(['flows 10.96.0.11:53 gone', 'flows 203.0.113.5:53 10.1.0.1:5353,10.1.0.2:5353'])
  })

  test('TCP has none', async () => {
    rig.told.length = 0
    rig.proxier.serviceChanged('default/tcp', service({ key: 'default/tcp', clusterIPs: ['10.96.0.12'] }))
    await rig.next()
    expect(rig.told).toEqual([])
  })
})

describe('health check node ports', () => {
  const lb = service({
    type: 'LoadBalancer',
    externalLocal: true,
    healthCheckNodePort: 32100,
    ports: [port(), port({ name: 'b', port: 81 })],
  })

  test.each<[string, Parameters<typeof slice>[0], string]>([
    ['two local ready ones', [endpoint('10.1.0.1', 'rsl'), endpoint('10.1.0.2', 'rsl')], 'health default/web 32100 2'],
    ['remote ones do not count', [endpoint('10.1.0.1', 'rs')], 'health default/web 32100 0'],
    ['terminating ones do not count', [endpoint('10.1.0.1', 'stl')], 'health default/web 32100 0'],
    [
      'the same address twice counts once',
      [endpoint('10.1.0.1', 'rsl'), endpoint('10.1.0.1', 'rsl')],
      'health default/web 32100 1',
    ],
  ])('%s', async (_name, endpoints, told) => {
    rig.proxier.sliceChanged('default/web-1', slice(endpoints))
    await start({}, lb)
    await rig.next()
    expect(rig.told).toEqual([told])
    expect(rig.healthHosts).toBe('all')
  })

  test('a Service of the other family has none here', async () => {
    await start({}, { ...lb, clusterIPs: ['fd00::10'] })
    await rig.next()
    expect(rig.told).toEqual([])
  })

  test('they listen where node ports are served', async () => {
    await start({ nodePortRanges: [{ address: '10.9.0.0', prefix: 16, family: 'IPv4' }] }, lb)
    await rig.next()
    expect(rig.healthHosts).toEqual([])
  })
})

describe('the node', () => {
  test('an address that comes is served in the next pass, which reads nothing else back', async () => {
    await start({}, service({ ports: [port({ nodePort: 30080 })] }))
    await rig.next()
    const reads = rig.ipvs.calls.filter((call) => call.startsWith('list')).length
    rig.dummy.addAddress(rig.dummy.addLink('eth1', ''), '192.168.7.1', 24)
    rig.proxier.addressesChanged()
    expect(await rig.next()).toMatchObject({ reason: 'change', well: true })
    expect(rig.ipvs.dump()).toContain('192.168.7.1:30080')
    expect(rig.ipvs.calls.filter((call) => call.startsWith('list')).length).toBe(reads)
  })

  test('NodeCIDR: nothing is written before the Node has one; another one changes the rules', async () => {
    await start(
      {
        needsPodCIDR: true,
        localDetector: (_family, [cidr]) => (cidr === undefined ? undefined : { kind: 'cidr', cidr }),
      },
      service(),
    )
    rig.proxier.nodeChanged(node())
    await new Promise((wake) => setTimeout(wake, 20))
    expect(rig.reports).toEqual([])
    expect(rig.proxier.lacksPodCIDR).toBe(true)
    rig.proxier.nodeChanged(node({ podCIDRs: ['10.244.1.0/24'] }))
    await rig.next()
    const rules = (): string => rig.iptables.rules('nat', 'KUBE-SERVICES').join('\n')
    expect(rules()).toContain('! -s 10.244.1.0/24 ')
    rig.proxier.nodeChanged(node({ podCIDRs: ['10.244.9.0/24'] }))
    await rig.next()
    expect(rules()).toContain('! -s 10.244.9.0/24 ')
    expect(rules()).not.toContain('10.244.1.0/24')
  })

  test('a service address that is the node’s own is told once', async () => {
    const web = service({ externalIPs: ['192.168.0.1'] })
    await start({}, web)
    await rig.next()
    rig.proxier.serviceChanged('default/web', { ...web, affinitySeconds: 1 })
    await rig.next()
    expect(rig.told).toEqual(['clash default/web/TCP 192.168.0.1'])
    expect(rig.warnings.filter((line) => line.includes('192.168.0.1'))).toHaveLength(1)
    expect(rig.dummy.dump('kube-ipvs0')).not.toContain('192.168.0.1')
  })

  test('the IP that the configuration names decides about source ranges', async () => {
    const ranged = service({ loadBalancerIPs: ['203.0.113.9'], sourceRanges: ['172.16.0.0/12'] })
    await start({ nodeIPs: ['172.16.0.5'] }, ranged)
    rig.proxier.nodeChanged(node())
    await rig.next()
    expect(rig.ipset.dump()).toContain('add KUBE-LOAD-BALANCER-SOURCE-IP 203.0.113.9,tcp:80,203.0.113.9')
  })
})

test('at the start the API server’s own Service is written before all others are even planned', async () => {
  const many = Array.from({ length: 600 }, (_, i) =>
    service({ key: `default/a${i}`, clusterIPs: [`10.97.${i >> 8}.${i & 255}`] }),
  )
  const own = service({
    key: 'default/kubernetes',
    clusterIPs: ['10.96.0.1'],
    ports: [port({ name: 'https', port: 443 })],
  })
  await start({}, ...many, own)
  await rig.next()
  const calls = rig.ipvs.calls.filter((call) => call.startsWith('newServer'))
  expect(calls).toHaveLength(601)
  expect(calls[0]).toContain('10.96.0.1:443')
  const binds = rig.dummy.calls.filter((call) => call.startsWith('bind'))
  expect(binds[0]).toContain('10.96.0.1')
  expect(binds[0]).not.toContain('10.97.')
})

describe('externalTrafficPolicy Local without local endpoint', () => {
  const web = service({
    type: 'LoadBalancer',
    externalLocal: true,
    loadBalancerIPs: ['203.0.113.9'],
    externalIPs: ['203.0.113.10'],
    ports: [port({ nodePort: 30080 })],
  })
  const pods: Partial<FamilySettings> = {
    strictExternal: true,
    localDetector: () => ({ kind: 'cidr', cidr: '10.244.0.0/16' }),
  }
  const refused = (): string[] =>
    [...rig.ipset.dump().matchAll(/^add KUBE-EXTERNAL-NO-LOCAL (\S+)$/gm)].map(([, entry]) => entry!).sort()

  test.each<[string, Partial<FamilySettings>, string, string[]]>([
    ['off by default', {}, 'rs', []],
    ['strict, none local', pods, 'rs', ['192.168.0.1,tcp:30080', '203.0.113.10,tcp:80', '203.0.113.9,tcp:80']],
    ['strict, one local', pods, 'rsl', []],
    ['strict, a local one on its way out still serves', pods, 'stl', []],
  ])('%s', async (_name, change, letters, entries) => {
    if (Object.keys(change).length > 0) {
      await rig.stop()
      rig = new Rig(change)
    }
    rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1', letters)]))
    await start({}, web)
    await rig.next()
    expect(refused()).toEqual(entries)
    const rule = rig.iptables.rules('filter', 'KUBE-IPVS-FILTER').find((one) => one.includes('NO-LOCAL'))
    expect(rule !== undefined).toBe(entries.length > 0)
    // Pods and the node itself go on being served by all endpoints.
    if (letters === 'rs') expect(rig.ipvs.dump()).toContain('-a -t 203.0.113.9:80 -r 10.1.0.1:8080')
  })

  test('the set is there only while it is needed', async () => {
    await start(pods, web)
    await rig.next()
    expect(rig.ipset.dump()).toContain('create KUBE-EXTERNAL-NO-LOCAL')
    rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1', 'rsl')]))
    await rig.next()
    expect(refused()).toEqual([])
    expect(rig.ipset.dump()).not.toContain('KUBE-EXTERNAL-NO-LOCAL')
  })
})

describe('destinations and servers', () => {
  const server = { family: 'IPv4', protocol: 'TCP', address: '10.96.0.10', port: 80 } as const

  test('a drain that lasts too long is cut', async () => {
    await rig.stop()
    rig = new Rig({ syncPeriod: 20, drainTimeout: 60 })
    rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1'), endpoint('10.1.0.2')]))
    await start({}, service())
    await rig.next()
    rig.ipvs.setConnections(server, { address: '10.1.0.2', port: 8080 }, 5, 0)
    rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')]))
    await rig.next()
    expect(rig.ipvs.dump()).toContain('10.1.0.2:8080 -m -w 0')
    while (rig.ipvs.dump().includes('10.1.0.2')) await rig.next()
    const warning = rig.warnings.find((line) => line.includes('drained'))
    expect(JSON.parse(warning!)).toMatchObject({
      server: '10.96.0.10:80/TCP',
      destination: '10.1.0.2:8080',
      connections: 5,
    })
  })

  test('a virtual server from before that no Service wants is told before it goes, a wanted one is not', async () => {
    const found = (address: string) => ({ ...server, address, scheduler: 'rr', flags: 0, timeout: 0 })
    await rig.ipvs.apply([
      { kind: 'newServer', server: found('10.96.0.10') },
      { kind: 'newServer', server: found('198.51.100.7') },
    ])
    await start({}, service())
    await rig.next()
    const told = rig.warnings.filter((line) => line.includes('no Service wants'))
    expect(told).toHaveLength(1)
    expect(told[0]).toContain('198.51.100.7:80/TCP')
    expect(rig.ipvs.dump()).not.toContain('198.51.100.7')
  })
})
