import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { ApiSource } from '../../../src/kube/api-source.ts'
import { Client } from '../../../src/kube/client.ts'
import { loadAccess } from '../../../src/kube/kubeconfig.ts'
import { Reflector } from '../../../src/kube/reflector.ts'
import type { ReflectorOptions } from '../../../src/kube/reflector.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { FakeApiServer } from '../../fake-apiserver/server.ts'
import type { KubeObject } from '../../fake-apiserver/server.ts'

const SERVICES = '/api/v1/services'
const times = {
  watchSeconds: [60, 60] as const,
  watchGrace: 60_000,
  listIdle: 3000,
  initialEvents: 5000,
  startSpread: 0,
  relistSpread: 0,
  backoffFirst: 5,
  backoffMost: 20,
  shortWatch: 5,
}

function service(name: string, port = 80): KubeObject {
  const spec = { clusterIP: '10.96.0.1', clusterIPs: ['10.96.0.1'], ipFamilies: ['IPv4'], ports: [{ port }] }
  return { kind: 'Service', metadata: { namespace: 'default', name }, spec }
}

vi.setConfig({ testTimeout: 60_000 })
const until = (check: () => void): Promise<void> => vi.waitFor(check, { timeout: 20_000, interval: 5 })

let server: FakeApiServer
let directory: string
let stop: AbortController
let running: Promise<void>[]
let records: Map<string, string>
let history: string[]
let synced: number
let codes: string[]

beforeEach(async () => {
  server = new FakeApiServer()
  await server.start()
  directory = mkdtempSync(join(tmpdir(), 'reflector-'))
  stop = new AbortController()
  running = []
  records = new Map()
  history = []
  synced = 0
  codes = []
})

afterEach(async () => {
  stop.abort()
  await Promise.all(running)
  server.hang(false)
  await server.stop()
  rmSync(directory, { recursive: true })
})

async function makeClient(token?: string): Promise<Client> {
  const path = join(directory, 'kubeconfig')
  const user = token === undefined ? {} : { tokenFile: 'token' }
  if (token !== undefined) writeFileSync(join(directory, 'token'), token)
  writeFileSync(
    path,
    JSON.stringify({
      'current-context': 'c',
      contexts: [{ name: 'c', context: { cluster: 'c', user: 'u' } }],
      clusters: [{ name: 'c', cluster: { server: server.url } }],
      users: [{ name: 'u', user }],
    }),
  )
  const access = await loadAccess({ kubeconfig: path })
  return new Client({
    access,
    version: 'test',
    headersTimeoutMs: 2000,
    observer: { answered: (_method, code) => void codes.push(code), received: () => {} },
  })
}

async function follow(more: Partial<ReflectorOptions<string>> = {}, token?: string): Promise<Reflector<string>> {
  const reflector = new Reflector<string>({
    client: await makeClient(token),
    path: SERVICES,
    log: silentLog,
    decode: (object) => JSON.stringify(object),
    listener: {
      changed: (key, record) => {
        history.push(`${record === undefined ? '-' : '+'}${key}`)
        if (record === undefined) records.delete(key)
        else records.set(key, record)
      },
      synced: () => synced++,
    },
    ...more,
    times: { ...times, ...more.times },
  })
  running.push(reflector.run(stop.signal))
  return reflector
}

const keys = (): string[] => [...records.keys()].sort()
const listsSeen = (): number => server.requests.filter((r) => !r.url.includes('watch=true') && r.code === 200).length
const initialsSeen = (): number => server.requests.filter((r) => r.url.includes('sendInitialEvents')).length

async function settled(): Promise<void> {
  await until(() => expect(synced).toBe(1))
  await until(() => expect(server.watching).toBe(1))
}

