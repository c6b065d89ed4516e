import { afterEach, describe, expect, test } from 'vitest'
import type { FamilySettings } from '../../../src/compose.ts'
import type { IpvsChange } from '../../../src/ipvs/ipvs.ts'
import { translateEndpointSlice, translateService } from '../../../src/kube/translate.ts'
import { parseCidr, type Family } from '../../../src/model/address.ts'
import type { ServerId, VirtualServer } from '../../../src/model/virtual-server.ts'
import { ClusterState } from '../../../src/proxier/cluster-state.ts'
import { chooseEndpoints, endpointKey, mergeEndpoints } from '../../../src/proxier/endpoint-choice.ts'
import { endpoint, port, service, slice } from './objects.ts'
import { Rig } from './rig.ts'

// Rows of kube-proxy's own tests, and of what is asked beyond them, that need the whole stack over fakes.

let rig: Rig
afterEach(() => rig?.stop())

/** The first pass over what `prepare` has laid out. */
async function begin(
  prepare: (rig: Rig) => void | Promise<void> = () => {},
  change: Partial<FamilySettings> = {},
  world: { family?: Family; addresses?: readonly string[] } = {},
): Promise<void> {
  rig = new Rig(change, undefined, world)
  await prepare(rig)
  rig.proxier.synced('services')
  rig.proxier.synced('endpointslices')
  rig.start()
  await rig.next()
}

const id = (address: string, change: Partial<ServerId> = {}): ServerId => ({
  family: address.includes(':') ? 'IPv6' : 'IPv4',
  protocol: 'TCP',
  address,
  port: 80,
  ...change,
})
const server = (address: string, change: Partial<VirtualServer> = {}): VirtualServer => ({
  ...id(address, change),
  scheduler: 'rr',
  flags: 0,
  timeout: 0,
  ...change,
})
async function write(...changes: IpvsChange[]): Promise<void> {
  for (const error of await rig.ipvs.apply(changes)) if (error) throw error
}
const lines = (): string[] => rig.ipvs.dump().trim().split('\n')
const clusterIP = '10.96.0.10'
const virtual = id(clusterIP)

async function until(done: () => boolean): Promise<void> {
  while (!done()) await rig.next()
}

