import { connect } from 'node:net'
import { once } from 'node:events'
import { afterEach, describe, expect, test } from 'vitest'
import { HttpServer, type Routes } from '../../../src/health/server.ts'
import { silentLog, type Log } from '../../../src/lib/log.ts'

let server: HttpServer | undefined
afterEach(() => server?.close())

const errors: string[] = []
const log: Log = { ...silentLog, error: (_message, fields) => void errors.push(String(fields?.error)) }

async function serve(
  routes: Routes,
  stallMs?: number,
): Promise<(path: string, init?: RequestInit) => Promise<Response>> {
  errors.length = 0
  const options = { name: 'test', at: { host: '127.0.0.1', port: 0 }, hardFail: true, routes, log }
  server = new HttpServer(stallMs === undefined ? options : { ...options, stallMs })
  await server.start()
  const { port } = server
  return (path, init) => fetch(`http://127.0.0.1:${port}${path}`, init)
}

const text = (body: string) => ({ code: 200, type: 'text/plain', body })

describe('methods', () => {
  const routes: Routes = {
    '/get': () => text('got'),
    '/put': { PUT: async (request) => text(`put ${await request.text(8)}`) },
    '/both': { GET: () => text('got'), PUT: () => text('put') },
    '/any': { any: () => text('any') },
  }
  test.each([
    ['GET', '/get', 200, 'got', null],
    ['HEAD', '/get', 200, '', null],
    ['POST', '/get', 405, 'method not allowed', 'GET, HEAD'],
    ['PUT', '/put', 200, 'put 5', null],
    ['GET', '/put', 405, 'method not allowed', 'PUT'],
    ['DELETE', '/both', 405, 'method not allowed', 'GET, HEAD, PUT'],
    ['POST', '/any', 200, 'any', null],
    ['HEAD', '/any', 200, '', null],
    ['GET', '/constructor', 404, '404 page not found', null],
  ])('%s %s', async (method, path, code, body, allow) => {
    const ask = await serve(routes)
    const answer = await ask(path, { method, ...(method === 'PUT' ? { body: '5' } : {}) })
    expect([answer.status, await answer.text(), answer.headers.get('allow')]).toEqual([code, body, allow])
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
  })

  test('a body larger than its route takes is refused', async () => {
    const ask = await serve(routes)
    expect((await ask('/put', { method: 'PUT', body: 'x'.repeat(9) })).status).toBe(500)
    expect(errors).toEqual(['a body of more than 8 bytes'])
  })
})

test('a route sees query and Accept', async () => {
  const ask = await serve({ '/a': ({ query, accept }) => text(`${query.get('x')} ${accept}`) })
  const answer = await ask('/a?x=1%202&y', { headers: { accept: 'text/plain' } })
  expect(await answer.text()).toBe('1 2 text/plain')
})

describe('a streamed answer', () => {
  async function* pieces(count: number, size: number, taken: { count: number }): AsyncGenerator<string> {
    for (; taken.count < count; taken.count++) yield 'x'.repeat(size)
  }

  test('arrives whole, without a length; HEAD asks for none of it', async () => {
    const taken = { count: 0 }
    const ask = await serve({ '/s': () => ({ ...text(''), body: pieces(100, 1000, taken) }) })
    const head = await ask('/s', { method: 'HEAD' })
    expect([head.status, taken.count]).toEqual([200, 0])
    const answer = await ask('/s')
    expect((await answer.text()).length).toBe(100_000)
    expect(answer.headers.get('content-length')).toBeNull()
  })

  test('that fails half-way is cut off, not ended', async () => {
    async function* failing(): AsyncGenerator<string> {
      yield 'half'
      throw new Error('broken')
    }
    const ask = await serve({ '/s': () => ({ ...text(''), body: failing() }) })
    await expect(ask('/s').then((answer) => answer.text())).rejects.toThrow()
    expect(errors).toEqual(['broken'])
  })

  test('waits for a client that does not read, and lets go of it', async () => {
    const taken = { count: 0 }
    await serve({ '/s': () => ({ ...text(''), body: pieces(10_000, 65_536, taken) }) }, 50)
    const socket = connect(server!.port, '127.0.0.1')
    socket.on('error', () => {})
    socket.pause()
    socket.write('GET /s HTTP/1.1\r\nHost: a\r\n\r\n')
    await expect.poll(() => errors, { timeout: 10_000 }).toEqual(['the client took nothing for 50 ms'])
    // What the sockets' buffers hold, far from all of it.
    expect(taken.count).toBeLessThan(1000)
    socket.destroy()
  })

  test('of a client that has gone ends without a word', async () => {
    const taken = { count: 0 }
    let ended = false
    async function* endless(): AsyncGenerator<string> {
      try {
        yield* pieces(1_000_000, 65_536, taken)
      } finally {
        ended = true
      }
    }
    await serve({ '/s': () => ({ ...text(''), body: endless() }) })
    const socket = connect(server!.port, '127.0.0.1')
    socket.write('GET /s HTTP/1.1\r\nHost: a\r\n\r\n')
    await once(socket, 'data')
    socket.destroy()
    await expect.poll(() => ended, { timeout: 10_000 }).toBe(true)
    expect(errors).toEqual([])
  })
})
