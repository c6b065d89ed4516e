import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { KernelError } from '../../../src/lib/errors.ts'
import type { Proxier } from '../../../src/proxier/proxier.ts'
import { endpoint, port, service, slice } from './objects.ts'
import { Rig } from './rig.ts'

let rig: Rig
beforeEach(() => {
  rig = new Rig()
})
afterEach(() => rig.stop())

async function synced(): Promise<void> {
  rig.proxier.serviceChanged('default/web', service())
  rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1'), endpoint('10.1.0.2')]))
  rig.proxier.synced('services')
  rig.proxier.synced('endpointslices')
  rig.start()
  await rig.next()
}

describe('while something fails it tries again at intervals, not without a pause', () => {
  const broken = (): Error => new Error('the netlink socket failed')
  const refused = (call: string): Error | undefined =>
    call === 'newDestination' ? new KernelError(12, 'ENOMEM', call, 'something') : undefined
  test.each<[string, () => void]>([
    ['all of it', () => [rig.ipvs, rig.ipset, rig.dummy, rig.iptables].forEach((fake) => (fake.fault = broken))],
    ['an entry', () => (rig.ipvs.fault = refused)],
  ])('%s', async (_name, fail) => {
    await rig.stop()
    // The first retry comes after a second, before the period has passed.
    rig = new Rig({ syncPeriod: 60_000 })
    fail()
    await synced()
    const first = await rig.next()
    expect(first.reason).not.toBe('change')
    await new Promise((wake) => setTimeout(wake, 100))
    // The retry, and the pass that brings in its look: a loop without a pause makes hundreds.
    expect(rig.reports.length).toBeLessThan(5)
    expect(rig.reports.some(({ well }) => well)).toBe(false)
  })
})

describe('what stands at the start', () => {
  const told = (): void => {
    rig.proxier.serviceChanged('default/web', service())
    rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')]))
    rig.proxier.synced('services')
    rig.proxier.synced('endpointslices')
  }
  const readings = (): number => rig.ipvs.calls.filter((call) => call.startsWith('listAll')).length
  const pause = (): Promise<unknown> => new Promise((wake) => setTimeout(wake, 100))

  test.each([
    ['is read once, while the objects are on their way', 3_600_000, 1],
    ['is read again where they were longer on their way than a period', 50, 2],
  ])('%s', async (_name, syncPeriod, times) => {
    await synced()
    await rig.stop()
    rig.ipvs.calls.length = 0
    rig = new Rig({ syncPeriod }, rig)
    rig.start()
    await pause()
    expect(readings()).toBe(1)
    if (times > 1) await rig.ipvs.apply([{ kind: 'deleteServer', server: (await rig.ipvs.listServers())[0]! }])
    told()
    expect(await rig.next()).toMatchObject({ well: true })
    expect(readings()).toBe(times)
    expect(rig.ipvs.dump()).toContain('-a -t 10.96.0.10:80 -r 10.1.0.1:8080')
  })

  test('is read by the first pass where it could not be read ahead', async () => {
    rig.ipvs.fault = (call) => (call === 'listAll' ? new Error('the netlink socket failed') : undefined)
    rig.start()
    await pause()
    rig.ipvs.fault = () => undefined
    told()
    expect(await rig.next()).toMatchObject({ well: true, failures: [] })
    expect(rig.ipvs.dump()).toContain('-a -t 10.96.0.10:80 -r 10.1.0.1:8080')
  })
})

