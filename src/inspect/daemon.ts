import http from 'node:http'
import { parseListen, type ProxyConfig } from '../config/schema.ts'
import { describeError } from '../lib/errors.ts'
import type { Facts } from './checks.ts'

export interface Answer {
  readonly status: number
  readonly body: string
}

/** What a daemon on this node says of itself; an Error where it does not answer. */
export interface DaemonAnswers {
  readonly metrics: Answer | Error
  readonly healthz: Answer | Error
  readonly proxyMode: Answer | Error
}

/** Longer than that nobody waits for a process of the same node. */
const patience = 5000
const mostBytes = 16 << 20

/** GET of a URL of this node. */
export function ask(url: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { agent: false, timeout: patience }, (response) => {
      const parts: Buffer[] = []
      let length = 0
      response.on('data', (part: Buffer) => {
        length += part.length
        if (length > mostBytes) request.destroy(new Error(`more than ${mostBytes} bytes`))
        else parts.push(part)
      })
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(parts).toString('utf8') })
      })
      response.on('error', reject)
    })
    request.on('timeout', () => request.destroy(new Error(`no answer within ${patience} ms`)))
    request.on('error', reject)
  })
}

/** The URL that a bind address is reached at from the node itself; undefined where the server is switched off. */
export function urlOf(bind: string, port: number): string | undefined {
  const listen = bind === '' ? undefined : parseListen(bind, port)
  if (listen === undefined) return undefined
  const host = listen.host === '0.0.0.0' ? '127.0.0.1' : listen.host === '::' ? '::1' : listen.host
  return `http://${host.includes(':') ? `[${host}]` : host}:${listen.port}`
}

export async function askDaemon(config: ProxyConfig): Promise<DaemonAnswers> {
  const get = async (base: string | undefined, path: string): Promise<Answer | Error> => {
    if (base === undefined) return new Error('not asked: switched off in the configuration, or behind TLS')
    try {
      return await ask(`${base}${path}`)
    } catch (error) {
      return new Error(`${base}${path}: ${describeError(error)}`)
    }
  }
  const isPlain = config['kubeIpvsProxy.metricsTLSCertFile'] === ''
  const metrics = isPlain ? urlOf(config.metricsBindAddress, 10249) : undefined
  const health = urlOf(config.healthzBindAddress, 10256)
  const [text, healthz, proxyMode] = await Promise.all([
    get(metrics, '/metrics'),
    get(health, '/healthz'),
    get(metrics, '/proxyMode'),
  ])
  return { metrics: text, healthz, proxyMode }
}

/** Values of one metric in Prometheus' text form, by the text of their labels: `ip_family="IPv4"`. */
export function metricValues(text: string, name: string): ReadonlyMap<string, number> {
  const values = new Map<string, number>()
  for (const line of text.split('\n')) {
    if (!line.startsWith(name)) continue
    const [, labels = '', value = ''] = /^[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{([^}]*)\})? (\S+)/.exec(line) ?? []
    const end = line[name.length]
    if (value !== '' && (end === '{' || end === ' ')) values.set(labels, Number(value))
  }
  return values
}

/** Ours has metrics that nobody else has. */
export function proxyOfAnswers({ metrics, proxyMode }: DaemonAnswers): Facts['proxy'] {
  if (metrics instanceof Error) return 'none'
  if (metricValues(metrics.body, 'kube_ipvs_config_in_force').size > 0) return 'ours'
  return { mode: proxyMode instanceof Error ? '' : proxyMode.body.trim() }
}

export interface DaemonReport {
  readonly answers: boolean
  /** Where it does not answer, or is not what we are: why. */
  readonly reason: string
  /** Undefined: not known. */
  readonly healthy: boolean | undefined
  /** Seconds since the last complete sync, by family. */
  readonly lastSyncAge: Readonly<Record<string, number>>
  /** Service ports of which the kernel refused something in the last pass, by family. */
  readonly refused: Readonly<Record<string, number>>
}

/** `now`: milliseconds since the epoch. */
export function readDaemon({ metrics, healthz }: DaemonAnswers, now: number): DaemonReport {
  const health = healthz instanceof Error ? undefined : parseHealth(healthz.body)
  const healthy = healthz instanceof Error ? undefined : healthz.status === 200
  if (metrics instanceof Error || metrics.status !== 200) {
    const reason = metrics instanceof Error ? metrics.message : `/metrics answers ${metrics.status}`
    return { answers: healthy !== undefined, reason, healthy, lastSyncAge: {}, refused: {} }
  }
  const byFamily = (name: string, make: (value: number) => number): Record<string, number> => {
    const found: Record<string, number> = {}
    for (const [labels, value] of metricValues(metrics.body, name)) {
      const family = /ip_family="(IPv[46])"/.exec(labels)?.[1]
      if (family !== undefined) found[family] = make(value)
    }
    return found
  }
  return {
    answers: true,
    reason: health?.reason ?? '',
    healthy,
    lastSyncAge: byFamily('kubeproxy_sync_proxy_rules_last_timestamp_seconds', (at) =>
      Math.max(0, Math.round(now / 1000 - at)),
    ),
    refused: byFamily('kube_ipvs_refused_service_ports', (count) => count),
  }
}

function parseHealth(body: string): { readonly reason?: string } | undefined {
  try {
    return JSON.parse(body) as { reason?: string }
  } catch {
    return undefined
  }
}
