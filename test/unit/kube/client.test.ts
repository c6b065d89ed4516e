import { createServer } from 'node:http'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { Client } from '../../../src/kube/client.ts'

const server = createServer((request, response) => {
  response.statusCode = request.method === 'POST' ? 201 : 200
  response.write('x'.repeat(1000))
  // A watch goes on.
  if (request.url !== '/watch') response.end('y')
})
let url = ''
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (typeof address === 'object' && address !== null) url = `http://127.0.0.1:${address.port}`
})
afterAll(() => {
  server.close()
  server.closeAllConnections()
})

const heard: string[] = []
beforeEach(() => void (heard.length = 0))

function client(at = url): Client {
  return new Client({
    access: {
      server: at,
      tls: () => Promise.resolve({}),
      headers: () => Promise.resolve({}),
      rejected: () => {},
    },
    version: 'test',
    observer: {
      answered: (method, code, seconds, bytes) => {
        expect(seconds).toBeGreaterThanOrEqual(0)
        heard.push(`${method} ${code} ${bytes}`)
      },
      received: (method, bytes) => void heard.push(`${method} received ${bytes}`),
    },
  })
}

const never = new AbortController().signal

async function readAll(body: AsyncIterable<Buffer>): Promise<number> {
  let length = 0
  for await (const chunk of body) length += chunk.length
  return length
}

test('requests are told with the bytes that they send and get', async () => {
  const one = client()
  expect(await readAll((await one.get('/list', never)).body)).toBe(1001)
  await readAll((await one.send('POST', '/events', 'application/json', '{"é":1}', never)).body)
  expect(heard).toEqual(['GET 200 0', 'GET received 1001', 'POST 201 8', 'POST received 1001'])
  one.close()
})

test('a body that is not read to its end is not told', async () => {
  const one = client()
  const response = await one.get('/watch', never)
  for await (const chunk of response.body) {
    expect(chunk.length).toBeGreaterThan(0)
    break
  }
  response.destroy()
  expect(heard).toEqual(['GET 200 0'])
  one.close()
})

test('no answer is told as an error', async () => {
  await expect(client('http://127.0.0.1:1').get('/', never)).rejects.toThrow()
  expect(heard).toEqual(['GET <error> 0'])
})