describe('one pass', () => {
  test.each(['services', 'endpointslices'] as const)('writes nothing while only %s are known', async (kind) => {
    rig.proxier.serviceChanged('default/web', service())
    rig.proxier.synced(kind)
    rig.start()
    await new Promise((wake) => setTimeout(wake, 20))
    expect(rig.reports).toEqual([])
    expect(rig.writes()).toEqual([])
  })

  test('leaves servers, sets and addresses', async () => {
    await synced()
    expect(rig.ipvs.dump().trim()).toBe(
      [
        '-A -t 10.96.0.10:80 -s rr',
        '-a -t 10.96.0.10:80 -r 10.1.0.1:8080 -m -w 1',
        '-a -t 10.96.0.10:80 -r 10.1.0.2:8080 -m -w 1',
      ].join('\n'),
    )
    expect(rig.ipset.dump()).toContain('add KUBE-CLUSTER-IP 10.96.0.10,tcp:80')
    expect(rig.dummy.dump('kube-ipvs0')).toContain('10.96.0.10/32')
    expect(rig.reports[0]).toMatchObject({ well: true, reason: 'period' })
  })

  test.each<{ name: string; change: (proxier: Proxier) => void; writes: RegExp[] }>([
    {
      name: 'an endpoint more is one message',
      change: (proxier) =>
        proxier.sliceChanged(
          'default/web-1',
          slice([endpoint('10.1.0.1'), endpoint('10.1.0.2'), endpoint('10.1.0.3')]),
        ),
      writes: [/newDestination .*10\.1\.0\.3/],
    },
    {
      name: 'an idle endpoint less is its weight and its removal',
      change: (proxier) => proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')])),
      writes: [/setDestination .*10\.1\.0\.2/, /deleteDestination .*10\.1\.0\.2/],
    },
    {
      name: 'another Service is its entries, its server and its address',
      change: (proxier) =>
        proxier.serviceChanged('default/b', service({ key: 'default/b', clusterIPs: ['10.96.0.11'] })),
      writes: [
        /add KUBE-CLUSTER-IP 10\.96\.0\.11,tcp:80/,
        /add KUBE-IPVS-IPS 10\.96\.0\.11/,
        /newServer .*10\.96\.0\.11/,
        /bind .*10\.96\.0\.11/,
      ],
    },
  ])('$name', async ({ change, writes }) => {
    await synced()
    rig.writes()
    change(rig.proxier)
    expect(await rig.next()).toMatchObject({ well: true, reason: 'change', planned: 1 })
    const made = rig.writes()
    expect(made.length, made.join('\n')).toBe(writes.length)
    for (const [i, want] of writes.entries()) expect(made[i]).toMatch(want)
  })

  test('the same objects again are no work', async () => {
    await synced()
    rig.proxier.serviceChanged('default/web', service())
    rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1'), endpoint('10.1.0.2')]))
    await new Promise((wake) => setTimeout(wake, 20))
    expect(rig.reports.length).toBe(1)
  })

  test('a slice that comes back with addresses of the other family is gone for this one', async () => {
    await synced()
    rig.proxier.sliceChanged('default/web-1', slice([endpoint('fd00::1')], { family: 'IPv6' }))
    await rig.next()
    expect(rig.ipvs.dump().trim()).toBe('-A -t 10.96.0.10:80 -s rr')
  })

  test('a Service that goes takes all of its with it', async () => {
    await synced()
    rig.proxier.serviceChanged('default/web', undefined)
    await rig.next()
    expect(rig.ipvs.dump().trim()).toBe('')
    expect(rig.ipset.dump()).not.toContain('add ')
    expect(rig.dummy.dump('kube-ipvs0')).not.toContain('10.96')
  })
})

