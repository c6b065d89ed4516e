import { createServer, request, type Server } from 'node:http'
import { createServer as createTcpServer } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { ServiceHealth } from '../../../src/health/service-health.ts'
import { silentLog } from '../../../src/lib/log.ts'
import type { Family } from '../../../src/model/address.ts'
import { goldenFile } from '../../golden/compare.ts'

interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, unknown>>
  readonly body: string
}

function ask(port: number, { host = '127.0.0.1', method = 'GET', path = '/' } = {}): Promise<Answer | string> {
  return new Promise((resolve) => {
    const asking = request({ host, port, method, path, agent: false }, (response) => {
      let body = ''
      response.on('data', (chunk) => (body += String(chunk)))
      response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, body }))
    })
    asking.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
    asking.end()
  })
}

async function freePort(): Promise<number> {
  const server = createTcpServer()
  await new Promise<void>((resolve) => server.listen(0, resolve))
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  await new Promise((resolve) => server.close(resolve))
  return port
}

const open: { close(): void }[] = []
afterEach(() => {
  for (const one of open.splice(0)) one.close()
})

function make(family: Family = 'IPv4', healthy = (): boolean => true) {
  const failures: string[] = []
  const health = new ServiceHealth({
    family,
    healthy,
    log: silentLog,
    onListenFailed: (service, port) => void failures.push(`${service} ${port}`),
  })
  open.push(health)
  return { health, failures }
}

async function occupy(port: number, host = '0.0.0.0'): Promise<Server> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen({ port, host }, resolve))
  open.push(server)
  return server
}

describe('answers', () => {
  test.each<[number, boolean, number]>([
    [3, true, 200],
    [1, true, 200],
    [0, true, 503],
    [3, false, 503],
    [0, false, 503],
  ])('%i local endpoints, proxier healthy %s: %i', async (localEndpoints, healthy, status) => {
    const { health } = make('IPv4', () => healthy)
    const port = await freePort()
    health.set('default/lbl', { port, localEndpoints })
    await health.apply()
    expect(health.pending).toBe(0)
    const answer = (await ask(port)) as Answer
    expect(answer.status).toBe(status)
    expect(answer.headers).toMatchObject({
      'content-type': 'application/json',
      'x-content-type-options': 'nosniff',
      'x-load-balancing-endpoint-weight': String(localEndpoints),
    })
    expect(JSON.parse(answer.body)).toEqual({
      service: { namespace: 'default', name: 'lbl' },
      localEndpoints,
      serviceProxyHealthy: healthy,
    })
  })

  test('the body is kube-proxy’s to the byte', async () => {
    const { health } = make()
    const port = await freePort()
    health.set('default/lbl', { port, localEndpoints: 1 })
    await health.apply()
    const theirs = goldenFile('09-lb-etp-local', 'healthcheck-nodeports.txt')
    const { body, headers } = (await ask(port)) as Answer
    expect(theirs.replaceAll('\r', '')).toContain(body)
    expect(theirs).toContain(`Content-Length: ${String(headers['content-length'])}`)
  })

  test.each([
    ['GET', 200],
    ['HEAD', 200],
    ['POST', 405],
    ['DELETE', 405],
  ])('any path, method %s', async (method, status) => {
    const { health } = make()
    const port = await freePort()
    health.set('default/web', { port, localEndpoints: 2 })
    await health.apply()
    expect(await ask(port, { method, path: '/any/path?x' })).toMatchObject({ status })
  })
})

describe('life', () => {
  test('counts 18, 0, 11, gone', async () => {
    const { health } = make()
    const port = await freePort()
    for (const [localEndpoints, status] of [
      [18, 200],
      [0, 503],
      [11, 200],
    ] as const) {
      health.set('default/web', { port, localEndpoints })
      await health.apply()
      expect(await ask(port)).toMatchObject({ status })
    }
    health.set('default/web', undefined)
    await health.apply()
    expect(await ask(port)).toBe('ECONNREFUSED')
  })

  test('a count is answered only once it is applied: the kernel comes first', async () => {
    const { health } = make()
    const port = await freePort()
    health.set('default/web', { port, localEndpoints: 0 })
    await health.apply()
    health.set('default/web', { port, localEndpoints: 2 })
    expect(await ask(port)).toMatchObject({ status: 503 })
    await health.apply()
    expect(await ask(port)).toMatchObject({ status: 200 })
  })

  test('another port: the old one closes', async () => {
    const { health } = make()
    const [before, after] = [await freePort(), await freePort()]
    health.set('default/web', { port: before, localEndpoints: 1 })
    await health.apply()
    health.set('default/web', { port: after, localEndpoints: 1 })
    await health.apply()
    expect(await ask(before)).toBe('ECONNREFUSED')
    expect(await ask(after)).toMatchObject({ status: 200 })
  })

  test('both families share a port', async () => {
    const port = await freePort()
    const [four, six] = [make('IPv4'), make('IPv6')]
    for (const [one, localEndpoints] of [
      [four, 1],
      [six, 0],
    ] as const) {
      one.health.set('default/web', { port, localEndpoints })
      await one.health.apply()
      expect(one.failures).toEqual([])
    }
    expect(await ask(port)).toMatchObject({ status: 200 })
    expect(await ask(port, { host: '::1' })).toMatchObject({ status: 503 })
  })

  test('only the addresses given; a change leaves those that stay', async () => {
    const { health } = make()
    const port = await freePort()
    health.setHosts(['127.0.0.1'])
    health.set('default/web', { port, localEndpoints: 1 })
    await health.apply()
    expect(await ask(port, { host: '127.0.0.2' })).toBe('ECONNREFUSED')
    health.setHosts(['127.0.0.1', '127.0.0.2'])
    await health.apply()
    for (const host of ['127.0.0.1', '127.0.0.2']) expect(await ask(port, { host })).toMatchObject({ status: 200 })
    health.setHosts([])
    await health.apply()
    expect(await ask(port)).toBe('ECONNREFUSED')
    health.setHosts('all')
    await health.apply()
    expect(await ask(port, { host: '127.0.0.3' })).toMatchObject({ status: 200 })
  })

  test('a port that is taken is told once and served as soon as it is free', async () => {
    const { health, failures } = make()
    const port = await freePort()
    const other = await freePort()
    const occupant = await occupy(port)
    health.set('default/a', { port, localEndpoints: 1 })
    health.set('default/b', { port: other, localEndpoints: 1 })
    await health.apply()
    await health.apply()
    expect(failures).toEqual([`default/a ${port}`])
    expect(health.pending).toBe(1)
    expect(await ask(other)).toMatchObject({ status: 200 })
    await new Promise((resolve) => occupant.close(resolve))
    await health.apply()
    expect(health.pending).toBe(0)
    expect(await ask(port)).toMatchObject({ status: 200 })
  })

  test('of two Services with one port the first by name has it, the other takes over', async () => {
    const { health, failures } = make()
    const port = await freePort()
    health.set('default/b', { port, localEndpoints: 2 })
    health.set('default/a', { port, localEndpoints: 1 })
    await health.apply()
    expect(failures).toEqual([`default/b ${port}`])
    expect(JSON.parse(((await ask(port)) as Answer).body)).toMatchObject({ localEndpoints: 1 })
    health.set('default/a', undefined)
    await health.apply()
    expect(JSON.parse(((await ask(port)) as Answer).body)).toMatchObject({ localEndpoints: 2 })
  })
})
