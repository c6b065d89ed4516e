import { readFile, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import type { RequestOptions } from 'node:https'
import { LineCounter, parseDocument } from 'yaml'
import { systemClock } from '../lib/clock.ts'
import type { Clock } from '../lib/clock.ts'
import { describeError, ProxyError } from '../lib/errors.ts'

const SERVICE_ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount'
const ADVICE = 'correct the kubeconfig or name another one'

/** TLS settings of the connection; an object stays the same as long as its content does. */
export interface TlsSettings {
  readonly ca?: string | Buffer
  readonly cert?: string | Buffer
  readonly key?: string | Buffer
  readonly servername?: string
  readonly rejectUnauthorized?: boolean
}

/** Where the API server is and how to prove who we are. Credentials are read anew as they rotate. */
export interface Access {
  /** "https://host:port", perhaps with a path, without a slash at its end. */
  readonly server: string
  tls(): Promise<TlsSettings>
  /** Headers that prove the identity; none for client certificates. */
  headers(): Promise<Readonly<Record<string, string>>>
  /** The server answered 401: credentials are read anew before the next request. */
  rejected(): void
}

export interface AccessOptions {
  /** Path of a kubeconfig; without it and without `master`, the Pod's service account. */
  readonly kubeconfig?: string | undefined
  /** Overrides the kubeconfig's server. */
  readonly master?: string | undefined
  readonly clock?: Clock
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly serviceAccountDirectory?: string
  /** How long a token, or what a credential plug-in gave, is used before it is read anew. */
  readonly rereadMs?: number
}

type Json = Readonly<Record<string, unknown>>

/** Reads the settings once and checks them; throws ProxyError CONFIG where they cannot be used. */
export async function loadAccess(options: AccessOptions): Promise<Access> {
  if (options.kubeconfig) return fromKubeconfig(options.kubeconfig, options)
  if (options.master) return new FileAccess(serverUrl(options.master, false, '--master'), {}, options)
  return inCluster(options)
}

async function inCluster(options: AccessOptions): Promise<Access> {
  const env = options.env ?? process.env
  const host = env.KUBERNETES_SERVICE_HOST
  const port = env.KUBERNETES_SERVICE_PORT
  if (!host || !port) {
    throw new ProxyError('CONFIG', 'no kubeconfig is given and KUBERNETES_SERVICE_HOST and _PORT are not set', {
      advice: 'give a kubeconfig, or run as a Pod with a service account',
    })
  }
  const directory = options.serviceAccountDirectory ?? SERVICE_ACCOUNT
  const server = `https://${host.includes(':') ? `[${host}]` : host}:${port}`
  const credentials: Credentials = { caFile: `${directory}/ca.crt`, tokenFile: `${directory}/token` }
  return checked(new FileAccess(server, credentials, options), 'service account')
}

/** Reads all files once, so that a wrong path ends the start. */
async function checked<T extends Access>(access: T, what: string): Promise<T> {
  try {
    await access.tls()
    await access.headers()
  } catch (error) {
    throw new ProxyError('CONFIG', `${what} cannot be used`, { advice: ADVICE }, error)
  }
  return access
}

async function fromKubeconfig(path: string, options: AccessOptions): Promise<Access> {
  let content: string
  try {
    content = await readFile(path, 'utf8')
  } catch (error) {
    throw new ProxyError('CONFIG', `kubeconfig ${path}: cannot be read`, { advice: ADVICE }, error)
  }
  const { server, credentials, plugged } = readKubeconfig(path, content, options.master)
  const access = new FileAccess(server, credentials, options, plugged ? () => pluginOptions(path) : undefined)
  return checked(access, `kubeconfig ${path}`)
}

/** What the current context of a kubeconfig comes to. Throws ProxyError CONFIG. */
export function readKubeconfig(
  path: string,
  content: string,
  master?: string,
): { readonly server: string; readonly credentials: Credentials; readonly plugged: boolean } {
  const fail = (reason: string, cause?: unknown): never => {
    throw new ProxyError('CONFIG', `kubeconfig ${path}: ${reason}`, { advice: ADVICE }, cause)
  }
  let document: unknown
  try {
    document = parseYaml(content)
  } catch (error) {
    return fail('cannot be read as YAML', error)
  }
  if (!isJson(document)) return fail('is not a kubeconfig: its content is not an object')
  const config = document
  const text = (object: Json, field: string): string | undefined => {
    const value = object[field]
    if (value === undefined || value === null || value === '') return undefined
    return typeof value === 'string' ? value : fail(`${field} is not a string`)
  }
  const named = (list: string, name: string, member: string): Json => {
    const entries: unknown = config[list]
    const entry: unknown = Array.isArray(entries)
      ? entries.find((candidate: unknown) => isJson(candidate) && candidate.name === name)
      : undefined
    const value = isJson(entry) ? entry[member] : undefined
    return isJson(value) ? value : fail(`${list} has no entry ${JSON.stringify(name)} with a ${member}`)
  }
  const current = text(config, 'current-context') ?? fail('current-context is not set')
  const context = named('contexts', current, 'context')
  const cluster = named('clusters', text(context, 'cluster') ?? fail(`context ${current} names no cluster`), 'cluster')
  const userName = text(context, 'user')
  const user = userName === undefined ? {} : named('users', userName, 'user')
  if (text(cluster, 'proxy-url') !== undefined) fail('proxy-url is not supported')

  const file = (object: Json, field: string): string | undefined => {
    const name = text(object, field)
    return name === undefined ? undefined : resolve(dirname(path), name)
  }
  const data = (object: Json, field: string): Buffer | undefined => {
    const encoded = text(object, field)
    return encoded === undefined ? undefined : Buffer.from(encoded, 'base64')
  }
  const credentials: Credentials = {
    ca: data(cluster, 'certificate-authority-data'),
    caFile: file(cluster, 'certificate-authority'),
    insecure: cluster['insecure-skip-tls-verify'] === true,
    servername: text(cluster, 'tls-server-name'),
    cert: data(user, 'client-certificate-data'),
    certFile: file(user, 'client-certificate'),
    key: data(user, 'client-key-data'),
    keyFile: file(user, 'client-key'),
    token: text(user, 'token'),
    tokenFile: file(user, 'tokenFile'),
    username: text(user, 'username'),
    password: text(user, 'password'),
  }
  const secure = [credentials.ca, credentials.caFile, credentials.cert, credentials.certFile].some(Boolean)
  const given = master ?? text(cluster, 'server') ?? fail('the cluster has no server')
  const server = serverUrl(given, secure || credentials.insecure === true, master ? '--master' : path)
  return { server, credentials, plugged: user.exec !== undefined || user['auth-provider'] !== undefined }
}

/** The yaml library's own errors and warnings show the line at fault, which may be a token. */
function parseYaml(content: string): unknown {
  const lines = new LineCounter()
  const document = parseDocument(content, { lineCounter: lines, prettyErrors: false, logLevel: 'error' })
  const [fault] = document.errors
  if (fault !== undefined) throw new Error(`line ${lines.linePos(fault.pos[0]).line}: ${fault.code}`)
  return document.toJS()
}

/** As client-go: a server without a scheme is https where TLS is set up, http otherwise. */
function serverUrl(text: string, secure: boolean, where: string): string {
  const full = text.includes('://') ? text : `${secure ? 'https' : 'http'}://${text}`
  const url = URL.canParse(full) ? new URL(full) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol)) {
    throw new ProxyError('CONFIG', `${where}: server ${JSON.stringify(text)} is not an http or https URL`)
  }
  return `${url.origin}${url.pathname.replace(/\/+$/, '')}`
}

