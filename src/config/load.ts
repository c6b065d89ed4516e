import { LineCounter, parseDocument } from 'yaml'
import { canonicalAddress } from '../model/address.ts'
import { gatesInUse } from './gates.ts'
import { nearest } from './nearest.ts'
import { fields, parseListen, type FieldPath, type FieldSpec, type ProxyConfig } from './schema.ts'

/** One mistake: where, what was found, what is allowed. */
export interface Problem {
  readonly path: string
  readonly value?: unknown
  readonly reason: string
}

export interface Loaded {
  /** Complete also where there are problems: a wrong field has its default. */
  readonly config: ProxyConfig
  readonly problems: readonly Problem[]
  /** To be said once: gates without effect, flags that override the file. */
  readonly notices: readonly string[]
}

export interface Sources {
  /** Text of the configuration file; undefined without one. */
  readonly file?: string | undefined
  /** Text by flag name without dashes: "ipvs-scheduler". */
  readonly flags: ReadonlyMap<string, string>
}

const paths = Object.keys(fields) as FieldPath[]
const sections = new Set(paths.filter((path) => path.includes('.')).map((path) => path.split('.')[0]!))
/** Flags that a DaemonSet gives every node beside the common file: no news. */
const quietFlags = new Set(['hostname-override', 'v'])
/** Deprecated flags: 0 switches the server off, another port completes an address that has none. */
const portFlags = { 'healthz-port': 'healthzBindAddress', 'metrics-port': 'metricsBindAddress' } as const

/** Puts file, flags and defaults together, flags over file, and checks everything; all mistakes are found at once. */
export function loadConfig({ file, flags }: Sources): Loaded {
  const problems: Problem[] = []
  const notices: string[] = []
  const values = new Map<FieldPath, unknown>()
  const take = (path: FieldPath, raw: unknown, name: string): void => {
    const result = fields[path].kind.read(raw)
    if ('allowed' in result) problems.push({ path: name, value: raw, reason: `must be ${result.allowed}` })
    else values.set(path, result.value)
  }
  if (file !== undefined) readFile(file, problems, take)
  const overriding: string[] = []
  for (const path of paths) {
    const { flag, kind } = fields[path] as FieldSpec
    const given = flag === undefined ? undefined : flags.get(flag)
    if (given === undefined) continue
    const inFile = values.get(path)
    take(path, kind.fromText(given), `--${flag}`)
    const differs = JSON.stringify(inFile) !== JSON.stringify(values.get(path))
    if (inFile !== undefined && differs && !quietFlags.has(flag!)) overriding.push(`--${flag}`)
  }
  for (const [flag, path] of Object.entries(portFlags)) {
    const given = flags.get(flag)
    if (given === undefined) continue
    const port = /^\d{1,5}$/.test(given) ? Number(given) : -1
    const listen = values.get(path)
    const host = typeof listen === 'string' ? canonicalAddress(listen) : undefined
    if (port < 0 || port > 65535) {
      problems.push({ path: `--${flag}`, value: given, reason: 'must be a port from 0 to 65535' })
    } else if (port === 0) values.set(path, '')
    else if (host !== undefined) values.set(path, `${host.includes(':') ? `[${host}]` : host}:${port}`)
    else notices.push(`--${flag} has no effect: the bind address has a port of its own`)
  }
  if (overriding.length > 0) notices.push(`flags override the configuration file: ${overriding.join(', ')}`)

  const config = Object.fromEntries(
    paths.map((path) => [path, values.get(path) ?? presetOf(path, values)]),
  ) as unknown as ProxyConfig
  checkTogether(config, problems)
  if (config.mode === '') notices.push('mode is not set; this daemon runs IPVS mode')
  const gates = Object.keys(config.featureGates).filter((name) => !Object.hasOwn(gatesInUse, name))
  if (gates.length > 0) notices.push(`feature gates are accepted and have no effect: ${gates.join(', ')}`)
  return { config, problems, notices }
}

/** With an IPv6 bind address the servers listen on IPv6, too, unless told otherwise. */
function presetOf(path: FieldPath, values: ReadonlyMap<FieldPath, unknown>): unknown {
  const bind = values.get('bindAddress')
  const ipv6 = typeof bind === 'string' && bind.includes(':')
  if (ipv6 && path === 'healthzBindAddress') return '[::]:10256'
  if (ipv6 && path === 'metricsBindAddress') return '[::1]:10249'
  return fields[path].preset
}

