import { connect } from 'node:net'
import { once } from 'node:events'
import { afterEach, describe, expect, test } from 'vitest'
import { HttpServer, mostConnections, type Routes } from '../../../src/health/server.ts'
import { silentLog, type Log } from '../../../src/lib/log.ts'

let server: HttpServer | undefined
afterEach(() => server?.close())

const errors: string[] = []
const log: Log = { ...silentLog, error: (_message, fields) => void errors.push(String(fields?.error)) }

async function serve(
  routes: Routes,
  stallMs?: number,
  requestMs?: number,
): Promise<(path: string, init?: RequestInit) => Promise<Response>> {
  errors.length = 0
  const options = { name: 'test', at: { host: '127.0.0.1', port: 0 }, hardFail: true, routes, log }
  server = new HttpServer({
    ...options,
    ...(stallMs === undefined ? {} : { stallMs }),
    ...(requestMs === undefined ? {} : { requestMs }),
  })
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
  }
  test.each([
    ['GET', '/get', 200, 'got', null],
    ['HEAD', '/get', 200, '', null],
    ['POST', '/get', 405, 'method not allowed', 'GET, HEAD'],
    ['PUT', '/put', 200, 'put 5', null],
    ['GET', '/put', 405, 'method not allowed', 'PUT'],
    ['DELETE', '/both', 405, 'method not allowed', 'GET, HEAD, PUT'],
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

  test('in one piece is no other: nobody may leave it lying', async () => {
    await serve({ '/s': () => text('x'.repeat(50_000_000)) }, 50)
    const socket = connect(server!.port, '127.0.0.1')
    socket.on('error', () => {})
    socket.pause()
    socket.write('GET /s HTTP/1.1\r\nHost: a\r\n\r\n')
    await expect.poll(() => errors, { timeout: 10_000 }).toEqual(['the client took nothing for 50 ms'])
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

describe('limits', () => {
  /** What comes back for these bytes, until the server closes the connection. */
  function exchange(bytes: string): Promise<string> {
    return new Promise((resolve) => {
      let answer = ''
      const socket = connect(server!.port, '127.0.0.1', () => void socket.write(bytes))
      socket.on('data', (part: Buffer) => (answer += String(part)))
      socket.on('error', () => {})
      socket.on('close', () => resolve(answer))
    })
  }
  const routes: Routes = { '/a': () => text('a'), '/b': { PUT: async (request) => text(await request.text(100)) } }

  test.each([
    {
      name: 'headers of more than 8 KiB',
      bytes: `GET /a HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(9000)}\r\n\r\n`,
      code: 431,
    },
    { name: 'a path of more than 8 KiB', bytes: `GET /${'a'.repeat(9000)} HTTP/1.1\r\nHost: a\r\n\r\n`, code: 431 },
    { name: 'headers that do not end', bytes: 'GET /a HTTP/1.1\r\nHost: a\r\n', code: 408 },
    { name: 'a body that does not come', bytes: 'PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx', code: 408 },
    { name: 'no HTTP', bytes: '\u0016\u0003\u0001\r\n\r\n', code: 400 },
    {
      name: 'two lengths',
      bytes: 'GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n',
      code: 400,
    },
  ])('$name: $code, and the connection is closed', { timeout: 60_000 }, async ({ bytes, code }) => {
    await serve(routes, undefined, 200)
    expect(await exchange(bytes)).toMatch(new RegExp(`^HTTP/1\\.1 ${code} `))
  })

  test('of more than a hundred connections the further ones are closed at once', { timeout: 60_000 }, async () => {
    await serve(routes)
    const sockets = Array.from({ length: mostConnections + 20 }, () => connect(server!.port, '127.0.0.1'))
    let closed = 0
    for (const socket of sockets) {
      socket.on('error', () => {})
      socket.on('close', () => closed++)
    }
    await expect.poll(() => closed, { timeout: 20_000 }).toBe(20)
    for (const socket of sockets) socket.destroy()
  })

  test('it listens where it is told, and nowhere else', async () => {
    server = new HttpServer({ name: 'test', at: { host: '127.0.0.2', port: 0 }, hardFail: true, routes, log })
    await server.start()
    const { port } = server
    expect((await fetch(`http://127.0.0.2:${port}/a`)).status).toBe(200)
    await expect(fetch(`http://127.0.0.1:${port}/a`)).rejects.toThrow()
  })
})
