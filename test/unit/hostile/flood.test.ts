import { afterEach, describe, expect, test } from 'vitest'
import { dispatch } from '../../../src/compose.ts'
import { ApiSource } from '../../../src/kube/api-source.ts'
import { ProblemLog, translateEndpointSlice, translateService } from '../../../src/kube/translate.ts'
import { silentLog, type Log } from '../../../src/lib/log.ts'
import { endpointObject, serviceObject, sliceObject } from '../page/objects.ts'
import { Rig } from '../proxier/rig.ts'
import { Feed } from './feed.ts'

// Counts, never times: how fast it goes is the machine's affair, what is kept of it is ours.

const services = 20
const events = 100_000
const port = { name: 'http', port: 80, protocol: 'TCP' }
const nameOf = (i: number): string => `web-${i % services}`
const ipOf = (i: number): string => `10.111.1.${1 + (i % services)}`

/** The i-th change: another endpoint each time. */
function change(i: number): string {
  const slice = sliceObject(nameOf(i), [endpointObject(`10.244.${(i >> 8) & 255}.${i & 255}`)], [port])
  const metadata = {
    ...(slice.metadata as object),
    resourceVersion: String(1000 + i),
    annotations: { 'endpoints.kubernetes.io/last-change-trigger-time': new Date(Date.now() + 60_000).toISOString() },
  }
  return JSON.stringify({ type: 'MODIFIED', object: { ...slice, metadata } })
}

let rig: Rig
let stop: AbortController | undefined
let running: Promise<void>
let heard = 0
afterEach(async () => {
  if (stop === undefined) return
  stop.abort()
  stop = undefined
  await running
  await rig.stop()
})

async function start(minSyncPeriod: number, log: Log = silentLog): Promise<Feed> {
  const objects = Array.from({ length: services }, (_, i) =>
    serviceObject({ name: nameOf(i), ips: [ipOf(i)], ports: [port] }),
  )
  const feed = new Feed(new Map([['services', objects]]))
  rig = new Rig({ minSyncPeriod })
  heard = 0
  stop = new AbortController()
  const source = new ApiSource({ client: feed, nodeName: 'node1', log, times: { startSpread: 0 } })
  const listener = dispatch(new Map([['IPv4', rig.proxier]]), {
    service: () => {},
    slice: () => heard++,
    node: () => {},
  })
  running = source.run(listener, stop.signal)
  rig.start()
  await rig.next()
  return feed
}

async function flood(feed: Feed): Promise<void> {
  const batch = 1000
  for (let from = 0; from < events; from += batch) {
    await feed.push('endpointslices', ...Array.from({ length: batch }, (_, i) => change(from + i)))
  }
}

describe('a hundred thousand changes', () => {
  test('between two passes are as many things to do as there are objects', { timeout: 120_000 }, async () => {
    await flood(await start(3_600_000))
    expect(heard).toBe(events)
    expect(rig.reports).toHaveLength(1)
    expect(rig.proxier.waiting).toBe(services)
  })

  test(
    'are brought in by few passes; others have their turn, and the last state counts',
    { timeout: 120_000 },
    async () => {
      let turns = 0
      let isOver = false
      const count = (): void => {
        turns++
        if (!isOver) setImmediate(count)
      }
      const feed = await start(0)
      setImmediate(count)
      await flood(feed)
      isOver = true
      while (rig.proxier.waiting > 0) await rig.next()
      expect(turns).toBeGreaterThan(20)
      expect(rig.reports.length).toBeLessThan(events / 10)
      // Of each slice one time in each pass, however often it changed.
      for (const { triggerTimes } of rig.reports) expect(triggerTimes.length).toBeLessThanOrEqual(services)
      const last = events - services
      for (let i = last; i < events; i++) {
        const line = `-a -t ${ipOf(i)}:80 -r 10.244.${(i >> 8) & 255}.${i & 255}:80 `
        await expect.poll(() => rig.ipvs.dump().includes(line), { timeout: 20_000 }).toBe(true)
      }
    },
  )

  test('of a wrong object are a bounded number of lines', { timeout: 120_000 }, async () => {
    const lines: string[] = []
    const log: Log = { ...silentLog, error: (message) => void lines.push(message) }
    const feed = await start(3_600_000, log)
    const wrong = serviceObject({ name: 'wrong', ips: ['10.111.2.1'], ports: [{ port: 0 }] })
    for (let from = 0; from < 10_000; from += 1000) {
      const batch = Array.from({ length: 1000 }, (_, i) => {
        const metadata = { ...(wrong.metadata as object), resourceVersion: String(from + i) }
        return JSON.stringify({ type: 'MODIFIED', object: { ...wrong, metadata } })
      })
      await feed.push('services', ...batch)
    }
    expect(lines.length).toBeGreaterThan(0)
    // At most a minute has passed on the slowest of machines; twice as many would do, too.
    expect(lines.length).toBeLessThanOrEqual(600)
  })
})

test('problems of objects are logged up to ten for a version, and two hundred in a minute', () => {
  const lines: string[] = []
  const log: Log = {
    ...silentLog,
    error: (message) => void lines.push(message),
    warn: (message, fields) => void lines.push(`${message} ${String(fields?.count)}`),
  }
  let now = 0
  const clock = { now: () => now, sleep: () => Promise.resolve() }
  const problems = new ProblemLog(log, clock)
  const problem = { object: 'Service a/b', field: 'spec.x', value: 'x'.repeat(5000), reason: 'is wrong' }
  const read = (version: number): void => {
    const report = problems.for('Service a/b', String(version))
    for (let i = 0; i < 100; i++) report(problem)
  }
  read(1)
  expect(lines).toHaveLength(11)
  expect(lines.at(-1)).toBe('Service a/b: its further problems are not logged')
  for (const line of lines) expect(line.length).toBeLessThan(200)
  for (let version = 2; version < 100; version++) read(version)
  expect(lines).toHaveLength(200)
  now = 60_000
  read(200)
  expect(lines[200]).toMatch(/^Problems of objects were not logged, for there were too many \d+$/)
  expect(lines).toHaveLength(212)
})

describe('what is kept of an object is bounded by what a node needs of it', () => {
  const junk = {
    annotations: { a: 'x'.repeat(1_000_000) },
    managedFields: Array.from({ length: 1000 }, () => ({ a: 1 })),
  }
  test.each([
    {
      name: 'a Service with a megabyte of annotations',
      record: () => {
        const object = serviceObject({ name: 'a', ips: ['10.111.0.1'], ports: [port] })
        return translateService({ ...object, metadata: { ...(object.metadata as object), ...junk } }, () => {})
      },
    },
    {
      name: 'a slice with a megabyte of annotations',
      record: () => {
        const object = sliceObject('a', [endpointObject('10.244.1.1')], [port])
        return translateEndpointSlice(
          { ...object, metadata: { ...(object.metadata as object), ...junk } },
          'node1',
          () => {},
        )
      },
    },
    {
      name: 'a slice with a thousand hints of a thousand letters',
      record: () => {
        const hints = { forZones: Array.from({ length: 1000 }, (_, i) => ({ name: `${i}${'z'.repeat(1000)}` })) }
        return translateEndpointSlice(
          sliceObject('a', [endpointObject('10.244.1.1', 'rs', { hints })], [port]),
          'node1',
          () => {},
        )
      },
    },
  ])('$name', ({ record }) => {
    expect(JSON.stringify(record()).length).toBeLessThan(1000)
  })
})