describe('Reflector', () => {
  for (const mode of ['WatchList', 'list'] as const) {
    describe(mode, () => {
      beforeEach(() => {
        if (mode === 'list') server.noWatchList(422)
        server.put(service('a'))
        server.put(service('b'))
      })

      test('lists, then follows', async () => {
        const reflector = await follow()
        await settled()
        expect(keys()).toEqual(['default/a', 'default/b'])
        server.put(service('c'))
        server.put(service('a', 81))
        server.delete('Service', 'default/b')
        await until(() => expect(keys()).toEqual(['default/a', 'default/c']))
        expect(records.get('default/a')).toContain('81')
        expect(reflector.state).toMatchObject({ listed: true, failingSince: undefined, lastError: undefined })
        expect(reflector.state.lastContact).toBeGreaterThan(0)
        expect(listsSeen()).toBe(mode === 'list' ? 1 : 0)
      })

      for (const how of ['status', 'event'] as const) {
        test(`410 as ${how}: lists again and tells only what changed`, async () => {
          await follow()
          await settled()
          server.hang()
          server.put(service('c'))
          server.delete('Service', 'default/a')
          server.gone()
          server.hang(false)
          server.gone(how)
          server.disconnectAll()
          await until(() => expect(keys()).toEqual(['default/b', 'default/c']))
          expect(history).toEqual(['+default/a', '+default/b', '-default/a', '+default/c'])
          expect(synced).toBe(1)
          if (mode === 'list') expect(server.requests.some((r) => /[?&]resourceVersion=(&|$)/.test(r.url))).toBe(true)
        })
      }

      test('500s for a while', async () => {
        server.failAll(500)
        const reflector = await follow()
        await until(() => expect(server.requests.length).toBeGreaterThan(4))
        expect(reflector.state).toMatchObject({ listed: false, lastContact: 0 })
        expect(reflector.state.failingSince).toBeGreaterThan(0)
        expect(reflector.state.lastError).toContain('500: told to fail')
        expect([synced, history]).toEqual([0, []])
        server.failAll(undefined)
        await settled()
        server.failAll(503)
        server.disconnectAll()
        await until(() => expect(reflector.state.lastError).toContain('503'))
        server.put(service('c'))
        server.failAll(undefined)
        await until(() => expect(keys()).toContain('default/c'))
        expect(history).not.toContain('-default/a')
      })

      test('half-open connection', async () => {
        const reflector = await follow({ times: { watchSeconds: [0, 0], watchGrace: 300 } })
        await until(() => expect(synced).toBe(1))
        server.hang()
        server.put(service('c'))
        await until(() => expect(reflector.state.lastError).toMatch(/no answer within|did not end in time/))
        server.hang(false)
        await until(() => expect(keys()).toContain('default/c'))
        expect(history).toEqual(['+default/a', '+default/b', '+default/c'])
      })
    })
  }

  for (const refusal of [400, 422, 'silent'] as const) {
    test(`no WatchList: ${refusal}`, async () => {
      server.noWatchList(refusal)
      server.put(service('a'))
      await follow(refusal === 'silent' ? { times: { listIdle: 300 } } : {})
      await until(() => expect(synced).toBe(1))
      expect(keys()).toEqual(['default/a'])
      expect(initialsSeen()).toBe(1)
    })
  }

  test('a list cut in the middle changes nothing', async () => {
    server.noWatchList()
    for (let i = 0; i < 50; i++) server.put(service(`s${i}`))
    server.cutNextList(3000)
    const reflector = await follow({ times: { backoffFirst: 1000, backoffMost: 1000 } })
    await until(() => expect(reflector.state.lastError).toBeDefined())
    // What came is told, but not as the whole.
    expect(synced).toBe(0)
    server.delete('Service', 'default/s0')
    await settled()
    expect(records.size).toBe(49)
    server.put(service('s0'))
    await until(() => expect(records.size).toBe(50))
    history.length = 0

    server.hang()
    server.delete('Service', 'default/s7')
    server.gone()
    server.cutNextList(3000)
    server.hang(false)
    server.disconnectAll()
    await until(() => expect(reflector.state.lastError).toBeDefined())
    expect(records.size).toBe(50)
    await until(() => expect(records.size).toBe(49))
    expect(history.filter((line) => line.startsWith('-'))).toEqual(['-default/s7'])
  })

  test('a deletion during a disconnection, told by the next watch', async () => {
    server.put(service('a'))
    await follow()
    await settled()
    server.hang()
    server.disconnectAll()
    server.delete('Service', 'default/a')
    server.hang(false)
    await until(() => expect(keys()).toEqual([]))
    expect(initialsSeen()).toBe(1)
  })

  test('bookmarks move the version a watch goes on from', async () => {
    server.put(service('a'))
    const reflector = await follow()
    await settled()
    server.put({ kind: 'Node', metadata: { name: 'n' } })
    const { version } = server
    const before = Date.now()
    await until(() => {
      server.bookmark()
      expect(reflector.state.lastContact).toBeGreaterThan(before)
    })
    server.put({ kind: 'Node', metadata: { name: 'm' } })
    server.disconnectAll()
    await until(() => expect(server.requests.at(-1)?.url).toContain(`resourceVersion=${version}`))
    expect(initialsSeen()).toBe(1)
  })

  test('a watch that ends normally is followed by another', async () => {
    server.put(service('a'))
    const reflector = await follow({ times: { watchSeconds: [1, 1] } })
    await settled()
    await until(() => expect(server.requests.length).toBeGreaterThan(2))
    expect(reflector.state.failingSince).toBeUndefined()
    expect(initialsSeen()).toBe(1)
  })

  test('token rotation', async () => {
    server.put(service('a'))
    server.accept(['old'])
    const reflector = await follow({}, 'old')
    await settled()
    server.accept(['new'])
    server.disconnectAll()
    await until(() => expect(reflector.state.lastError).toContain('401'))
    writeFileSync(join(directory, 'token'), 'new\n')
    server.put(service('b'))
    await until(() => expect(keys()).toEqual(['default/a', 'default/b']))
    expect(codes).toContain('401')
  })

  test('429 with Retry-After waits as told', async () => {
    const sleeps: number[] = []
    server.failAll(429, 7)
    const sleep = async (milliseconds: number): Promise<void> => {
      sleeps.push(milliseconds)
      server.failAll(undefined)
    }
    await follow({ clock: { now: () => Date.now(), sleep } })
    await settled()
    expect(sleeps).toEqual([7000])
  })

  test('the back-off doubles to its limit', async () => {
    const sleeps: number[] = []
    server.failAll(500)
    const sleep = async (milliseconds: number): Promise<void> => {
      sleeps.push(milliseconds)
      if (sleeps.length === 8) server.failAll(undefined)
    }
    const clock = { now: () => Date.now(), sleep }
    await follow({ clock, random: () => 0, times: { backoffFirst: 800, backoffMost: 30_000 } })
    await settled()
    expect(sleeps).toEqual([800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000])
  })

  test('an object that cannot be decoded, or becomes of no use', async () => {
    server.put(service('a'))
    await follow({
      decode: (object) => {
        const text = JSON.stringify(object)
        if (text.includes('"port":666')) throw new Error('broken')
        return text.includes('"port":1}') ? undefined : text
      },
    })
    await settled()
    server.put(service('a', 666))
    server.put(service('b'))
    await until(() => expect(keys()).toEqual(['default/a', 'default/b']))
    server.put(service('a', 1))
    await until(() => expect(keys()).toEqual(['default/b']))
  })
})

