import { describe, expect, it } from 'vitest'
import { FlowCleaner } from '../../../src/conntrack/cleaner.ts'
import { FakeFlows, type NewFlow } from '../../../src/conntrack/fake-flows.ts'
import type { Flows, UdpFlow } from '../../../src/conntrack/flows.ts'
import { KernelFlows } from '../../../src/conntrack/kernel-flows.ts'
import { KernelError } from '../../../src/lib/errors.ts'
import { silentLog, type Log } from '../../../src/lib/log.ts'
import type { Family } from '../../../src/model/address.ts'
import { Connection } from '../../../src/netlink/connection.ts'
import { row } from '../../contract/conntrack.ts'
import { fakeKernel, message, result } from '../netlink/fake-socket.ts'
import { entries } from './kernel-bytes.ts'

const nodeAddresses = new Set(['192.0.2.1', '127.0.0.1', 'fd00::1'])

interface Bench {
  readonly flows: FakeFlows
  readonly cleaner: FlowCleaner
}

function bench(family: Family, lines: readonly (string | NewFlow)[], log: Log = silentLog): Bench {
  const flows = new FakeFlows()
  for (const line of lines) flows.add(typeof line === 'string' ? row(line) : line)
  const isNodeAddress = (address: string): boolean => nodeAddresses.has(address)
  return { flows, cleaner: new FlowCleaner({ family, flows, log, isNodeAddress }) }
}

/** Lines of the table that are left, as they were given. */
function left(flows: FakeFlows): string[] {
  return flows.dump().map((line) => line.replace('UDP ', '').replace(' to ', ' ').replace(', answered by ', ' '))
}

const serving = '10.0.1.1:8080'
const notServing = '10.0.1.2:8080'
const deleted = '10.0.1.3:8080'
const vips = ['10.96.0.10', '203.0.113.7', '198.51.100.9'] // cluster IP, load balancer, external IP

describe('of many flows', () => {
  const all: NewFlow[] = []
  let sourcePort = 1000
  for (const protocol of ['UDP', 'TCP', 'SCTP'] as const) {
    for (const replySource of [serving, notServing, deleted]) {
      for (const destination of [
        ...vips.flatMap((vip) => [`${vip}:53`, `${vip}:54`]),
        '192.0.2.1:30053',
        '192.0.2.1:30054',
      ]) {
        all.push(row(`10.0.0.9:${sourcePort++} ${destination} ${replySource}`, { protocol }))
      }
    }
  }
  const isService = ({ destinationPort: port }: NewFlow): boolean => port === 53 || port === 30053
  const stale = all.filter((flow) => flow.protocol === 'UDP' && isService(flow) && flow.replySource !== '10.0.1.1')

  it('only those of UDP, to the service, of an endpoint that does not serve are removed', async () => {
    const { flows, cleaner } = bench('IPv4', all)
    for (const frontend of [...vips.map((vip) => `${vip}:53`), ':30053']) cleaner.touch(frontend, new Set([serving]))
    expect(cleaner.pending).toBe(4)
    const before = flows.dump().length
    expect([stale.length, before]).toEqual([8, 72])
    expect(await cleaner.run()).toEqual({ removed: 8 })
    const expected = new FakeFlows()
    for (const flow of all) if (!stale.includes(flow)) expected.add(flow)
    expect(flows.dump()).toEqual(expected.dump())
    expect(before - flows.dump().length).toBe(8)
    expect(flows.calls.filter((call) => call.startsWith('select'))).toEqual(['select IPv4'])
    expect(cleaner.pending).toBe(0)
  })
})

interface Case {
  readonly what: string
  readonly family?: Family
  readonly frontend: string
  readonly backends: readonly string[] | undefined
  readonly stale?: readonly string[]
  readonly kept?: readonly string[]
}

