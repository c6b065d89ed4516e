import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { request } from 'node:https'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TLSSocket } from 'node:tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { loadConfig } from '../../src/config/load.ts'
import { ProxierHealth } from '../../src/health/healthz.ts'
import { HttpServer } from '../../src/health/server.ts'
import { TlsFiles } from '../../src/health/tls-files.ts'
import { Client } from '../../src/kube/client.ts'
import { TokenReviewer } from '../../src/kube/token-review.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog, type Log } from '../../src/lib/log.ts'
import { listeners } from '../../src/listeners.ts'
import { tokenGuard } from '../../src/metrics-guard.ts'
import { createMetrics } from '../../src/metrics/metrics.ts'
import { FakeApiServer } from '../fake-apiserver/server.ts'
import { makeCertificate } from '../certificate.ts'

const own = makeCertificate({ name: 'first' })
let directory: string
let api: FakeApiServer
let client: Client
let servers: readonly HttpServer[] = []
let port: number
let now = 0
let reviewer: TokenReviewer
const lines: string[] = []
const log: Log = {
  ...silentLog,
  error: (message, fields) => void lines.push(`${message} ${JSON.stringify(fields)}`),
  info: (message) => void lines.push(message),
}

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'metrics-'))
  lines.length = 0
  now = 0
  put(own)
  api = new FakeApiServer()
  await api.start()
  client = new Client({
    access: {
      server: api.url,
      tls: async () => ({}),
      headers: async () => ({ authorization: 'Bearer ours' }),
      rejected: () => {},
    },
    version: 'test',
  })
  reviewer = new TokenReviewer({ client, timeoutMs: 2000, most: 3, clock: { ...systemClock, now: () => now } })
  servers = []
})

afterEach(async () => {
  for (const server of servers) server.close()
  client.close()
  api.hang(false)
  await api.stop()
  rmSync(directory, { recursive: true })
})

/** Each file at once: a look finds it as it was or as it is. */
function put({ cert, key }: { cert: string; key: string }): void {
  for (const [name, text] of Object.entries({ 'tls.crt': cert, 'tls.key': key })) {
    const path = join(directory, name)
    writeFileSync(`${path}.new`, text)
    renameSync(`${path}.new`, path)
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  return typeof address === 'object' && address !== null ? address.port : 0
}

async function serve(more: Readonly<Record<string, string>> = {}): Promise<void> {
  port = await freePort()
  const flags = new Map(
    Object.entries({
      'metrics-bind-address': `127.0.0.1:${port}`,
      'healthz-bind-address': '',
      'metrics-tls-cert-file': join(directory, 'tls.crt'),
      'metrics-tls-key-file': join(directory, 'tls.key'),
      'metrics-token-review': 'true',
      profiling: 'true',
      kubeconfig: '/etc/kubeconfig',
      ...more,
    }),
  )
  const { config, problems } = loadConfig({ flags })
  expect(problems).toEqual([])
  const health = new ProxierHealth(['IPv4'], 60_000, true, systemClock, () => '')
  const guard = config['kubeIpvsProxy.metricsTokenReview'] ? tokenGuard(reviewer, log) : undefined
  servers = listeners(config, createMetrics(), health, log, { guard })
  await servers[0]!.start()
}

interface Answer {
  readonly code: number
  readonly body: string
  readonly challenge: string
  readonly certificate: string
}

function ask(path: string, token?: string, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = token === undefined ? {} : { authorization: token }
    // A connection of its own: a certificate is shown once in each.
    const asked = request(
      { host: '127.0.0.1', port, path, method, headers, agent: false, rejectUnauthorized: false },
      (response) => {
        let body = ''
        // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- it was asked by https
        const certificate = (response.socket as TLSSocket).getPeerCertificate().subject.CN
        response.setEncoding('utf8')
        response.on('data', (chunk: string) => (body += chunk))
        response.on('end', () =>
          resolve({
            code: response.statusCode ?? 0,
            body,
            challenge: response.headers['www-authenticate'] ?? '',
            certificate: String(certificate),
          }),
        )
      },
    )
    asked.on('error', reject)
    asked.end()
  })
}

