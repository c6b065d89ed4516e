// An API server that is gone, slow or half dead, told by a client that plays it; with time as a parameter.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Client, type Response } from '../../../src/kube/client.ts'
import { loadAccess } from '../../../src/kube/kubeconfig.ts'
import { Reflector, type ReflectorOptions } from '../../../src/kube/reflector.ts'
import { silentLog, type Log } from '../../../src/lib/log.ts'
import { createMetrics } from '../../../src/metrics/metrics.ts'
import { FakeApiServer } from '../../fake-apiserver/server.ts'
import { makeCertificate, type Certificate } from '../../certificate.ts'

const said: string[] = []
const log: Log = {
  ...silentLog,
  error: (message) => void said.push(`error ${message}`),
  warn: (message) => void said.push(`warn ${message}`),
  info: (message) => void said.push(`info ${message}`),
}

const told: string[] = []
let stop: AbortController
let running: Promise<void>[]

beforeEach(() => {
  said.length = 0
  told.length = 0
  stop = new AbortController()
  running = []
})
afterEach(async () => {
  stop.abort()
  await Promise.all(running)
  vi.useRealTimers()
})

function follow(client: ReflectorOptions<string>['client'], more: Partial<ReflectorOptions<string>> = {}) {
  const reflector = new Reflector<string>({
    client,
    path: '/api/v1/services',
    log,
    decode: (_object, key) => key,
    listener: {
      changed: (key, record) => void told.push(`${record === undefined ? '-' : '+'}${key}`),
      synced: () => void told.push('synced'),
    },
    random: () => 0,
    ...more,
  })
  running.push(reflector.run(stop.signal))
  return reflector
}

const line = (type: string, version: number, name = 'a', more: object = {}): string =>
  `${JSON.stringify({ type, object: { metadata: { namespace: 'default', name, resourceVersion: String(version), ...more } } })}\n`
const initialEnd = line('BOOKMARK', 2, '', { annotations: { 'k8s.io/initial-events-end': 'true' } })
const whole = `${line('ADDED', 1)}${initialEnd}`

/** An answer whose body is these pieces, each after its wait in milliseconds, and after them nothing, for ever. */
function answer(signal: AbortSignal, pieces: readonly [wait: number, text: string][], ends = false): Response {
  async function* body(): AsyncGenerator<Buffer> {
    const aborted = new Promise<never>((_resolve, reject) => {
      signal.addEventListener('abort', () => reject(new Error('aborted')), { once: true })
    })
    aborted.catch(() => {})
    for (const [wait, text] of pieces) {
      if (wait > 0) await Promise.race([new Promise((wake) => setTimeout(wake, wait)), aborted])
      yield Buffer.from(text)
    }
    if (!ends) await aborted
  }
  return { status: 200, retryAfterMs: undefined, body: body(), destroy: () => {} }
}

const refused = (status: number, retryAfterMs?: number): Response => ({
  status,
  retryAfterMs,
  body: (async function* () {
    yield Buffer.from(JSON.stringify({ message: 'told to fail' }))
  })(),
  destroy: () => {},
})

/** A clock that every sleep moves on. */
function jumpingClock() {
  const clock = {
    time: 1_000_000,
    slept: [] as number[],
    now: () => clock.time,
    sleep: async (milliseconds: number) => {
      clock.slept.push(milliseconds)
      clock.time += milliseconds
    },
  }
  return clock
}

test('gone for an hour: what was known stays, attempts are spaced, one line says so and one that it is over', async () => {
  const clock = jumpingClock()
  const hour = 3_600_000
  let since = 0
  let attempts = 0
  const urls: string[] = []
  const metrics = createMetrics()
  const client = {
    get: async (url: string, signal: AbortSignal): Promise<Response> => {
      urls.push(url)
      if (urls.length === 1) return answer(signal, [[0, whole]], true)
      if (since === 0) since = clock.time
      if (clock.time - since < hour) {
        attempts++
        throw new Error('connect ECONNREFUSED')
      }
      return answer(signal, [[0, line('ADDED', 3, 'b')]])
    },
  }
  const reflector = follow(client, { clock })
  metrics.source.resources = () => [{ resource: 'services', ...reflector.state }]
  await vi.waitFor(() => expect(told).toEqual(['+default/a', 'synced', '+default/b']))
  // Half a minute each once the back-off has grown.
  expect(attempts).toBeLessThan(130)
  expect(Math.max(...clock.slept)).toBe(30_000)
  // The watch goes on where it was: no list of a whole cluster from each node of it.
  expect(urls.at(-1)).toContain('resourceVersion=2')
  expect(said).toEqual([
    expect.stringMatching(/^error \/api\/v1\/services: connect ECONNREFUSED; next attempt in \d+ ms$/),
    'info /api/v1/services: the API server answers again',
  ])
  expect(await metrics.registry.metrics()).toContain('kube_ipvs_api_failing_seconds{resource="services"} 0')
})

test('for as long as it is gone the metric says for how long', async () => {
  vi.useFakeTimers()
  const reflector = follow({ get: () => Promise.reject(new Error('connect ECONNREFUSED')) })
  const metrics = createMetrics()
  metrics.source.resources = () => [{ resource: 'services', ...reflector.state }]
  await vi.advanceTimersByTimeAsync(3_600_000)
  const [, seconds] = /^kube_ipvs_api_failing_seconds\{resource="services"\} (\S+)$/m.exec(
    await metrics.registry.metrics(),
  )!
  expect(Math.round(Number(seconds))).toBe(3600)
})

