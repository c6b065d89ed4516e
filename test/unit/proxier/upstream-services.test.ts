import { afterEach, describe, expect, test } from 'vitest'
import type { FamilySettings } from '../../../src/compose.ts'
import { translateEndpointSlice, translateService } from '../../../src/kube/translate.ts'
import { parseCidr, type Family } from '../../../src/model/address.ts'
import type { NodeRecord } from '../../../src/model/cluster.ts'
import { Rig } from './rig.ts'

// What kube-proxy's own tests of IPVS mode expect, by whole-stack passes over fakes: API objects in, kernel out.

type Json = Record<string, unknown>
const problem = (p: unknown): never => {
  throw new Error(JSON.stringify(p))
}

let rig: Rig
afterEach(() => rig.stop())

interface Start {
  readonly family?: Family
  readonly addresses?: readonly string[]
  readonly settings?: Partial<FamilySettings>
  readonly node?: Partial<NodeRecord>
  readonly objects?: readonly Json[]
}

async function start({
  family = 'IPv4',
  addresses = ['100.101.102.103'],
  settings = {},
  node,
  objects = [],
}: Start): Promise<void> {
  rig = new Rig(settings, undefined, { family, addresses })
  if (node !== undefined) {
    rig.proxier.nodeChanged({ name: 'node1', addresses: [], podCIDRs: [], zone: '', eligible: true, ...node })
  }
  for (const object of objects) put(object)
  rig.proxier.synced('services')
  rig.proxier.synced('endpointslices')
  rig.start()
  await rig.next()
}

/** Tells an object as a source would. */
function put(object: Json): void {
  const { name } = object.metadata as { name: string }
  const key = `ns1/${name}`
  if (object.kind === 'Service') rig.proxier.serviceChanged(key, translateService(object, problem))
  else rig.proxier.sliceChanged(key, translateEndpointSlice(object, 'node1', problem))
}

const svc = (name: string, spec: Json, status: Json = {}): Json => {
  const clusterIP = (spec.clusterIP as string | undefined) ?? '10.20.30.41'
  return {
    kind: 'Service',
    metadata: { namespace: 'ns1', name },
    spec: {
      type: 'ClusterIP',
      clusterIP,
      clusterIPs: [clusterIP],
      ipFamilies: [clusterIP.includes(':') ? 'IPv6' : 'IPv4'],
      ports: [{ name: 'p80', port: 80, protocol: 'TCP' }],
      ...spec,
    },
    status,
  }
}
const ingress = (...list: Json[]): Json => ({ loadBalancer: { ingress: list } })

/** Endpoints as "address" or "address letters"; letters as in objects.ts, "rs" and remote where absent. */
const eps = (service: string, list: readonly string[], port: Json = {}, name = service): Json => ({
  kind: 'EndpointSlice',
  metadata: { namespace: 'ns1', name, labels: { 'kubernetes.io/service-name': service } },
  addressType: list[0]?.includes(':') ? 'IPv6' : 'IPv4',
  ports: [{ name: 'p80', port: 80, protocol: 'TCP', ...port }],
  endpoints: list.map((text) => {
    const [address, letters = 'rs'] = text.split(' ')
    const has = (letter: string): boolean => letters.includes(letter)
    return {
      addresses: [address],
      conditions: { ready: has('r'), serving: has('s'), terminating: has('t') },
      nodeName: has('l') ? 'node1' : 'other',
    }
  }),
})

/** Virtual servers with their destinations: "10.20.30.41:80 TCP > 10.180.0.1:80". */
function servers(): Record<string, string> {
  const found: Record<string, string[]> = {}
  for (const line of rig.ipvs.dump().split('\n')) {
    const [, kind, flag, at, to] = /^-(A|a) (-t|-u|--sctp-service) (\S+)(?: -r (\S+))?/.exec(line) ?? []
    if (kind === undefined) continue
    const key = `${at} ${flag === '-t' ? 'TCP' : flag === '-u' ? 'UDP' : 'SCTP'}`
    if (kind === 'A') found[key] = []
    else found[key]!.push(`${to}${line.includes('-w 1') ? '' : ' w0'}`)
  }
  return Object.fromEntries(Object.entries(found).map(([key, list]) => [key, list.join(' ')]))
}

/** Members of the sets that have any, by name without KUBE-. */
function sets(): Record<string, string[]> {
  const found: Record<string, string[]> = {}
  for (const [, name, entry] of rig.ipset.dump().matchAll(/^add KUBE-(\S+) (\S+)$/gm))
    (found[name!] ??= []).push(entry!)
  return found
}