const cases: readonly Case[] = [
  {
    what: 'an endpoint at its former port',
    frontend: '10.96.0.10:53',
    backends: ['10.0.1.1:9090'],
    stale: ['10.0.0.9:1 10.96.0.10:53 10.0.1.1:8080'],
    kept: ['10.0.0.9:2 10.96.0.10:53 10.0.1.1:9090'],
  },
  {
    what: 'a flow that was not translated, to the service port',
    frontend: '10.96.0.10:53',
    backends: [serving],
    stale: ['10.0.0.9:1 10.96.0.10:53 10.96.0.10:53'],
    kept: ['10.0.0.9:2 10.96.0.10:54 10.96.0.10:54', '10.0.0.9:3 10.96.0.11:53 10.96.0.11:53'],
  },
  {
    what: 'a service without endpoints',
    frontend: '10.96.0.10:53',
    backends: [],
    kept: [`10.0.0.9:1 10.96.0.10:53 ${deleted}`, '10.0.0.9:2 10.96.0.10:53 10.96.0.10:53'],
  },
  {
    what: 'a service port that is gone',
    frontend: '10.96.0.10:53',
    backends: undefined,
    stale: [`10.0.0.9:1 10.96.0.10:53 ${serving}`, '10.0.0.9:2 10.96.0.10:53 10.96.0.10:53'],
    kept: [`10.0.0.9:3 10.96.0.10:54 ${serving}`, `10.0.0.9:4 10.96.0.11:53 ${serving}`],
  },
  {
    what: 'a node port',
    frontend: ':30053',
    backends: [serving],
    stale: [
      `10.0.0.9:1 192.0.2.1:30053 ${deleted}`,
      `10.0.0.9:2 127.0.0.1:30053 ${deleted}`,
      '10.0.0.9:3 192.0.2.1:30053 192.0.2.1:30053',
    ],
    kept: [
      `10.0.0.9:4 192.0.2.1:30053 ${serving}`,
      // Somebody else's port of that number.
      '10.0.0.9:5 192.0.2.99:30053 192.0.2.99:30053',
      `10.0.0.9:6 192.0.2.1:53 ${deleted}`,
    ],
  },
  {
    what: 'a node port that is gone',
    frontend: ':30053',
    backends: undefined,
    stale: [`10.0.0.9:1 192.0.2.1:30053 ${serving}`],
    kept: ['10.0.0.9:2 192.0.2.99:30053 192.0.2.99:30053', `10.0.0.9:3 192.0.2.1:30054 ${serving}`],
  },
  {
    what: 'a service over IPv6',
    family: 'IPv6',
    frontend: '[fd00:96::10]:53',
    backends: ['[fd00:1::1]:8080'],
    stale: [
      '[fd00:2::9]:1 [fd00:96::10]:53 [fd00:1::2]:8080',
      '[fd00:2::9]:2 [fd00:96::10]:53 [fd00:1::1]:80',
      '[fd00:2::9]:3 [fd00:96::10]:53 [fd00:96::10]:53',
    ],
    kept: ['[fd00:2::9]:4 [fd00:96::10]:53 [fd00:1::1]:8080', '[fd00:2::9]:5 [fd00:96::1]:53 [fd00:1::2]:8080'],
  },
  {
    what: 'a node port over IPv6',
    family: 'IPv6',
    frontend: ':30053',
    backends: ['[fd00:1::1]:8080'],
    stale: ['[fd00:2::9]:1 [fd00::1]:30053 [fd00:1::2]:8080'],
    kept: ['[fd00:2::9]:2 [fd00::2]:30053 [fd00:1::2]:8080', '10.0.0.9:1 192.0.2.1:30053 10.0.1.1:8080'],
  },
  {
    what: 'a service on the port of another, each by its own endpoints',
    frontend: '10.96.0.10:53',
    backends: [serving],
    stale: [`10.0.0.9:1 10.96.0.10:53 ${deleted}`],
    kept: [`10.0.0.9:2 10.96.0.11:53 ${deleted}`, `10.0.0.9:3 192.0.2.1:53 ${deleted}`],
  },
]

describe('a flow is stale or not', () => {
  it.each(cases)('$what', async ({ family = 'IPv4', frontend, backends, stale = [], kept = [] }) => {
    const { flows, cleaner } = bench(family, [...stale, ...kept])
    cleaner.touch(frontend, backends === undefined ? undefined : new Set(backends))
    expect(await cleaner.run()).toEqual({ removed: stale.length })
    expect(left(flows).toSorted()).toEqual(kept.toSorted())
    expect(cleaner.pending).toBe(0)
  })

  it('by the address where the port is a node port as well', async () => {
    const { flows, cleaner } = bench('IPv4', [
      `10.0.0.9:1 192.0.2.1:53 ${serving}`,
      `10.0.0.9:2 127.0.0.1:53 ${serving}`,
      `10.0.0.9:3 127.0.0.1:53 ${notServing}`,
    ])
    cleaner.touch('192.0.2.1:53', new Set([serving]))
    cleaner.touch(':53', new Set([notServing]))
    expect(await cleaner.run()).toEqual({ removed: 1 })
    expect(left(flows)).toEqual([`10.0.0.9:1 192.0.2.1:53 ${serving}`, `10.0.0.9:3 127.0.0.1:53 ${notServing}`])
  })
})

