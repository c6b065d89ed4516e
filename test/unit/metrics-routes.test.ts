import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { loadConfig } from '../../src/config/load.ts'
import { HttpServer } from '../../src/health/server.ts'
import { silentLog, type Log } from '../../src/lib/log.ts'
import { metricsRoutes } from '../../src/metrics-routes.ts'
import { createMetrics } from '../../src/metrics/metrics.ts'

const golden = (file: string): string => readFileSync(join(import.meta.dirname, '../golden/01-base', file), 'utf8')

let server: HttpServer | undefined
afterEach(() => server?.close())

async function serve(flags: Record<string, string> = {}, log: Log = silentLog) {
  const { config, problems } = loadConfig({ flags: new Map(Object.entries(flags)) })
  expect(problems).toEqual([])
  async function* series(): AsyncGenerator<string> {
    yield 'service_series 1\n'
  }
  const routes = metricsRoutes(config, createMetrics(), log, series)
  server = new HttpServer({ name: 'test', at: { host: '127.0.0.1', port: 0 }, hardFail: true, routes, log: silentLog })
  await server.start()
  const { port } = server
  return async (path: string, init?: RequestInit) => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`, init)
    return { code: answer.status, type: answer.headers.get('content-type'), body: await answer.text() }
  }
}

test.each([
  ['nothing asked', '', 'ok'],
  ['verbose', '?verbose', '[+]ping ok\nhealthz check passed\n'],
  ['verbose with a value', '?verbose=1', '[+]ping ok\nhealthz check passed\n'],
  ['the one check left out', '?verbose&exclude=ping', '[+]ping excluded: ok\nhealthz check passed\n'],
  [
    'an unknown check left out',
    '?verbose&exclude=x',
    '[+]ping ok\nwarn: some health checks cannot be excluded: no matches for "x"\nhealthz check passed\n',
  ],
])('/healthz: %s', async (_name, query, body) => {
  const ask = await serve()
  expect(await ask(`/healthz${query}`)).toEqual({ code: 200, type: 'text/plain; charset=utf-8', body })
})

test('/proxyMode is as upstream’s to the byte', async () => {
  const ask = await serve()
  const [head = '', body] = golden('proxyMode.txt').replaceAll('\r', '').split('\n\n')
  expect(await ask('/proxyMode')).toEqual({ code: 200, type: /^Content-Type: (.*)$/m.exec(head)?.[1], body })
})

test('/metrics in both formats, the service ports’ series last', async () => {
  const ask = await serve()
  const text = await ask('/metrics')
  expect(text.type).toBe('text/plain; version=0.0.4; charset=utf-8')
  expect(text.body).toMatch(/^kubeproxy_proxy_healthz_total\{code="200"\} 0$/m)
  expect(text.body.endsWith('\nservice_series 1\n')).toBe(true)
  const open = await ask('/metrics', { headers: { accept: 'application/openmetrics-text;version=1.0.0' } })
  expect(open.type).toBe('application/openmetrics-text; version=1.0.0; charset=utf-8')
  expect(open.body).toMatch(/^# TYPE kubeproxy_proxy_healthz counter$/m)
  expect(open.body.endsWith('\nservice_series 1\n# EOF\n')).toBe(true)
  expect(open.body).not.toContain('\n\n')
})

test('/metrics/slis counts the checks that were asked for', async () => {
  const ask = await serve()
  expect((await ask('/metrics/slis')).body).not.toMatch(/^kubernetes_/m)
  for (const path of ['/healthz', '/healthz?verbose', '/healthz/ping']) await ask(path)
  const lines = (await ask('/metrics/slis')).body.split('\n').filter((line) => line.startsWith('kubernetes_'))
  expect(lines).toEqual([
    'kubernetes_healthcheck{name="ping",type="healthz"} 1',
    'kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} 3',
  ])
})

/** Types of values by path. */
function shape(value: unknown, path = ''): Record<string, string> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return { [path]: value === null || Array.isArray(value) ? 'list' : typeof value }
  }
  return Object.assign({}, ...Object.entries(value).map(([key, one]) => shape(one, `${path}/${key}`))) as Record<
    string,
    string
  >
}

test('/configz has every field of upstream’s, of the same type', async () => {
  const ask = await serve()
  const { type, body } = await ask('/configz')
  expect(type).toBe('application/json')
  const theirs = Object.entries(shape(JSON.parse(golden('configz.json')))).filter(
    // Options of a log format that we do not have.
    ([path]) => !path.includes('/logging/options/'),
  )
  const mine = shape(JSON.parse(body))
  expect(Object.fromEntries(theirs.map(([path]) => [path, mine[path]]))).toEqual(Object.fromEntries(theirs))
})

describe('/statusz and /flagz', () => {
  test.each([
    ['/statusz', {}, 200],
    ['/flagz', {}, 200],
    ['/statusz', { 'feature-gates': 'ComponentStatusz=false' }, 404],
    ['/flagz', { 'feature-gates': 'ComponentStatusz=false' }, 200],
    ['/flagz', { 'feature-gates': 'ComponentFlagz=false' }, 404],
  ])('%s with %j', async (path, flags, code) => {
    const ask = await serve(flags)
    expect((await ask(path)).code).toBe(code)
  })

  test('say what is in force', async () => {
    const ask = await serve({ 'ipvs-scheduler': 'wrr', 'nodeport-addresses': '10.0.0.0/8,fd00::/8' })
    const { body } = await ask('/flagz')
    expect(body).toMatch(/^\nkube-proxy flags\nWarning: .*\n\n/)
    expect(body).toMatch(/^ipvs-scheduler=wrr$/m)
    expect(body).toMatch(/^ipvs-sync-period=30s$/m)
    expect(body).toMatch(/^nodeport-addresses=10\.0\.0\.0\/8,fd00::\/8$/m)
    expect((await ask('/statusz')).body).toMatch(/^Up: 0 hr \d\d min \d\d sec$/m)
  })
})

describe('profiling', () => {
  const paths = ['/debug/pprof/', '/debug/pprof/profile', '/debug/pprof/heap', '/debug/flags/v']

  test.each(paths)('%s is not there unless it is enabled', async (path) => {
    const ask = await serve()
    expect((await ask(path)).code).toBe(404)
  })

  test('takes a profile and a heap snapshot that V8’s tools read', async () => {
    const ask = await serve({ profiling: 'true' })
    expect((await ask('/debug/pprof/')).body).toContain('.cpuprofile')
    const [profile, second] = await Promise.all([
      ask('/debug/pprof/profile?seconds=0.2'),
      new Promise((wake) => setTimeout(wake, 50)).then(() => ask('/debug/pprof/profile?seconds=0.1')),
    ])
    expect(JSON.parse(profile.body)).toMatchObject({ nodes: expect.any(Array), samples: expect.any(Array) })
    expect(second).toMatchObject({ code: 409, body: 'a profile is being taken' })
    const heap = await ask('/debug/pprof/heap')
    expect(heap.body.slice(0, 20)).toContain('"snapshot"')
    expect(heap.body.trimEnd().endsWith('}')).toBe(true)
  })

  test.each(['0', '-1', 'x', '301'])('of %s seconds is refused', async (seconds) => {
    const ask = await serve({ profiling: 'true' })
    expect((await ask(`/debug/pprof/profile?seconds=${seconds}`)).code).toBe(400)
  })

  test.each([
    ['4', 200, 'successfully set klog.logging.verbosity to 4', [4]],
    [' 0\n', 200, 'successfully set klog.logging.verbosity to 0', [0]],
    ['loud', 400, 'the body must be a whole number, not "loud"', []],
    ['', 400, 'the body must be a whole number, not ""', []],
  ])('verbosity %j', async (body, code, words, levels) => {
    const set: number[] = []
    const ask = await serve({ profiling: 'true' }, { ...silentLog, setVerbosity: (level) => void set.push(level) })
    expect(await ask('/debug/flags/v', { method: 'PUT', body })).toMatchObject({ code, body: words })
    expect(set).toEqual(levels)
    expect((await ask('/debug/flags/v')).code).toBe(405)
  })
})