describe('destinations that are not as they were left', () => {
  const gone = { address: '10.1.0.1', port: 8080 }
  const other = { address: '10.1.0.1', port: 9090, weight: 1 }

  /** The pod's endpoint goes; before that somebody has put a destination of another port in the place of its own. */
  async function replaced(protocol: 'TCP' | 'UDP', settings: Partial<FamilySettings> = {}) {
    const of = (addresses: string[]) =>
      slice(
        addresses.map((address) => endpoint(address)),
        { ports: [{ name: '', protocol, port: 8080 }] },
      )
    await begin((rig) => {
      rig.proxier.serviceChanged('default/web', service({ ports: [port({ protocol })] }))
      rig.proxier.sliceChanged('default/web-1', of(['10.1.0.1', '10.1.0.2']))
    }, settings)
    const at = { ...virtual, protocol }
    await write(
      { kind: 'deleteDestination', server: at, destination: gone },
      { kind: 'newDestination', server: at, destination: other },
    )
    rig.proxier.sliceChanged('default/web-1', of(['10.1.0.2']))
    return rig.next()
  }

  test('another port than the kernel’s: UDP, no change and no error', async () => {
    expect(await replaced('UDP')).toMatchObject({ well: true })
    expect(rig.ipvs.dump()).toContain('10.1.0.1:9090')
  })

  test('another port than the kernel’s: TCP, no change and no error', async () => {
    expect(await replaced('TCP')).toMatchObject({ well: true })
  })

  test('another port than the kernel’s: TCP, the next look takes it away', async () => {
    await replaced('TCP', { syncPeriod: 50 })
    expect(await rig.next()).toMatchObject({ well: true, reason: 'period' })
    expect(lines()).toEqual(['-A -t 10.96.0.10:80 -s rr', '-a -t 10.96.0.10:80 -r 10.1.0.2:8080 -m -w 1'])
  })

  test('a draining destination that somebody removed is forgotten', async () => {
    await begin(
      (rig) => {
        rig.proxier.serviceChanged('default/web', service())
        rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')]))
      },
      { syncPeriod: 50 },
    )
    rig.ipvs.setConnections(virtual, gone, 1, 0)
    rig.proxier.sliceChanged('default/web-1', undefined)
    await until(() => rig.ipvs.dump().includes('10.1.0.1:8080 -m -w 0'))
    await write({ kind: 'deleteDestination', server: virtual, destination: gone })
    rig.ipvs.calls.length = 0
    const passes = rig.reports.length
    await until(() => rig.reports.length >= passes + 3)
    expect(rig.reports.slice(passes).every(({ well }) => well)).toBe(true)
    expect(rig.ipvs.calls.filter((call) => call.includes('estination ') && call.includes('10.1.0.1'))).toEqual([])
  })

  test('the drain of a former process goes on until the connections end', async () => {
    await begin(
      async (rig) => {
        await rig.ipvs.apply([
          { kind: 'newServer', server: server(clusterIP) },
          { kind: 'newDestination', server: virtual, destination: { ...gone, weight: 0 } },
        ])
        rig.ipvs.setConnections(virtual, gone, 3, 2)
        rig.proxier.serviceChanged('default/web', service())
        rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.2')]))
      },
      { syncPeriod: 50 },
    )
    expect(rig.ipvs.dump()).toContain('10.1.0.1:8080 -m -w 0')
    await rig.next()
    expect(rig.ipvs.dump()).toContain('10.1.0.1:8080 -m -w 0')
    rig.ipvs.setConnections(virtual, gone, 0, 0)
    await until(() => !rig.ipvs.dump().includes('10.1.0.1:8080'))
    expect(rig.ipvs.dump()).toContain('10.1.0.2:8080 -m -w 1')
  })

  describe('a Service of ours in excludeCIDRs, found at start with a former endpoint', () => {
    const own = id('4.4.4.4')
    const found = (): Promise<void> =>
      begin(
        async (rig) => {
          await rig.ipvs.apply([
            { kind: 'newServer', server: server('4.4.4.4') },
            { kind: 'newDestination', server: own, destination: { ...gone, weight: 1 } },
          ])
          rig.ipvs.setConnections(own, gone, 1, 0)
          rig.proxier.serviceChanged('default/web', service({ clusterIPs: ['4.4.4.4'] }))
        },
        { syncPeriod: 50, excludeCIDRs: [parseCidr('4.4.4.0/24')!] },
      )

    test('is taken over by the first pass', async () => {
      await found()
      expect(rig.reports[0]).toMatchObject({ well: true })
    })

    test('its virtual server stays while the endpoint drains, which goes with its last connection', async () => {
      await found()
      await until(() => rig.ipvs.dump().includes('10.1.0.1:8080 -m -w 0'))
      expect(lines()).toEqual(['-A -t 4.4.4.4:80 -s rr', '-a -t 4.4.4.4:80 -r 10.1.0.1:8080 -m -w 0'])
      rig.ipvs.setConnections(own, gone, 0, 0)
      await until(() => !rig.ipvs.dump().includes('10.1.0.1'))
      expect(lines()).toEqual(['-A -t 4.4.4.4:80 -s rr'])
    })
  })
})

