import http from 'node:http'
import https from 'node:https'
import { ProxyError } from '../lib/errors.ts'
import type { Access, TlsSettings } from './kubeconfig.ts'

export interface ClientOptions {
  readonly access: Access
  readonly version: string
  /** Within which the server must begin to answer. */
  readonly headersTimeoutMs?: number
  /** After which TCP begins to probe a silent peer. */
  readonly keepAliveDelayMs?: number
  readonly observer?: RequestObserver
}

/** Hears of requests. */
export interface RequestObserver {
  /** An answer has begun, with this code; or there is none: "<error>". */
  answered(method: string, code: string, seconds: number, bodyBytes: number): void
  /** An answer's body has come whole. */
  received(method: string, bytes: number): void
}

export interface Response {
  readonly status: number
  /** Header Retry-After; undefined where absent or not in seconds. */
  readonly retryAfterMs: number | undefined
  readonly body: AsyncIterable<Buffer>
  /** Ends the exchange and its connection. */
  destroy(): void
}

interface Body {
  readonly type: string
  readonly text: string
}

/** Just enough of HTTP for list and watch: kept-alive connections, a limit on the wait for the answer, streamed bodies. */
export class Client {
  readonly #options: ClientOptions
  #agent: http.Agent | undefined
  #agentTls: TlsSettings | undefined

  constructor(options: ClientOptions) {
    this.#options = options
  }

  /** GET of a path with query. Rejects where no answer begins; an answer of any status resolves. */
  get(path: string, signal: AbortSignal): Promise<Response> {
    return this.#send('GET', path, signal)
  }

  /** A request with a body; answers as `get` does. */
  send(method: 'POST' | 'PATCH', path: string, type: string, body: string, signal: AbortSignal): Promise<Response> {
    return this.#send(method, path, signal, { type, text: body })
  }

  async #send(method: string, path: string, signal: AbortSignal, body?: Body): Promise<Response> {
    const { access, observer } = this.#options
    const began = performance.now()
    let code = '<error>'
    try {
      const tls = await access.tls()
      const headers = await access.headers()
      const url = new URL(`${access.server}${path}`)
      const response = await this.#exchange(method, url, tls, headers, signal, body)
      code = String(response.statusCode)
      if (response.statusCode === 401) access.rejected()
      const seconds = response.headers['retry-after']
      return {
        status: response.statusCode ?? 0,
        retryAfterMs: seconds !== undefined && /^\d+$/.test(seconds) ? Number(seconds) * 1000 : undefined,
        body: observer === undefined ? response : counted(response, (bytes) => observer.received(method, bytes)),
        destroy: () => response.destroy(),
      }
    } catch (error) {
      throw new ProxyError('API', `${method} ${access.server}${path.split('?')[0]} failed`, {}, error)
    } finally {
      const bytes = body === undefined ? 0 : Buffer.byteLength(body.text)
      observer?.answered(method, code, (performance.now() - began) / 1000, bytes)
    }
  }

  /** Closes idle connections. */
  close(): void {
    this.#agent?.destroy()
    this.#agent = undefined
  }

  #exchange(
    method: string,
    url: URL,
    tls: TlsSettings,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
    body: Body | undefined,
  ): Promise<http.IncomingMessage> {
    const { version, headersTimeoutMs = 30_000, keepAliveDelayMs = 30_000 } = this.#options
    const secure = url.protocol === 'https:'
    const options: https.RequestOptions = {
      agent: this.#agentFor(secure, tls, keepAliveDelayMs),
      method,
      headers: {
        accept: 'application/json',
        'user-agent': `kube-ipvs-proxy/${version}`,
        ...(body === undefined ? {} : { 'content-type': body.type }),
        ...headers,
      },
      signal,
    }
    return new Promise((resolve, reject) => {
      const request = secure ? https.request(url, options) : http.request(url, options)
      const timer = setTimeout(
        () => request.destroy(new Error(`no answer within ${headersTimeoutMs} ms`)),
        headersTimeoutMs,
      )
      request.on('socket', (socket) => socket.setKeepAlive(true, keepAliveDelayMs))
      request.on('response', (response) => {
        clearTimeout(timer)
        // Destroyed without a reader, it would otherwise throw its error into the process.
        response.on('error', () => {})
        resolve(response)
      })
      request.on('error', (error) => {
        clearTimeout(timer)
        reject(error)
      })
      request.end(body?.text)
    })
  }

  /** One agent as long as the TLS settings are the same; connections made with older ones are used up. */
  #agentFor(secure: boolean, tls: TlsSettings, keepAliveMsecs: number): http.Agent {
    if (this.#agent !== undefined && this.#agentTls === tls) return this.#agent
    const old = this.#agent
    if (old !== undefined) {
      old.maxFreeSockets = 0
      for (const sockets of Object.values(old.freeSockets)) for (const socket of sockets ?? []) socket.destroy()
    }
    const options = { keepAlive: true, keepAliveMsecs }
    this.#agent = secure ? new https.Agent({ ...options, ...tls }) : new http.Agent(options)
    this.#agentTls = tls
    return this.#agent
  }
}

/** The same chunks; their sum is told where all of them have come. */
async function* counted(body: AsyncIterable<Buffer>, tell: (bytes: number) => void): AsyncGenerator<Buffer> {
  let bytes = 0
  for await (const chunk of body) {
    bytes += chunk.length
    yield chunk
  }
  tell(bytes)
}
