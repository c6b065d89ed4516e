import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { readCluster } from '../../../src/inspect/cluster.ts'
import { Notes } from '../../../src/inspect/notes.ts'
import { Client } from '../../../src/kube/client.ts'
import { loadAccess } from '../../../src/kube/kubeconfig.ts'
import { listObjects } from '../../../src/kube/list.ts'
import type { Response } from '../../../src/kube/client.ts'
import { ProxyError } from '../../../src/lib/errors.ts'
import type { ClusterListener } from '../../../src/model/cluster.ts'
import { FakeApiServer } from '../../fake-apiserver/server.ts'

let server: FakeApiServer
let client: Client
let told: string[]
const listener: ClusterListener = {
  serviceChanged: (key) => void told.push(`service ${key}`),
  sliceChanged: (key, slice) => void told.push(`slice ${key} ${slice?.endpoints.length}`),
  nodeChanged: (node) => void told.push(`node ${node?.name}`),
  synced: (kind) => void told.push(`synced ${kind}`),
}

const serviceObject = (name: string, clusterIP = '10.96.0.1') => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name, namespace: 'default' },
  spec: { clusterIP, ports: [{ port: 80 }] },
})
const sliceObject = (service: string) => ({
  apiVersion: 'discovery.k8s.io/v1',
  kind: 'EndpointSlice',
  metadata: { name: `${service}-1`, namespace: 'default', labels: { 'kubernetes.io/service-name': service } },
  addressType: 'IPv4',
  ports: [{ name: '', port: 8080 }],
  endpoints: [{ addresses: ['10.0.0.1'] }],
})

beforeEach(async () => {
  told = []
  server = new FakeApiServer()
  server.put({ apiVersion: 'v1', kind: 'Node', metadata: { name: 'node1' } })
  server.put({ apiVersion: 'v1', kind: 'Node', metadata: { name: 'node2' } })
  for (const name of ['web', 'db']) {
    server.put(serviceObject(name))
    server.put(sliceObject(name))
  }
  const master = await server.start()
  client = new Client({ access: await loadAccess({ master }), version: 'test' })
})

afterEach(async () => {
  client.close()
  await server.stop()
})

describe('the API server', () => {
  test('is asked for three lists, and watched for nothing', async () => {
    await readCluster({ source: { client }, nodeName: 'node1', log: new Notes() }, listener)
    expect(told.slice(0, -3).sort()).toEqual([
      'node node1',
      'service default/db',
      'service default/web',
      'slice default/db-1 1',
      'slice default/web-1 1',
    ])
    expect(told.slice(-3)).toEqual(['synced services', 'synced endpointslices', 'synced node'])
    expect(server.requests).toHaveLength(3)
    expect(server.requests.filter(({ url }) => url.includes('watch'))).toEqual([])
  })

  test('of one Service gives its slices as they are', async () => {
    const slices: unknown[] = []
    const onSlice = (slice: unknown): void => void slices.push(slice)
    const only = 'default/web'
    await readCluster({ source: { client }, nodeName: 'node1', log: new Notes(), only, onSlice }, listener)
    expect(told).not.toContain('slice default/db-1 1')
    expect(slices).toHaveLength(1)
    expect(slices[0]).toMatchObject({ endpoints: [{ addresses: ['10.0.0.1'] }] })
  })

  test('problems of objects become notes, the rest is told', async () => {
    server.put({ ...serviceObject('odd'), spec: { clusterIP: '10.96.0.9', ports: [{ port: 'x' }] } })
    const log = new Notes()
    await readCluster({ source: { client }, nodeName: 'node1', log }, listener)
    expect(told).toContain('service default/odd')
    expect(log.lines).toEqual([expect.stringContaining('Service default/odd: spec.ports[0].port')])
  })

  test('that cannot be reached is an error', async () => {
    await server.stop()
    const read = readCluster({ source: { client }, nodeName: 'node1', log: new Notes() }, listener)
    await expect(read).rejects.toThrow(ProxyError)
    server = new FakeApiServer()
    await server.start()
  })
})

describe('a list', () => {
  const page = (status: number, body: unknown): Response => ({
    status,
    retryAfterMs: undefined,
    body: (async function* () {
      yield Buffer.from(typeof body === 'string' ? body : JSON.stringify(body))
    })(),
    destroy: () => {},
  })
  /** Answers page after page, and keeps what was asked. */
  function answering(...pages: Response[]) {
    const asked: string[] = []
    return {
      asked,
      get: (path: string): Promise<Response> => {
        asked.push(path)
        return Promise.resolve(pages.shift()!)
      },
    }
  }
  const signal = new AbortController().signal

  test('goes on page after page', async () => {
    const fake = answering(
      page(200, { metadata: { continue: 'next' }, items: [{ a: 1 }] }),
      page(200, { metadata: { resourceVersion: '5' }, items: [{ a: 2 }] }),
    )
    const objects: unknown[] = []
    await listObjects(fake, { path: '/x', labelSelector: 'a=b' }, (object) => objects.push(object), signal)
    expect(objects).toEqual([{ a: 1 }, { a: 2 }])
    expect(fake.asked).toEqual(['/x?resourceVersion=0&labelSelector=a%3Db', '/x?continue=next&labelSelector=a%3Db'])
  })

  test('goes without a field selector that the server does not know', async () => {
    const fake = answering(page(400, { message: 'field label not supported' }), page(200, { metadata: {}, items: [] }))
    await listObjects(fake, { path: '/x', fieldSelector: 'y=z', fieldSelectorOptional: true }, () => {}, signal)
    expect(fake.asked).toEqual(['/x?resourceVersion=0&fieldSelector=y%3Dz', '/x?resourceVersion=0'])
  })

  test.each([
    [page(403, { message: 'services is forbidden' }), 'list /x: 403: services is forbidden'],
    [page(502, 'Bad Gateway'), 'list /x: 502: Bad Gateway'],
    [page(500, ''), 'list /x: 500: no message'],
    [page(400, { message: 'no' }), 'list /x: 400: no'],
  ])('says what the server said (%#)', async (answer, message) => {
    const error: unknown = await listObjects(answering(answer), { path: '/x' }, () => {}, signal).catch(
      (e: unknown) => e,
    )
    expect(error).toBeInstanceOf(ProxyError)
    expect(error).toMatchObject({ code: 'API', message })
  })

  test('that is cut off is an error', async () => {
    const cut = answering(page(200, '{"metadata":{},"items":[{"a":1}'))
    await expect(listObjects(cut, { path: '/x' }, () => {}, signal)).rejects.toThrow('ends in the middle')
  })
})
