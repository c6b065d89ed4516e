import http from 'node:http'
import https from 'node:https'
import type { Socket } from 'node:net'

export interface KubeObject {
  readonly apiVersion?: string
  readonly kind: string
  readonly metadata: {
    readonly name: string
    readonly namespace?: string
    readonly labels?: Readonly<Record<string, string>>
    readonly [member: string]: unknown
  }
  readonly spec?: Readonly<Record<string, unknown>>
  readonly [member: string]: unknown
}

export interface FakeOptions {
  readonly port?: number
  readonly host?: string
  /** PEM; with both, the server speaks https. */
  readonly cert?: string
  readonly key?: string
  /** Interval of bookmarks; 0: only when asked. */
  readonly bookmarkMs?: number
}

export interface LoggedRequest {
  readonly method: string
  readonly url: string
  readonly code: number
}

type EventType = 'ADDED' | 'MODIFIED' | 'DELETED'

interface Stored {
  readonly object: KubeObject
  readonly version: number
}

interface Change {
  readonly version: number
  readonly resource: string
  readonly before: KubeObject | undefined
  readonly after: KubeObject | undefined
}

interface Watcher {
  readonly resource: string
  readonly matches: (object: KubeObject) => boolean
  readonly response: http.ServerResponse
}

const PATHS: Readonly<Record<string, string>> = {
  '/api/v1/services': 'Service',
  '/api/v1/nodes': 'Node',
  '/apis/discovery.k8s.io/v1/endpointslices': 'EndpointSlice',
}
/** Of one namespace: the kind's path in two parts, the namespace, and the object's name for a single one. */
const NAMESPACED = /^(\/api\/v1|\/apis\/discovery\.k8s\.io\/v1)\/namespaces\/([^/]+)(\/[a-z]+)(?:\/([^/]+))?$/
const EVENTS = /^\/apis\/events\.k8s\.io\/v1\/namespaces\/[^/]+\/events(\/[^/]+)?$/
const REVIEWS = /^\/apis\/(authentication|authorization)\.k8s\.io\/v1\/(tokenreviews|subjectaccessreviews)$/
/** So many are kept for watches that begin later; a server of etcd's keeps those of some minutes. */
const mostChanges = 100_000
const INITIAL_END = { 'k8s.io/initial-events-end': 'true' }

/** Enough of an API server for list and watch, with faults on request. */
export class FakeApiServer {
  readonly requests: LoggedRequest[] = []
  /** Bodies of Events as they came, changes of them included. */
  readonly events: unknown[] = []
  /** The status of a TokenReview or SubjectAccessReview, by its plural and spec; undefined: 403. */
  review: (plural: string, spec: Readonly<Record<string, unknown>>) => unknown = () => undefined
  readonly #options: FakeOptions
  readonly #server: http.Server
  readonly #store = new Map<string, Map<string, Stored>>()
  readonly #watchers = new Set<Watcher>()
  readonly #sockets = new Set<Socket>()
  readonly #changes: Change[] = []
  #version = 100
  /** Changes at or before this version are forgotten. */
  #compacted = 0
  #tokens: ReadonlySet<string> | undefined
  #gone = false
  #cutAfter: number | undefined
  #hanging = false
  #failing: { status: number; retryAfter: number | undefined } | undefined
  #noWatchList = 0
  #silentWatchList = false
  #noFieldSelector = false
  #bookmarks: NodeJS.Timeout | undefined

