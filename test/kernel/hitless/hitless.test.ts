import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { Machine, type Mode, type Seen, type Target } from './machine.ts'

/** scripts/verify-long.sh runs it whole; a share of it belongs to every run of the checks. */
const whole = process.env.HITLESS === 'whole'
const times = whole ? { restarts: 20, kills: 20, changes: 5 } : { restarts: 1, kills: 1, changes: 1 }
const load = whole ? { long: 200, rate: 200 } : { long: 40, rate: 30 }
/** Milliseconds of load before, between and after what happens to the daemon. */
const calm = whole ? 1500 : 800

/** None changes the scheduler: while the kernel does that, it refuses new connections (docs/packet-path.md). */
const configurations = [
  'ipvs: { syncPeriod: 10s }',
  'ipvs: { tcpFinTimeout: 30s }',
  'iptables: { masqueradeAll: true }',
  'ipvs: { scheduler: rr, minSyncPeriod: 1s }',
  '',
]

/** Case of test/golden, and what its clients ask. */
const states: readonly [string, string, readonly number[], readonly Target[]][] = [
  [
    'cluster IP and node port, TCP and UDP',
    '06-nodeport-udp-sctp',
    [5353],
    [
      { protocol: 'TCP', address: '10.96.10.6', port: 53 },
      { protocol: 'UDP', address: '10.96.10.6', port: 53 },
      { protocol: 'TCP', address: '10.0.2.15', port: 30053 },
      { protocol: 'UDP', address: '10.0.2.15', port: 30053 },
    ],
  ],
  [
    'load balancer addresses as well',
    '08-lb-plain',
    [8080, 5000],
    [
      { protocol: 'TCP', address: '203.0.113.11', port: 80 },
      { protocol: 'UDP', address: '203.0.113.11', port: 5000 },
      { protocol: 'TCP', address: '10.96.10.8', port: 80 },
      { protocol: 'UDP', address: '10.0.2.15', port: 30500 },
    ],
  ],
]

let machine: Machine | undefined
afterEach(async () => {
  await machine?.destroy()
  machine = undefined
})

/** Puts the machine under load, lets something happen to it, and holds that no client has noticed. */
async function underLoad(
  what: string,
  targets: readonly Target[],
  act: (machine: Machine) => Promise<void>,
): Promise<void> {
  const under = machine!
  await under.load(targets, load.long, load.rate)
  // All that stay are there, still through what kube-proxy left.
  await expect
    .poll(
      async () => {
        const { opened, failures } = await under.report()
        return failures[0] ?? opened
      },
      { timeout: 60_000, interval: 500 },
    )
    .toBe(load.long)
  await act(under)

  const seen: Seen = await under.endLoad()
  console.log(`${what}: ${seen.opened} connections that stay, ${seen.exchanged} exchanges; ${seen.answered} short ones`)
  // By kind at once: the next state takes minutes.
  const kinds = Map.groupBy(seen.failures, (line) => line.slice(line.indexOf(' ') + 1).replace(/ after \d+ .*/, ''))
  for (const [kind, lines] of kinds) {
    const first = lines[0]!.split(' ')[0]!
    console.log(`${lines.length} times ${kind}, first ${first}`)
    // One without an answer failed that much later.
    for (const line of under.saidAround(first, 11_000)) console.log(`    ${line}`)
  }
  expect(seen.failures).toEqual([])
  expect(seen.answered).toBe(seen.asked)
  expect(seen.asked).toBeGreaterThan(5 * load.rate)
}

test.for(whole ? states : states.slice(0, 1))(
  'no connection fails: %s',
  { timeout: 3_600_000 },
  async ([, golden, ports, targets]) => {
    machine = await Machine.withStateOf(golden, ports)
    await underLoad(golden, targets, async (under) => {
      await under.startDaemon()
      await sleep(calm)
      for (let i = 0; i < times.restarts + times.kills; i++) {
        const code = await under.daemon!.stop(i < times.restarts ? 'SIGTERM' : 'SIGKILL')
        expect(code).toBe(i < times.restarts ? 0 : 'SIGKILL')
        await sleep(calm)
        await under.startDaemon()
        await sleep(calm)
      }
      for (const lines of configurations.slice(0, times.changes)) {
        const said = under.daemon!.lines.length
        await under.configure(lines)
        await under.daemon!.said('In sync for the first time', { family: 'IPv4' }, said)
        await sleep(2 * calm)
      }
      // The way back: what stands without us serves on.
      await under.daemon!.stop()
      await sleep(2 * calm)
    })
  },
)

// What nftables mode leaves works on beside ours until it is removed; iptables mode has a chain that both need.
const otherModes: readonly Mode[] = whole ? ['iptables', 'nftables'] : ['iptables']

test.for(otherModes)('no connection fails when it takes over from %s mode', async (mode) => {
  const [, golden, ports, targets] = states[0]!
  machine = await Machine.withStateOf(golden, ports, mode)
  await underLoad(`${mode} mode`, targets, async (under) => {
    await sleep(calm)
    await under.startDaemon()
    await under.daemon!.said('Removed what another mode of kube-proxy left', { family: 'IPv4' })
    await sleep(2 * calm)
  })
})
