import { parseListen, type ProxyConfig } from './config/schema.ts'
import type { HealthAnswer, ProxierHealth } from './health/healthz.ts'
import { HttpServer, type Guard, type HttpOptions, type Reply, type Routes } from './health/server.ts'
import { TlsFiles } from './health/tls-files.ts'
import type { Log } from './lib/log.ts'
import { metricsRoutes, type ServiceSeries } from './metrics-routes.ts'
import type { Metrics } from './metrics/metrics.ts'

/** What the metrics server has beside the registry. */
export interface MetricsExtras {
  readonly series?: ServiceSeries | undefined
  readonly page?: Routes | undefined
  /** Who may ask; undefined: everybody. */
  readonly guard?: Guard | undefined
}

/** The servers of healthzBindAddress and metricsBindAddress, not started; none for an empty address. */
export function listeners(
  config: ProxyConfig,
  metrics: Metrics,
  health: ProxierHealth,
  log: Log,
  { series, page, guard }: MetricsExtras = {},
): HttpServer[] {
  const at = (
    name: string,
    address: string,
    port: number,
    routes: Routes,
    access: Pick<HttpOptions, 'tls' | 'guard' | 'asked'> = {},
  ): HttpServer[] => {
    const listen = address === '' ? undefined : parseListen(address, port)
    if (listen === undefined) return []
    return [new HttpServer({ name, at: listen, hardFail: config.bindAddressHardFail, log, routes, ...access })]
  }
  const [certFile, keyFile] = [config['kubeIpvsProxy.metricsTLSCertFile'], config['kubeIpvsProxy.metricsTLSKeyFile']]
  return [
    ...at('health', config.healthzBindAddress, 10256, healthRoutes(metrics, health)),
    ...at('metrics', config.metricsBindAddress, 10249, metricsRoutes(config, metrics, log, series, page), {
      ...(certFile === '' ? {} : { tls: new TlsFiles({ certFile, keyFile, log }) }),
      ...(guard === undefined ? {} : { guard }),
      asked: () => metrics.lag.working(),
    }),
  ]
}

function healthRoutes(metrics: Metrics, health: ProxierHealth): Routes {
  const told = (counter: Metrics['healthz'], { code, body }: HealthAnswer): Reply => {
    counter.inc({ code })
    return { code, type: 'application/json', body }
  }
  return {
    '/healthz': () => told(metrics.healthz, health.healthz()),
    '/livez': () => told(metrics.livez, health.livez()),
  }
}
