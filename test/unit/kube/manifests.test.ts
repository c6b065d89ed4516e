import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { ManifestsSource } from '../../../src/kube/manifests.ts'
import { silentLog } from '../../../src/lib/log.ts'
import type { Log } from '../../../src/lib/log.ts'

vi.setConfig({ testTimeout: 60_000 })
const until = (check: () => void): Promise<void> => vi.waitFor(check, { timeout: 20_000, interval: 5 })

const service = (name: string, ip: string, more = ''): string => `apiVersion: v1
kind: Service
metadata: {name: ${name}}
spec: {clusterIP: ${ip}, ports: [{port: 80}]${more}}
`
const slice = (label: string): string => `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, labels: {${label}: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.1], nodeName: n}]
`
const SLICE = slice('kubernetes.io/service-name')
const node = (name: string): string => `{"apiVersion":"v1","kind":"Node","metadata":{"name":"${name}"}}`

let directory: string
let stop: AbortController
let running: Promise<void>
let told: string[]
let errors: string[]
let notes: string[]
const log: Log = {
  ...silentLog,
  error: (message) => errors.push(message),
  v: (_level, message) => notes.push(message),
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'manifests-'))
  stop = new AbortController()
  running = Promise.resolve()
  told = []
  errors = []
  notes = []
})

afterEach(async () => {
  stop.abort()
  await running
  rmSync(directory, { recursive: true, force: true })
})

/** As an operator should: the file is there at once or not at all. */
function write(name: string, text: string): void {
  writeFileSync(join(directory, `.${name}`), text)
  renameSync(join(directory, `.${name}`), join(directory, name))
}

async function start(path = directory): Promise<void> {
  const source = new ManifestsSource({ directory: path, nodeName: 'n', log, debounceMs: 1, pollMs: 20 })
  running = source.run(
    {
      serviceChanged: (key, record) => told.push(`${key} ${record?.clusterIPs.join()}`),
      sliceChanged: (key, record) => told.push(`${key} ${record?.service} ${JSON.stringify(record?.ports)}`),
      nodeChanged: (record) => told.push(`node ${record?.name}`),
      synced: (kind) => told.push(`synced ${kind}`),
    },
    stop.signal,
  )
  await until(() => expect(told).toContain('synced node'))
}

const SYNCED = ['synced services', 'synced endpointslices', 'synced node']
const PORTS = '[{"name":"","protocol":"TCP","port":8080}]'

interface Case {
  readonly files: Readonly<Record<string, string>>
  readonly told: readonly string[]
  readonly errors?: readonly RegExp[]
  readonly notes?: readonly RegExp[]
}

const cases: Readonly<Record<string, Case>> = {
  'an empty directory': { files: {}, told: [] },
  'several documents, some empty': {
    files: { 'a.yaml': `---\n${service('web', '10.96.0.1')}---\n---\n${SLICE}` },
    told: ['default/web 10.96.0.1', `default/s default/web ${PORTS}`],
  },
  'yml and json, other names ignored': {
    files: { 'a.yml': service('web', '10.96.0.1'), 'b.json': node('n'), 'c.txt': '{', '.d.yaml': '{' },
    told: ['default/web 10.96.0.1', 'node n'],
  },
  'other nodes': { files: { 'a.json': node('m') }, told: [] },
  lists: {
    files: {
      'a.json': `{"apiVersion":"v1","kind":"List","items":[${node('n')}]}`,
      'b.yaml': `apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a, namespace: x}\n  spec: {clusterIP: 10.96.0.2}\n`,
    },
    told: ['node n', 'x/a 10.96.0.2'],
  },
  'families from addresses': {
    files: { 'a.yaml': service('web', '10.96.0.1', ', clusterIPs: [10.96.0.1, "fd00::1"]') },
    told: ['default/web 10.96.0.1,fd00::1'],
  },
  'clusterIP from clusterIPs': {
    files: { 'a.yaml': 'apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIPs: ["fd00::1"]}' },
    told: ['default/web fd00::1'],
  },
  'other kinds': {
    files: { 'a.yaml': 'apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}' },
    told: [],
    notes: [/a\.yaml, document 1, line 1: kind serving\.knative\.dev\/v1\/Service is not used/],
  },
  'a syntax error': {
    files: { 'a.yaml': `${service('a', '10.96.0.1')}---\nkind: [\n`, 'b.yaml': service('b', '10.96.0.2') },
    told: ['default/b 10.96.0.2'],
    errors: [/a\.yaml, document 2, line \d+, column \d+: .*it has no objects/],
  },
  'JSON with a mistake': {
    files: { 'a.json': '{"apiVersion":"v1","kind":"Service",\n"metadata": ]}' },
    told: [],
    errors: [/a\.json, document 1, line 2, column \d+: .*it has no objects/],
  },
  'YAML by the name of JSON': {
    files: { 'a.json': service('web', '10.96.0.1') },
    told: ['default/web 10.96.0.1'],
  },
  'no kind': {
    files: { 'a.yaml': 'apiVersion: v1\n' },
    told: [],
    errors: [/a\.yaml, document 1, line 1: kind is missing/],
  },
  'no apiVersion': { files: { 'a.yaml': 'kind: Service\n' }, told: [], errors: [/apiVersion is missing/] },
  'no name': {
    files: { 'a.yaml': 'apiVersion: v1\nkind: Service\nmetadata: {}' },
    told: [],
    errors: [/metadata\.name is not a name/],
  },
  'a fault in a list': {
    files: { 'a.yaml': 'apiVersion: v1\nkind: ServiceList\nitems: [7]' },
    told: [],
    errors: [/items\[0\] is not an object/],
  },
  'not an object': { files: { 'a.yaml': 'hello' }, told: [], errors: [/it is not an object/] },
  'a bad field': {
    files: { 'a.yaml': service('web', '10.96.0.1', ', externalIPs: [x]') },
    told: ['default/web 10.96.0.1'],
    errors: [/^a\.yaml document 1: Service default\/web: spec\.externalIPs\[0\] is not an IP address/],
  },
  'a slice of no service': {
    files: { 'a.yaml': slice('x') },
    told: ['default/s undefined undefined'],
    errors: [/service-name\] is missing/],
  },
  'the same object in two files': {
    files: { 'b.yaml': service('web', '10.96.0.2'), 'a.yaml': service('web', '10.96.0.1') },
    told: ['default/web 10.96.0.1'],
    errors: [/Service default\/web is in a\.yaml document 1 and again in b\.yaml document 1/],
  },
}