interface Credentials {
  readonly ca?: Buffer | undefined
  readonly caFile?: string | undefined
  readonly insecure?: boolean
  readonly servername?: string | undefined
  readonly cert?: Buffer | undefined
  readonly certFile?: string | undefined
  readonly key?: Buffer | undefined
  readonly keyFile?: string | undefined
  readonly token?: string | undefined
  readonly tokenFile?: string | undefined
  readonly username?: string | undefined
  readonly password?: string | undefined
}

interface Plugged {
  readonly headers: Readonly<Record<string, string>>
  readonly cert?: string | Buffer
  readonly key?: string | Buffer
}

/** Credential plug-ins are the client library's work; it is loaded only where a kubeconfig names one. */
async function pluginOptions(path: string): Promise<Plugged> {
  const { KubeConfig } = await import('@kubernetes/client-node')
  const config = new KubeConfig()
  config.loadFromFile(path)
  const options: RequestOptions = {}
  await config.applyToHTTPSOptions(options)
  const headers: Record<string, string> = {}
  if (options.headers !== undefined && !Array.isArray(options.headers)) {
    for (const [name, value] of Object.entries(options.headers)) {
      if (typeof value === 'string' && name.toLowerCase() === 'authorization') headers.authorization = value
    }
  }
  const { cert, key } = options
  return {
    headers,
    ...(typeof cert === 'string' || Buffer.isBuffer(cert) ? { cert } : {}),
    ...(typeof key === 'string' || Buffer.isBuffer(key) ? { key } : {}),
  }
}

