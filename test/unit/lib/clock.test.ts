import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { ProxierHealth } from '../../../src/health/healthz.ts'
import { systemClock, timeOfDay } from '../../../src/lib/clock.ts'
import { createMetrics } from '../../../src/metrics/metrics.ts'
import { Pacer } from '../../../src/proxier/pacer.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const hour = 3_600_000
/** Somebody sets the node's clock: only the time of day jumps. */
const setClock = (by: number): void => void vi.setSystemTime(Date.now() + by)

test.each([
  ['back by an hour', -hour],
  ['forward by a day', 24 * hour],
])('the clock is set %s: passes go on as if nothing had happened', async (_name, by) => {
  const reasons: string[] = []
  const pacer = new Pacer(
    { minInterval: 1000, maxInterval: 30_000, retryInterval: 1000, base: systemClock.now(), clock: systemClock },
    (reason) => {
      reasons.push(reason)
      return Promise.resolve(true)
    },
  )
  const stop = new AbortController()
  const loop = pacer.loop(stop.signal)
  await vi.advanceTimersByTimeAsync(45_000)
  expect(reasons).toEqual(['period', 'period'])
  setClock(by)
  await vi.advanceTimersByTimeAsync(60_000)
  expect(reasons).toEqual(['period', 'period', 'period', 'period'])
  stop.abort()
  await vi.advanceTimersByTimeAsync(60_000)
  await loop
})

test('the clock is set forward by a day: nothing is overdue; what is told has the new time of day', async () => {
  const health = new ProxierHealth(['IPv4'], 60_000, true, systemClock, () => '')
  health.updated('IPv4')
  health.queued('IPv4')
  const metrics = createMetrics()
  const contact = systemClock.now()
  metrics.source.resources = () => [{ resource: 'services', lastContact: contact, failingSince: contact }]
  setClock(24 * hour)
  await vi.advanceTimersByTimeAsync(30_000)
  const { code, body } = health.livez()
  expect(code).toBe(200)
  const { currentTime } = JSON.parse(body) as { currentTime: string }
  expect(Math.abs(Date.parse(currentTime) - Date.now())).toBeLessThan(1000)
  expect(Math.abs(timeOfDay(contact) - (Date.now() - 30_000))).toBeLessThan(1000)
  const text = await metrics.registry.metrics()
  const value = (name: string): number =>
    Number(new RegExp(`^${name}\\{resource="services"\\} (\\S+)$`, 'm').exec(text)![1])
  expect(Math.round(value('kube_ipvs_api_failing_seconds'))).toBe(30)
  expect(Math.abs(value('kube_ipvs_api_last_contact_timestamp_seconds') - (Date.now() / 1000 - 30))).toBeLessThan(1)
})

test('a sleep that is over before it begins ends, and nothing is written past the log', async () => {
  vi.useRealTimers()
  const warnings: string[] = []
  const hear = ({ name }: Error): void => void warnings.push(name)
  process.on('warning', hear)
  await systemClock.sleep(-0.001)
  await new Promise(setImmediate)
  process.off('warning', hear)
  expect(warnings).toEqual([])
})