describe('a fault', () => {
  test('an entry that its set refuses holds back its Service, no other; it is tried again', async () => {
    await synced()
    rig.ipset.fault = (operation, object) =>
      operation === 'add' && object.includes('10.96.0.11') ? new KernelError(4352, 'full', 'add', object) : undefined
    const other = (name: string, address: string): void =>
      rig.proxier.serviceChanged(`default/${name}`, service({ key: `default/${name}`, clusterIPs: [address] }))
    other('full', '10.96.0.11')
    other('fine', '10.96.0.12')
    const report = await rig.next()
    expect([...report.refused.keys()]).toEqual(['default/full/TCP'])
    expect(rig.ipvs.dump()).toContain('10.96.0.12:80')
    expect(rig.ipvs.dump()).not.toContain('10.96.0.11:80')
    expect(rig.dummy.dump('kube-ipvs0')).not.toContain('10.96.0.11')
    rig.ipset.fault = undefined
    expect(await rig.next()).toMatchObject({ well: true, reason: 'retry' })
    expect(rig.ipvs.dump()).toContain('10.96.0.11:80')
    expect(rig.drifts).toEqual([])
  })

  test('a refused restore stops growth above it, not the layers that stand', async () => {
    await synced()
    rig.iptables.fault = (operation) =>
      operation === 'restore' ? new Error('resource temporarily unavailable') : undefined
    // The first node port needs a rule of its own.
    rig.proxier.serviceChanged(
      'default/np',
      service({ key: 'default/np', clusterIPs: ['10.96.0.13'], ports: [port({ nodePort: 30080 })] }),
    )
    const report = await rig.next()
    expect(report.failures.map(({ layer }) => layer)).toContain('iptables')
    expect(rig.ipvs.dump()).toContain('10.96.0.10:80')
    expect(rig.ipvs.dump()).not.toContain('10.96.0.13')
    rig.iptables.fault = undefined
    expect(await rig.next()).toMatchObject({ well: true })
    expect(rig.ipvs.dump()).toContain('192.168.0.1:30080')
  })

  test('a new process that cannot read the node’s addresses leaves the node ports of the one before', async () => {
    await synced()
    const np = service({ key: 'default/np', clusterIPs: ['10.96.0.13'], ports: [port({ nodePort: 30080 })] })
    rig.proxier.serviceChanged(np.key, np)
    await rig.next()
    const restarted = new Rig({}, rig)
    await rig.stop()
    rig = restarted
    // The first look at the device is for its addresses, the second one for the node's own.
    let looks = 0
    rig.dummy.fault = (call) => (call === 'links' && ++looks === 2 ? new Error('dump interrupted') : undefined)
    rig.proxier.serviceChanged(np.key, np)
    rig.proxier.synced('services')
    rig.proxier.synced('endpointslices')
    rig.start()
    expect(await rig.next()).toMatchObject({ well: false, failures: [{ layer: 'node addresses' }] })
    expect(rig.ipvs.dump()).toContain('192.168.0.1:30080')
    expect(await rig.next()).toMatchObject({ well: true, reason: 'retry' })
    expect(rig.ipvs.dump()).toContain('192.168.0.1:30080')
    expect(rig.ipvs.dump()).not.toContain('10.96.0.10')
  })

  test.each<{ name: string; fault: () => void; well: () => void }>([
    {
      name: 'a set cannot be written',
      fault: () => (rig.ipset.fault = () => new Error('socket gone')),
      well: () => (rig.ipset.fault = undefined),
    },
    {
      name: 'writing destinations tears off',
      fault: () => (rig.ipvs.fault = (call) => (call === 'newDestination' ? new Error('socket gone') : undefined)),
      well: () => (rig.ipvs.fault = undefined),
    },
  ])('where $name, old destinations serve until a new one stands', async ({ fault, well }) => {
    await rig.stop()
    rig = new Rig({ syncPeriod: 20 })
    await synced()
    fault()
    rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.8', 'rsl'), endpoint('10.1.0.9', 'rsl')]))
    for (let pass = 0; pass < 3; pass++) await rig.next()
    for (const address of ['10.1.0.1', '10.1.0.2']) expect(rig.ipvs.dump()).toContain(`${address}:8080 -m -w 1`)
    well()
    while (!(await rig.next()).well);
    expect(rig.ipvs.dump().match(/-r \S+ -m -w 1/g)).toEqual(['-r 10.1.0.8:8080 -m -w 1', '-r 10.1.0.9:8080 -m -w 1'])
  })

  test('service addresses that somebody bound with another prefix are bound as they should be', async () => {
    await rig.stop()
    rig = new Rig({ syncPeriod: 20 })
    await synced()
    const index = (await rig.dummy.links()).find(({ name }) => name === 'kube-ipvs0')!.index
    rig.dummy.removeAddress(index, '10.96.0.10')
    rig.dummy.addAddress(index, '10.96.0.10', 16)
    rig.dummy.addAddress(index, '10.99.0.1', 24)
    const from = rig.drifts.length
    await rig.next()
    expect(rig.dummy.dump('kube-ipvs0').match(/inet \S+/g)).toEqual(['inet 10.96.0.10/32'])
    expect(rig.drifts.slice(from).map(({ object, state }) => `${object} ${state}`)).toEqual([
      '10.96.0.10 on kube-ipvs0 missing',
      '10.96.0.10/16 on kube-ipvs0 foreign',
      '10.99.0.1/24 on kube-ipvs0 foreign',
    ])
    expect(await rig.next()).toMatchObject({ well: true, written: new Map() })
  })

  test('what a layer wrote before it broke is not taken for somebody else’s', async () => {
    await synced()
    let writes = 0
    rig.dummy.fault = (operation) => (operation === 'bind' && ++writes === 2 ? new Error('socket gone') : undefined)
    for (const [i, name] of ['a', 'b', 'c'].entries()) {
      rig.proxier.serviceChanged(
        `default/${name}`,
        service({ key: `default/${name}`, clusterIPs: [`10.96.1.${i + 1}`] }),
      )
    }
    expect((await rig.next()).failures.map(({ layer }) => layer)).toEqual(['dummy'])
    expect(await rig.next()).toMatchObject({ well: true, reason: 'retry' })
    for (const last of [1, 2, 3]) expect(rig.dummy.dump('kube-ipvs0')).toContain(`10.96.1.${last}/32`)
    expect(rig.drifts).toEqual([])
  })

  test('a kernel that cannot be read is not written', async () => {
    await synced()
    rig.ipvs.fault = () => new Error('socket gone')
    rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.9')]))
    expect((await rig.next()).well).toBe(false)
    expect((await rig.next()).failures.map(({ layer }) => layer)).toContain('ipvs')
    rig.ipvs.fault = undefined
    expect(await rig.next()).toMatchObject({ well: true })
    expect(rig.ipvs.dump()).toContain('10.1.0.9:8080')
  })
})

