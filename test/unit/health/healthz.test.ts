import { expect, test } from 'vitest'
import { ProxierHealth } from '../../../src/health/healthz.ts'
import { HttpServer } from '../../../src/health/server.ts'
import { describeError, ProxyError } from '../../../src/lib/errors.ts'
import { silentLog } from '../../../src/lib/log.ts'
import type { Family } from '../../../src/model/address.ts'

interface Step {
  at: number
  queued?: Family
  updated?: Family
  eligible?: boolean
  healthz: number
  livez: number
}

test.each<{ name: string; families: Family[]; steps: Step[] }>([
  {
    name: 'not before the first sync; alive all the same',
    families: ['IPv4'],
    steps: [
      { at: 0, healthz: 503, livez: 200 },
      { at: 1000, updated: 'IPv4', healthz: 200, livez: 200 },
    ],
  },
  {
    name: 'a quiet cluster stays healthy',
    families: ['IPv4'],
    steps: [
      { at: 0, updated: 'IPv4', healthz: 200, livez: 200 },
      { at: 9_000_000, healthz: 200, livez: 200 },
    ],
  },
  {
    name: 'what waits too long; a second request does not move the time; a sync clears it',
    families: ['IPv4'],
    steps: [
      { at: 0, updated: 'IPv4', healthz: 200, livez: 200 },
      { at: 1000, queued: 'IPv4', healthz: 200, livez: 200 },
      { at: 60_000, queued: 'IPv4', healthz: 200, livez: 200 },
      { at: 61_000, healthz: 503, livez: 503 },
      { at: 62_000, updated: 'IPv4', healthz: 200, livez: 200 },
    ],
  },
  {
    name: 'one family late',
    families: ['IPv4', 'IPv6'],
    steps: [
      { at: 0, updated: 'IPv4', healthz: 503, livez: 200 },
      { at: 1, updated: 'IPv6', healthz: 200, livez: 200 },
      { at: 2, queued: 'IPv6', healthz: 200, livez: 200 },
      { at: 60_002, updated: 'IPv4', healthz: 503, livez: 503 },
    ],
  },
  {
    name: 'the node is being deleted',
    families: ['IPv4'],
    steps: [
      { at: 0, updated: 'IPv4', healthz: 200, livez: 200 },
      { at: 1, eligible: false, healthz: 503, livez: 200 },
      { at: 2, eligible: true, healthz: 200, livez: 200 },
    ],
  },
])('$name', ({ families, steps }) => {
  let now = 0
  const clock = { now: () => now, sleep: () => Promise.resolve() }
  const health = new ProxierHealth(families, 60_000, true, clock, () => 'waiting for services')
  for (const { at, queued, updated, eligible, healthz, livez } of steps) {
    now = at
    if (queued) health.queued(queued)
    if (updated) health.updated(updated)
    if (eligible !== undefined) health.setEligible(eligible)
    expect([at, health.healthz().code, health.livez().code]).toEqual([at, healthz, livez])
  }
})

test('the body has upstream’s members, and a reason where unhealthy', () => {
  const clock = { now: () => 1000, sleep: () => Promise.resolve() }
  const health = new ProxierHealth(['IPv4'], 60_000, true, clock, () => 'waiting for services: connect ECONNREFUSED')
  expect(JSON.parse(health.healthz().body)).toEqual({
    lastUpdated: '0001-01-01T00:00:00Z',
    currentTime: '1970-01-01T00:00:01.000Z',
    nodeEligible: true,
    healthy: false,
    status: { IPv4: { lastUpdated: '0001-01-01T00:00:00Z', healthy: false } },
    reason: 'first sync not done: waiting for services: connect ECONNREFUSED',
  })
  health.updated('IPv4')
  expect(JSON.parse(health.livez().body)).toEqual({
    lastUpdated: '1970-01-01T00:00:01.000Z',
    currentTime: '1970-01-01T00:00:01.000Z',
    healthy: true,
    status: { IPv4: { lastUpdated: '1970-01-01T00:00:01.000Z', healthy: true } },
  })
})

test('the server answers its paths, and nothing else', async () => {
  const routes = {
    '/a': () => ({ code: 200, type: 'text/plain', body: 'hello' }),
    '/b': () => Promise.reject(new Error('x')),
  }
  const server = new HttpServer({
    name: 'test',
    at: { host: '127.0.0.1', port: 0 },
    hardFail: true,
    routes,
    log: silentLog,
  })
  await server.start()
  const ask = async (path: string, method = 'GET') => {
    const answer = await fetch(`http://127.0.0.1:${server.port}${path}`, { method })
    return `${answer.status} ${await answer.text()}`
  }
  try {
    expect(await ask('/a')).toBe('200 hello')
    expect(await ask('/a?x=1')).toBe('200 hello')
    expect(await ask('/a', 'HEAD')).toBe('200 ')
    expect(await ask('/a', 'POST')).toBe('405 method not allowed')
    expect(await ask('/b')).toBe('500 internal error')
    expect(await ask('/toString')).toBe('404 404 page not found')
    const second = new HttpServer({
      name: 'test',
      at: { host: '127.0.0.1', port: server.port },
      hardFail: true,
      routes,
      log: silentLog,
    })
    const error: unknown = await second.start().catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(ProxyError)
    expect(describeError(error)).toMatch(/^the test server cannot listen on 127\.0\.0\.1 port \d+: .*EADDRINUSE/)
  } finally {
    server.close()
  }
})

test('an address in use is tried again until it is free', async () => {
  const options = { name: 'test', retryMs: 10, routes: {}, log: silentLog }
  const holder = new HttpServer({ ...options, at: { host: '127.0.0.1', port: 0 }, hardFail: true })
  await holder.start()
  const waiting = new HttpServer({ ...options, at: { host: '127.0.0.1', port: holder.port }, hardFail: false })
  try {
    await waiting.start()
    expect(waiting.port).toBe(0)
    holder.close()
    await expect.poll(() => waiting.port, { timeout: 5000 }).toBeGreaterThan(0)
  } finally {
    holder.close()
    waiting.close()
  }
})
