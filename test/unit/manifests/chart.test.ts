// There is no helm here: the templates keep to the few words below, and this renders those as Helm does.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { loadConfig } from '../../../src/config/load.ts'
import { version } from '../../../src/lib/version.ts'
import { readYaml } from '../../monitoring/manifests.ts'
import { manifests, ofKind, parseManifests, readManifests, type Manifest } from './documents.ts'
import { mistakes } from './kubernetes-types.ts'

const folder = join(manifests, 'chart')
const read = (path: string): string => readFileSync(join(folder, path), 'utf8')
const defaults = parse(read('values.yaml')) as Values
const schema = JSON.parse(read('values.schema.json')) as Schema

interface Values {
  readonly [name: string]: unknown
  readonly config: Readonly<Record<string, unknown>>
  readonly image: Readonly<Record<string, unknown>>
}

/** Empty texts, lists and maps are false, as for Helm. */
function isTrue(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.keys(value).length > 0
  return value !== undefined && value !== null && value !== '' && value !== false && value !== 0
}

/**
 * `{{ .Values.a.b }}`, `{{ .Release.Namespace }}`, `| quote`, `{{- toYaml … | nindent N }}`, `{{- if … }}` with `ne`,
 * `{{- else }}`, `{{- end }}`. Anything else is an error.
 */
function render(template: string, values: Values): string {
  const valueOf = (path: string): unknown => {
    const root = { Values: values, Release: { Namespace: 'kube-system' } }
    const steps = path.split('.').slice(1)
    return steps.reduce<unknown>((at, name) => (at as Record<string, unknown> | undefined)?.[name], root)
  }
  const wordOf = (word: string): unknown => (word.startsWith('"') ? JSON.parse(word) : valueOf(word))
  const condition = (text: string): boolean => {
    const [, first, second] = /^ne (\S+) (\S+)$/.exec(text) ?? []
    if (first !== undefined) return wordOf(first) !== wordOf(second!)
    if (/^\.Values[\w.]*$/.test(text)) return isTrue(valueOf(text))
    throw new Error(`not known: if ${text}`)
  }
  let out = ''
  let at = 0
  const shown: { taken: boolean; now: boolean }[] = []
  const isShown = (): boolean => shown.every(({ now }) => now)
  for (const match of template.matchAll(/\{\{(-?) (.*?) (-?)\}\}/g)) {
    const [all, trim, action = '', after] = match
    if (after !== '') throw new Error(`not known: ${all}`)
    const text = template.slice(at, match.index)
    if (isShown()) out += trim === '' ? text : text.trimEnd()
    at = match.index + all.length
    const [, test] = /^if (.+)$/.exec(action) ?? []
    if (test !== undefined) {
      const now = condition(test)
      shown.push({ taken: now, now })
    } else if (action === 'else') {
      const one = shown.at(-1)!
      one.now = !one.taken
    } else if (action === 'end') shown.pop()
    else if (isShown()) out += expression(action, valueOf)
  }
  if (shown.length > 0) throw new Error('an if without an end')
  return out + template.slice(at)
}

function expression(action: string, valueOf: (path: string) => unknown): string {
  const [, path, filter] = /^(\.[\w.]+)( \| quote)?$/.exec(action) ?? []
  if (path !== undefined) {
    const value = valueOf(path)
    if (typeof value !== 'string') throw new Error(`${path} is no text`)
    return filter === undefined ? value : JSON.stringify(value)
  }
  const [, object, spaces] = /^toYaml (\.[\w.]+) \| nindent (\d+)$/.exec(action) ?? []
  if (object === undefined) throw new Error(`not known: ${action}`)
  const lines = stringify(valueOf(object)).trimEnd().split('\n')
  return `\n${lines.map((line) => ' '.repeat(Number(spaces)) + line).join('\n')}`
}

const rendered = (changes: Partial<Values> = {}): readonly Manifest[] =>
  readdirSync(join(folder, 'templates')).flatMap((name) =>
    parseManifests(render(read(`templates/${name}`), { ...defaults, ...changes })),
  )

interface Schema {
  readonly type?: string
  readonly enum?: readonly unknown[]
  readonly pattern?: string
  readonly minLength?: number
  readonly items?: Schema
  readonly required?: readonly string[]
  readonly properties?: Readonly<Record<string, Schema | false>>
  readonly additionalProperties?: Schema | false
}

const words = [
  '$schema',
  'type',
  'enum',
  'pattern',
  'minLength',
  'items',
  'required',
  'properties',
  'additionalProperties',
]

/** The few words of JSON Schema that the chart's has. */
function violations(value: unknown, rule: Schema | false, path = ''): readonly string[] {
  if (rule === false) return [`${path}: not allowed`]
  const unknown = Object.keys(rule).filter((word) => !words.includes(word))
  if (unknown.length > 0) throw new Error(`words of JSON Schema that are not known here: ${unknown.join(', ')}`)
  const type = Array.isArray(value) ? 'array' : typeof value
  if (rule.type !== undefined && rule.type !== type) return [`${path}: is ${type}, not ${rule.type}`]
  if (rule.enum?.includes(value) === false) return [`${path}: not one of ${rule.enum.join(', ')}`]
  if (typeof value === 'string') {
    const isFine = new RegExp(rule.pattern ?? '').test(value) && value.length >= (rule.minLength ?? 0)
    return isFine ? [] : [`${path}: "${value}"`]
  }
  if (Array.isArray(value)) return value.flatMap((one, i) => violations(one, rule.items ?? {}, `${path}[${i}]`))
  if (typeof value !== 'object' || value === null) return []
  return [
    ...(rule.required ?? []).filter((name) => !(name in value)).map((name) => `${path}.${name}: missing`),
    ...Object.entries(value).flatMap(([name, one]) =>
      violations(
        one,
        rule.properties?.[name] ?? (name in (rule.properties ?? {}) ? false : (rule.additionalProperties ?? {})),
        `${path}.${name}`,
      ),
    ),
  ]
}

