import { createServer, type Server } from 'node:http'
import { afterEach, expect, test } from 'vitest'
import { Client } from '../../../src/kube/client.ts'
import { ApiEvents } from '../../../src/kube/events.ts'
import type { Clock } from '../../../src/lib/clock.ts'
import { silentLog, type Log } from '../../../src/lib/log.ts'
import type { EventFacts } from '../../../src/model/events.ts'

interface Seen {
  readonly method: string
  readonly path: string
  readonly type: string
  readonly body: Record<string, unknown>
}

let server: Server | undefined
afterEach(() => server?.closeAllConnections())

/** An API server that takes Events; `answer` gives the status of the nth request. */
async function rig(answer: (n: number) => number = () => 201) {
  const seen: Seen[] = []
  const warnings: string[] = []
  let wake = (): void => {}
  server = createServer((request, response) => {
    let text = ''
    request.on('data', (chunk) => (text += String(chunk)))
    request.on('end', () => {
      const body = JSON.parse(text) as Record<string, unknown>
      seen.push({ method: request.method!, path: request.url!, type: request.headers['content-type']!, body })
      response.writeHead(answer(seen.length - 1)).end('{}')
      wake()
    })
  })
  await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  const access = {
    server: `http://127.0.0.1:${port}`,
    tls: () => Promise.resolve({}),
    headers: () => Promise.resolve({}),
    rejected: () => {},
  }
  const clock: Clock & { time: number } = {
    time: Date.parse('2026-11-21T00:00:00Z'),
    now() {
      return this.time
    },
    sleep: () => Promise.resolve(),
  }
  const log: Log = {
    ...silentLog,
    warn: (message, fields) => {
      warnings.push(`${message} ${JSON.stringify(fields)}`)
      wake()
    },
  }
  const client = new Client({ access, version: 'test' })
  const events = new ApiEvents({ client, nodeName: 'node1', log, clock, signal: new AbortController().signal })
  const until = async (test: () => boolean): Promise<void> => {
    while (!test()) await new Promise<void>((resolve) => (wake = resolve))
  }
  return { events, seen, warnings, clock, until }
}

const setFull: EventFacts = { type: 'Warning', reason: 'SetFull', action: 'Sync', note: 'KUBE-CLUSTER-IP is full' }

test('about the Node', async () => {
  const { events, seen, until } = await rig()
  events.report(setFull)
  await until(() => seen.length === 1)
  expect(seen[0]).toMatchObject({
    method: 'POST',
    path: '/apis/events.k8s.io/v1/namespaces/default/events',
    type: 'application/json',
    body: {
      apiVersion: 'events.k8s.io/v1',
      kind: 'Event',
      metadata: { namespace: 'default', name: expect.stringMatching(/^node1\.[0-9a-f]+$/) },
      eventTime: '2026-11-21T00:00:00.000000Z',
      reportingController: 'kube-ipvs-proxy',
      reportingInstance: 'node1',
      type: 'Warning',
      reason: 'SetFull',
      action: 'Sync',
      note: 'KUBE-CLUSTER-IP is full',
      regarding: { kind: 'Node', apiVersion: 'v1', name: 'node1', uid: 'node1' },
    },
  })
})

test('about a Service: in its namespace', async () => {
  const { events, seen, until } = await rig()
  const regarding = { kind: 'Service', apiVersion: 'v1', namespace: 'shop', name: 'web' }
  events.report({ ...setFull, regarding })
  await until(() => seen.length === 1)
  expect(seen[0]).toMatchObject({
    path: '/apis/events.k8s.io/v1/namespaces/shop/events',
    body: { metadata: { namespace: 'shop' }, regarding },
  })
})

test('repeats are counted on the one Event, at most once a minute; after six minutes it is another', async () => {
  const { events, seen, clock, until } = await rig()
  for (let i = 0; i < 5; i++) events.report(setFull)
  await until(() => seen.length === 1)
  clock.time += 60_000
  events.report(setFull)
  await until(() => seen.length === 2)
  const name = (seen[0]!.body.metadata as { name: string }).name
  expect(seen[1]).toMatchObject({
    method: 'PATCH',
    path: `/apis/events.k8s.io/v1/namespaces/default/events/${name}`,
    type: 'application/merge-patch+json',
    body: { series: { count: 6, lastObservedTime: '2026-11-21T00:01:00.000000Z' } },
  })
  clock.time += 300_000
  events.report(setFull)
  await until(() => seen.length === 3)
  expect(seen[2]!.method).toBe('POST')
})

test.each<[string, (n: number) => number, number, RegExp | undefined]>([
  ['429 and 500 are tried again', (n) => [429, 500, 201][n]!, 3, undefined],
  ['after four tries it is dropped', () => 503, 4, /SetFull.*status 503/],
  ['403 is final and names the right', () => 403, 1, /status 403.*create and patch of events\.events\.k8s\.io/],
  ['422 is final', () => 422, 1, /status 422/],
])('%s', async (_name, answer, requests, warning) => {
  const { events, seen, warnings, until } = await rig(answer)
  events.report(setFull)
  await until(() => seen.length === requests && (warning === undefined || warnings.length > 0))
  expect(seen).toHaveLength(requests)
  if (warning !== undefined) expect(warnings).toEqual([expect.stringMatching(warning)])
})

test('after a failure a repeat makes a new object', async () => {
  const { events, seen, warnings, until } = await rig((n) => (n === 0 ? 403 : 201))
  events.report(setFull)
  await until(() => warnings.length > 0)
  events.report(setFull)
  await until(() => seen.length === 2)
  expect(seen.map(({ method }) => method)).toEqual(['POST', 'POST'])
})

test('a token that is no longer accepted is no reason to drop it', async () => {
  const { events, seen, until } = await rig((n) => (n === 0 ? 401 : 201))
  events.report(setFull)
  await until(() => seen.length === 2)
})

test('at most ten wait; what is beyond them is dropped with one line', async () => {
  const { events, seen, warnings, until } = await rig()
  for (let i = 0; i < 30; i++) events.report({ ...setFull, note: `set ${i}` })
  await until(() => seen.length === 11)
  expect(warnings).toHaveLength(1)
  expect(warnings[0]).toContain('dropped')
})

test('a long note is cut at a whole character', async () => {
  const { events, seen, until } = await rig()
  events.report({ ...setFull, note: `a${'ü'.repeat(1000)}` })
  await until(() => seen.length === 1)
  expect(seen[0]!.body.note).toBe(`a${'ü'.repeat(511)}`)
})