describe('what is not ours, and what was', () => {
  test.each<{ name: string; family: Family; exclude: string[]; wanted: string[]; found: string[]; stay: string[] }>([
    {
      name: 'IPv6, two ranges',
      family: 'IPv6',
      exclude: ['3000::/64', '4000::/64'],
      wanted: ['1000::1', '2000::2'],
      found: ['1000::1', '2000::2', '3000::3', '4000::4', '5000::5', '6000::6'],
      stay: ['1000::1', '2000::2', '3000::3', '4000::4'],
    },
    {
      name: 'a list of both families guards each in its own',
      family: 'IPv4',
      exclude: ['3000::/64', '3.3.3.0/24'],
      wanted: ['1.1.1.1'],
      found: ['1.1.1.1', '3.3.3.3', '5.5.5.5'],
      stay: ['1.1.1.1', '3.3.3.3'],
    },
    {
      name: 'a list of the other family guards nothing',
      family: 'IPv4',
      exclude: ['3000::/64'],
      wanted: [],
      found: ['3.3.3.3'],
      stay: [],
    },
    { name: 'an empty list guards nothing', family: 'IPv4', exclude: [], wanted: [], found: ['3.3.3.3'], stay: [] },
  ])('excludeCIDRs: $name', async ({ family, exclude, wanted, found, stay }) => {
    const excludeCIDRs = exclude.map((text) => parseCidr(text)!)
    await begin(
      async (rig) => {
        await rig.ipvs.apply(found.map((address) => ({ kind: 'newServer', server: server(address) })))
        for (const [i, address] of wanted.entries())
          rig.proxier.serviceChanged(`default/${i}`, service({ key: `default/${i}`, clusterIPs: [address] }))
      },
      { excludeCIDRs },
      { family },
    )
    expect((await rig.ipvs.listServers()).map(({ address }) => address).sort()).toEqual(stay)
  })

  test('foreign addresses on the device go, but for those in excludeCIDRs', async () => {
    await begin(
      (rig) => {
        const device = rig.dummy.addLink('kube-ipvs0', 'dummy')
        for (const address of ['3.3.3.3', '5.5.5.5', 'fd00::5']) rig.dummy.addAddress(device, address)
        rig.proxier.serviceChanged('default/web', service())
      },
      { excludeCIDRs: [parseCidr('3.3.3.0/24')!] },
    )
    // The other family's are not for this one to judge.
    expect(rig.dummy.dump('kube-ipvs0').match(/(?<=inet6? )[^/]+/g)).toEqual(['10.96.0.10', '3.3.3.3', 'fd00::5'])
  })

  test('two Services with one external IP and port: the first by name has it, then the other', async () => {
    const of = (name: string, last: number) =>
      service({ key: `default/${name}`, clusterIPs: [`10.96.0.${last}`], externalIPs: ['1.2.3.4'] })
    const ends = (name: string, address: string) =>
      slice([endpoint(address)], { key: `default/${name}-1`, service: `default/${name}` })
    const shared = (): string[] => lines().filter((line) => line.includes('1.2.3.4:80 -r'))
    await begin((rig) => {
      for (const [name, last] of [['b', 2] as const, ['a', 1] as const]) {
        rig.proxier.serviceChanged(`default/${name}`, of(name, last))
        rig.proxier.sliceChanged(`default/${name}-1`, ends(name, `10.1.0.${last}`))
      }
    })
    expect(shared()).toEqual(['-a -t 1.2.3.4:80 -r 10.1.0.1:8080 -m -w 1'])
    rig.proxier.serviceChanged('default/a', undefined)
    await rig.next()
    expect(shared()).toEqual(['-a -t 1.2.3.4:80 -r 10.1.0.2:8080 -m -w 1'])
    expect(rig.dummy.dump('kube-ipvs0')).toContain('1.2.3.4/32')
  })

  test('an edit that the kernel refuses leaves the virtual server and its destinations', async () => {
    await begin(
      async (rig) => {
        await rig.ipvs.apply([
          { kind: 'newServer', server: server(clusterIP) },
          { kind: 'newDestination', server: virtual, destination: { address: '10.1.0.1', port: 8080, weight: 1 } },
        ])
        rig.proxier.serviceChanged('default/web', service())
        rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')]))
      },
      { scheduler: 'nosuch' },
    )
    expect([...rig.reports[0]!.refused.keys()]).toEqual(['default/web/TCP'])
    expect(lines()).toEqual(['-A -t 10.96.0.10:80 -s rr', '-a -t 10.96.0.10:80 -r 10.1.0.1:8080 -m -w 1'])
  })
})

