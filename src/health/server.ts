import { chmodSync, mkdirSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createSecureServer, Server as SecureServer } from 'node:https'
import { connect } from 'node:net'
import { dirname } from 'node:path'
import { describeError, ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { TlsFiles } from './tls-files.ts'

/** What a route sees of a request. */
export interface Request {
  readonly query: URLSearchParams
  /** Header Accept; "" where absent. */
  readonly accept: string
  /** Header Sec-Fetch-Site, by which browsers tell whose page asks: "cross-site", …; "" where absent. */
  readonly site: string
  /** Fires when the client has gone. */
  readonly signal: AbortSignal
  /** The body as text; rejects where it has more than `most` bytes. */
  text(most: number): Promise<string>
}

export interface Reply {
  readonly code: number
  readonly type: string
  /** Pieces are asked for one after the other, as fast as the client takes them; none of them for HEAD. */
  readonly body: string | AsyncIterable<string | Uint8Array>
  readonly headers?: Readonly<Record<string, string>>
}

export type Handler = (request: Request) => Reply | Promise<Reply>
export type Method = 'GET' | 'PUT' | 'DELETE'

/** By path: what answers GET and HEAD, or a handler for each method. */
export type Routes = Readonly<Record<string, Handler | Partial<Readonly<Record<Method, Handler>>>>>

/** Who asks for what. */
export interface Visit {
  readonly method: string
  readonly path: string
  /** Header Authorization; "" where absent. */
  readonly authorization: string
}

/** What is answered to one who may not ask; undefined: he may. */
export type Guard = (visit: Visit) => Promise<Reply | undefined>

/** Where a server listens: on a port, or on a socket of the file system that root alone may open. */
export type ListenAddress = { readonly host: string; readonly port: number } | { readonly path: string }

export interface HttpOptions {
  /** For messages: "health", "metrics". */
  readonly name: string
  readonly at: ListenAddress
  /** A failed listen rejects instead of being tried again every `retryMs`. */
  readonly hardFail: boolean
  readonly retryMs?: number
  /** Milliseconds that a client may leave a piece of an answer lying. */
  readonly stallMs?: number
  /** Milliseconds within which a request must have come whole. */
  readonly requestMs?: number
  /** It speaks TLS with these. */
  readonly tls?: TlsFiles
  /** Asked before any route is. */
  readonly guard?: Guard
  readonly routes: Routes
  readonly log: Log
  /** Called as a request has come, before it is answered. */
  readonly asked?: () => void
}

/** Of each server at a time; further ones are closed at once. */
export const mostConnections = 100

const plainText = 'text/plain; charset=utf-8'

/** A small HTTP server of fixed paths. */
export class HttpServer {
  readonly #options: HttpOptions
  #server: Server | undefined
  #retry: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: HttpOptions) {
    this.#options = options
  }

  /** Resolves when it listens, or, without hardFail, after the first try. */
  async start(): Promise<void> {
    const { at, hardFail, log, name, retryMs = 5000, tls } = this.#options
    const place = 'path' in at ? { path: at.path } : { host: at.host, port: at.port }
    let server: Server
    try {
      server = await this.#create()
      if ('path' in at) await makeRoom(at.path)
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen(place, resolve)
      })
      // Whatever the umask; until now nobody else could write to it, as opening it needs.
      if ('path' in at) chmodSync(at.path, 0o600)
    } catch (error) {
      if (hardFail) {
        if (error instanceof ProxyError) throw error
        const facts = { advice: 'free the address, or unset bindAddressHardFail to have it tried again' }
        const where = 'path' in at ? at.path : `${at.host} port ${at.port}`
        throw new ProxyError('CONFIG', `the ${name} server cannot listen on ${where}`, facts, error)
      }
      const fields = { server: name, ...place, error: describeError(error) }
      if (!('path' in at)) log.error('HTTP server cannot listen, trying again', fields)
      // Nobody is the worse for it but the commands, which find out by themselves what they would be told.
      else if (this.#retry === undefined) log.info('The socket for commands is not there, trying again', fields)
      if (!this.#closed) this.#retry = setTimeout(() => void this.start(), retryMs)
      return
    }
    if (this.#closed) {
      server.close()
      return
    }
    server.on('error', (error) => log.error('HTTP server failed', { server: name, error: describeError(error) }))
    this.#server = server
    if (server instanceof SecureServer) tls?.follow((pair) => server.setSecureContext(pair))
    log.v(1, 'HTTP server listens', { server: name, ...place, ...('path' in at ? {} : { port: this.port }) })
  }

  async #create(): Promise<Server> {
    const { tls, requestMs = 10_000 } = this.#options
    const limits = {
      maxHeaderSize: 8192,
      requestTimeout: requestMs,
      headersTimeout: requestMs,
      handshakeTimeout: requestMs,
      keepAliveTimeout: 5000,
      // Node looks for connections that are too slow no more often than this.
      connectionsCheckingInterval: requestMs / 4,
    }
    const respond = (request: IncomingMessage, response: ServerResponse): void => void this.#respond(request, response)
    const server =
      tls === undefined
        ? createServer(limits, respond)
        : createSecureServer({ ...limits, ...(await tls.read()), minVersion: 'TLSv1.2' }, respond)
    server.maxConnections = mostConnections
    return server
  }

  /** The port it listens on; 0 while it does not. */
  get port(): number {
    const address = this.#server?.address()
    return typeof address === 'object' && address !== null ? address.port : 0
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#retry)
    this.#options.tls?.close()
    this.#server?.close()
    this.#server?.closeAllConnections()
  }

  async #respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { log, name, stallMs = 10_000 } = this.#options
    this.#options.asked?.()
    const method = request.method ?? ''
    const [path = '', query = ''] = (request.url ?? '').split(/\?(.*)/s)
    const gone = new AbortController()
    response.once('close', () => gone.abort())
    const tell = (error: unknown): void =>
      log.error('HTTP request failed', { server: name, path, error: describeError(error) })
    let reply: Reply
    try {
      const { authorization = '' } = request.headers
      reply = await this.#reply(
        { method, path, authorization },
        {
          query: new URLSearchParams(query),
          accept: request.headers.accept ?? '',
          site: request.headers['sec-fetch-site'] ?? '',
          signal: gone.signal,
          text: (most) => readText(request, most),
        },
      )
    } catch (error) {
      if (gone.signal.aborted) return
      tell(error)
      reply = { code: 500, type: plainText, body: 'internal error' }
    }
    const { code, type, body, headers } = reply
    const length = typeof body === 'string' ? { 'Content-Length': Buffer.byteLength(body) } : {}
    response.writeHead(code, { 'Content-Type': type, 'X-Content-Type-Options': 'nosniff', ...length, ...headers })
    if (method === 'HEAD') response.end()
    else {
      try {
        await send(typeof body === 'string' ? [body] : body, response, stallMs)
      } catch (error) {
        // Cut off: an end would make half an answer look whole.
        response.destroy()
        if (!gone.signal.aborted) tell(error)
      }
    }
  }

  async #reply(visit: Visit, request: Request): Promise<Reply> {
    const { routes, guard } = this.#options
    const { method, path } = visit
    const route = Object.hasOwn(routes, path) ? routes[path]! : undefined
    if (route === undefined) return { code: 404, type: plainText, body: '404 page not found' }
    const handlers = typeof route === 'function' ? { GET: route } : route
    const handler = new Map(Object.entries(handlers)).get(method === 'HEAD' ? 'GET' : method)
    // What there is not is nobody's secret, and need not be asked about.
    if (handler !== undefined) return (await guard?.(visit)) ?? handler(request)
    const allowed = Object.keys(handlers).flatMap((one) => (one === 'GET' ? ['GET', 'HEAD'] : [one]))
    return { code: 405, type: plainText, body: 'method not allowed', headers: { Allow: allowed.join(', ') } }
  }
}

/** Makes the folder, and removes what a process left that was killed. Throws where another one listens there. */
async function makeRoom(path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const isAlive = await new Promise<boolean>((resolve) => {
    const socket = connect(path, () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
  if (isAlive) throw new ProxyError('CONFIG', `another process listens on ${path}`, { object: path })
  rmSync(path, { force: true })
}

async function send(
  body: Iterable<string> | AsyncIterable<string | Uint8Array>,
  response: ServerResponse,
  stallMs: number,
): Promise<void> {
  for await (const piece of body) {
    if (response.destroyed) return
    if (!response.write(piece)) await drained(response, stallMs)
  }
  response.end()
}

/** Until the client has taken what was written; rejects where it does not, or goes. */
function drained(response: ServerResponse, stallMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (error?: Error): void => {
      clearTimeout(timer)
      response.off('drain', settle).off('close', closed)
      if (error === undefined) resolve()
      else reject(error)
    }
    const closed = (): void => settle(new Error('the client has gone'))
    const timer = setTimeout(() => settle(new Error(`the client took nothing for ${stallMs} ms`)), stallMs)
    response.once('drain', settle).once('close', closed)
  })
}

async function readText(request: IncomingMessage, most: number): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > most) throw new Error(`a body of more than ${most} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}