test('its versions are the program’s', () => {
  expect(parse(read('Chart.yaml'))).toMatchObject({ apiVersion: 'v2', version, appVersion: version })
  expect(defaults.image.tag).toBe(version)
})

describe('the schema of the values', () => {
  test('takes the defaults, and knows each', () => {
    expect(violations(defaults, schema)).toEqual([])
    expect(Object.keys(schema.properties!).sort()).toEqual(['global', ...Object.keys(defaults)].sort())
  })

  test.each<[string, object]>([
    ['.images: not allowed', { images: {} }],
    ['.name: "Kube Proxy"', { name: 'Kube Proxy' }],
    ['.podMonitor: is string, not boolean', { podMonitor: 'yes' }],
    ['.image.digest: "sha256:1"', { image: { ...defaults.image, digest: 'sha256:1' } }],
    [
      '.image.pullPolicy: not one of Always, IfNotPresent, Never',
      { image: { ...defaults.image, pullPolicy: 'Maybe' } },
    ],
    ['.config.proxy.mode: not allowed', { config: { ...defaults.config, proxy: { mode: 'iptables' } } }],
    ['.extraArgs[0]: "v=2"', { extraArgs: ['v=2'] }],
  ])('refuses %s', (message, change) => {
    expect(violations({ ...defaults, ...change }, schema)).toEqual([message])
  })
})

describe('rendered', () => {
  test('with its defaults it is what kustomize makes', () => {
    const bare = (objects: readonly Manifest[]): unknown[] =>
      objects.map(({ metadata: { namespace: _namespace, ...metadata }, ...rest }) => ({ ...rest, metadata }))
    const byKind = (a: Manifest, b: Manifest): number => a.kind.localeCompare(b.kind)
    const base = ['base/daemonset.yaml', 'base/rbac.yaml'].flatMap((path) => readManifests(path))
    expect(bare([...rendered()].sort(byKind))).toEqual(bare(base.sort(byKind)))
  })

  test('all objects are as the API has them', () => {
    const config = { ...defaults.config, create: true, proxy: { clusterCIDR: '10.244.0.0/16' } }
    for (const object of rendered({ config, affinity: { nodeAffinity: {} }, extraArgs: ['--v=2'] })) {
      expect(mistakes(object, `V1${object.kind}`), object.kind).toEqual([])
    }
  })

  test('its own ConfigMap is mounted and accepted', () => {
    const proxy = { clusterCIDR: '10.244.0.0/16', ipvs: { strictARP: true } }
    const config = { ...defaults.config, create: true, proxy, apiServer: 'https://api.example:6443' }
    const objects = rendered({ config })
    const { data } = ofKind(objects, 'ConfigMap')
    const loaded = loadConfig({ file: data['config.conf'], flags: new Map() })
    expect(loaded.problems).toEqual([])
    expect(loaded.config).toMatchObject({ clusterCIDR: '10.244.0.0/16', 'ipvs.strictARP': true })
    expect(parse(data['kubeconfig.conf']!)).toMatchObject({
      clusters: [{ cluster: { server: 'https://api.example:6443' } }],
    })
    const { volumes } = ofKind(objects, 'DaemonSet').spec.template.spec
    expect(volumes[0]!.configMap!.name).toBe('kube-ipvs-proxy')
  })

  test('a digest wins over the tag; flags are added behind the template’s', () => {
    const digest = `sha256:${'0'.repeat(64)}`
    const objects = rendered({ image: { ...defaults.image, digest }, extraArgs: ['--v=2'] })
    const { containers, initContainers } = ofKind(objects, 'DaemonSet').spec.template.spec
    for (const { image } of [...containers, ...initContainers]) expect(image).toBe(`kube-ipvs-proxy@${digest}`)
    expect(containers[0]!.args.at(-1)).toBe('--v=2')
  })

  test('under another name it does not claim kube-proxy’s pods', () => {
    const { spec } = ofKind(rendered({ name: 'kube-ipvs-proxy' }), 'DaemonSet')
    const labels = { 'k8s-app': 'kube-proxy', 'app.kubernetes.io/name': 'kube-ipvs-proxy' }
    expect(spec.selector.matchLabels).toEqual(labels)
    expect(spec.template.metadata.labels).toEqual(labels)
  })

  test('the PodMonitor is that of manifests/monitoring', () => {
    const { spec } = ofKind(rendered({ podMonitor: true }), 'PodMonitor')
    expect(spec).toEqual((readYaml('podmonitor.yaml') as { spec: unknown }).spec)
  })
})
