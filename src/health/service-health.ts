import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { describeError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { Family } from '../model/address.ts'

export interface ServiceHealthOptions {
  readonly family: Family
  /** Whether the proxier keeps up. */
  readonly healthy: () => boolean
  readonly log: Log
  /** Told once for each failure that differs from the one before. */
  readonly onListenFailed: (service: string, port: number, error: Error) => void
}

export interface ServiceHealthWant {
  readonly port: number
  /** Distinct addresses of local ready endpoints. */
  readonly localEndpoints: number
}

interface Listener {
  readonly server: Server
  readonly host: string
  readonly port: number
}

interface Entry {
  want: ServiceHealthWant | undefined
  /** What is answered: the count of the last apply, which the kernel has by then. */
  localEndpoints: number
  readonly listeners: Map<string, Listener>
  /** The last failure that was told. */
  told: string
}

/**
 * The servers of Services' healthCheckNodePort, of one family: a load balancer sends a node traffic of a Service with
 * externalTrafficPolicy Local only while they answer 200. Each family has sockets of its own on the same port.
 */
export class ServiceHealth {
  readonly #options: ServiceHealthOptions
  readonly #entries = new Map<string, Entry>()
  readonly #pending = new Set<string>()
  #hosts: readonly string[]
  #closed = false

  constructor(options: ServiceHealthOptions) {
    this.#options = options
    this.#hosts = [unspecified(options.family)]
  }

  /** `service`: "namespace/name"; undefined: it wants no server any more. Takes effect at the next apply. */
  set(service: string, want: ServiceHealthWant | undefined): void {
    const entry = this.#entries.get(service)
    if (entry === undefined) {
      if (want === undefined) return
      this.#entries.set(service, { want, localEndpoints: 0, listeners: new Map(), told: '' })
    } else {
      if (entry.want?.port === want?.port && entry.want?.localEndpoints === want?.localEndpoints) return
      entry.want = want
    }
    this.#pending.add(service)
  }

  /** Addresses to listen on. Takes effect at the next apply. */
  setHosts(hosts: readonly string[] | 'all'): void {
    const next = hosts === 'all' ? [unspecified(this.#options.family)] : hosts
    if (next.join() === this.#hosts.join()) return
    this.#hosts = next
    for (const service of this.#entries.keys()) this.#pending.add(service)
  }

  /** Services whose servers are not as wanted yet. */
  get pending(): number {
    return this.#pending.size
  }

  /** Opens and closes what is pending. Never throws: what cannot listen is told and stays pending. */
  async apply(): Promise<void> {
    if (this.#pending.size === 0) return
    const services = [...this.#pending].sort()
    for (const service of services) {
      const entry = this.#entries.get(service)!
      entry.localEndpoints = entry.want?.localEndpoints ?? 0
    }
    // First all that goes: its ports may be wanted by others.
    await Promise.all(services.map((service) => this.#closeUnwanted(this.#entries.get(service)!)))
    for (const service of services) await this.#open(service, this.#entries.get(service)!)
  }

  close(): void {
    this.#closed = true
    for (const { listeners } of this.#entries.values()) for (const { server } of listeners.values()) end(server)
    this.#entries.clear()
    this.#pending.clear()
  }

  async #closeUnwanted(entry: Entry): Promise<void> {
    const gone = [...entry.listeners].filter(
      ([host, { port }]) => entry.want?.port !== port || !this.#hosts.includes(host),
    )
    await Promise.all(
      gone.map(([host, { server }]) => {
        entry.listeners.delete(host)
        const closed = new Promise<void>((resolve) => server.once('close', resolve))
        end(server)
        return closed
      }),
    )
  }

  async #open(service: string, entry: Entry): Promise<void> {
    const { want } = entry
    if (want === undefined) {
      this.#entries.delete(service)
      this.#pending.delete(service)
      return
    }
    let failure: Error | undefined
    for (const host of this.#hosts) {
      if (entry.listeners.has(host)) continue
      try {
        entry.listeners.set(host, { server: await this.#listen(service, host, want.port), host, port: want.port })
      } catch (error) {
        failure ??= error instanceof Error ? error : new Error(String(error))
      }
    }
    if (failure === undefined) {
      entry.told = ''
      this.#pending.delete(service)
      return
    }
    const text = describeError(failure)
    if (text === entry.told) return
    entry.told = text
    const { log, family, onListenFailed } = this.#options
    log.error('A health check node port cannot be listened on, trying again in each pass', {
      family,
      object: `Service ${service}`,
      port: want.port,
      error: text,
    })
    onListenFailed(service, want.port, failure)
  }

  async #listen(service: string, host: string, port: number): Promise<Server> {
    const server = createServer(
      { maxHeaderSize: 8192, requestTimeout: 10_000, headersTimeout: 10_000, keepAliveTimeout: 5000 },
      (request, response) => this.#answer(service, request, response),
    )
    server.maxConnections = 100
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ host, port, ipv6Only: this.#options.family === 'IPv6' }, () => {
        server.removeListener('error', reject)
        resolve()
      })
    })
    server.on('error', (error) =>
      this.#options.log.error('Health check server failed', {
        object: `Service ${service}`,
        error: describeError(error),
      }),
    )
    if (this.#closed) end(server)
    return server
  }

  #answer(service: string, request: IncomingMessage, response: ServerResponse): void {
    // A request that comes while its Service is let go of: nobody should send it traffic.
    const count = this.#entries.get(service)?.localEndpoints ?? 0
    const healthy = this.#options.healthy()
    const [namespace, name] = service.split('/')
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405, { Allow: 'GET, HEAD', 'Content-Length': 0 }).end()
      return
    }
    const body = JSON.stringify(
      { service: { namespace, name }, localEndpoints: count, serviceProxyHealthy: healthy },
      undefined,
      '\t',
    )
    response.writeHead(count > 0 && healthy ? 200 : 503, {
      'Content-Type': 'application/json',
      'X-Content-Type-Options': 'nosniff',
      'X-Load-Balancing-Endpoint-Weight': String(count),
      'Content-Length': Buffer.byteLength(body),
    })
    response.end(request.method === 'HEAD' ? undefined : body)
  }
}

function unspecified(family: Family): string {
  return family === 'IPv4' ? '0.0.0.0' : '::'
}

function end(server: Server): void {
  server.close()
  server.closeAllConnections()
}
