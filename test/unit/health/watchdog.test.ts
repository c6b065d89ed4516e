import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { ProxierHealth, type WorkUnderWay } from '../../../src/health/healthz.ts'
import { Watchdog } from '../../../src/health/watchdog.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog, type Log } from '../../../src/lib/log.ts'
import { endpoint, service, slice } from '../proxier/objects.ts'
import { Rig } from '../proxier/rig.ts'

const minute = 60_000

interface Said {
  readonly message: string
  readonly [field: string]: unknown
}

function rig(clock = systemClock) {
  const said: Said[] = []
  const stalls: number[] = []
  const underWay: WorkUnderWay[] = []
  const log: Log = {
    ...silentLog,
    warn: (message, fields) => void said.push({ message, ...fields }),
    error: (message, fields) => void said.push({ message, ...fields }),
  }
  const health = new ProxierHealth(['IPv4', 'IPv6'], 2 * minute, true, clock, () => '')
  health.updated('IPv4')
  health.updated('IPv6')
  health.follow(
    2 * minute,
    () => '',
    () => underWay,
  )
  const watchdog = new Watchdog({ clock, log, stuck: () => health.stuck(), stalled: (ms) => void stalls.push(ms) })
  return { said, stalls, underWay, health, watchdog }
}

const reasonOf = (body: string): unknown => (JSON.parse(body) as { reason?: string }).reason

describe('work that does not come to its end', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  test.each(['pass', 'look'] as const)(
    'a %s: /livez fails and says which, one line says so, and it heals',
    async (work) => {
      const { said, underWay, health, watchdog } = rig()
      const stop = new AbortController()
      const running = watchdog.run(stop.signal)
      underWay.push({ family: 'IPv4', work, since: systemClock.now() })
      await vi.advanceTimersByTimeAsync(5 * minute - 1000)
      expect(health.livez().code).toBe(200)
      await vi.advanceTimersByTimeAsync(5 * minute)
      const { code, body } = health.livez()
      expect(code).toBe(503)
      expect(reasonOf(body)).toMatch(new RegExp(`^IPv4: a ${work} has not ended for \\d+ s$`))
      expect(JSON.parse(body)).toMatchObject({ status: { IPv4: { healthy: false }, IPv6: { healthy: true } } })
      expect(said).toEqual([
        expect.objectContaining({
          message: 'Work does not come to its end; /livez fails as long as it lasts',
          family: 'IPv4',
          work,
          seconds: 300,
        }),
      ])
      underWay.length = 0
      expect(health.livez().code).toBe(200)
      stop.abort()
      await running
    },
  )
})

test('an event loop that stood still is told and counted once it goes on', async () => {
  let now = 0
  /** How late each of the sleeps ends. */
  const late = [0, 4000, 90_000, 0]
  const stop = new AbortController()
  const clock = {
    now: () => now,
    sleep: (milliseconds: number) => {
      now += milliseconds + (late.shift() ?? 0)
      if (late.length === 0) stop.abort()
      return Promise.resolve()
    },
  }
  const { said, stalls, watchdog } = rig(clock)
  await watchdog.run(stop.signal)
  expect(stalls).toEqual([90_000])
  expect(said).toEqual([
    expect.objectContaining({ milliseconds: 90_000, message: expect.stringContaining('stood still') }),
  ])
})

describe('the proxier says what is under way', () => {
  let proxier: Rig
  afterEach(async () => {
    await proxier.stop()
  })

  test.each([
    ['pass', 'newDestination'],
    ['look', 'listAll'],
  ] as const)('a %s that hangs in the kernel', async (work, call) => {
    proxier = new Rig({ syncPeriod: 20 })
    proxier.proxier.serviceChanged('default/web', service())
    proxier.proxier.synced('services')
    proxier.proxier.synced('endpointslices')
    proxier.start()
    await proxier.next()
    const { promise, resolve } = Promise.withResolvers<void>()
    const { ipvs } = proxier
    const apply = ipvs.apply.bind(ipvs)
    const compare = ipvs.compare.bind(ipvs)
    if (call === 'listAll') ipvs.compare = (...args) => promise.then(() => compare(...args))
    else ipvs.apply = (...args) => promise.then(() => apply(...args))
    proxier.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')]))
    const began = (): number | undefined => new Map(proxier.proxier.underWay).get(work)
    // One that stays the same, for it does not end.
    let since: number | undefined
    await vi.waitFor(() => {
      const before = since
      since = began()
      expect(since).toBeDefined()
      expect(since).toBe(before)
    })
    resolve()
    await vi.waitFor(() => expect(began()).not.toBe(since))
  })
})
