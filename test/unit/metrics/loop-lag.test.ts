import { Registry } from 'prom-client'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { LoopLag, loopLagMetrics } from '../../../src/metrics/loop-lag.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(() => {
  vi.restoreAllMocks()
  vi.useRealTimers()
})

/** How often the loop was looked at in so many milliseconds. */
function looks(lag: LoopLag, milliseconds: number): number {
  const before = lag.histogram.count
  vi.advanceTimersByTime(milliseconds)
  return lag.histogram.count - before
}

/** The event loop is kept from its timers: the clock goes on, and they come after it. */
function block(milliseconds: number): void {
  const now = performance.now.bind(performance)
  vi.spyOn(performance, 'now').mockImplementation(() => now() + milliseconds)
}

test('while there is work the loop is looked at every 20 ms, at rest once a second', () => {
  let busy = 0
  const lag = new LoopLag(() => busy)
  expect(looks(lag, 400)).toBe(20)
  vi.advanceTimersByTime(2000)
  expect(looks(lag, 10_000)).toBe(10)
  lag.working()
  expect(looks(lag, 400)).toBe(20)
  lag.working()
  expect(looks(lag, 400)).toBe(20)
  vi.advanceTimersByTime(2000)
  // Nobody has told of it.
  busy = 0.5
  vi.advanceTimersByTime(1000)
  expect(looks(lag, 5000)).toBe(250)
})

test.each([
  ['amid work', (lag: LoopLag) => lag.working()],
  [
    'as work begins after a rest',
    (lag: LoopLag) => {
      vi.advanceTimersByTime(3000)
      lag.working()
    },
  ],
])('a block %s is seen whole', (_, begin) => {
  const lag = new LoopLag(() => 0)
  begin(lag)
  lag.histogram.reset()
  block(300)
  vi.advanceTimersByTime(20)
  expect(lag.histogram.max / 1e6).toBeGreaterThanOrEqual(300)
  expect(lag.histogram.max / 1e6).toBeLessThan(325)
})

test('what was seen is told once, and what was told last stays where nothing was seen since', async () => {
  vi.useRealTimers()
  const registry = new Registry()
  const lag = loopLagMetrics(registry)
  lag.histogram.record(30_000_000)
  lag.histogram.record(70_000_000)
  const max = async (): Promise<number> =>
    Number(/^nodejs_eventloop_lag_max_seconds (\S+)$/m.exec(await registry.metrics())![1])
  expect(await max()).toBeCloseTo(0.07, 3)
  expect(lag.histogram.count).toBe(0)
  expect(await max()).toBeCloseTo(0.07, 3)
  lag.histogram.record(40_000_000)
  expect(await max()).toBeCloseTo(0.04, 3)
  // A look between two families of one scrape.
  lag.histogram.record(90_000_000)
  await registry.getSingleMetricAsString('nodejs_eventloop_lag_min_seconds')
  lag.histogram.record(25_000_000)
  expect(await registry.getSingleMetricAsString('nodejs_eventloop_lag_max_seconds')).toMatch(/ 0\.0[89]\d+$/)
})
