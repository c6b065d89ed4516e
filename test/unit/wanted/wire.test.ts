import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { HttpServer } from '../../../src/health/server.ts'
import { askDaemonAt, askSocket } from '../../../src/inspect/ask.ts'
import { describeError } from '../../../src/lib/errors.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { DestinationList } from '../../../src/model/destination-list.ts'
import { fromLines, readServer, toLines, wireServer } from '../../../src/wanted/wire.ts'

let folder: string
let path: string
const closing: (() => void)[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'wire-'))
  path = join(folder, 'status.sock')
})

afterEach(() => {
  for (const close of closing.splice(0)) close()
  rmSync(folder, { recursive: true, force: true })
})

function serve(hardFail = true): HttpServer {
  const routes = { '/wanted': () => ({ code: 200, type: 'text/plain', body: toLines(['a', { b: 'ü' }]) }) }
  const server = new HttpServer({ name: 'status', at: { path }, hardFail, retryMs: 10, routes, log: silentLog })
  closing.push(() => server.close())
  return server
}

describe('lines', () => {
  test.each([0, 1, 3, 5000])('%i values come back as they went', async (count) => {
    const values = Array.from({ length: count }, (_, i) => [i, `text\n${i}`])
    const pieces: string[] = []
    for await (const piece of toLines(values)) pieces.push(piece)
    expect(pieces.length > 1).toBe(count === 5000)
    expect(fromLines(pieces.join(''))).toEqual(values)
  })

  test.each(['', '\n', '"a"\n', '"a"\n2\n', '"a"\n1', '"a"\n"b"\n1\n'])('%j was cut', (text) => {
    expect(() => fromLines(text)).toThrow('the answer was cut')
  })

  test.each([
    ['10.96.0.1', [{ address: '10.0.0.1', port: 8080, weight: 1 }]],
    ['fd00::1', [{ address: 'fd00:1::2', port: 53, weight: 0 }]],
    ['10.96.0.2', []],
  ])('virtual server %s', (address, destinations) => {
    const family = address.includes(':') ? 'IPv6' : 'IPv4'
    const server = { family, protocol: 'TCP', address, port: 80, scheduler: 'rr', flags: 1, timeout: 10800 } as const
    const one = { server, destinations: DestinationList.of(destinations), owners: ['a/b/TCP'] }
    const [key, read] = readServer(JSON.parse(JSON.stringify(wireServer(one))))
    expect(key).toBe(family === 'IPv6' ? '[fd00::1]:80/TCP' : `${address}:80/TCP`)
    expect({ ...read, destinations: [...read.destinations] }).toEqual({ ...one, destinations })
  })
})

describe('the socket', () => {
  test('is for its owner alone, takes the place of one that nobody listens at, and goes with the server', async () => {
    writeFileSync(path, '')
    const server = serve()
    await server.start()
    expect(statSync(path).mode & 0o777).toBe(0o600)
    expect(fromLines(await askSocket(path, '/wanted'))).toEqual(['a', { b: 'ü' }])
    server.close()
    await expect(askSocket(path, '/wanted')).rejects.toThrow('ENOENT')
  })

  test('is left to a process that listens there', async () => {
    await serve().start()
    const error: unknown = await serve()
      .start()
      .catch((thrown: unknown) => thrown)
    expect(describeError(error)).toContain(`another process listens on ${path}`)
    expect(fromLines(await askSocket(path, '/wanted'))).toHaveLength(2)
  })

  test('that cannot be made keeps nobody from his work', async () => {
    writeFileSync(join(folder, 'file'), '')
    path = join(folder, 'file', 'status.sock')
    await serve(false).start()
  })

  test.each([
    ['', 'it answers nothing that is HTTP'],
    ['HTTP/1.1 404 Not Found\r\n\r\n', 'it answers 404'],
    ['HTTP/1.1 200 OK\r\n\r\n{"version":"1"}\n', 'the answer was cut'],
  ])('an answer %j is none', async (answer, message) => {
    const server: Server = createServer((socket) => void socket.end(answer))
    closing.push(() => server.close())
    await new Promise<void>((up) => server.listen(path, up))
    await expect(askDaemonAt(path, true)).rejects.toThrow(message)
  })
})