test.each([
  ['a minute is waited for', 60_000, 60_000],
  ['a day is not', 86_400_000, 120_000],
])('429 with Retry-After: %s', async (_name, asked, waited) => {
  const clock = jumpingClock()
  let count = 0
  follow(
    { get: async (_url, signal) => (count++ === 0 ? refused(429, asked) : answer(signal, [[0, whole]])) },
    { clock },
  )
  await vi.waitFor(() => expect(told).toContain('synced'))
  expect(clock.slept).toEqual([waited])
  expect(said[0]).toBe(`error /api/v1/services: 429: told to fail; next attempt in ${waited} ms`)
})

describe('slow', () => {
  beforeEach(() => void vi.useFakeTimers())

  test('initial events that trickle in are waited for', async () => {
    const slowly: [number, string][] = [1, 2, 3].map((n) => [20_000, line('ADDED', n, `s${n}`)])
    const reflector = follow({ get: async (_url, signal) => answer(signal, [...slowly, [20_000, initialEnd]]) })
    await vi.advanceTimersByTimeAsync(85_000)
    expect(told).toEqual(['+default/s1', '+default/s2', '+default/s3', 'synced'])
    expect(reflector.state.lastError).toBeUndefined()
  })

  test('a list that stops coming is given up and asked for again; nothing is taken for gone', async () => {
    let count = 0
    const client = {
      get: async (_url: string, signal: AbortSignal): Promise<Response> => {
        if (count++ === 0) return refused(422)
        return answer(signal, [[0, '{"metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"a"}}']])
      },
    }
    const reflector = follow(client)
    await vi.advanceTimersByTimeAsync(30_500)
    expect(reflector.state.lastError).toBe('the list stopped coming')
    expect(told).not.toContain('synced')
    await vi.advanceTimersByTimeAsync(1000)
    expect(count).toBe(3)
  })
})

test('a watch cut in the middle of an event: half an event is none, and the next watch brings it', async () => {
  const event = line('ADDED', 7, 'late')
  const urls: string[] = []
  const answers: [number, string][][] = [[[0, `${whole}${event.slice(0, 40)}`]], [[0, event]]]
  const client = {
    get: async (url: string, signal: AbortSignal): Promise<Response> => {
      urls.push(url)
      return answer(signal, answers[urls.length - 1] ?? [], urls.length === 1)
    },
  }
  follow(client, { clock: jumpingClock() })
  await vi.waitFor(() => expect(told).toEqual(['+default/a', 'synced', '+default/late']))
  expect(urls[1]).toContain('resourceVersion=2')
})

describe('a half-open connection', () => {
  beforeEach(() => void vi.useFakeTimers())
  const count = async (bookmarks: boolean): Promise<number> => {
    let watches = 0
    const client = {
      get: async (_url: string, signal: AbortSignal): Promise<Response> =>
        answer(
          signal,
          watches++ === 0
            ? [[0, whole], ...(bookmarks ? [[60_000, line('BOOKMARK', 9)] as [number, string]] : [])]
            : [],
        ),
    }
    const reflector = follow(client)
    await vi.advanceTimersByTimeAsync(250_000)
    expect(reflector.state.failingSince).toBeUndefined()
    return watches
  }

  test('where bookmarks stay away, the watch goes on over another one', async () => {
    expect(await count(true)).toBe(2)
    expect(said).toEqual(['warn /api/v1/services: nothing was heard for 180000 ms, not even a bookmark; watching anew'])
    expect(told).toEqual(['+default/a', 'synced'])
  })

  test('a server that never sent one may be silent until the watch has to end', async () => {
    expect(await count(false)).toBe(1)
    await vi.advanceTimersByTimeAsync(100_000)
    expect(said).toEqual([])
  })
})

describe('an expired certificate', () => {
  let directory: string
  let server: FakeApiServer
  const day = 86_400_000
  const old = makeCertificate({ from: new Date(Date.now() - 10 * day), to: new Date(Date.now() - day) })
  const renewed = makeCertificate()

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'certificate-'))
  })
  afterEach(async () => {
    stop.abort()
    await server.stop()
    rmSync(directory, { recursive: true })
  })

  const serve = async (certificate: Certificate, port = 0): Promise<string> => {
    server = new FakeApiServer({ ...certificate, port })
    server.put({ kind: 'Service', metadata: { name: 'a', namespace: 'default' } })
    return server.start()
  }

  test('is told, and followed by none of its answers; the renewed one is taken without a restart', async () => {
    const url = await serve(old)
    writeFileSync(join(directory, 'ca.crt'), old.cert + renewed.cert)
    writeFileSync(
      join(directory, 'kubeconfig'),
      JSON.stringify({
        'current-context': 'c',
        contexts: [{ name: 'c', context: { cluster: 'c', user: 'u' } }],
        clusters: [{ name: 'c', cluster: { server: url, 'certificate-authority': 'ca.crt' } }],
        users: [{ name: 'u', user: {} }],
      }),
    )
    const codes: string[] = []
    const client = new Client({
      access: await loadAccess({ kubeconfig: join(directory, 'kubeconfig') }),
      version: 'test',
      observer: { answered: (_method, code) => void codes.push(code), received: () => {} },
    })
    const reflector = follow(client, { times: { startSpread: 0, backoffFirst: 5, backoffMost: 20 } })
    await vi.waitFor(() => expect(reflector.state.lastError).toMatch(/certificate has expired/), { timeout: 20_000 })
    expect(said[0]).toMatch(/^error \/api\/v1\/services: GET https:.*certificate has expired; next attempt in/)
    expect(codes).toContain('<error>')
    expect(told).toEqual([])
    const port = Number(new URL(url).port)
    await server.stop()
    await serve(renewed, port)
    await vi.waitFor(() => expect(told).toEqual(['+default/a', 'synced']), { timeout: 20_000 })
    client.close()
  })
})
