import { externalForm } from './config/external.ts'
import { isEnabled } from './config/gates.ts'
import { fields, type FieldPath, type FieldSpec, type ProxyConfig } from './config/schema.ts'
import { cpuProfile, heapSnapshot, isProfiling, profileSeconds } from './debug/profile.ts'
import { checkPage, flagPage, statusPage } from './debug/zpages.ts'
import type { Handler, Reply, Request, Routes } from './health/server.ts'
import type { Log } from './lib/log.ts'
import { version } from './lib/version.ts'
import { contentTypes, expose, formatFor, type Format } from './metrics/exposition.ts'
import type { Metrics } from './metrics/metrics.ts'

/** Series beside those of the registry. */
export type ServiceSeries = (format: Format) => AsyncIterable<string>

const plain = (body: string, code = 200): Reply => ({ code, type: 'text/plain; charset=utf-8', body })

/** What the metrics server answers. */
export function metricsRoutes(
  config: ProxyConfig,
  metrics: Metrics,
  log: Log,
  series?: ServiceSeries,
  page: Routes = {},
): Routes {
  const exposed =
    (registry: Metrics['registry'], more?: ServiceSeries): Handler =>
    ({ accept }) => {
      const format = formatFor(accept)
      return { code: 200, type: contentTypes[format], body: expose(registry, format, more) }
    }
  const checked =
    (page: (request: Request) => string): Handler =>
    (request) => {
      metrics.slis.checked('ping')
      return plain(page(request))
    }
  const configz = { 'kubeproxy.config.k8s.io': externalForm(config) }
  return {
    '/metrics': exposed(metrics.registry, series),
    '/metrics/slis': exposed(metrics.slis.registry),
    '/healthz': checked(({ query }) => checkPage(query)),
    '/healthz/ping': checked(() => 'ok'),
    '/proxyMode': () => plain('ipvs'),
    '/configz': () => ({ code: 200, type: 'application/json', body: JSON.stringify(configz) }),
    ...(isEnabled(config, 'ComponentStatusz') ? { '/statusz': () => plain(statusText()) } : {}),
    ...(isEnabled(config, 'ComponentFlagz') ? { '/flagz': () => plain(flagPage(flagsOf(config))) } : {}),
    ...(config.enableProfiling ? profilingRoutes(log) : {}),
    ...page,
  }
}

function statusText(): string {
  const now = Date.now()
  return statusPage({ startedAt: performance.timeOrigin, now, version, more: [['Proxy mode', 'ipvs']] })
}

/** The configuration in force by flag name, as a command line would have it. */
function flagsOf(config: ProxyConfig): ReadonlyMap<string, string> {
  const flags = new Map<string, string>()
  for (const path of Object.keys(fields) as FieldPath[]) {
    const { flag, kind } = fields[path] as FieldSpec
    const value = kind.show(config[path])
    if (flag !== undefined) flags.set(flag, Array.isArray(value) ? value.join(',') : textOf(value))
  }
  return flags
}

function textOf(value: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value)
  return Object.entries(value)
    .map(([name, one]) => `${name}=${String(one)}`)
    .join(',')
}

const profiles = `/debug/pprof/

The profiles are V8's own, not pprof's: Chrome's developer tools open them.

profile?seconds=N  what the process spends its time on, as .cpuprofile
heap               all that is in the heap, as .heapsnapshot; the process stands still meanwhile
`

/** Only with enableProfiling: they cost time and memory, and a heap shows all that the process knows. */
function profilingRoutes(log: Log): Routes {
  return {
    '/debug/pprof/': () => plain(profiles),
    '/debug/pprof/profile': ({ query, signal }) => {
      const seconds = Number(query.get('seconds') ?? profileSeconds.usual)
      if (!(seconds > 0 && seconds <= profileSeconds.most)) {
        return plain(`seconds must be above 0 and at most ${profileSeconds.most}`, 400)
      }
      if (isProfiling()) return plain('a profile is being taken', 409)
      return attachment('profile.cpuprofile', cpuProfile(seconds, signal))
    },
    '/debug/pprof/heap': () => attachment('heap.heapsnapshot', heapSnapshot()),
    '/debug/flags/v': {
      PUT: async (request) => {
        const text = (await request.text(64)).trim()
        if (!/^\d{1,9}$/.test(text)) return plain(`the body must be a whole number, not ${JSON.stringify(text)}`, 400)
        log.setVerbosity(Number(text))
        return plain(`successfully set klog.logging.verbosity to ${text}`)
      },
    },
  }
}

function attachment(name: string, body: AsyncIterable<string | Uint8Array>): Reply {
  const headers = { 'Content-Disposition': `attachment; filename="${name}"` }
  return { code: 200, type: 'application/json', body, headers }
}