describe('a refused restore and a Service that is deleted meanwhile', () => {
  /** The only Service goes while every restore fails: its rules are no longer wanted either. */
  async function deleted(): Promise<void> {
    await begin((rig) => {
      rig.proxier.serviceChanged('default/web', service())
      rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')]))
    })
    rig.iptables.fault = (operation) => (operation === 'restore' ? new Error('xtables lock') : undefined)
    rig.proxier.serviceChanged('default/web', undefined)
    expect((await rig.next()).failures.map(({ layer }) => layer)).toContain('iptables')
  }

  // A layer that breaks stops only growth (ARCHITECTURE.md, Order and holding back): what serves goes at once.
  test.fails('the virtual server and the address stay', async () => {
    await deleted()
    expect(rig.ipvs.dump()).toContain(clusterIP)
    expect(rig.dummy.dump('kube-ipvs0')).toContain(clusterIP)
  })

  test('the virtual server and the address go, entries under the rules that stand stay; the next success cleans', async () => {
    await deleted()
    expect(rig.ipvs.dump()).toBe('')
    expect(rig.dummy.dump('kube-ipvs0')).not.toContain(clusterIP)
    expect(rig.ipset.dump()).toContain('add KUBE-CLUSTER-IP 10.96.0.10,tcp:80')
    rig.iptables.fault = undefined
    await until(() => rig.reports.at(-1)!.well)
    expect(rig.ipset.dump()).not.toContain('add ')
    expect(rig.iptables.rules('nat', 'KUBE-SERVICES').join('\n')).not.toContain('CLUSTER-IP')
  })
})

describe('rules', () => {
  test('chains are declared in kube-proxy’s order', async () => {
    await begin()
    const declared = [...rig.iptables.restores[0]!.matchAll(/^(?:\*(\w+)|:(\S+) )/gm)].map(([, a, b]) => a ?? b)
    expect(declared).toEqual(
      `nat KUBE-SERVICES KUBE-POSTROUTING KUBE-NODE-PORT KUBE-LOAD-BALANCER KUBE-MARK-MASQ
       filter KUBE-FORWARD KUBE-NODE-PORT KUBE-PROXY-FIREWALL KUBE-SOURCE-RANGES-FIREWALL KUBE-IPVS-FILTER
       KUBE-IPVS-OUT-FILTER`.split(/\s+/),
    )
  })

  test.each<[Family, string]>([
    ['IPv4', '127.0.0.0/8'],
    ['IPv6', '::1/128'],
  ])('what comes from loopback returns first, %s', async (family, source) => {
    await begin(
      (rig) => rig.proxier.serviceChanged('default/web', service({ clusterIPs: ['10.96.0.10', 'fd00::a'] })),
      {},
      { family },
    )
    expect(rig.iptables.rules('nat', 'KUBE-SERVICES')[0]).toBe(`-s ${source} -j RETURN`)
  })

  test.each([true, false])('masquerading is the last of KUBE-POSTROUTING, random-fully %s', async (randomFully) => {
    // What the tool can do is asked before the stack is built.
    const before = new Rig()
    Object.assign(before.iptables, { randomFully })
    rig = new Rig({}, before)
    rig.proxier.synced('services')
    rig.proxier.synced('endpointslices')
    rig.start()
    await rig.next()
    const last = rig.iptables.rules('nat', 'KUBE-POSTROUTING').at(-1)!
    expect(last).toMatch(randomFully ? / -j MASQUERADE --random-fully$/ : / -j MASQUERADE$/)
  })

  test('a flushed chain and a deleted device come back', async () => {
    await begin((rig) => rig.proxier.serviceChanged('default/web', service()), { syncPeriod: 50 })
    const rules = [...rig.iptables.rules('nat', 'KUBE-SERVICES')]
    rig.iptables.rules('nat', 'KUBE-SERVICES').length = 0
    await rig.dummy.deleteDevice('kube-ipvs0')
    await until(() => rig.drifts.length >= 2)
    await rig.next()
    expect(rig.iptables.rules('nat', 'KUBE-SERVICES')).toEqual(rules)
    expect(rig.dummy.dump('kube-ipvs0')).toContain('10.96.0.10/32')
    expect(rig.drifts.map(({ kind, state }) => `${kind} ${state}`).sort()).toEqual(['chain changed', 'device missing'])
  })
})