/** Those that the API server knows, and what they may do. */
const users: Readonly<Record<string, readonly string[]>> = {
  'prom-token': ['get /metrics', 'get /configz', 'get /flagz'],
  'weak-token': ['get /healthz'],
  'admin-token': ['get /metrics', 'put /debug/flags/v'],
}
const specs: Record<string, unknown>[] = []
const review: FakeApiServer['review'] = (plural, spec) => {
  specs.push(spec)
  if (plural === 'tokenreviews') {
    const token = String(spec.token)
    const user = { username: token.replace('-token', ''), uid: '7', groups: ['g'], extra: { a: ['b'] } }
    return Object.hasOwn(users, token)
      ? { authenticated: true, user }
      : { authenticated: false, error: 'no such token' }
  }
  const { path, verb } = spec.nonResourceAttributes as { path: string; verb: string }
  return { allowed: users[`${String(spec.user)}-token`]!.includes(`${verb} ${path}`) }
}

describe('who may ask', () => {
  test.each<{
    name: string
    path?: string
    method?: string
    token?: string
    code: number
    body?: RegExp
    asked: number
  }>([
    { name: 'no token', code: 401, body: /^a bearer token is needed$/, asked: 0 },
    { name: 'not a bearer token', token: 'Basic cHJvbTp0b2tlbg==', code: 401, asked: 0 },
    { name: 'an empty token', token: 'Bearer ', code: 401, asked: 0 },
    { name: 'two words', token: 'Bearer prom-token x', code: 401, asked: 0 },
    { name: 'a token of nobody', token: 'Bearer other', code: 401, body: /^nobody has this token$/, asked: 1 },
    { name: 'one who may', token: 'Bearer prom-token', code: 200, body: /^# HELP/, asked: 2 },
    { name: 'one who may, by HEAD', token: 'Bearer prom-token', method: 'HEAD', code: 200, body: /^$/, asked: 2 },
    { name: 'another spelling', token: 'bearer prom-token', code: 200, asked: 2 },
    { name: 'one who may not', token: 'Bearer weak-token', code: 403, body: /may not get \/metrics/, asked: 2 },
    { name: 'another path', path: '/proxyMode', token: 'Bearer prom-token', code: 403, asked: 2 },
    {
      name: 'a path that changes something',
      path: '/debug/flags/v',
      method: 'PUT',
      token: 'Bearer prom-token',
      code: 403,
      asked: 2,
    },
    { name: 'a method that there is not', method: 'POST', token: 'Bearer prom-token', code: 405, asked: 0 },
    { name: 'a path that there is not', path: '/metrics/../x', token: 'Bearer prom-token', code: 404, asked: 0 },
  ])('$name', async ({ path = '/metrics', method = 'GET', token, code, body = /^/, asked }) => {
    specs.length = 0
    api.review = review
    await serve()
    const answer = await ask(path, token, method)
    expect([answer.code, specs.length]).toEqual([code, asked])
    expect(answer.body).toMatch(body)
    expect(answer.challenge.startsWith('Bearer')).toBe(code === 401)
  })

  test('the API server is told whose the token is, and what he wants', async () => {
    specs.length = 0
    api.review = review
    await serve()
    await ask('/metrics?x=1', 'Bearer prom-token')
    expect(specs).toEqual([
      { token: 'prom-token' },
      {
        user: 'prom',
        uid: '7',
        groups: ['g'],
        extra: { a: ['b'] },
        nonResourceAttributes: { path: '/metrics', verb: 'get' },
      },
    ])
  })
})

describe('where the API server does not say', () => {
  test.each<{ name: string; fault: () => void | Promise<void>; says: RegExp }>([
    {
      name: 'it is down',
      fault: () => api.stop(),
      says: /failed/,
    },
    { name: 'it does not answer', fault: () => api.hang(), says: /failed/ },
    { name: 'it fails', fault: () => api.failAll(500), says: /TokenReview: the API server answers 500/ },
    { name: 'it is busy', fault: () => api.failAll(429), says: /answers 429/ },
    {
      name: 'we may not ask',
      fault: () => {},
      says: /answers 403 — the daemon's service account needs create of tokenreviews/,
    },
    { name: 'it does not know us', fault: () => api.accept(['other']), says: /answers 401/ },
    { name: 'it answers nonsense', fault: () => void (api.review = () => null), says: /answers 201/ },
  ])('$name', { timeout: 60_000 }, async ({ fault, says }) => {
    await serve()
    await fault()
    for (let i = 0; i < 3; i++) {
      const answer = await ask('/metrics', 'Bearer prom-token')
      expect([answer.code, answer.body]).toEqual([
        503,
        'the token cannot be reviewed now: the API server does not say whose it is',
      ])
      expect(answer.body).not.toContain('prom-token')
    }
    // Told once, and never with the token.
    expect(lines.filter((line) => line.startsWith('Tokens for the metrics server cannot be reviewed'))).toHaveLength(1)
    expect(lines[0]).toMatch(says)
    expect(lines.join()).not.toMatch(/prom-token|ours/)
    if (!api.url.endsWith('undefined')) {
      api.hang(false)
      api.failAll(undefined)
      api.accept(undefined)
      api.review = review
      expect((await ask('/metrics', 'Bearer prom-token')).code).toBe(200)
      expect(lines.at(-1)).toBe('Tokens for the metrics server are reviewed again')
    }
  })
})

describe('answers are kept for a while', () => {
  const count = async (token: string, path = '/metrics'): Promise<number> => {
    specs.length = 0
    await reviewer.review(token, 'get', path).catch(() => {})
    return specs.length
  }
  beforeEach(() => void (api.review = review))

  test('a permission for two minutes, a refusal for ten seconds', async () => {
    expect([await count('prom-token'), await count('prom-token')]).toEqual([2, 0])
    expect([await count('other'), await count('other')]).toEqual([1, 0])
    now = 10_000
    expect([await count('prom-token'), await count('other')]).toEqual([0, 1])
    now = 120_000
    expect(await count('prom-token')).toBe(2)
  })

  test('each for its own path, and not more than so many', async () => {
    await count('prom-token')
    expect(await count('prom-token', '/configz')).toBe(2)
    for (const token of ['a', 'b', 'c']) await count(token)
    expect(await count('prom-token')).toBe(2)
  })

  test('a failure is not kept', async () => {
    api.failAll(500)
    await expect(reviewer.review('prom-token', 'get', '/metrics')).rejects.toThrow('500')
    api.failAll(undefined)
    expect(await reviewer.review('prom-token', 'get', '/metrics')).toBe('allowed')
  })

  test('who asks the same at the same time asks once; too many different ones are refused', async () => {
    specs.length = 0
    const same = await Promise.all(Array.from({ length: 20 }, () => reviewer.review('prom-token', 'get', '/metrics')))
    expect([new Set(same).size, specs.length]).toEqual([1, 2])
    const all = await Promise.allSettled(
      Array.from({ length: 20 }, (_, i) => reviewer.review(`t${i}`, 'get', '/metrics')),
    )
    const refused = all.filter((one) => one.status === 'rejected')
    expect(refused).toHaveLength(12)
    expect(String(refused[0]!.reason)).toContain('too many tokens')
  })
})

describe('TLS', () => {
  test('who speaks plain HTTP gets no answer', async () => {
    await serve({ 'metrics-token-review': 'false' })
    expect(await ask('/proxyMode')).toMatchObject({ code: 200, body: 'ipvs', certificate: 'first' })
    const plain = new Promise((resolve, reject) => {
      httpRequest({ host: '127.0.0.1', port, path: '/metrics', agent: false }, resolve).on('error', reject).end()
    })
    await expect(plain).rejects.toThrow()
  })

  const files = (): TlsFiles =>
    new TlsFiles({ certFile: join(directory, 'tls.crt'), keyFile: join(directory, 'tls.key'), log, lookEvery: 5 })

  test('a changed certificate is put in force; a wrong one is told once, and the former stays', async () => {
    const pairs: string[] = []
    const followed = files()
    await followed.read()
    followed.follow(({ cert }) => void pairs.push(String(cert)))
    try {
      const second = makeCertificate({ name: 'second' })
      put(second)
      await expect.poll(() => pairs.at(-1), { timeout: 20_000 }).toBe(second.cert)
      // Between the two files of a pair a look may have found that they do not go together.
      lines.length = 0
      put({ cert: second.cert, key: own.key })
      await expect
        .poll(() => lines.filter((line) => line.includes('cannot be used')).length, { timeout: 20_000 })
        .toBe(1)
      expect(lines.at(-1)).toContain(join(directory, 'tls.key'))
      expect(lines.at(-1)).not.toContain('PRIVATE')
      rmSync(join(directory, 'tls.crt'))
      await expect
        .poll(() => lines.filter((line) => line.includes('cannot be read')).length, { timeout: 20_000 })
        .toBe(1)
      const third = makeCertificate({ name: 'third' })
      put(third)
      await expect.poll(() => pairs.at(-1), { timeout: 20_000 }).toBe(third.cert)
    } finally {
      followed.close()
    }
  })

  test('nothing is told, nor called back, once it is closed, though a look is under way', async () => {
    let changes = 0
    const second = makeCertificate({ name: 'second' })
    for (let i = 0; i < 100; i++) {
      put(own)
      const followed = files()
      await followed.read()
      followed.follow(() => changes++)
      // Somewhere in a look, or before it.
      const moment = performance.now() + 4.5 + i / 100
      while (performance.now() < moment) await new Promise((wake) => setImmediate(wake))
      followed.close()
      if (i % 2 === 0) rmSync(join(directory, 'tls.key'))
      else put(second)
    }
    await new Promise((wake) => setTimeout(wake, 50))
    expect({ lines, changes }).toEqual({ lines: [], changes: 0 })
  })

  test('the server shows the new one to who comes next', async () => {
    const routes = { '/a': () => ({ code: 200, type: 'text/plain', body: 'a' }) }
    const at = { host: '127.0.0.1', port: 0 }
    const server = new HttpServer({ name: 'test', at, hardFail: true, log, routes, tls: files() })
    servers = [server]
    await server.start()
    ;({ port } = server)
    expect((await ask('/a')).certificate).toBe('first')
    put(makeCertificate({ name: 'second' }))
    await expect.poll(async () => (await ask('/a')).certificate, { timeout: 20_000 }).toBe('second')
  })

  test('without a certificate there is an error, and no server; with hardFail it is thrown', async () => {
    rmSync(join(directory, 'tls.crt'))
    await serve()
    expect(lines[0]).toMatch(/^HTTP server cannot listen, trying again .*tls\.crt cannot be read/)
    await expect(ask('/metrics')).rejects.toThrow()
    await expect(serve({ 'bind-address-hard-fail': 'true' })).rejects.toThrow('tls.crt cannot be read')
  })
})

test('nothing that is served has a secret in it', async () => {
  api.review = (plural, spec) => (plural === 'tokenreviews' ? review(plural, spec) : { allowed: true })
  await serve()
  let all = ''
  for (const path of ['/metrics', '/metrics/slis', '/configz', '/flagz', '/statusz', '/healthz?verbose']) {
    const { code, body } = await ask(path, 'Bearer prom-token')
    expect(code).toBe(200)
    all += body
  }
  expect(all).toContain('/etc/kubeconfig')
  expect(all).not.toMatch(/prom-token|ours|BEGIN|PRIVATE/)
  expect(all).not.toContain(own.key.split('\n')[1])
})

test.each([
  { flags: { 'metrics-tls-cert-file': '/a' }, path: 'kubeIpvsProxy.metricsTLSKeyFile' },
  { flags: { 'metrics-tls-key-file': '/a' }, path: 'kubeIpvsProxy.metricsTLSCertFile' },
  { flags: { 'metrics-token-review': 'true' }, path: 'kubeIpvsProxy.metricsTokenReview' },
])('$flags is half of a setting', ({ flags, path }) => {
  const { problems } = loadConfig({ flags: new Map(Object.entries(flags)) })
  expect(problems.map((problem) => problem.path)).toEqual([path])
})