const flow = `10.0.0.9:1 10.96.0.10:53 ${notServing}`

describe('pending', () => {
  it('is nothing: the table is not looked at', async () => {
    const { flows, cleaner } = bench('IPv4', [flow])
    expect(await cleaner.run()).toEqual({ removed: 0 })
    cleaner.touch('10.96.0.10:53', new Set())
    expect(cleaner.pending).toBe(0)
    expect(await cleaner.run()).toEqual({ removed: 0 })
    expect(flows.calls).toEqual([])
  })

  const replacements: [string, readonly string[] | undefined, number][] = [
    ['other endpoints', [notServing], 0],
    ['no endpoints', [], 0],
    ['the end of the service port', undefined, 1],
  ]
  it.each(replacements)('a later touch counts alone: %s', async (_what, backends, removed) => {
    const { cleaner } = bench('IPv4', [flow])
    cleaner.touch('10.96.0.10:53', new Set([serving]))
    cleaner.touch('10.96.0.10:53', backends === undefined ? undefined : new Set(backends))
    expect(await cleaner.run()).toEqual({ removed })
  })

  it('stays when the table could not be read', async () => {
    const { flows, cleaner } = bench('IPv4', [flow])
    cleaner.touch('10.96.0.10:53', new Set([serving]))
    const failed = new Error('socket gone')
    flows.fault = () => failed
    expect(await cleaner.run()).toEqual({ removed: 0, failed })
    expect(cleaner.pending).toBe(1)
    flows.fault = undefined
    expect(await cleaner.run()).toEqual({ removed: 1 })
    expect(cleaner.pending).toBe(0)
  })

  it('stays when a flow could not be removed; the others go', async () => {
    const { flows, cleaner } = bench(
      'IPv4',
      [1, 2, 3].map((port) => flow.replace(':1 ', `:${port} `)),
    )
    cleaner.touch('10.96.0.10:53', new Set([serving]))
    const failed = new KernelError(16, 'EBUSY', 'delete', 'UDP flow')
    flows.fault = (_operation, object) => (object.startsWith('10.0.0.9:2 ') ? failed : undefined)
    expect(await cleaner.run()).toEqual({ removed: 2, failed })
    expect([cleaner.pending, flows.dump().length]).toEqual([1, 1])
    flows.fault = undefined
    expect(await cleaner.run()).toEqual({ removed: 1 })
    expect(cleaner.pending).toBe(0)
  })

  it('keeps what is touched during a run', async () => {
    const { flows, cleaner } = bench('IPv4', [flow, flow.replace('0.10:53', '0.11:53')])
    cleaner.touch('10.96.0.10:53', new Set([notServing]))
    flows.fault = (operation) => {
      flows.fault = undefined
      if (operation === 'select') cleaner.touch('10.96.0.10:53', new Set([serving]))
      cleaner.touch('10.96.0.11:53', new Set([serving]))
      return undefined
    }
    expect(await cleaner.run()).toEqual({ removed: 0 })
    expect(cleaner.pending).toBe(2)
    expect(await cleaner.run()).toEqual({ removed: 2 })
    expect(cleaner.pending).toBe(0)
  })

  it('is done once by runs that are called together', async () => {
    const { flows, cleaner } = bench('IPv4', [flow])
    cleaner.touch('10.96.0.10:53', new Set([serving]))
    expect(await Promise.all([cleaner.run(), cleaner.run()])).toEqual([{ removed: 1 }, { removed: 0 }])
    expect(flows.calls.filter((call) => call.startsWith('select'))).toHaveLength(1)
  })

  it.each(['10.96.0.10', 'fd00::10:53', '[fd00::10]:53', '10.96.0.10:53/UDP', ''])('refuses "%s"', (frontend) => {
    const { cleaner } = bench('IPv4', [])
    expect(() => cleaner.touch(frontend, undefined)).toThrow(`"${frontend}" is no frontend of IPv4`)
    expect(cleaner.pending).toBe(0)
  })
})