describe('ApiSource', () => {
  for (const old of [false, true]) {
    test(`follows three kinds${old ? ' of an older server' : ''}`, async () => {
      server.noFieldSelector(old)
      if (old) server.noWatchList(422)
      const headless = { ...service('headless'), spec: { clusterIP: 'None' } }
      const labels = { 'service.kubernetes.io/service-proxy-name': 'other' }
      for (const object of [service('a'), headless, { ...service('x'), metadata: { name: 'x', labels } }])
        server.put(object)
      for (const name of ['n', 'm']) server.put({ kind: 'Node', metadata: { name } })
      server.put({
        kind: 'EndpointSlice',
        metadata: { name: 'a-1', labels: { 'kubernetes.io/service-name': 'a' } },
        addressType: 'IPv4',
        ports: [{ name: '', port: 80 }],
        endpoints: [{ addresses: ['10.0.0.1'], nodeName: 'n' }],
      })
      const told: string[] = []
      const source = new ApiSource({ client: await makeClient(), nodeName: 'n', log: silentLog, times })
      running.push(
        source.run(
          {
            serviceChanged: (key, record) => told.push(`${key} ${record?.clusterIPs[0]}`),
            sliceChanged: (key, record) =>
              told.push(`${key} ${record?.service} ${[...(record?.endpoints ?? [])][0]?.local}`),
            nodeChanged: (record) => told.push(`node ${record?.name}`),
            synced: (kind) => told.push(`synced ${kind}`),
          },
          stop.signal,
        ),
      )
      await until(() => expect(told).toHaveLength(6))
      expect(told.sort()).toEqual([
        'default/a 10.96.0.1',
        'default/a-1 default/a true',
        'node n',
        'synced endpointslices',
        'synced node',
        'synced services',
      ])
      expect(source.state('services').listed).toBe(true)
      // A Service given to another proxy leaves the watch.
      server.put({ ...service('a'), metadata: { name: 'a', labels } })
      await until(() => expect(told.at(-1)).toBe('default/a undefined'))
    })
  }
})