  constructor(options: FakeOptions = {}) {
    this.#options = options
    const handle = (request: http.IncomingMessage, response: http.ServerResponse): void =>
      this.#handle(request, response)
    const { cert, key } = options
    this.#server = cert && key ? https.createServer({ cert, key }, handle) : http.createServer(handle)
    this.#server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => this.#sockets.delete(socket))
    })
    for (const kind of Object.values(PATHS)) this.#store.set(kind, new Map())
  }

  /** Listens; resolves to the base URL. */
  async start(): Promise<string> {
    const { port = 0, host = '127.0.0.1', bookmarkMs = 0 } = this.#options
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(port, host, resolve)
    })
    if (bookmarkMs > 0) this.#bookmarks = setInterval(() => this.bookmark(), bookmarkMs)
    return this.url
  }

  get url(): string {
    const address = this.#server.address()
    const port = typeof address === 'object' ? address?.port : undefined
    const scheme = this.#options.cert ? 'https' : 'http'
    return `${scheme}://${this.#options.host ?? '127.0.0.1'}:${port}`
  }

  get watching(): number {
    return this.#watchers.size
  }

  get version(): number {
    return this.#version
  }

  async stop(): Promise<void> {
    clearInterval(this.#bookmarks)
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    this.disconnectAll()
    await closed
  }

  put(object: KubeObject): void {
    const store = this.#store.get(object.kind)
    if (store === undefined) throw new Error(`no such kind: ${object.kind}`)
    const key = keyOf(object)
    const before = store.get(key)?.object
    const version = ++this.#version
    const namespace = object.kind === 'Node' ? {} : { namespace: object.metadata.namespace ?? 'default' }
    const metadata = { ...object.metadata, ...namespace, resourceVersion: String(version) }
    const after = { ...object, metadata }
    store.set(key, { object: after, version })
    this.#record({ version, resource: object.kind, before, after })
  }

  /** `key` is "namespace/name", or a Node's name. */
  delete(kind: string, key: string): boolean {
    const store = this.#store.get(kind)
    const before = store?.get(key)?.object
    if (store === undefined || before === undefined) return false
    store.delete(key)
    this.#record({ version: ++this.#version, resource: kind, before, after: undefined })
    return true
  }

  /** Only requests with one of the bearer tokens are served from now on; undefined: all. */
  accept(tokens: Iterable<string> | undefined): void {
    this.#tokens = tokens === undefined ? undefined : new Set(tokens)
  }

  /** Sends a bookmark on every watch. */
  bookmark(): void {
    for (const watcher of this.#watchers) this.#send(watcher, 'BOOKMARK', this.#bookmarkOf(watcher.resource))
  }

  /** Forgets all changes: watches from older versions are refused, by status or by an ERROR event. */
  gone(how: 'status' | 'event' = 'status'): void {
    this.#gone = how === 'event'
    this.#compacted = this.#version
    this.#changes.length = 0
    if (how === 'event') for (const watcher of this.#watchers) this.#sendGone(watcher)
  }

  /** The next list's connection breaks after so many bytes of the body. */
  cutNextList(afterBytes: number): void {
    this.#cutAfter = afterBytes
  }

  /** Connections stay open, but nothing is answered or sent any more. */
  hang(on = true): void {
    this.#hanging = on
  }

  /** Every request is answered with the status; undefined: no more. */
  failAll(status: number | undefined, retryAfter?: number): void {
    this.#failing = status === undefined ? undefined : { status, retryAfter }
  }

  /** WatchList is refused with the status; 0: no more; 'silent': taken for a plain watch, as old servers do. */
  noWatchList(status: number | 'silent' = 422): void {
    this.#silentWatchList = status === 'silent'
    this.#noWatchList = status === 'silent' ? 0 : status
  }

  /** Field selectors other than metadata.name are refused, as servers before 1.34 do. */
  noFieldSelector(on = true): void {
    this.#noFieldSelector = on
  }

  disconnectAll(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  #record(change: Change): void {
    this.#changes.push(change)
    if (this.#changes.length > mostChanges) {
      this.#compacted = this.#changes[mostChanges >> 1]!.version - 1
      this.#changes.splice(0, mostChanges >> 1)
    }
    for (const watcher of this.#watchers) this.#sendChange(watcher, change)
  }

  #handle(request: http.IncomingMessage, response: http.ServerResponse): void {
    const url = new URL(request.url ?? '/', 'http://fake')
    const answer = (code: number, body?: unknown, headers: Readonly<Record<string, string>> = {}): void => {
      this.requests.push({ method: request.method ?? '', url: request.url ?? '', code })
      response.writeHead(code, { 'content-type': 'application/json', ...headers })
      if (body !== undefined) response.end(JSON.stringify(body))
    }
    const refuse = (code: number, message: string, headers?: Readonly<Record<string, string>>): void =>
      answer(code, { kind: 'Status', apiVersion: 'v1', status: 'Failure', code, message }, headers)

    if (url.pathname === '/__control' && request.method === 'POST') return this.#control(request, answer)
    if (this.#hanging) return
    if (this.#failing !== undefined) {
      const { status, retryAfter } = this.#failing
      return refuse(status, 'told to fail', retryAfter === undefined ? {} : { 'retry-after': String(retryAfter) })
    }
    const token = /^Bearer (.*)$/.exec(request.headers.authorization ?? '')?.[1]
    if (this.#tokens !== undefined && (token === undefined || !this.#tokens.has(token)))
      return refuse(401, 'Unauthorized')
    if (url.pathname === '/version') return answer(200, { major: '1', minor: '36', gitVersion: 'v1.36.0' })
    if (url.pathname === '/readyz' || url.pathname === '/healthz') return answer(200, 'ok')
    if (EVENTS.test(url.pathname)) return this.#takeEvent(request, answer)
    const [, , reviews] = REVIEWS.exec(url.pathname) ?? []
    if (reviews !== undefined && request.method === 'POST') return this.#takeReview(request, reviews, answer, refuse)
    const [, group = '', namespace, plural = '', name] = NAMESPACED.exec(url.pathname) ?? []
    const kind = PATHS[namespace === undefined ? url.pathname : `${group}${plural}`]
    if (kind === undefined || request.method !== 'GET') return refuse(404, 'the server could not find the resource')
    // As manifests/base/rbac.yaml has it.
    if (name !== undefined) return refuse(403, `cannot get resource ${plural.slice(1)}, ${name}`)

    const query = url.searchParams
    const field = query.get('fieldSelector') ?? ''
    if (this.#noFieldSelector && field !== '' && !field.startsWith('metadata.name=')) {
      return refuse(400, `field label not supported: ${field}`)
    }
    const selected = selector(query.get('labelSelector') ?? '', field)
    const matches = (object: KubeObject): boolean =>
      (namespace === undefined || (object.metadata.namespace ?? 'default') === namespace) && selected(object)
    if (query.get('watch') === 'true' || query.get('watch') === '1') {
      return this.#watch(kind, query, matches, response, answer, refuse)
    }
    return this.#list(kind, query, matches, response, answer, refuse)
  }

  #takeEvent(request: http.IncomingMessage, answer: (code: number, body: unknown) => void): void {
    let text = ''
    request.setEncoding('utf8')
    request.on('data', (chunk: string) => (text += chunk))
    request.on('end', () => {
      this.events.push(JSON.parse(text))
      answer(request.method === 'POST' ? 201 : 200, {})
    })
  }

  #takeReview(
    request: http.IncomingMessage,
    plural: string,
    answer: (code: number, body: unknown) => void,
    refuse: (code: number, message: string) => void,
  ): void {
    let text = ''
    request.setEncoding('utf8')
    request.on('data', (chunk: string) => (text += chunk))
    request.on('end', () => {
      const { spec } = JSON.parse(text) as { spec: Record<string, unknown> }
      const status = this.review(plural, spec)
      if (status === undefined) refuse(403, `cannot create resource "${plural}"`)
      else answer(201, { spec, status })
    })
  }

  #list(
    kind: string,
    query: URLSearchParams,
    matches: (object: KubeObject) => boolean,
    response: http.ServerResponse,
    answer: (code: number, body?: unknown) => void,
    refuse: (code: number, message: string) => void,
  ): void {
    const all = [...this.#store.get(kind)!.values()].map((entry) => entry.object).filter(matches)
    const [from, version] = (query.get('continue') ?? `0:${this.#version}`).split(':').map(Number)
    if (version! < this.#compacted) return refuse(410, 'the continue token has expired')
    // As the real one: a list from the cache (version 0) comes as a whole.
    const limit = query.get('resourceVersion') === '0' ? 0 : Number(query.get('limit') ?? 0)
    const items = limit > 0 ? all.slice(from, from! + limit) : all.slice(from)
    const rest = from! + items.length < all.length
    const metadata = { resourceVersion: String(version), ...(rest ? { continue: `${from! + limit}:${version}` } : {}) }
    const body = { kind: `${kind}List`, apiVersion: apiVersionOf(kind), metadata, items }
    if (this.#cutAfter === undefined) return answer(200, body)
    const part = JSON.stringify(body).slice(0, this.#cutAfter)
    this.#cutAfter = undefined
    answer(200)
    response.write(part, () => response.destroy())
  }

  #watch(
    kind: string,
    query: URLSearchParams,
    matches: (object: KubeObject) => boolean,
    response: http.ServerResponse,
    answer: (code: number) => void,
    refuse: (code: number, message: string) => void,
  ): void {
    const version = Number(query.get('resourceVersion') ?? 0)
    const initial = query.get('sendInitialEvents') === 'true'
    if (initial && this.#noWatchList > 0) {
      return refuse(
        this.#noWatchList,
        'sendInitialEvents is forbidden for watch unless the WatchList feature gate is on',
      )
    }
    const watcher: Watcher = { resource: kind, matches, response }
    if (!initial && version > 0 && version < this.#compacted) {
      if (!this.#gone) return refuse(410, `too old resource version: ${version} (${this.#compacted})`)
      answer(200)
      return this.#sendGone(watcher)
    }
    answer(200)
    response.flushHeaders()
    if (initial || version === 0) {
      for (const { object } of this.#store.get(kind)!.values())
        if (matches(object)) this.#send(watcher, 'ADDED', object)
      if (initial && !this.#silentWatchList) this.#send(watcher, 'BOOKMARK', this.#bookmarkOf(kind, INITIAL_END))
    } else for (const change of this.#changes) if (change.version > version) this.#sendChange(watcher, change)
    this.#watchers.add(watcher)
    const seconds = Number(query.get('timeoutSeconds') ?? 0)
    const timer = seconds > 0 ? setTimeout(() => !this.#hanging && this.#end(watcher), seconds * 1000) : undefined
    const ended = (): void => {
      clearTimeout(timer)
      this.#watchers.delete(watcher)
    }
    response.on('close', ended)
  }

  #sendChange(watcher: Watcher, change: Change): void {
    if (change.resource !== watcher.resource) return
    const was = change.before !== undefined && watcher.matches(change.before)
    const is = change.after !== undefined && watcher.matches(change.after)
    if (is) this.#send(watcher, was ? 'MODIFIED' : 'ADDED', change.after)
    else if (was) {
      const metadata = { ...change.before?.metadata, resourceVersion: String(change.version) }
      this.#send(watcher, 'DELETED', { ...change.before, metadata })
    }
  }

  #send(watcher: Watcher, type: EventType | 'BOOKMARK' | 'ERROR', object: unknown): void {
    if (!this.#hanging) watcher.response.write(`${JSON.stringify({ type, object })}\n`)
  }

  #sendGone(watcher: Watcher): void {
    const message = `too old resource version (${this.#compacted})`
    this.#send(watcher, 'ERROR', { kind: 'Status', status: 'Failure', reason: 'Expired', code: 410, message })
    this.#end(watcher)
  }

  /** Closed it is only when the client has read all: until then it is told of nothing more. */
  #end(watcher: Watcher): void {
    this.#watchers.delete(watcher)
    watcher.response.end()
  }

  #bookmarkOf(kind: string, annotations?: Readonly<Record<string, string>>): unknown {
    const metadata = { resourceVersion: String(this.#version), ...(annotations === undefined ? {} : { annotations }) }
    return { kind, apiVersion: apiVersionOf(kind), metadata }
  }

  /** Commands from another process: {"put": object | [objects]}, {"delete": [kind, key]}, {"hang": true}, … */
  #control(request: http.IncomingMessage, answer: (code: number, body: unknown) => void): void {
    let text = ''
    request.setEncoding('utf8')
    request.on('data', (chunk: string) => (text += chunk))
    request.on('end', () => {
      try {
        const command: Command = JSON.parse(text)
        this.command(command)
        // What was written in this turn goes to the sockets right before this.
        process.nextTick(() =>
          answer(200, {
            version: this.#version,
            watching: this.#watchers.size,
            // Milliseconds of a clock that all processes share: all that the command had sent is on its way.
            sentAt: Number(process.hrtime.bigint()) / 1e6,
            events: this.events,
          }),
        )
      } catch (error) {
        answer(400, { message: String(error) })
      }
    })
  }

  command(command: Command): void {
    if (command.put !== undefined) for (const object of [command.put].flat()) this.put(object)
    if (command.delete !== undefined) this.delete(...command.delete)
    if (command.accept !== undefined) this.accept(command.accept ?? undefined)
    if (command.gone !== undefined) this.gone(command.gone)
    if (command.cutNextList !== undefined) this.cutNextList(command.cutNextList)
    if (command.hang !== undefined) this.hang(command.hang)
    if (command.failAll !== undefined) this.failAll(command.failAll ?? undefined)
    if (command.noWatchList !== undefined) this.noWatchList(command.noWatchList)
    if (command.noFieldSelector !== undefined) this.noFieldSelector(command.noFieldSelector)
    if (command.bookmark) this.bookmark()
    // The control connection itself must get its answer first.
    if (command.disconnectAll) setTimeout(() => this.disconnectAll(), 20)
  }
}

/** What the control endpoint takes; null ends a fault that has no other end. */
export interface Command {
  readonly put?: KubeObject | readonly KubeObject[]
  readonly delete?: readonly [kind: string, key: string]
  readonly accept?: readonly string[] | null
  readonly gone?: 'status' | 'event'
  readonly cutNextList?: number
  readonly hang?: boolean
  readonly failAll?: number | null
  readonly noWatchList?: number | 'silent'
  readonly noFieldSelector?: boolean
  readonly bookmark?: boolean
  readonly disconnectAll?: boolean
}

function apiVersionOf(kind: string): string {
  return kind === 'EndpointSlice' ? 'discovery.k8s.io/v1' : 'v1'
}

function keyOf(object: KubeObject): string {
  return object.kind === 'Node'
    ? object.metadata.name
    : `${object.metadata.namespace ?? 'default'}/${object.metadata.name}`
}

/** Just the selectors the proxy uses: label absent or equal, metadata.name=, spec.clusterIP= and !=. */
function selector(labels: string, fields: string): (object: KubeObject) => boolean {
  const absent = labels
    .split(',')
    .filter((term) => term.startsWith('!'))
    .map((term) => term.slice(1))
  const equal = labels.split(',').flatMap((term) => (/^[^!=]+=[^=]+$/.test(term) ? [term.split('=')] : []))
  const terms = fields.split(',').filter((term) => term !== '')
  return (object) =>
    absent.every((label) => object.metadata.labels?.[label] === undefined) &&
    equal.every(([label, value]) => object.metadata.labels?.[label!] === value) &&
    terms.every((term) => {
      if (term.startsWith('metadata.name=')) return object.metadata.name === term.slice('metadata.name='.length)
      if (term.startsWith('spec.clusterIP=')) return object.spec?.clusterIP === term.slice('spec.clusterIP='.length)
      return term !== 'spec.clusterIP!=None' || object.spec?.clusterIP !== 'None'
    })
}
