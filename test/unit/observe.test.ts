import { describe, expect, test } from 'vitest'
import { ProxierHealth } from '../../src/health/healthz.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { KernelError } from '../../src/lib/errors.ts'
import { silentLog } from '../../src/lib/log.ts'
import { createMetrics } from '../../src/metrics/metrics.ts'
import type { EventFacts } from '../../src/model/events.ts'
import { observe } from '../../src/observe.ts'
import type { PassReport } from '../../src/proxier/proxier.ts'

const report = (change: Partial<PassReport> = {}): PassReport => {
  const made: PassReport = {
    family: 'IPv4',
    reason: 'change',
    started: 0,
    milliseconds: 5,
    planned: 1,
    written: new Map([['ipvs', 1]]),
    refused: new Map(),
    refusedAddresses: 0,
    failures: [],
    well: true,
    waited: undefined,
    triggerTimes: [],
    pendingServices: 0,
    pendingSlices: 0,
    noLocal: { internal: 0, external: 0 },
    ...change,
  }
  return { ...made, well: made.failures.length === 0 && made.refused.size === 0 }
}

function rig() {
  const events: string[] = []
  const first: string[] = []
  const health = new ProxierHealth(['IPv4'], 60_000, true, systemClock, () => '')
  const metrics = createMetrics()
  const observer = observe({
    metrics,
    health,
    events: { report: ({ reason, note }) => void events.push(`${reason}: ${note}`) },
    log: silentLog,
    syncPeriod: 1000,
    firstSync: (family) => void first.push(family),
  })
  return { events, first, health, metrics, observer }
}

const broken = (started: number): PassReport =>
  report({ started, failures: [{ layer: 'iptables', error: new Error('the lock is held') }] })
const refused = (started: number, errno = 4352, name = 'IPSET_ERR_HASH_FULL'): PassReport =>
  report({
    started,
    refused: new Map([['default/web/TCP', new KernelError(errno, name, 'add entry', 'x of set KUBE-CLUSTER-IP')]]),
  })

test('a refused address is an Event of its Service', () => {
  const reported: EventFacts[] = []
  const observer = observe({
    metrics: createMetrics(),
    health: new ProxierHealth(['IPv4'], 60_000, true, systemClock, () => ''),
    events: { report: (facts) => void reported.push(facts) },
    log: silentLog,
    syncPeriod: 1000,
    firstSync: () => {},
  })
  observer.refused('IPv4', 'shop/web', { address: '10.96.0.10', reason: 'the setting has 10.96.0.0/12' })
  expect(reported).toEqual([
    {
      type: 'Warning',
      reason: 'ExternalAddressRefused',
      action: 'Sync',
      note: '10.96.0.10 of Service shop/web is not served on this node: the setting has 10.96.0.0/12',
      regarding: { kind: 'Service', apiVersion: 'v1', namespace: 'shop', name: 'web' },
    },
  ])
})

describe('Events', () => {
  test.each<{ name: string; reports: PassReport[]; events: RegExp[] }>([
    { name: 'all well', reports: [report()], events: [] },
    { name: 'one failure is no news', reports: [broken(0), report({ started: 1000 })], events: [] },
    { name: 'failing for two periods', reports: [broken(0), broken(1000), broken(1999)], events: [] },
    {
      name: 'failing for more: once',
      reports: [broken(0), broken(1000), broken(2000), broken(3000)],
      events: [/^SyncFailing: IPv4 .*more than two periods: the lock is held$/],
    },
    {
      name: 'again after it was well',
      reports: [broken(0), broken(2000), report({ started: 2500 }), broken(3000), broken(5000)],
      events: [/^SyncFailing/, /^SyncFailing/],
    },
    { name: 'a set that is full', reports: [refused(0)], events: [/^SetFull: default\/web\/TCP: .*KUBE-CLUSTER-IP/] },
    { name: 'another refusal', reports: [refused(0, 22, 'EINVAL')], events: [] },
  ])('$name', ({ reports, events }) => {
    const made = rig()
    for (const one of reports) made.observer.passed(one)
    expect(made.events).toHaveLength(events.length)
    for (const [i, want] of events.entries()) expect(made.events[i]).toMatch(want)
  })

  test('a clash names address and owner', () => {
    const { observer, events } = rig()
    observer.clash('IPv4', 'default/web/TCP', '192.168.0.1')
    expect(events).toEqual([
      expect.stringMatching(/^ServiceAddressIsNodeAddress: 192\.168\.0\.1 of default\/web\/TCP /),
    ])
  })
})

test('health and the first sync follow failed layers, not refused entries', () => {
  const { observer, health, first } = rig()
  observer.passed(broken(0))
  expect(health.healthz().code).toBe(503)
  expect(first).toEqual([])
  observer.passed(refused(1))
  expect(health.healthz().code).toBe(200)
  observer.passed(report({ started: 2 }))
  expect(first).toEqual(['IPv4'])
})
