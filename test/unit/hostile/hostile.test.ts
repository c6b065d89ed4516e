import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { dispatch } from '../../../src/compose.ts'
import { deviceName } from '../../../src/dummy/layer.ts'
import { tables } from '../../../src/iptables/rules.ts'
import { ApiSource } from '../../../src/kube/api-source.ts'
import { translateService } from '../../../src/kube/translate.ts'
import { LineSink } from '../../../src/lib/line-sink.ts'
import { createLog } from '../../../src/lib/log.ts'
import type { ClusterKind } from '../../../src/model/cluster.ts'
import { endpointObject, serviceObject, shop, sliceObject } from '../page/objects.ts'
import { Stand } from '../page/stand.ts'
import { Feed } from './feed.ts'
import { hostile, standing, type Hostile } from './objects.ts'

type Json = Readonly<Record<string, unknown>>

/** Beside the shop: whatever rules there can be are there, so that none comes with a set that gets its first entry. */
const before: readonly Json[] = [
  ...shop,
  ...standing,
  serviceObject({
    name: 'edge',
    ips: ['10.111.0.20'],
    ports: [{ name: 'http', port: 80, protocol: 'TCP', nodePort: 30_020 }],
    spec: { type: 'LoadBalancer', externalIPs: ['203.0.113.20'] },
    status: { loadBalancer: { ingress: [{ ip: '203.0.113.21' }] } },
  }),
  sliceObject('edge', [endpointObject('10.244.1.30', 'rsl')], [{ name: 'http', port: 8080, protocol: 'TCP' }]),
]
const kindOf = ({ kind }: Json): Hostile['kind'] =>
  kind === 'Service' ? 'services' : kind === 'Node' ? 'nodes' : 'endpointslices'

let written = ''
let stand: Stand
let feed: Feed
let url: string
let stop: AbortController
let running: Promise<void>
let baseline: State
let marked = 0

beforeAll(async () => {
  const now = (bytes: Buffer): number => {
    written += bytes.toString()
    return bytes.length
  }
  const log = createLog(4, new LineSink({ now }))
  stand = new Stand({ log })
  stop = new AbortController()
  feed = new Feed(Map.groupBy(before, kindOf))
  const source = new ApiSource({ client: feed, nodeName: 'node1', log, times: { startSpread: 0 } })
  const listener = dispatch(stand.proxiers, { service: () => {}, slice: () => {}, node: () => {} })
  const synced = Promise.withResolvers<void>()
  const waiting = new Set<ClusterKind>(['services', 'endpointslices', 'node'])
  const tell = (kind: ClusterKind): void => {
    waiting.delete(kind)
    if (waiting.size === 0) synced.resolve()
  }
  running = source.run({ ...listener, synced: tell }, stop.signal)
  await synced.promise
  url = await stand.start()
  await settled()
  baseline = await stateOf()
})

afterAll(async () => {
  stop.abort()
  await running
  await stand.stop()
})

/** Until passes of both families have brought in whatever was told before, and have ended: the next one has begun. */
async function settled(): Promise<void> {
  const clusterIPs = ['10.111.9.9', 'fd96::9:9']
  for (let again = true; ; again = false) {
    marked++
    // Another one each time: the former may still stand.
    const port = 1000 + marked
    const object = serviceObject({ name: 'marker', ips: clusterIPs, ports: [{ port }] })
    const marker = translateService(object, () => {})
    for (const proxier of stand.proxiers.values()) proxier.serviceChanged('shop/marker', marker)
    const isDone = (): boolean =>
      [`10.111.9.9:${port} `, `[fd96::9:9]:${port} `].every((name) => stand.ipvs.dump().includes(name))
    while (!isDone()) await stand.passes(stand.passCount + 1)
    if (!again) return
  }
}

interface State {
  /** Lines of the kernel's state, in the forms of the tools. */
  readonly kernel: ReadonlySet<string>
  /** Elements and attributes of each view. */
  readonly shapes: ReadonlyMap<string, ReadonlySet<string>>
  readonly pages: string
  /** Names and labels of series. */
  readonly series: ReadonlySet<string>
}

async function text(path: string): Promise<string> {
  const answer = await fetch(`${url}${path}`)
  return answer.text()
}