describe('first reading', () => {
  for (const [name, { files, told: expected, errors: faults = [], notes: lines = [] }] of Object.entries(cases)) {
    test(name, async () => {
      for (const [file, text] of Object.entries(files)) writeFileSync(join(directory, file), text)
      await start()
      expect(told).toEqual([...expected, ...SYNCED])
      expect(errors).toEqual(faults.map((fault) => expect.stringMatching(fault) as unknown))
      expect(notes).toEqual(lines.map((line) => expect.stringMatching(line) as unknown))
    })
  }
})

describe('changes', () => {
  test('objects come, change and go', async () => {
    write('a.yaml', service('a', '10.96.0.1'))
    await start()
    write('b.yaml', service('b', '10.96.0.2'))
    await until(() => expect(told.at(-1)).toBe('default/b 10.96.0.2'))
    write('a.yaml', service('a', '10.96.0.3'))
    await until(() => expect(told.at(-1)).toBe('default/a 10.96.0.3'))
    unlinkSync(join(directory, 'a.yaml'))
    await until(() => expect(told.at(-1)).toBe('default/a undefined'))
    expect(told).toHaveLength(7)
  })

  test('a file that becomes bad keeps its objects, and says so once', async () => {
    write('a.yaml', service('a', '10.96.0.1'))
    await start()
    write('a.yaml', 'kind: [')
    await until(() => expect(errors).toHaveLength(1))
    expect(errors[0]).toMatch(/a\.yaml, document 1, .*its last good objects stay in force/)
    write('b.yaml', service('b', '10.96.0.2'))
    await until(() => expect(told.at(-1)).toBe('default/b 10.96.0.2'))
    write('a.yaml', service('a', '10.96.0.3'))
    await until(() => expect(told.at(-1)).toBe('default/a 10.96.0.3'))
    expect(errors).toHaveLength(1)
    expect(told).not.toContain('default/a undefined')
  })

  test('a volume swapped by symbolic links', async () => {
    for (const [name, ip] of [
      ['1', '10.96.0.1'],
      ['2', '10.96.0.2'],
    ] as const) {
      mkdirSync(join(directory, `..${name}`))
      writeFileSync(join(directory, `..${name}`, 'a.yaml'), service('a', ip))
    }
    symlinkSync('..1', join(directory, '..data'))
    symlinkSync('..data/a.yaml', join(directory, 'a.yaml'))
    await start()
    symlinkSync('..2', join(directory, '..tmp'))
    renameSync(join(directory, '..tmp'), join(directory, '..data'))
    await until(() => expect(told.at(-1)).toBe('default/a 10.96.0.2'))
  })

  test('a directory that vanishes keeps everything', async () => {
    write('a.yaml', service('a', '10.96.0.1'))
    await start()
    renameSync(directory, `${directory}-away`)
    await until(() => expect(errors).toHaveLength(1))
    renameSync(`${directory}-away`, directory)
    write('b.yaml', service('b', '10.96.0.2'))
    await until(() => expect(told.at(-1)).toBe('default/b 10.96.0.2'))
    expect(told).not.toContain('default/a undefined')
  })
})

const check = (path: string): Promise<void> =>
  new ManifestsSource({ directory: path, nodeName: 'n', log: silentLog }).check()

test('check', async () => {
  await check(directory)
  writeFileSync(join(directory, 'file'), '')
  for (const name of ['none', 'file']) {
    await expect(check(join(directory, name))).rejects.toMatchObject({ code: 'CONFIG' })
  }
})