describe('sets become what is wanted, whatever they held', () => {
  test.each<{ name: string; set: string; held: string[]; change: Parameters<typeof service>[0]; want: string[] }>([
    { name: 'add to empty', set: 'CLUSTER-IP', held: [], change: {}, want: ['10.96.0.10,tcp:80'] },
    {
      name: 'nothing to do',
      set: 'CLUSTER-IP',
      held: ['10.96.0.10,tcp:80'],
      change: {},
      want: ['10.96.0.10,tcp:80'],
    },
    {
      name: 'replace',
      set: 'CLUSTER-IP',
      held: ['10.96.0.11,tcp:80', '10.96.0.12,tcp:80'],
      change: {},
      want: ['10.96.0.10,tcp:80'],
    },
    { name: 'delete all', set: 'EXTERNAL-IP', held: ['1.2.3.4,tcp:80', '1.2.3.5,tcp:80'], change: {}, want: [] },
    {
      name: 'UDP becomes TCP',
      set: 'CLUSTER-IP',
      held: ['10.96.0.10,udp:80'],
      change: {},
      want: ['10.96.0.10,tcp:80'],
    },
    {
      name: 'SCTP',
      set: 'CLUSTER-IP',
      held: ['10.96.0.10,sctp:81'],
      change: { ports: [port({ protocol: 'SCTP' })] },
      want: ['10.96.0.10,sctp:80'],
    },
    {
      name: 'ports',
      set: 'NODE-PORT-TCP',
      held: ['1', '65535'],
      change: { ports: [port({ nodePort: 30080 })] },
      want: ['30080'],
    },
    {
      name: 'networks',
      set: 'LOAD-BALANCER-SOURCE-CIDR',
      held: ['1.2.3.4,tcp:80,10.0.0.0/9'],
      change: { loadBalancerIPs: ['1.2.3.4'], sourceRanges: ['10.0.0.0/8'] },
      want: ['1.2.3.4,tcp:80,10.0.0.0/8'],
    },
  ])('$name', async ({ set, held, change, want }) => {
    const name = `KUBE-${set}`
    await begin(async (rig) => {
      const type = set.startsWith('NODE') ? 'bitmap:port' : set.endsWith('CIDR') ? 'hash:ip,port,net' : 'hash:ip,port'
      const spec = { name, type, family: 'IPv4', hashsize: 1024, maxelem: 65536 } as const
      await rig.ipset.create(spec)
      expect(await rig.ipset.add(spec, held)).toEqual(new Map())
      rig.proxier.serviceChanged('default/web', service(change))
    })
    expect((await rig.ipset.list(name))?.entries.toSorted()).toEqual(want)
  })
})

