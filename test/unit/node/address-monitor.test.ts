import { expect, test } from 'vitest'
import type { Clock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { AddressMonitor, type WatchAddresses } from '../../../src/node/address-monitor.ts'

/** A clock on which all sleepers wake when told. */
class ManualClock implements Clock {
  time = 0
  readonly #sleepers: { at: number; wake: () => void }[] = []
  readonly slept: number[] = []

  now(): number {
    return this.time
  }

  sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
    this.slept.push(milliseconds)
    return new Promise((resolve) => {
      this.#sleepers.push({ at: this.time + milliseconds, wake: resolve })
      signal?.addEventListener('abort', () => resolve())
    })
  }

  async advance(milliseconds: number): Promise<void> {
    this.time += milliseconds
    for (const one of this.#sleepers.filter(({ at }) => at <= this.time)) {
      this.#sleepers.splice(this.#sleepers.indexOf(one), 1)
      one.wake()
    }
    for (let i = 0; i < 10; i++) await Promise.resolve()
  }
}

function rig(watch: WatchAddresses) {
  const clock = new ManualClock()
  const stop = new AbortController()
  const state = { changes: 0 }
  const monitor = new AddressMonitor({
    ignore: 'kube-ipvs0',
    changed: () => void state.changes++,
    log: silentLog,
    clock,
    watch,
  })
  return { clock, stop, state, running: monitor.run(stop.signal) }
}

test.each<[string, string[], number]>([
  ['an address comes', ['2: eth0    inet 192.168.0.7/24 scope global eth0\\       valid_lft forever'], 1],
  ['an address goes', ['Deleted 2: eth0    inet6 fd00::7/64 scope global'], 1],
  ['a burst is one change', ['2: eth0 inet 1.2.3.4/24 x', '2: eth0 inet 1.2.3.5/24 x', '3: eth1 inet 1.2.3.6/24 x'], 1],
  ['our own binding', ['7: kube-ipvs0    inet 10.96.0.1/32 scope global kube-ipvs0'], 0],
  ['our own unbinding', ['Deleted 7: kube-ipvs0    inet 10.96.0.1/32 scope global kube-ipvs0'], 0],
  ['a device whose name only begins alike', ['8: kube-ipvs01    inet 10.96.0.1/32 scope global kube-ipvs01'], 1],
])('%s', async (_name, lines, changes) => {
  const { clock, stop, state, running } = rig((line, signal) => {
    for (const text of lines) line(text)
    return new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
  })
  expect(state.changes).toBe(0)
  await clock.advance(1000)
  expect(state.changes).toBe(changes)
  stop.abort()
  await running
})

test('a watch that ends is started again, later each time, and what it may have missed is looked for', async () => {
  let starts = 0
  const { clock, stop, state, running } = rig(() => {
    starts++
    return Promise.resolve()
  })
  await clock.advance(0)
  for (const [wait, total] of [
    [1000, 2],
    [2000, 3],
    [4000, 4],
  ] as const) {
    await clock.advance(wait)
    expect(starts).toBe(total)
    expect(state.changes).toBe(total - 1)
  }
  stop.abort()
  await running
})

test('without the command it says so and leaves it to the periodic check', async () => {
  const { running, state } = rig(() => Promise.reject(Object.assign(new Error('spawn ip ENOENT'), { code: 'ENOENT' })))
  await running
  expect(state.changes).toBe(0)
})
