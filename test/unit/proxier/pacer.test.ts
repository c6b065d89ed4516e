import { expect, test } from 'vitest'
import type { Clock } from '../../../src/lib/clock.ts'
import { Pacer } from '../../../src/proxier/pacer.ts'

/** A clock that moves only when asked. */
class ManualClock implements Clock {
  #now = 0
  readonly #sleepers = new Set<{ until: number; wake: () => void }>()

  now(): number {
    return this.#now
  }

  sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const sleeper = { until: this.#now + milliseconds, wake: () => (this.#sleepers.delete(sleeper), resolve()) }
      this.#sleepers.add(sleeper)
      if (signal?.aborted) sleeper.wake()
      signal?.addEventListener('abort', () => sleeper.wake(), { once: true })
    })
  }

  async advance(to: number): Promise<void> {
    while (this.#now < to) {
      await settle()
      const next = Math.min(to, ...[...this.#sleepers].map(({ until }) => until).filter((until) => until > this.#now))
      this.#now = next
      for (const sleeper of this.#sleepers) if (sleeper.until <= this.#now) sleeper.wake()
    }
    await settle()
  }
}

async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve()
  await new Promise(setImmediate)
}

test.each<{ name: string; requests: number[]; failing?: number[]; until: number; want: string[] }>([
  {
    name: 'without a request a full run each maximum interval',
    requests: [],
    until: 25_000,
    want: ['0 period', '10000 period', '20000 period'],
  },
  {
    name: 'a request runs as soon as the minimum interval allows',
    requests: [500, 700],
    until: 3000,
    want: ['0 period', '1000 change'],
  },
  {
    name: 'a request just before the minimum has passed waits for it, too',
    requests: [500, 999],
    until: 3000,
    want: ['0 period', '1000 change'],
  },
  {
    name: 'a request does not wait for the retry of a failed run',
    requests: [1500],
    failing: [0],
    until: 3000,
    want: ['0 period', '1500 retry'],
  },
  { name: 'later requests run at once', requests: [5000], until: 6000, want: ['0 period', '5000 change'] },
  {
    name: 'requests do not put off the full run',
    requests: [4000, 8000],
    until: 12_000,
    want: ['0 period', '4000 change', '8000 change', '10000 period'],
  },
  {
    name: 'after a failure it tries again, later each time',
    requests: [],
    failing: [0, 1, 2],
    until: 9999,
    want: ['0 period', '2000 retry', '6000 retry'],
  },
])('$name', async ({ requests, failing = [], until, want }) => {
  const clock = new ManualClock()
  const ran: string[] = []
  const pacer = new Pacer({ minInterval: 1000, maxInterval: 10_000, retryInterval: 2000, clock }, (reason) => {
    ran.push(`${clock.now()} ${reason}`)
    return Promise.resolve(!failing.includes(ran.length - 1))
  })
  const stop = new AbortController()
  const loop = pacer.loop(stop.signal)
  for (const at of requests) {
    await clock.advance(at)
    pacer.request()
  }
  await clock.advance(until)
  stop.abort()
  await clock.advance(until + 20_000)
  await loop
  expect(ran).toEqual(want)
})

test('any number of requests during a run give one run after it', async () => {
  const clock = new ManualClock()
  let runs = 0
  const pacer = new Pacer({ minInterval: 0, maxInterval: 10_000, retryInterval: 1000, clock }, () => {
    if (runs++ === 0) for (let i = 0; i < 5; i++) pacer.request()
    return Promise.resolve(true)
  })
  const stop = new AbortController()
  const loop = pacer.loop(stop.signal)
  await clock.advance(100)
  expect(runs).toBe(2)
  stop.abort()
  await loop
})

test.each([
  { name: 'before the loop is served by its first run', at: 'before', want: [0, 10_000] },
  { name: 'during a run gives one more, the minimum after its end', at: 'during', want: [0, 1300, 10_000] },
])('a request $name', async ({ at, want }) => {
  const clock = new ManualClock()
  const started: number[] = []
  const pacer = new Pacer({ minInterval: 1000, maxInterval: 10_000, retryInterval: 1000, clock }, async () => {
    started.push(clock.now())
    if (at === 'during' && started.length === 1) for (let i = 0; i < 3; i++) pacer.request()
    await clock.sleep(300)
    return true
  })
  if (at === 'before') pacer.request()
  const stop = new AbortController()
  const loop = pacer.loop(stop.signal)
  await clock.advance(12_000)
  expect(started).toEqual(want)
  stop.abort()
  await clock.advance(30_000)
  await loop
})