function readFile(
  text: string,
  problems: Problem[],
  take: (path: FieldPath, raw: unknown, name: string) => void,
): void {
  const lines = new LineCounter()
  let root: unknown
  try {
    const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true, merge: false, logLevel: 'error' })
    if (document.errors.length > 0) {
      for (const error of document.errors) {
        const { line } = lines.linePos(error.pos[0])
        problems.push({ path: `line ${line}`, reason: error.message.split('\n')[0]!.replace(/ at line .*$/, '') })
      }
      return
    }
    root = document.toJS()
  } catch (error) {
    // Aliases that lead nowhere, or to too much; or a thousand levels of brackets.
    problems.push({ path: 'file', reason: error instanceof Error ? error.message : String(error) })
    return
  }
  if (!isMap(root)) {
    problems.push({ path: 'file', reason: 'must be a KubeProxyConfiguration' })
    return
  }
  const want = { apiVersion: 'kubeproxy.config.k8s.io/v1alpha1', kind: 'KubeProxyConfiguration' }
  for (const [key, wanted] of Object.entries(want)) {
    if (root[key] !== wanted) problems.push({ path: key, value: root[key], reason: `must be ${wanted}` })
  }
  for (const [key, value] of Object.entries(root)) {
    if (key in want) continue
    if (sections.has(key)) {
      if (value === null) continue
      if (!isMap(value)) {
        problems.push({ path: key, value, reason: 'must be a map' })
        continue
      }
      for (const [inner, raw] of Object.entries(value)) readField(`${key}.${inner}`, raw, problems, take)
    } else readField(key.includes('.') ? JSON.stringify(key) : key, value, problems, take)
  }
}

function readField(
  path: string,
  raw: unknown,
  problems: Problem[],
  take: (path: FieldPath, raw: unknown, name: string) => void,
): void {
  if (!Object.hasOwn(fields, path)) {
    const near = nearest(path, paths)
    problems.push({
      path,
      reason: `is no field of KubeProxyConfiguration v1alpha1${near ? `; did you mean ${near}?` : ''}`,
    })
    return
  }
  const name = path as FieldPath
  const { kind, preset } = fields[name] as FieldSpec
  // kubeadm writes every field, most of them empty: empty means the default. 0 can be meant, unless the kind says no.
  if (raw === null || (raw === '' && typeof preset === 'string') || (isZero(raw) && kind.zeroIsUnset)) return
  take(name, raw, path)
}

function isZero(value: unknown): boolean {
  return value === 0 || (typeof value === 'string' && /^0(s|m0s|h0m0s)?$/.test(value))
}

function checkTogether(config: ProxyConfig, problems: Problem[]): void {
  const other = config.mode !== '' && config.mode !== 'ipvs'
  if (other) problems.push({ path: 'mode', value: config.mode, reason: 'must be ipvs: this daemon has no other mode' })
  if (config['ipvs.minSyncPeriod'] > config['ipvs.syncPeriod']) {
    problems.push({ path: 'ipvs.minSyncPeriod', reason: 'must not exceed ipvs.syncPeriod' })
  }
  if (config.detectLocalMode === 'BridgeInterface' && config['detectLocal.bridgeInterface'] === '') {
    problems.push({ path: 'detectLocal.bridgeInterface', reason: 'is needed in detectLocalMode BridgeInterface' })
  }
  if (config.detectLocalMode === 'InterfaceNamePrefix' && config['detectLocal.interfaceNamePrefix'] === '') {
    problems.push({
      path: 'detectLocal.interfaceNamePrefix',
      reason: 'is needed in detectLocalMode InterfaceNamePrefix',
    })
  }
  const [cert, key] = [config['kubeIpvsProxy.metricsTLSCertFile'], config['kubeIpvsProxy.metricsTLSKeyFile']]
  if ((cert === '') !== (key === '')) {
    const path = cert === '' ? 'kubeIpvsProxy.metricsTLSCertFile' : 'kubeIpvsProxy.metricsTLSKeyFile'
    problems.push({ path, reason: 'is needed beside the other one: a certificate and its key' })
  }
  if (config['kubeIpvsProxy.metricsTokenReview'] && cert === '') {
    const reason = 'needs metricsTLSCertFile and metricsTLSKeyFile: tokens must not travel in the clear'
    problems.push({ path: 'kubeIpvsProxy.metricsTokenReview', reason })
  }
  for (const path of ['healthzBindAddress', 'metricsBindAddress'] as const) {
    if (config[path] !== '' && parseListen(config[path], 1) === undefined)
      problems.push({ path, value: config[path], reason: 'must be IP:port' })
  }
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** All mistakes as text, one a line: path, value, what is allowed. */
export function reportProblems(source: string, problems: readonly Problem[]): string {
  const lines = problems.map(({ path, value, reason }) => {
    const shown = value === undefined ? '' : ` ${JSON.stringify(value)}`
    return `  ${path}:${shown} ${reason}`
  })
  return [`invalid configuration in ${source}:`, ...lines].join('\n')
}
