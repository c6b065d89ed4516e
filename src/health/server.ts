import { createServer, type Server, type ServerResponse } from 'node:http'
import { describeError, ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'

export interface Reply {
  readonly code: number
  readonly type: string
  readonly body: string
}

export type Routes = Readonly<Record<string, () => Reply | Promise<Reply>>>

export interface HttpOptions {
  /** For messages: "health", "metrics". */
  readonly name: string
  readonly host: string
  readonly port: number
  /** A failed listen rejects instead of being tried again every `retryMs`. */
  readonly hardFail: boolean
  readonly retryMs?: number
  readonly routes: Routes
  readonly log: Log
}

/** A small HTTP server: GET and HEAD of fixed paths. */
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
    const { host, port, hardFail, log, name, retryMs = 5000 } = this.#options
    const server = createServer(
      { maxHeaderSize: 8192, requestTimeout: 10_000, headersTimeout: 10_000 },
      (request, response) => {
        void this.#respond(request.method ?? '', request.url ?? '', response)
      },
    )
    server.maxConnections = 100
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen({ host, port }, resolve)
      })
    } catch (error) {
      if (hardFail) {
        const facts = { advice: 'free the address, or unset bindAddressHardFail to have it tried again' }
        throw new ProxyError('CONFIG', `the ${name} server cannot listen on ${host} port ${port}`, facts, error)
      }
      log.error('HTTP server cannot listen, trying again', { server: name, host, port, error: describeError(error) })
      if (!this.#closed) this.#retry = setTimeout(() => void this.start(), retryMs)
      return
    }
    if (this.#closed) {
      server.close()
      return
    }
    server.on('error', (error) => log.error('HTTP server failed', { server: name, error: describeError(error) }))
    this.#server = server
    log.v(1, 'HTTP server listens', { server: name, host, port: this.port })
  }

  /** The port it listens on; 0 while it does not. */
  get port(): number {
    const address = this.#server?.address()
    return typeof address === 'object' && address !== null ? address.port : 0
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#retry)
    this.#server?.close()
    this.#server?.closeAllConnections()
  }

  async #respond(method: string, url: string, response: ServerResponse): Promise<void> {
    const path = url.split('?')[0]!
    const route = Object.hasOwn(this.#options.routes, path) ? this.#options.routes[path] : undefined
    let reply: Reply
    if (method !== 'GET' && method !== 'HEAD')
      reply = { code: 405, type: 'text/plain; charset=utf-8', body: 'method not allowed' }
    else if (route === undefined) reply = { code: 404, type: 'text/plain; charset=utf-8', body: '404 page not found' }
    else {
      try {
        reply = await route()
      } catch (error) {
        this.#options.log.error('HTTP request failed', { server: this.#options.name, url, error: describeError(error) })
        reply = { code: 500, type: 'text/plain; charset=utf-8', body: 'internal error' }
      }
    }
    response.writeHead(reply.code, {
      'Content-Type': reply.type,
      'X-Content-Type-Options': 'nosniff',
      'Content-Length': Buffer.byteLength(reply.body),
    })
    response.end(method === 'HEAD' ? undefined : reply.body)
  }
}
