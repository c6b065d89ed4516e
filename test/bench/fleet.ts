import { mock } from 'node:test'
import { parseArgs } from 'node:util'
import type { Client, Response } from '../../src/kube/client.ts'
import { ApiSource } from '../../src/kube/api-source.ts'
import { silentLog } from '../../src/lib/log.ts'
import { serviceOf, sliceOf } from './objects.ts'

/**
 * A day of a fleet of nodes watching one API server, in simulated time: what the nodes ask of it. Prints one line of
 * JSON: requests and reconnects a node and hour, the most in one second, bytes. Every node's source is the real one.
 */
const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '500' },
    hours: { type: 'string', default: '24' },
    services: { type: 'string', default: '10' },
    /** Seconds that the API server is away, once at noon; and whether it has forgotten all versions then. */
    away: { type: 'string', default: '20' },
    forgets: { type: 'boolean', default: false },
  },
})
const nodes = Number(values.nodes)
const hours = Number(values.hours)
const services = Number(values.services)

mock.timers.enable({ apis: ['setTimeout', 'Date'], now: Date.UTC(2026, 0, 1) })
const flush = (): Promise<void> => new Promise((wake) => setImmediate(wake))

/** What one watch has to read; ends when the server says so or the reader has gone. */
class Stream implements AsyncIterable<Buffer> {
  readonly #chunks: Buffer[] = []
  #ended = false
  #failed = false
  #wake: (() => void) | undefined

  push(text: string): void {
    const chunk = Buffer.from(text)
    counts.bytes += chunk.length
    this.#chunks.push(chunk)
    this.#wake?.()
  }

  end(failed = false): void {
    this.#ended = true
    this.#failed ||= failed
    this.#wake?.()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    for (;;) {
      const chunk = this.#chunks.shift()
      if (chunk !== undefined) yield chunk
      else if (this.#failed) throw new Error('read ECONNRESET')
      else if (this.#ended) return
      else await new Promise<void>((wake) => (this.#wake = wake))
    }
  }
}

const counts = {
  requests: 0,
  lists: 0,
  refused: 0,
  bytes: 0,
  perSecond: new Map<number, number>(),
  listsPerSecond: new Map<number, number>(),
}
const open = new Map<Stream, string>()
const server = { isUp: true, version: 1000, oldest: 0 }

function count(map: Map<number, number>): void {
  const second = Math.floor(Date.now() / 1000)
  map.set(second, (map.get(second) ?? 0) + 1)
}

const kinds: Readonly<Record<string, readonly object[]>> = {
  services: Array.from({ length: services }, (_, n) => serviceOf(n)),
  endpointslices: Array.from({ length: services }, (_, n) => sliceOf(n, 10)),
  nodes: [],
}
const initial = new Map(
  Object.entries(kinds).map(([kind, objects]) => [
    kind,
    objects
      .map((object) => ({
        ...object,
        metadata: { ...(object as { metadata: object }).metadata, resourceVersion: '1' },
      }))
      .map((object) => `${JSON.stringify({ type: 'ADDED', object })}\n`)
      .join(''),
  ]),
)

function bookmark(end: boolean): string {
  const annotations = end ? { 'k8s.io/initial-events-end': 'true' } : {}
  const metadata = { resourceVersion: String(server.version), annotations }
  return `${JSON.stringify({ type: 'BOOKMARK', object: { metadata } })}\n`
}

const client: Pick<Client, 'get'> = {
  async get(path: string, signal: AbortSignal): Promise<Response> {
    counts.requests++
    count(counts.perSecond)
    if (!server.isUp) {
      counts.refused++
      throw new Error('connect ECONNREFUSED')
    }
    const url = new URL(path, 'https://api')
    const kind = url.pathname.split('/').at(-1)!
    const stream = new Stream()
    const respond = (): Response => {
      signal.addEventListener('abort', () => stream.end(true), { once: true })
      return {
        status: 200,
        retryAfterMs: undefined,
        body: stream,
        destroy: () => {
          stream.end()
          open.delete(stream)
        },
      }
    }
    const version = url.searchParams.get('resourceVersion')
    if (url.searchParams.get('sendInitialEvents') === 'true') {
      counts.lists++
      count(counts.listsPerSecond)
      stream.push(initial.get(kind)!)
      stream.push(bookmark(true))
    } else if (version !== null && Number(version) < server.oldest) {
      stream.push(`${JSON.stringify({ type: 'ERROR', object: { code: 410, message: 'too old resource version' } })}\n`)
    }
    open.set(stream, kind)
    setTimeout(
      () => {
        open.delete(stream)
        stream.end()
      },
      Number(url.searchParams.get('timeoutSeconds')) * 1000,
    )
    return respond()
  },
}

const stop = new AbortController()
const listener = { serviceChanged: () => {}, sliceChanged: () => {}, nodeChanged: () => {}, synced: () => {} }
const running = Array.from({ length: nodes }, (_, n) =>
  new ApiSource({ client, nodeName: `node${n}`, log: silentLog }).run(listener, stop.signal),
)

const most = (map: ReadonlyMap<number, number>): number => Math.max(0, ...map.values())
const noon = Math.floor(hours / 2) * 3600
let atStart = { requests: 0, lists: 0, mostListsInASecond: 0 }
let day = { requests: 0, bytes: 0 }
for (let second = 0; second < hours * 3600; second++) {
  mock.timers.tick(1000)
  await flush()
  await flush()
  if (second % 60 === 0) {
    server.version += 60
    for (const stream of open.keys()) stream.push(bookmark(false))
  }
  if (second === 60) {
    atStart = { requests: counts.requests, lists: counts.lists, mostListsInASecond: most(counts.listsPerSecond) }
    counts.listsPerSecond.clear()
  }
  if (second === noon - 1) day = { requests: counts.requests - atStart.requests, bytes: counts.bytes }
  if (second === noon) {
    counts.perSecond.clear()
    server.isUp = false
    for (const stream of open.keys()) stream.end(true)
    open.clear()
  }
  if (second === noon + Number(values.away)) {
    server.isUp = true
    if (values.forgets) server.oldest = server.version + 1
    server.version += 10
  }
}
const nodeHours = (nodes * (noon - 60)) / 3600
process.stdout.write(
  `${JSON.stringify({
    nodes,
    requestsPerNodeHour: day.requests / nodeHours,
    bookmarkBytesPerNodeHour: Math.round(day.bytes / nodeHours),
    listsAtStart: atStart.lists,
    mostListsInASecondAtStart: atStart.mostListsInASecond,
    listsAfterRestart: counts.lists - atStart.lists,
    mostListsInASecondAfterRestart: most(counts.listsPerSecond),
    mostRequestsInASecondAfterRestart: most(counts.perSecond),
    refusedWhileAway: counts.refused,
  })}\n`,
)
stop.abort()
mock.timers.tick(700_000)
await Promise.all(running)
