import http from 'node:http'
import { once } from 'node:events'
import { expect, test, vi } from 'vitest'
import { FakeApiServer } from '../../fake-apiserver/server.ts'

// What other tests stand on.

test(
  'a watch whose time is over while its client does not read is told of nothing more',
  { timeout: 60_000 },
  async () => {
    const server = new FakeApiServer()
    await server.start()
    const put = (name: string, bytes: number): void =>
      server.put({ kind: 'Service', metadata: { namespace: 'default', name }, spec: { text: 'x'.repeat(bytes) } })
    const request = http.get(`${server.url}/api/v1/services?watch=1&resourceVersion=1&timeoutSeconds=0.05`)
    const [response] = (await once(request, 'response')) as [http.IncomingMessage]
    response.pause()
    // More than sockets take: the end has to wait for the client.
    put('large', 32 << 20)
    await vi.waitFor(() => expect(server.watching).toBe(0), 30_000)
    put('late', 1)
    let text = ''
    response.setEncoding('utf8').on('data', (part: string) => (text += part))
    await once(response.resume(), 'end')
    expect(text.trim().split('\n')).toHaveLength(1)
    await server.stop()
  },
)

test('changes are forgotten when there are very many: a watch from before is refused, one from after goes on', async () => {
  const server = new FakeApiServer()
  await server.start()
  for (let i = 0; i < 100_001; i++) server.put({ kind: 'Service', metadata: { name: 'one' }, spec: {} })
  const watch = async (version: number): Promise<[number, string]> => {
    const url = `${server.url}/api/v1/services?watch=1&resourceVersion=${version}&timeoutSeconds=0.05`
    const answer = await fetch(url)
    return [answer.status, (await answer.text()).trim()]
  }
  expect(await watch(1)).toMatchObject([410, expect.stringContaining('too old')])
  const [status, text] = await watch(server.version - 2)
  expect([status, text.split('\n').length]).toEqual([200, 2])
  await server.stop()
})