async function stateOf(): Promise<State> {
  const saved = await Promise.all(
    [...stand.iptables].flatMap(([family, fake]) =>
      tables.map(async (table) => (await fake.save(table)).split('\n').map((line) => `${family} ${table} ${line}`)),
    ),
  )
  const dumps = `${stand.ipvs.dump()}${stand.ipset.dump()}${stand.dummy.dump(deviceName)}`
    .split('\n')
    // A set that has once grown stays large.
    .map((line) => line.replace(/ hashsize \d+ maxelem \d+/, ''))
  const kernel = [...saved.flat(), ...dumps].filter((line) => !/10\.111\.9\.9|fd96::9:9/.test(line))
  const shapes = new Map<string, ReadonlySet<string>>()
  let pages = ''
  for (const path of ['/', '/services', '/service?name=shop/cart', '/service?name=evil/target', '/explain']) {
    const page = await text(path)
    shapes.set(path, shapesOf(page))
    pages += page
  }
  const series = (await text('/metrics'))
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#') && !/^(nodejs|process)_|shop",service="marker"/.test(line))
    .map((line) => line.replace(/ \S+$/, ''))
  return { kernel: new Set(kernel), shapes, pages, series: new Set(series) }
}

/** Each element with the names of its attributes; the plots' shapes depend on passes. */
function shapesOf(page: string): Set<string> {
  const shapes = new Set<string>()
  for (const [, name, attributes = ''] of page.matchAll(/<(!?[a-zA-Z][^\s>]*)((?:"[^"]*"|[^">])*)>/g)) {
    for (const [attribute] of ` ${attributes.replaceAll(/"[^"]*"/g, '')}`.matchAll(/\s[^\s="'>/]+/g))
      shapes.add(`${name} ${attribute.trim()}`)
    shapes.add(name!)
  }
  return shapes
}

/** What no text of an object may bring into a line of any kind. */
// oxlint-disable-next-line no-control-regex -- they are what is looked for
const control = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/
/** Messages and objects of the log since the last time; checks that each line is one record and no more. */
function takeLog(): string[] {
  const lines = written
  written = ''
  return lines
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      expect(line).not.toMatch(control)
      expect(line.length).toBeLessThan(2000)
      const record = JSON.parse(line) as Record<string, unknown>
      expect(Object.keys(record).filter((key) => !/^[a-zA-Z]+$/.test(key))).toEqual([])
      return `${String(record.msg)} ${JSON.stringify(record)}`
    })
}

/** What is there and was not, but for what has one of the words in it; the first few will do. */
function added(now: ReadonlySet<string>, then: ReadonlySet<string>, but: readonly string[] = []): string[] {
  return [...now.difference(then)].filter((line) => !but.some((word) => line.includes(word))).slice(0, 10)
}

/** Series: a name, and labels with values in which quotes and backslashes are escaped. */
const seriesForm = /^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-z_]+="([^"\\\n]|\\["\\n])*",?)*\})?$/

describe('an object changes nothing but its own entry', () => {
  test('there are a hundred of them', () => {
    expect(hostile.length).toBeGreaterThanOrEqual(100)
    expect(new Set(hostile.map(({ name }) => name)).size).toBe(hostile.length)
  })

  test.each(hostile)('$name', { timeout: 120_000 }, async ({ kind, object, owns, says }) => {
    takeLog()
    const event = (type: string): string => withVersion(eventText(type, object))
    await feed.push(kind, event('ADDED'))
    await settled()
    const state = await stateOf()
    const log = takeLog()
    // Gone, it leaves nothing behind; the own Node is never gone, it is told anew.
    const node = before.find((one) => one.kind === 'Node')
    await feed.push(kind, event('DELETED'), ...(kind === 'nodes' ? [withVersion(eventText('ADDED', node))] : []))
    await settled()
    const after = await stateOf()

    expect(added(baseline.kernel, state.kernel)).toEqual([])
    expect(added(state.kernel, baseline.kernel, owns)).toEqual([])
    expect(added(baseline.series, state.series)).toEqual([])
    expect(added(state.series, baseline.series, ['namespace="evil"'])).toEqual([])
    for (const line of state.series) expect(line).toMatch(seriesForm)

    const known = new Set([...baseline.shapes.values()].flatMap((shapes) => [...shapes]))
    for (const shapes of state.shapes.values()) expect(added(shapes, known)).toEqual([])
    expect(state.pages).not.toMatch(/hunter2|<script|onmouseover|onerror/)
    // oxlint-disable-next-line no-control-regex -- they are what is looked for
    expect(state.pages).not.toMatch(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/)
    expect(stand.errors).toEqual([])

    for (const word of says) expect(log.filter((line) => line.includes(word)).length, word).toBeGreaterThan(0)
    expect(log.filter((line) => line.includes('"level":"error"')).length).toBeLessThanOrEqual(11)

    expect(added(after.kernel, baseline.kernel)).toEqual([])
    expect(added(baseline.kernel, after.kernel)).toEqual([])
  })
})

let version = 100

/** As text: what is nested ten thousand deep no JSON.stringify makes. */
function eventText(type: string, object: unknown): string {
  return `{"type":"${type}","object":${typeof object === 'string' ? object : JSON.stringify(object)}}`
}

/** The API server numbers what it sends, whatever the object says. */
function withVersion(line: string): string {
  return line.replace('"metadata":{', `"metadata":{"resourceVersion":"${++version}",`)
}
