import { describe, expect, test } from 'vitest'
import { beginCopy } from '../../../src/inspect/proc-copy.ts'
import { surveyServers } from '../../../src/inspect/servers.ts'
import { bucketOfServer, sumServers } from '../../../src/ipvs/server-digest.ts'
import type { ObservedServer, VirtualServer } from '../../../src/ipvs/ipvs.ts'
import { DestinationList } from '../../../src/model/destination-list.ts'
import { procFile, procText } from './stand.ts'

const base = { protocol: 'TCP', port: 80, scheduler: 'rr', flags: 0, timeout: 0 } as const
const to = (address: string, weight = 1) => ({ address, port: 8080, weight })
const noConnections = { activeConnections: 0, inactiveConnections: 0, forwarding: 0 }

interface Given {
  readonly server: VirtualServer
  readonly destinations: readonly ReturnType<typeof to>[]
}

const four: Given = { server: { ...base, family: 'IPv4', address: '10.96.0.1' }, destinations: [to('10.0.0.1')] }
const six: Given = {
  server: { ...base, family: 'IPv6', address: 'fd00:96::1' },
  destinations: [to('fd00::1'), to('fd00::2')],
}
const sticky: Given = {
  server: { ...base, family: 'IPv4', protocol: 'UDP', address: '255.96.0.2', flags: 1, timeout: 10800 },
  destinations: [],
}
const all = [four, six, sticky]

/** Buckets that differ between what stands and what is wanted, by family. */
async function differing(standing: readonly Given[], wanted: readonly Given[]) {
  const observed: ObservedServer[] = standing.map(({ server, destinations }) => ({
    server,
    destinations: destinations.map((one) => ({ ...one, ...noConnections })),
  }))
  const surveys = await surveyServers(() => procFile(procText(observed)))
  const families = (['IPv4', 'IPv6'] as const).map(async (family) => {
    const known = wanted
      .filter(({ server }) => server.family === family)
      .map(({ server, destinations }) => ({ server, destinations: DestinationList.of(destinations) }))
    const { servers, destinations, sums } = await sumServers(known)
    const survey = surveys.get(family)!
    return { servers, destinations, found: [...survey.differing(sums)], survey }
  })
  return Promise.all(families)
}

test('what stands as wanted has the same sums, at any order', async () => {
  const [ipv4, ipv6] = await differing(all.toReversed(), all)
  expect([ipv4!.found, ipv6!.found]).toEqual([[], []])
  expect(ipv4).toMatchObject({ servers: 2, destinations: 1, survey: { servers: 2, destinations: 1 } })
  expect(ipv6).toMatchObject({ servers: 1, destinations: 2, survey: { servers: 1, destinations: 2 } })
  expect(ipv4!.survey.schedulers).toEqual(new Map([['rr', 2]]))
})

describe('a bucket differs with', () => {
  const changed = (one: Given, server: Partial<VirtualServer>, destinations = one.destinations): Given => ({
    server: { ...one.server, ...server },
    destinations,
  })
  test.each<[string, Given, Given[]]>([
    ['one that is gone', four, []],
    ['another scheduler', four, [changed(four, { scheduler: 'wrr' })]],
    ['persistence', four, [changed(four, { flags: 1, timeout: 60 })]],
    ['another time of it', sticky, [changed(sticky, { timeout: 60 })]],
    ['another weight', four, [changed(four, {}, [to('10.0.0.1', 2)])]],
    ['a destination more', four, [changed(four, {}, [to('10.0.0.1'), to('10.0.0.2')])]],
    ['another destination', six, [changed(six, {}, [to('fd00::1'), to('fd00::3')])]],
    ['another port', six, [changed(six, {}, [to('fd00::1'), { ...to('fd00::2'), port: 1 }])]],
  ])('%s', async (_name, one, instead) => {
    const standing = all.flatMap((given) => (given === one ? instead : [given]))
    const found = (await differing(standing, all)).flatMap((family) => family.found)
    expect(found).toEqual([bucketOfServer(one.server)])
  })
})

test('a destination at weight 0 marks its bucket', async () => {
  const draining = { ...four, destinations: [to('10.0.0.1', 0)] }
  const [ipv4, ipv6] = await differing([draining, six], [draining, six])
  expect([...ipv4!.survey.withWeightZero]).toEqual([bucketOfServer(four.server)])
  expect([ipv4!.found, ipv6!.found, [...ipv6!.survey.withWeightZero]]).toEqual([[], [], []])
})

describe('a copy that is being made', () => {
  const standing = Array.from({ length: 1500 }, (_, i): ObservedServer => ({
    server: { ...four.server, address: `10.96.${i >> 8}.${i & 255}` },
    destinations: [{ ...to('10.0.0.1'), ...noConnections }],
  }))
  const [first, second] = [procText(standing).slice(0, 70_001), procText(standing).slice(70_001)]
  const write = 'process.stdout.write(process.argv[1]); setTimeout(() => process.stdout.write(process.argv[2]), 200)'
  const fromKernel = () => procFile(procText(standing.slice(0, 7)))

  test.each([
    { name: 'is read as it comes', script: write, servers: 1500 },
    {
      name: 'that fails in the midst is left for the kernel’s own file',
      script: `${write}; process.exitCode = 1`,
      servers: 7,
    },
  ])('$name', async ({ script, servers }) => {
    const copy = beginCopy(process.execPath, ['-e', script, first, second])
    expect((await surveyServers(fromKernel, copy)).get('IPv4')!.servers).toBe(servers)
  })

  test('that cannot be begun is left for the kernel’s own file', async () => {
    const copy = beginCopy('/nowhere/cat', [])
    expect((await surveyServers(fromKernel, copy)).get('IPv4')!.servers).toBe(7)
  })
})