interface CachedFile {
  readonly stamp: string
  readonly content: Buffer
}

interface Aged<T> {
  readonly value: T
  readonly at: number
}

/** Access by what a kubeconfig or a service account names: files are read again as they change. */
class FileAccess implements Access {
  readonly server: string
  readonly #given: Credentials
  readonly #plugin: (() => Promise<Plugged>) | undefined
  readonly #clock: Clock
  readonly #rereadMs: number
  readonly #files = new Map<string, CachedFile>()
  #tls: TlsSettings | undefined
  #token: Aged<string> | undefined
  #plugged: Aged<Promise<Plugged>> | undefined

  constructor(server: string, given: Credentials, options: AccessOptions, plugin?: () => Promise<Plugged>) {
    this.server = server
    this.#given = given
    this.#plugin = plugin
    this.#clock = options.clock ?? systemClock
    this.#rereadMs = options.rereadMs ?? 60_000
  }

  async tls(): Promise<TlsSettings> {
    const given = this.#given
    const plugged = this.#plugin === undefined ? undefined : await this.#fromPlugin()
    const ca = given.insecure ? undefined : (given.ca ?? (await this.#file(given.caFile)))
    const cert = plugged?.cert ?? given.cert ?? (await this.#file(given.certFile))
    const key = plugged?.key ?? given.key ?? (await this.#file(given.keyFile))
    const next: TlsSettings = {
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      ...(given.servername === undefined ? {} : { servername: given.servername }),
      ...(given.insecure ? { rejectUnauthorized: false } : {}),
    }
    const now = this.#tls
    const same = now !== undefined && [[now.ca, ca] as const, [now.cert, cert] as const, [now.key, key] as const]
    if (same === false || !same.every(([a, b]) => a === b || String(a) === String(b))) this.#tls = next
    return this.#tls ?? next
  }

  async headers(): Promise<Readonly<Record<string, string>>> {
    const given = this.#given
    if (this.#plugin !== undefined) return (await this.#fromPlugin()).headers
    const token = given.tokenFile === undefined ? given.token : await this.#readToken(given.tokenFile)
    if (token !== undefined) return { authorization: `Bearer ${token}` }
    if (given.username === undefined) return {}
    const pair = Buffer.from(`${given.username}:${given.password ?? ''}`).toString('base64')
    return { authorization: `Basic ${pair}` }
  }

  rejected(): void {
    this.#token = undefined
    this.#plugged = undefined
  }

  async #readToken(path: string): Promise<string> {
    const now = this.#clock.now()
    if (this.#token !== undefined && now - this.#token.at < this.#rereadMs) return this.#token.value
    try {
      const value = (await readFile(path, 'utf8')).trim()
      if (value === '') throw new Error(`token file ${path} is empty`)
      this.#token = { value, at: now }
      return value
    } catch (error) {
      // While the file is being replaced, the former token, or the one given beside it, may still do.
      const former = this.#token?.value ?? this.#given.token
      if (former !== undefined) return former
      throw new ProxyError('API', `token file ${path} cannot be used: ${describeError(error)}`)
    }
  }

  async #file(path: string | undefined): Promise<Buffer | undefined> {
    if (path === undefined) return undefined
    const cached = this.#files.get(path)
    try {
      const { ino, size, mtimeMs } = await stat(path)
      const stamp = `${ino} ${size} ${mtimeMs}`
      if (cached?.stamp === stamp) return cached.content
      const content = await readFile(path)
      this.#files.set(path, { stamp, content })
      return content
    } catch (error) {
      if (cached !== undefined) return cached.content
      throw error
    }
  }

  async #fromPlugin(): Promise<Plugged> {
    const now = this.#clock.now()
    if (this.#plugged === undefined || now - this.#plugged.at >= this.#rereadMs) {
      this.#plugged = { value: this.#plugin!(), at: now }
      // A failed attempt must not be what the next request gets.
      this.#plugged.value.catch(() => (this.#plugged = undefined))
    }
    return this.#plugged.value
  }
}

function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
