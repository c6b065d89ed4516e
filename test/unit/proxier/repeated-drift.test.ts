// Another process that changes what is ours at every look: it is told, and no race is run with it.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createMetrics } from '../../../src/metrics/metrics.ts'
import { observe } from '../../../src/observe.ts'
import { ProxierHealth } from '../../../src/health/healthz.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { endpoint, port, service, slice } from './objects.ts'
import { Rig } from './rig.ts'

let rig: Rig
const period = 30_000

// The clock stands still but for the steps.
beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(async () => {
  vi.useRealTimers()
  await rig.stop()
})

/** To the end of the next look and of the pass that brings it in. */
async function look(): Promise<void> {
  const next = rig.next()
  await vi.advanceTimersByTimeAsync(period)
  await next
}

const server = { family: 'IPv4', protocol: 'TCP', address: '10.96.0.10', port: 80 } as const
const dummyIndex = async (): Promise<number> =>
  (await rig.dummy.links()).find(({ name }) => name === 'kube-ipvs0')!.index

/** Who writes against us, and how it can be seen that we have written. */
const rivals: Record<string, { tamper: () => unknown; isRepaired: () => boolean | Promise<boolean>; object: string }> =
  {
    'a chain is flushed': {
      tamper: () => (rig.iptables.rules('nat', 'KUBE-SERVICES').length = 0),
      isRepaired: () => rig.iptables.rules('nat', 'KUBE-SERVICES').length > 0,
      object: 'chain KUBE-SERVICES of table nat',
    },
    'a jump is deleted': {
      tamper: () => (rig.iptables.rules('nat', 'PREROUTING').length = 0),
      isRepaired: () => rig.iptables.rules('nat', 'PREROUTING').length > 0,
      object: 'jump from nat PREROUTING to KUBE-SERVICES',
    },
    'a set entry is deleted': {
      tamper: async () => rig.ipset.remove((await rig.ipset.list('KUBE-CLUSTER-IP'))!.spec, ['10.96.0.10,tcp:80']),
      isRepaired: () => rig.ipset.dump().includes('add KUBE-CLUSTER-IP 10.96.0.10,tcp:80'),
      object: '10.96.0.10,tcp:80 of set KUBE-CLUSTER-IP',
    },
    'a virtual server is deleted': {
      tamper: async () => {
        const [found] = (await rig.ipvs.listServers()).filter(({ address }) => address === server.address)
        if (found !== undefined) await rig.ipvs.apply([{ kind: 'deleteServer', server: found }])
      },
      isRepaired: () => rig.ipvs.dump().includes('-A -t 10.96.0.10:80'),
      object: '10.96.0.10:80/TCP',
    },
    'an address is deleted': {
      tamper: async () => rig.dummy.removeAddress(await dummyIndex(), '10.96.0.10'),
      isRepaired: () => rig.dummy.dump('kube-ipvs0').includes('10.96.0.10/32'),
      object: '10.96.0.10 on kube-ipvs0',
    },
  }

test.each(Object.entries(rivals))(
  '%s at every look: repairs are spaced and told; what others change, and what is wanted anew, does not wait',
  async (_name, { tamper, isRepaired, object }) => {
    rig = new Rig({ syncPeriod: period })
    rig.proxier.serviceChanged('default/web', service())
    rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')]))
    rig.proxier.synced('services')
    rig.proxier.synced('endpointslices')
    rig.start()
    await rig.next()
    while (rig.heldBack.length === 0) {
      await tamper()
      await look()
    }
    // It was repaired a few times at once, then left for now.
    expect(rig.drifts.map((one) => one.object)).toEqual(Array.from({ length: 5 }, () => object))
    expect(rig.heldBack.map((one) => one.object)).toEqual([object])
    expect(await isRepaired()).toBe(false)
    expect(rig.errors).toEqual([expect.stringContaining('again and again')])
    expect(rig.errors[0]).toContain(object)
    expect(rig.reports.at(-1)).toMatchObject({ well: true })

    // Another Service comes: what it needs is written, and nothing fails over what is left alone.
    const other = service({ key: 'default/np', clusterIPs: ['10.96.0.11'], ports: [port({ nodePort: 30080 })] })
    rig.proxier.serviceChanged(other.key, other)
    while (!rig.ipvs.dump().includes('192.168.0.1:30080')) await rig.next()
    expect(rig.dummy.dump('kube-ipvs0')).toContain('10.96.0.11/32')

    // The other process has ended: in the end it is repaired, and stays so.
    while (!(await isRepaired())) await look()
    const told = rig.drifts.length
    for (let i = 0; i < 3; i++) await look()
    expect(rig.drifts.length).toBe(told)
  },
)

test('repairs put off are counted by what they are of', async () => {
  rig = new Rig()
  const metrics = createMetrics()
  const health = new ProxierHealth(['IPv4'], 60_000, true, systemClock, () => '')
  const events = { report: () => {} }
  const observer = observe({ metrics, health, events, log: silentLog, syncPeriod: 1000, firstSync: () => {} })
  observer.heldBack('IPv4', { layer: 'iptables', kind: 'chain', object: 'chain X of table nat', state: 'changed' })
  expect(await metrics.registry.metrics()).toContain(
    'kube_ipvs_drift_held_back_total{ip_family="IPv4",layer="iptables",kind="chain",state="changed"} 1',
  )
})
