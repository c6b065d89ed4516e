import { afterEach, describe, expect, test } from 'vitest'
import type { ServerId } from '../../../src/ipvs/ipvs.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { endpoint, port, service, slice } from './objects.ts'
import { Rig } from './rig.ts'

// What scrapes ask of a family's stack.

let rig: Rig | undefined
afterEach(async () => {
  await rig?.stop()
  rig = undefined
})

async function synced(change: ConstructorParameters<typeof Rig>[0] = {}): Promise<Rig> {
  const made = new Rig(change)
  rig = made
  made.proxier.serviceChanged('default/web', service({ externalIPs: ['203.0.113.1'] }))
  made.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1'), endpoint('10.1.0.2')]))
  made.proxier.synced('services')
  made.proxier.synced('endpointslices')
  made.start()
  await made.next()
  return made
}

const server: ServerId = { family: 'IPv4', protocol: 'TCP', address: '10.96.0.10', port: 80 }
const gone = (): Error => new Error('the netlink socket failed')
const counts = ({ stack }: Rig): string[] =>
  [...stack.figures.counts()].map(({ layer, kind, wanted, present }) => `${layer} ${kind} ${wanted} ${present}`)

test('counts are of what is wanted and of what stands', async () => {
  const made = await synced()
  expect(counts(made)).toEqual([
    'ipset set 17 17',
    // Cluster IP, external IP, and both addresses.
    'ipset set entry 4 4',
    'iptables chain 11 11',
    'ipvs virtual server 2 2',
    'ipvs destination 4 4',
    'dummy address 2 2',
  ])
  made.ipvs.setConnections(server, { address: '10.1.0.2', port: 8080 }, 3, 1)
  made.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')]))
  await made.next()
  expect(made.stack.figures.draining).toBe(1)
  expect(counts(made)).toContain('ipvs destination 2 3')
})

test('the longest drain is counted from when it was first seen, and no more once it has ended or is undone', async () => {
  const made = await synced({ syncPeriod: 50 })
  const longest = (): number => made.stack.figures.longestDrain
  const until = async (met: () => boolean): Promise<void> => {
    while (!met()) await made.next()
  }
  expect(longest()).toBe(0)
  const both = slice([endpoint('10.1.0.1'), endpoint('10.1.0.2')])
  const one = slice([endpoint('10.1.0.1')])
  made.ipvs.setConnections(server, { address: '10.1.0.2', port: 8080 }, 3, 1)
  const began = systemClock.now()
  made.proxier.sliceChanged('default/web-1', one)
  await until(() => longest() > 0)
  const first = longest()
  // It goes on over looks at what drains.
  await made.next()
  await made.next()
  expect(longest()).toBeGreaterThan(first)
  expect(longest()).toBeLessThanOrEqual(systemClock.now() - began)
  made.proxier.sliceChanged('default/web-1', both)
  await until(() => longest() === 0)
  made.proxier.sliceChanged('default/web-1', one)
  await until(() => longest() > 0)
  made.ipvs.setConnections(server, { address: '10.1.0.2', port: 8080 }, 0, 0)
  await until(() => longest() === 0)
  expect(made.stack.figures.draining).toBe(0)
})

test('counts show what could not be written', async () => {
  const made = await synced()
  made.ipset.fault = gone
  made.proxier.serviceChanged('default/web', service({ ports: [port({ port: 81 })] }))
  await made.next()
  expect(counts(made)).toEqual(expect.arrayContaining(['ipset set entry 2 4', 'ipvs virtual server 1 0']))
})

test('connections and the time of the last look come with looks', async () => {
  const before = Date.now()
  const made = await synced({ syncPeriod: 50 })
  made.ipvs.setConnections(server, { address: '10.1.0.1', port: 8080 }, 5, 2)
  const { figures } = made.stack
  await expect.poll(() => figures.connections, { timeout: 10_000 }).toEqual({ active: 5, inactive: 2 })
  await expect.poll(() => figures.lastLook, { timeout: 10_000 }).toBeDefined()
  expect(figures.lastLook!.endedAt).toBeGreaterThanOrEqual(before - 1)
  expect(figures.lastLook!.took).toBeGreaterThanOrEqual(0)
})

describe('the wait of a change', () => {
  test('is not that of the first list, and is that of a change afterwards', async () => {
    const made = await synced()
    expect(made.reports.at(-1)!.waited).toBeUndefined()
    made.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')]))
    expect((await made.next()).waited).toBeGreaterThan(0)
  })

  test('goes on over a pass that failed, from its beginning', async () => {
    const made = await synced({ syncPeriod: 60_000 })
    made.ipset.fault = gone
    made.proxier.serviceChanged('default/web', service({ ports: [port({ port: 81 })] }))
    expect((await made.next()).waited).toBeUndefined()
    const failed = performance.now()
    made.ipset.fault = undefined
    let waited: number | undefined
    while (waited === undefined) ({ waited } = await made.next())
    // The retry came later than the failed pass, and the change was there before that.
    expect(waited).toBeGreaterThan(performance.now() - failed - 1)
  })
})