describe('draining', () => {
  test('a destination with connections keeps them at weight 0, returns in place, and goes when they end', async () => {
    await rig.stop()
    rig = new Rig({ syncPeriod: 50 })
    await synced()
    const server = { family: 'IPv4', protocol: 'TCP', address: '10.96.0.10', port: 80 } as const
    rig.ipvs.setConnections(server, { address: '10.1.0.2', port: 8080 }, 1, 0)
    const both = slice([endpoint('10.1.0.1'), endpoint('10.1.0.2')])
    const one = slice([endpoint('10.1.0.1')])
    const weight = (): string | undefined => /10\.1\.0\.2:8080 -m -w (\d)/.exec(rig.ipvs.dump())?.[1]
    const until = async (want: string | undefined): Promise<void> => {
      while (weight() !== want) await rig.next()
    }
    rig.proxier.sliceChanged('default/web-1', one)
    await until('0')
    await rig.next()
    expect(weight()).toBe('0')
    rig.proxier.sliceChanged('default/web-1', both)
    await until('1')
    expect(rig.ipvs.calls.filter((call) => /^newDestination.*10\.1\.0\.2/.test(call)).length).toBe(1)
    rig.proxier.sliceChanged('default/web-1', one)
    await until('0')
    rig.ipvs.setConnections(server, { address: '10.1.0.2', port: 8080 }, 0, 0)
    await until(undefined)
  })
})