it('logs counts, and each flow where much is told', async () => {
  const lines: unknown[] = []
  const { cleaner } = bench('IPv4', [flow], {
    ...silentLog,
    v: (level, text, fields) => lines.push([level, text, fields]),
  })
  cleaner.touch('10.96.0.10:53', new Set([serving]))
  await cleaner.run()
  cleaner.touch('10.96.0.10:53', new Set([serving]))
  await cleaner.run()
  expect(lines).toEqual([
    [1, 'Stale UDP flows removed', { family: 'IPv4', removed: 1, frontends: 1 }],
    [
      4,
      'Stale UDP flow removed',
      { family: 'IPv4', flow: flow.replace(' ', ' to ').replace(/ (?=10.0.1)/, ', answered by ') },
    ],
    [2, 'No stale UDP flows', { family: 'IPv4', frontends: 1 }],
  ])
})

describe('a large table', () => {
  const count = 200_000

  it('is gone through once, and texts are made of the flows at touched ports alone', async () => {
    const calls = { select: 0, remove: 0, wanted: 0, destination: 0, replySource: 0, isNodeAddress: 0 }
    /** Flow n goes to 10.96.n.n at one of 2,000 ports. */
    class CountedFlow implements UdpFlow {
      readonly source = '10.0.0.9'
      readonly sourcePort = 1
      readonly zone = 0
      readonly id: number
      readonly replySourcePort = 53
      constructor(id: number) {
        this.id = id
      }
      get destinationPort(): number {
        return this.id % 2000
      }
      get destination(): string {
        calls.destination++
        return `10.96.0.${this.id % 200}`
      }
      get replySource(): string {
        calls.replySource++
        return '10.0.1.1'
      }
    }
    const flows: Flows = {
      select: async (_family, wanted) => {
        calls.select++
        const found: UdpFlow[] = []
        for (let id = 0; id < count; id++) {
          const one = new CountedFlow(id)
          calls.wanted++
          if (wanted(one)) found.push(one)
        }
        return found
      },
      remove: async () => {
        calls.remove++
        return new Map()
      },
      close: () => {},
    }
    const isNodeAddress = (): boolean => {
      calls.isNodeAddress++
      return false
    }
    const cleaner = new FlowCleaner({ family: 'IPv4', flows, log: silentLog, isNodeAddress })
    // 5,000 frontends at 20 ports and 10 node ports; 100 flows are at each port, all to one address.
    for (let port = 0; port < 20; port++) {
      for (let host = 0; host < 250; host++) cleaner.touch(`10.96.0.${host}:${port}`, new Set(['10.0.1.2:53']))
    }
    for (let port = 100; port < 110; port++) cleaner.touch(`:${port}`, new Set(['10.0.1.2:53']))
    expect(cleaner.pending).toBe(5010)
    expect(await cleaner.run()).toEqual({ removed: 2000 })
    expect(calls).toEqual({
      select: 1,
      remove: 1,
      wanted: count,
      destination: 3000 + 2000, // to judge, and to tell
      replySource: 2000 + 2000,
      isNodeAddress: 1000,
    })
  })

  it('is asked for by one message', async () => {
    const fake = fakeKernel(([one]) => {
      const part = message(0x100, one!.sequence, Buffer.from(entries.nated, 'hex'), 2)
      const datagram = Buffer.concat(Array.from({ length: 100 }, () => part))
      return [...Array.from({ length: count / 100 }, () => datagram), result(3, one!.sequence, 0, 2)]
    })
    const flows = new KernelFlows(() => new Connection(fake.open))
    const cleaner = new FlowCleaner({ family: 'IPv4', flows, log: silentLog, isNodeAddress: () => false })
    for (let port = 1; port <= 1000; port++) cleaner.touch(`10.96.0.11:${port}`, undefined)
    expect(await cleaner.run()).toEqual({ removed: 0 })
    expect(fake.sends).toHaveLength(1)
    flows.close()
  })
})