describe('events', () => {
  const api = (
    change: Record<string, unknown> = {},
    labels: Record<string, string> = { 'kubernetes.io/service-name': 'web' },
  ) => ({
    metadata: { namespace: 'default', name: 'web-1', labels },
    addressType: 'IPv4',
    ports: [{ name: '', port: 8080 }],
    endpoints: [{ addresses: ['10.1.0.1'], conditions: { ready: true } }],
    ...change,
  })

  test.each([
    ['of the other family', api({ addressType: 'IPv6', endpoints: [{ addresses: ['fd00::1'] }] })],
    ['without the label of its Service', api({}, {})],
    ['that never existed, and goes', undefined],
  ])('a slice %s asks for no pass', async (_name, object) => {
    await begin((rig) => rig.proxier.serviceChanged('default/web', service()))
    const record = object && translateEndpointSlice(object, 'node1', () => {})
    rig.proxier.sliceChanged('default/web-9', record)
    rig.proxier.serviceChanged('default/next', service({ key: 'default/next', clusterIPs: ['10.96.0.11'] }))
    // The next pass is the other Service's own, and plans nothing else.
    expect(await rig.next()).toMatchObject({ planned: 1, pendingSlices: 0 })
  })

  test('API objects are never changed: all is read from frozen ones', () => {
    const freeze = <T>(value: T): T => {
      if (typeof value === 'object' && value !== null)
        for (const member of Object.values(Object.freeze(value))) freeze(member)
      return value
    }
    const spec = { clusterIP: '10.96.0.10', ports: [{ port: 80, name: '' }], externalIPs: ['1.2.3.5', '1.2.3.4'] }
    const web = translateService(freeze({ metadata: { namespace: 'default', name: 'web' }, spec }), () => {})!
    const first = translateEndpointSlice(freeze(api()), 'node1', () => {})!
    const state = new ClusterState()
    state.setService('default/web', freeze(web))
    state.setSlice('default/web-1', freeze(first))
    const merged = freeze(mergeEndpoints(state.slices('default/web'), web.ports[0]!))
    const choice = chooseEndpoints(web, web.ports[0]!, merged, { nodeName: 'node1', zone: '' })
    expect(choice.cluster?.map(endpointKey)).toEqual(['10.1.0.1:8080'])
  })

  test('endpoints of the cluster are asked for by an external Service, of a headless one there is nothing', () => {
    const metadata = { namespace: 'default', name: 'web' }
    const ports = [{ name: '', port: 80 }]
    const spec = { clusterIP: '10.96.0.10', ports, externalIPs: ['1.2.3.4'], internalTrafficPolicy: 'Local' }
    const web = translateService({ metadata, spec }, () => {})!
    expect(chooseEndpoints(web, web.ports[0]!, [], { nodeName: 'node1', zone: '' }).cluster).toEqual([])
    expect(translateService({ metadata, spec: { ...spec, clusterIP: 'None' } }, () => {})).toBeUndefined()
  })

  test('a UDP slice that is deleted: no destination left, its flows are looked at', async () => {
    const ports = [{ name: '', protocol: 'UDP' as const, port: 8080 }]
    await begin((rig) => {
      rig.proxier.serviceChanged('default/web', service({ ports: [port({ protocol: 'UDP' })] }))
      rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1', 'rsl')], { ports }))
      rig.proxier.sliceChanged('default/web-2', slice([endpoint('10.1.0.2')], { key: 'default/web-2', ports }))
    })
    for (const [name, left] of [
      ['default/web-2', ['-a -u 10.96.0.10:80 -r 10.1.0.1:8080 -m -w 1']],
      ['default/web-1', []],
    ] as const) {
      rig.told.length = 0
      rig.proxier.sliceChanged(name, undefined)
      await rig.next()
      expect(lines().slice(1)).toEqual(left)
      expect(rig.told.some((line) => line.startsWith('flows '))).toBe(true)
    }
  })

  test('endpoints of a Service that is not known are nobody’s health', async () => {
    await begin((rig) => {
      const of = { type: 'LoadBalancer', externalLocal: true, healthCheckNodePort: 30000 } as const
      rig.proxier.serviceChanged('default/web', service(of))
      const other = { key: 'default/other-1', service: 'default/other' }
      rig.proxier.sliceChanged(other.key, slice([endpoint('10.1.0.1', 'rsl')], other))
    })
    expect(rig.told.filter((line) => line.startsWith('health'))).toEqual(['health default/web 30000 0'])
  })

  test('six Services of two ports; one loses a port and the others go: six changes, one port left', () => {
    const state = new ClusterState()
    const two = [port({ name: 'a' }), port({ name: 'b', port: 81 })]
    const types = ['ClusterIP', 'NodePort', 'LoadBalancer', 'LoadBalancer', 'LoadBalancer', 'LoadBalancer'] as const
    const all = types.map((type, i) => service({ key: `ns/${i}`, type, clusterIPs: [`10.96.1.${i}`], ports: two }))
    for (const one of all) expect(state.setService(one.key, one)).toBe(true)
    expect(state.take().size).toBe(12)
    expect(state.setService('ns/0', { ...all[0]!, ports: two.slice(0, 1) })).toBe(true)
    for (const { key } of all.slice(1)) expect(state.setService(key, undefined)).toBe(true)
    expect(state.pendingServices).toBe(6)
    expect([...state.take().values()].filter(({ port }) => port !== undefined)).toHaveLength(1)
    expect(state.setService('ns/0', { ...all[0]!, ports: two.slice(0, 1) })).toBe(false)
  })

  test('of 20,000 Services one change is one plan and one write', async () => {
    const count = 20_000
    await begin((rig) => {
      // A hundred Services an address: the fake device looks through all its addresses for each.
      for (let i = 0; i < count; i++) {
        const at = { clusterIPs: [`10.100.0.${Math.floor(i / 100)}`], ports: [port({ port: 1 + (i % 100) })] }
        rig.proxier.serviceChanged(`default/${i}`, service({ key: `default/${i}`, ...at }))
      }
    })
    expect(await rig.ipvs.listServers()).toHaveLength(count)
    rig.writes()
    const ends = slice([endpoint('10.1.0.1')], { key: 'default/7-1', service: 'default/7' })
    rig.proxier.sliceChanged('default/7-1', ends)
    expect(await rig.next()).toMatchObject({ well: true, planned: 1 })
    expect(rig.writes()).toEqual(['newDestination 10.1.0.1:8080 of virtual server 10.100.0.0:8/TCP'])
  }, 60_000)
})