/** A chain's rules without comments, marks spelled out less. */
function chain(name: string, table: 'nat' | 'filter' = 'nat'): string[] {
  return rig.iptables.rules(table, name).map((rule) =>
    rule
      .replaceAll(/-m comment --comment (?:"[^"]*"|\S+) ?/g, '')
      .replaceAll('-m set --match-set ', '')
      .trim(),
  )
}

const bound = (): string[] =>
  [...rig.dummy.dump('kube-ipvs0').matchAll(/inet6? (\S+?)\/(?:32|128)/g)].map(([, a]) => a!).sort()

describe('node ports', () => {
  const np = (protocol: string, spec: Json = {}): Json =>
    svc('svc1', { type: 'NodePort', ports: [{ name: 'p80', port: 80, nodePort: 3001, protocol }], ...spec })
  const np6 = (protocol: string, spec: Json = {}): Json => np(protocol, { clusterIP: '2020::1', ...spec })
  const end4 = (protocol: string): Json => eps('svc1', ['10.180.0.1'], { protocol })
  const end6 = (protocol: string): Json => eps('svc1', ['1002:ab8::2:10'], { protocol }, 'svc1-6')
  const clean = ['-s 127.0.0.0/8 -j RETURN']

  test.each<{ name: string; start: Start; want: Record<string, string>; set?: [string, string[]] }>([
    {
      name: 'IPv4 TCP',
      start: { objects: [np('TCP'), end4('TCP'), end6('TCP')] },
      want: { '10.20.30.41:80 TCP': '10.180.0.1:80', '100.101.102.103:3001 TCP': '10.180.0.1:80' },
      set: ['NODE-PORT-TCP', ['3001']],
    },
    {
      name: 'IPv4 UDP',
      start: { objects: [np('UDP'), end4('UDP'), end6('UDP')] },
      want: { '10.20.30.41:80 UDP': '10.180.0.1:80', '100.101.102.103:3001 UDP': '10.180.0.1:80' },
      set: ['NODE-PORT-UDP', ['3001']],
    },
    {
      name: 'IPv4 without endpoints',
      start: { objects: [np('TCP')] },
      want: { '10.20.30.41:80 TCP': '', '100.101.102.103:3001 TCP': '' },
    },
    {
      name: 'IPv4 SCTP, several node IPs',
      start: {
        addresses: ['100.101.102.103', '100.101.102.104', '100.101.102.105'],
        objects: [np('SCTP'), end4('SCTP')],
      },
      want: {
        '10.20.30.41:80 SCTP': '10.180.0.1:80',
        '100.101.102.103:3001 SCTP': '10.180.0.1:80',
        '100.101.102.104:3001 SCTP': '10.180.0.1:80',
        '100.101.102.105:3001 SCTP': '10.180.0.1:80',
      },
      set: [
        'NODE-PORT-SCTP-HASH',
        ['100.101.102.103,sctp:3001', '100.101.102.104,sctp:3001', '100.101.102.105,sctp:3001'],
      ],
    },
    {
      name: 'IPv4 SCTP eTP Local',
      start: {
        objects: [
          np('SCTP', { externalTrafficPolicy: 'Local' }),
          eps('svc1', ['10.180.0.1 rsl', '10.180.1.1'], { protocol: 'SCTP' }),
        ],
      },
      want: { '10.20.30.41:80 SCTP': '10.180.0.1:80 10.180.1.1:80', '100.101.102.103:3001 SCTP': '10.180.0.1:80' },
      set: ['NODE-PORT-LOCAL-SCTP-HASH', ['100.101.102.103,sctp:3001']],
    },
    {
      name: 'IPv6 TCP',
      start: { family: 'IPv6', addresses: ['2001:db8::1:1'], objects: [np6('TCP'), end4('TCP'), end6('TCP')] },
      want: { '[2020::1]:80 TCP': '[1002:ab8::2:10]:80', '[2001:db8::1:1]:3001 TCP': '[1002:ab8::2:10]:80' },
      set: ['6-NODE-PORT-TCP', ['3001']],
    },
    {
      name: 'IPv6 UDP',
      start: { family: 'IPv6', addresses: ['2001:db8::1:1'], objects: [np6('UDP'), end6('UDP')] },
      want: { '[2020::1]:80 UDP': '[1002:ab8::2:10]:80', '[2001:db8::1:1]:3001 UDP': '[1002:ab8::2:10]:80' },
      set: ['6-NODE-PORT-UDP', ['3001']],
    },
    {
      name: 'IPv6 without endpoints',
      start: { family: 'IPv6', addresses: ['2001:db8::1:1'], objects: [np6('TCP')] },
      want: { '[2020::1]:80 TCP': '', '[2001:db8::1:1]:3001 TCP': '' },
    },
    {
      name: 'IPv6 SCTP, several node IPs',
      start: { family: 'IPv6', addresses: ['2001:db8::1:1', '2001:db8::1:2'], objects: [np6('SCTP'), end6('SCTP')] },
      want: {
        '[2020::1]:80 SCTP': '[1002:ab8::2:10]:80',
        '[2001:db8::1:1]:3001 SCTP': '[1002:ab8::2:10]:80',
        '[2001:db8::1:2]:3001 SCTP': '[1002:ab8::2:10]:80',
      },
      set: ['6-NODE-PORT-SCTP-HASH', ['2001:db8::1:1,sctp:3001', '2001:db8::1:2,sctp:3001']],
    },
    { name: 'v4 service in v6 proxier', start: { family: 'IPv6', objects: [np('TCP'), end4('TCP')] }, want: {} },
    {
      name: 'only local node ports, of a range',
      start: {
        addresses: ['100.101.102.103', '192.168.0.1'],
        settings: { nodePortRanges: [parseCidr('100.101.102.0/24')!, parseCidr('2001:db8::/64')!] },
        objects: [np('TCP', { externalTrafficPolicy: 'Local' }), eps('svc1', ['10.180.0.1 rsl', '10.180.1.1'])],
      },
      want: { '10.20.30.41:80 TCP': '10.180.0.1:80 10.180.1.1:80', '100.101.102.103:3001 TCP': '10.180.0.1:80' },
      set: ['NODE-PORT-LOCAL-TCP', ['3001']],
    },
  ])('$name', async ({ start: given, want, set }) => {
    await start(given)
    expect(servers()).toEqual(want)
    if (set !== undefined) expect(sets()[set[0]]).toEqual(set[1])
  })

  test('the chains of a UDP node port', async () => {
    await start({ objects: [np('UDP'), end4('UDP')] })
    expect(chain('KUBE-NODE-PORT')).toEqual(['-p udp KUBE-NODE-PORT-UDP dst -j KUBE-MARK-MASQ'])
    expect(chain('KUBE-NODE-PORT', 'filter')).toEqual(['KUBE-HEALTH-CHECK-NODE-PORT dst -j ACCEPT'])
    expect(chain('KUBE-SERVICES')).toEqual([
      ...clean,
      'KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ',
      '-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT',
      'KUBE-CLUSTER-IP dst,dst -j ACCEPT',
    ])
  })

  test('the chains of an SCTP node port with eTP Local', async () => {
    await start({ objects: [np('SCTP', { externalTrafficPolicy: 'Local' })] })
    expect(chain('KUBE-NODE-PORT')).toEqual([
      '-p sctp KUBE-NODE-PORT-LOCAL-SCTP-HASH dst,dst -j RETURN',
      '-p sctp KUBE-NODE-PORT-SCTP-HASH dst,dst -j KUBE-MARK-MASQ',
    ])
  })
})

describe('health check node ports', () => {
  const lb = (name: string, clusterIP: string, port: number, policy = 'Local'): Json =>
    svc(name, {
      clusterIP,
      type: 'LoadBalancer',
      externalTrafficPolicy: policy,
      ...(policy === 'Local' ? { healthCheckNodePort: port } : {}),
    })

  test('three services, two of them eTP Local', async () => {
    await start({
      objects: [lb('a', '10.20.30.41', 30000), lb('b', '10.20.30.42', 30001), lb('c', '10.20.30.43', 30002, 'Cluster')],
    })
    expect(sets()['HEALTH-CHECK-NODE-PORT']).toEqual(['30000', '30001'])
  })

  test('30000, then 30001, then eTP Cluster', async () => {
    await start({ objects: [lb('a', '10.20.30.41', 30000)] })
    expect(sets()['HEALTH-CHECK-NODE-PORT']).toEqual(['30000'])
    put(lb('a', '10.20.30.41', 30001))
    await rig.next()
    expect(sets()['HEALTH-CHECK-NODE-PORT']).toEqual(['30001'])
    put(lb('a', '10.20.30.41', 0, 'Cluster'))
    await rig.next()
    expect(sets()['HEALTH-CHECK-NODE-PORT']).toBeUndefined()
    expect(rig.told.filter((line) => line.startsWith('health'))).toEqual([
      'health ns1/a 30000 0',
      'health ns1/a 30001 0',
    ])
  })

  test('3 local ready, then all terminating', async () => {
    const addresses = ['10.0.1.1', '10.0.1.2', '10.0.1.3']
    const of = (letters: string): Json =>
      eps(
        'a',
        addresses.map((address) => `${address} ${letters}`),
      )
    await start({ objects: [lb('a', '10.20.30.41', 30000), of('rsl')] })
    put(of('stl'))
    await rig.next()
    expect(rig.told.filter((line) => line.startsWith('health'))).toEqual([
      'health ns1/a 30000 3',
      'health ns1/a 30000 0',
    ])
  })
})

describe('ClusterIP, externalIP and load balancers', () => {
  const mapped = [
    svc('a', { clusterIP: '10.20.30.41' }),
    svc('b', { clusterIP: '1002:ab8::2:1', ports: [{ name: 'p80', port: 8080, protocol: 'TCP' }] }),
  ]
  const ends = [eps('a', ['10.180.0.1']), eps('b', ['1009:ab8::5:6'])]
  test.each<{ name: string; family: Family; objects: Json[]; want: Record<string, string> }>([
    { name: 'IPv4', family: 'IPv4', objects: [...mapped, ...ends], want: { '10.20.30.41:80 TCP': '10.180.0.1:80' } },
    { name: 'IPv4 without endpoints', family: 'IPv4', objects: mapped, want: { '10.20.30.41:80 TCP': '' } },
    {
      name: 'IPv6',
      family: 'IPv6',
      objects: [...mapped, ...ends],
      want: { '[1002:ab8::2:1]:8080 TCP': '[1009:ab8::5:6]:80' },
    },
    { name: 'IPv6 without endpoints', family: 'IPv6', objects: mapped, want: { '[1002:ab8::2:1]:8080 TCP': '' } },
  ])('only the own family: $name', async ({ family, objects, want }) => {
    await start({ family, objects })
    expect(servers()).toEqual(want)
  })

  const ext = (addresses: string[], spec: Json = {}): Json => svc('a', { externalIPs: addresses, ...spec })
  test.each<{ name: string; objects: Json[]; want: Record<string, string> }>([
    {
      name: 'external IP without endpoint',
      objects: [ext(['50.60.70.81'])],
      want: { '10.20.30.41:80 TCP': '', '50.60.70.81:80 TCP': '' },
    },
    {
      name: 'external IPs of both families',
      objects: [ext(['50.60.70.81', '2012::51']), eps('a', ['10.180.0.1'])],
      want: {
        '10.20.30.41:80 TCP': '10.180.0.1:80',
        '50.60.70.81:80 TCP': '10.180.0.1:80',
      },
    },
    {
      name: 'external IP, eTP Local, one local and one remote',
      objects: [
        ext(['50.60.70.81'], { type: 'NodePort', externalTrafficPolicy: 'Local' }),
        eps('a', ['10.180.0.1 rsl', '10.180.1.1']),
      ],
      want: { '10.20.30.41:80 TCP': '10.180.0.1:80 10.180.1.1:80', '50.60.70.81:80 TCP': '10.180.0.1:80' },
    },
  ])('$name', async ({ objects, want }) => {
    await start({ objects })
    expect(servers()).toEqual(want)
  })

  const lb = (spec: Json = {}, ...list: Json[]): Json =>
    svc(
      'a',
      { type: 'LoadBalancer', ports: [{ name: 'p80', port: 80, nodePort: 3001, protocol: 'TCP' }], ...spec },
      ingress(...list),
    )

  test('a load balancer without node IPs', async () => {
    await start({ addresses: [], objects: [lb({}, { ip: '1.2.3.4' }), eps('a', ['10.180.0.1'])] })
    expect(servers()).toEqual({ '10.20.30.41:80 TCP': '10.180.0.1:80', '1.2.3.4:80 TCP': '10.180.0.1:80' })
    expect(sets()).toMatchObject({ 'LOAD-BALANCER': ['1.2.3.4,tcp:80'], 'CLUSTER-IP': ['10.20.30.41,tcp:80'] })
    expect(chain('KUBE-SERVICES')).toEqual([
      '-s 127.0.0.0/8 -j RETURN',
      'KUBE-LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER',
      'KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ',
      '-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT',
      'KUBE-CLUSTER-IP dst,dst -j ACCEPT',
      'KUBE-LOAD-BALANCER dst,dst -j ACCEPT',
    ])
    expect(chain('KUBE-LOAD-BALANCER')).toEqual(['-j KUBE-MARK-MASQ'])
  })

  test('a load balancer with eTP Local', async () => {
    await start({
      objects: [lb({ externalTrafficPolicy: 'Local' }, { ip: '1.2.3.4' }), eps('a', ['10.180.0.1 rsl', '10.180.1.1'])],
    })
    expect(servers()['1.2.3.4:80 TCP']).toBe('10.180.0.1:80')
    expect(sets()).toMatchObject({ 'LOAD-BALANCER': ['1.2.3.4,tcp:80'], 'LOAD-BALANCER-LOCAL': ['1.2.3.4,tcp:80'] })
    expect(chain('KUBE-LOAD-BALANCER')).toEqual(['KUBE-LOAD-BALANCER-LOCAL dst,dst -j RETURN', '-j KUBE-MARK-MASQ'])
  })

  test.each<{ name: string; nodeIP: string; sourceIP: boolean }>([
    { name: 'node IP outside the ranges', nodeIP: '192.168.0.1', sourceIP: false },
    { name: 'node IP inside the ranges', nodeIP: '10.0.0.7', sourceIP: true },
  ])('source ranges: $name', async ({ nodeIP, sourceIP }) => {
    await start({
      node: { addresses: [nodeIP] },
      objects: [lb({ loadBalancerSourceRanges: ['10.0.0.0/8'] }, { ip: '1.2.3.4' }), eps('a', ['10.180.0.1'])],
    })
    expect(sets()).toMatchObject({
      'LOAD-BALANCER': ['1.2.3.4,tcp:80'],
      'LOAD-BALANCER-FW': ['1.2.3.4,tcp:80'],
      'LOAD-BALANCER-SOURCE-CIDR': ['1.2.3.4,tcp:80,10.0.0.0/8'],
    })
    expect(sets()['LOAD-BALANCER-SOURCE-IP']).toEqual(sourceIP ? ['1.2.3.4,tcp:80,1.2.3.4'] : undefined)
    expect(chain('KUBE-PROXY-FIREWALL', 'filter')).toEqual([
      'KUBE-LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL',
    ])
    expect(chain('KUBE-SOURCE-RANGES-FIREWALL', 'filter')).toEqual([
      'KUBE-LOAD-BALANCER-SOURCE-CIDR dst,dst,src -j RETURN',
      ...(sourceIP ? ['KUBE-LOAD-BALANCER-SOURCE-IP dst,dst,src -j RETURN'] : []),
      '-j DROP',
    ])
    expect(chain('KUBE-IPVS-OUT-FILTER', 'filter')).toEqual(
      sourceIP ? [] : ['-s 1.2.3.4/32 -m ipvs --vproto 6 --vaddr 1.2.3.4 --vport 80 -j DROP'],
    )
  })

  test.each<[string, Json, number]>([
    ['Proxy', { ip: '1.2.3.4', ipMode: 'Proxy' }, 1],
    ['VIP', { ip: '1.2.3.4', ipMode: 'VIP' }, 2],
    ['none', { ip: '1.2.3.4' }, 2],
  ])('ipMode %s', async (_name, entry, count) => {
    await start({ addresses: [], objects: [lb({}, entry)] })
    expect(Object.keys(servers())).toHaveLength(count)
  })

  test('rules accept IPVS traffic last', async () => {
    await start({
      objects: [
        svc('c', { clusterIP: '10.20.30.41' }),
        svc('e', { clusterIP: '10.20.30.42', externalIPs: ['1.2.3.5'] }),
        { ...lb({ clusterIP: '10.20.30.43', clusterIPs: ['10.20.30.43'] }, { ip: '1.2.3.4' }) },
      ],
    })
    expect(chain('KUBE-SERVICES')).toEqual([
      '-s 127.0.0.0/8 -j RETURN',
      'KUBE-LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER',
      'KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ',
      'KUBE-EXTERNAL-IP dst,dst -j KUBE-MARK-MASQ',
      'KUBE-EXTERNAL-IP dst,dst -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT',
      'KUBE-EXTERNAL-IP dst,dst -m addrtype --dst-type LOCAL -j ACCEPT',
      '-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT',
      'KUBE-CLUSTER-IP dst,dst -j ACCEPT',
      'KUBE-LOAD-BALANCER dst,dst -j ACCEPT',
    ])
  })

  test('session affinity is on every virtual server', async () => {
    await start({
      objects: [
        svc('a', {
          type: 'NodePort',
          externalIPs: ['50.60.70.81'],
          sessionAffinity: 'ClientIP',
          sessionAffinityConfig: { clientIP: { timeoutSeconds: 10800 } },
          ports: [{ name: 'p80', port: 80, nodePort: 3001 }],
        }),
      ],
    })
    const lines = rig.ipvs.dump().trim().split('\n')
    expect(lines).toHaveLength(3)
    for (const line of lines) expect(line).toMatch(/ -p 10800$/)
  })

  test('two ports, one port, none: the address is bound, bound, not bound', async () => {
    const of = (...ports: number[]): Json => svc('a', { ports: ports.map((port) => ({ name: `p${port}`, port })) })
    await start({ objects: [of(80, 8443)] })
    expect(bound()).toEqual(['10.20.30.41'])
    put(of(80))
    await rig.next()
    expect(bound()).toEqual(['10.20.30.41'])
    rig.proxier.serviceChanged('ns1/a', undefined)
    await rig.next()
    expect(bound()).toEqual([])
  })

  test('hairpin entries are those of local endpoints; the slice goes, the virtual server stays', async () => {
    await start({ objects: [svc('a', {}), eps('a', ['10.0.1.1 rsl', '10.0.1.2', '10.0.1.3', '10.0.1.4 -'])] })
    expect(sets()['LOOP-BACK']).toEqual(['10.0.1.1,tcp:80,10.0.1.1'])
    expect(servers()).toEqual({ '10.20.30.41:80 TCP': '10.0.1.1:80 10.0.1.2:80 10.0.1.3:80' })
    rig.proxier.sliceChanged('ns1/a', undefined)
    await rig.next()
    expect(sets()['LOOP-BACK']).toBeUndefined()
    expect(servers()).toEqual({ '10.20.30.41:80 TCP': '' })
  })
})

describe('policies and terminating endpoints', () => {
  test.each<{ name: string; spec: Json; list: string[]; want: string }>([
    {
      name: 'iTP Cluster, 3 endpoints, 1 local',
      spec: {},
      list: ['10.0.1.1 rsl', '10.0.1.2', '10.0.1.3'],
      want: '10.0.1.1:80 10.0.1.2:80 10.0.1.3:80',
    },
    {
      name: 'iTP Local, 1 local',
      spec: { internalTrafficPolicy: 'Local' },
      list: ['10.0.1.1 rsl', '10.0.1.2', '10.0.1.3'],
      want: '10.0.1.1:80',
    },
    {
      name: 'iTP Local, 0 local',
      spec: { internalTrafficPolicy: 'Local' },
      list: ['10.0.1.1', '10.0.1.2', '10.0.1.3'],
      want: '',
    },
  ])('$name', async ({ spec, list, want }) => {
    await start({ objects: [svc('a', spec), eps('a', list)] })
    expect(servers()).toEqual({ '10.20.30.41:80 TCP': want })
  })

  const ready = ['10.0.1.1 rsl', '10.0.1.2 rsl', '10.0.1.3 stl', '10.0.1.4 tl', '10.0.1.5 rs']
  const at = (...lasts: number[]): string => lasts.map((last) => `10.0.1.${last}:80`).join(' ')
  test.each<{ name: string; policy: string; list: string[]; cluster: string; external: string; loopBack: number[] }>([
    {
      name: 'ready and terminating, Cluster',
      policy: 'Cluster',
      list: ready,
      cluster: at(1, 2, 5),
      external: at(1, 2, 5),
      loopBack: [1, 2, 3, 4],
    },
    {
      name: 'ready and terminating, Local',
      policy: 'Local',
      list: ready,
      cluster: at(1, 2, 5),
      external: at(1, 2),
      loopBack: [1, 2, 3, 4],
    },
    {
      name: 'only terminating, Cluster',
      policy: 'Cluster',
      list: ['10.0.1.1 stl', '10.0.1.2 stl', '10.0.1.3 tl', '10.0.1.4 st', '10.0.1.5 t'],
      cluster: at(1, 2, 4),
      external: at(1, 2, 4),
      loopBack: [1, 2, 3],
    },
    {
      name: 'only terminating, Local',
      policy: 'Local',
      list: ['10.0.1.1 stl', '10.0.1.2 stl', '10.0.1.3 tl', '10.0.1.4 tl', '10.0.1.5 rs'],
      cluster: at(5),
      external: at(1, 2),
      loopBack: [1, 2, 3, 4],
    },
  ])('$name; then the slice goes', async ({ policy, list, cluster, external, loopBack }) => {
    await start({
      objects: [
        svc('a', { type: 'NodePort', externalIPs: ['1.2.3.4'], externalTrafficPolicy: policy }),
        eps('a', list),
      ],
    })
    expect(servers()).toEqual({ '10.20.30.41:80 TCP': cluster, '1.2.3.4:80 TCP': external })
    expect(sets()['LOOP-BACK']).toEqual(loopBack.map((last) => `10.0.1.${last},tcp:80,10.0.1.${last}`))
    rig.proxier.sliceChanged('ns1/a', undefined)
    await rig.next()
    expect(servers()).toEqual({ '10.20.30.41:80 TCP': '', '1.2.3.4:80 TCP': '' })
  })

  test.each<{ name: string; internal: string; external: string; list: string[]; want: [number, number] }>([
    { name: 'internal Local, none local', internal: 'Local', external: 'Cluster', list: ['10.0.1.1'], want: [1, 0] },
    { name: 'internal Local, one local', internal: 'Local', external: 'Cluster', list: ['10.0.1.1 rsl'], want: [0, 0] },
    { name: 'external Local, none local', internal: 'Cluster', external: 'Local', list: ['10.0.1.1'], want: [0, 1] },
    {
      name: 'external Local, one local',
      internal: 'Cluster',
      external: 'Local',
      list: ['10.0.1.1 rsl', '10.0.1.2'],
      want: [0, 0],
    },
    { name: 'both Local, none local', internal: 'Local', external: 'Local', list: ['10.0.1.1'], want: [1, 1] },
    { name: 'both Local, no endpoints at all', internal: 'Local', external: 'Local', list: [], want: [0, 0] },
  ])('the metric of missing local endpoints: $name', async ({ internal, external, list, want }) => {
    await start({
      objects: [
        svc('a', {
          type: 'NodePort',
          externalIPs: ['1.2.3.4'],
          internalTrafficPolicy: internal,
          externalTrafficPolicy: external,
        }),
        eps('a', list),
      ],
    })
    const { noLocal } = rig.reports[0]!
    expect([noLocal.internal, noLocal.external]).toEqual(want)
  })
})

describe('virtual servers and destinations of before', () => {
  const found = (address: string, change: Json = {}) =>
    ({ family: 'IPv4', protocol: 'TCP', address, port: 80, scheduler: 'rr', flags: 0, timeout: 0, ...change }) as never

  /** A start that finds these virtual servers, each with these destinations. */
  async function startWith(list: readonly unknown[], destinations: readonly Json[], given: Start): Promise<void> {
    const before = new Rig()
    for (const server of list) {
      await before.ipvs.apply([{ kind: 'newServer', server: server as never }])
      for (const destination of destinations) {
        await before.ipvs.apply([
          { kind: 'newDestination', server: server as never, destination: destination as never },
        ])
      }
    }
    rig = new Rig(given.settings, before)
    for (const object of given.objects ?? []) put(object)
    rig.proxier.synced('services')
    rig.proxier.synced('endpointslices')
    rig.start()
    await rig.next()
  }

  test.each<{ name: string; protocol: string; present?: Json; calls: RegExp[] }>([
    { name: 'the same: unchanged', protocol: 'TCP', present: {}, calls: [] },
    {
      name: 'flags differ, TCP: updated',
      protocol: 'TCP',
      present: { flags: 1, timeout: 10800 },
      calls: [/^setServer/],
    },
    {
      name: 'flags differ, SCTP: updated',
      protocol: 'SCTP',
      present: { flags: 1, timeout: 10800 },
      calls: [/^setServer/],
    },
    { name: 'scheduler differs, TCP: updated', protocol: 'TCP', present: { scheduler: 'wlc' }, calls: [/^setServer/] },
    {
      name: 'scheduler differs, SCTP: updated',
      protocol: 'SCTP',
      present: { scheduler: 'wlc' },
      calls: [/^setServer/],
    },
    { name: 'absent, UDP: created and bound', protocol: 'UDP', calls: [/^newServer/] },
    { name: 'absent, SCTP: created and bound', protocol: 'SCTP', calls: [/^newServer/] },
  ])('$name', async ({ protocol, present, calls }) => {
    const list = present === undefined ? [] : [found('10.20.30.41', { protocol, ...present })]
    await startWith(list, [], {
      objects: [svc('a', { ports: [{ name: 'p80', port: 80, protocol }] })],
    })
    const made = rig.ipvs.calls.filter((call) => /^(set|new|delete)/.test(call)).slice(list.length)
    expect(made).toHaveLength(calls.length)
    for (const [i, call] of calls.entries()) expect(made[i]).toMatch(call)
    expect(bound()).toEqual(['10.20.30.41'])
  })

  test('an address that is bound already is not bound again', async () => {
    await startWith([], [], { objects: [svc('a', {})] })
    const restarted = new Rig({}, rig)
    await rig.stop()
    rig = restarted
    rig.dummy.calls.length = 0
    put(svc('a', {}))
    rig.proxier.synced('services')
    rig.proxier.synced('endpointslices')
    rig.start()
    await rig.next()
    expect(rig.dummy.calls.filter((call) => call.startsWith('bind'))).toEqual([])
  })

  test.each(['TCP', 'UDP'])('a restart gives weight 1 back to a wanted destination: %s', async (protocol) => {
    await startWith([found('10.20.30.41', { protocol })], [{ address: '10.180.0.1', port: 80, weight: 0 }], {
      objects: [svc('a', { ports: [{ name: 'p80', port: 80, protocol }] }), eps('a', ['10.180.0.1'], { protocol })],
    })
    expect(servers()).toEqual({ [`10.20.30.41:80 ${protocol}`]: '10.180.0.1:80' })
  })

  const exclude = { excludeCIDRs: [parseCidr('3.3.3.0/24')!, parseCidr('4.4.4.0/24')!] }
  test('legacy services go, those in excludeCIDRs stay', async () => {
    const addresses = ['1.1.1.1', '2.2.2.2', '3.3.3.3', '4.4.4.4', '5.5.5.5', '6.6.6.6']
    await startWith(
      addresses.map((address) => found(address)),
      [{ address: '10.9.9.9', port: 80, weight: 1 }],
      {
        settings: exclude,
        objects: [svc('a', { clusterIP: '1.1.1.1' }), svc('b', { clusterIP: '2.2.2.2' })],
      },
    )
    expect(Object.keys(servers())).toEqual(['1.1.1.1:80 TCP', '2.2.2.2:80 TCP', '3.3.3.3:80 TCP', '4.4.4.4:80 TCP'])
  })

  test('a virtual server of the other family is not touched', async () => {
    await startWith([found('2001:db8::1', { family: 'IPv6' })], [], { objects: [svc('a', {})] })
    expect(rig.ipvs.dump()).toContain('[2001:db8::1]:80')
  })

  const server = { family: 'IPv4', protocol: 'TCP', address: '10.20.30.41', port: 80 } as const
  test.each<{ name: string; protocol: string; active: number; inactive: number; left: string }>([
    { name: 'TCP, 0 connections: deleted', protocol: 'TCP', active: 0, inactive: 0, left: '' },
    { name: 'TCP, 10 active: weight 0, kept', protocol: 'TCP', active: 10, inactive: 0, left: '10.180.0.1:80 w0' },
    { name: 'TCP, 10 inactive: weight 0, kept', protocol: 'TCP', active: 0, inactive: 10, left: '10.180.0.1:80 w0' },
    { name: 'UDP, 10/10: deleted', protocol: 'UDP', active: 10, inactive: 10, left: '' },
  ])('graceful end: $name', async ({ protocol, active, inactive, left }) => {
    const ports = [{ name: 'p80', port: 80, protocol }]
    await start({ objects: [svc('a', { ports }), eps('a', ['10.180.0.1'], { protocol })] })
    rig.ipvs.setConnections(
      { ...server, protocol: protocol as 'TCP' },
      { address: '10.180.0.1', port: 80 },
      active,
      inactive,
    )
    rig.proxier.sliceChanged('ns1/a', undefined)
    await rig.next()
    expect(servers()).toEqual({ [`10.20.30.41:80 ${protocol}`]: left })
  })
})
