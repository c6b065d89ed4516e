import { parseListen, type ProxyConfig } from './config/schema.ts'
import type { HealthAnswer, ProxierHealth } from './health/healthz.ts'
import { HttpServer, type Reply, type Routes } from './health/server.ts'
import type { Log } from './lib/log.ts'
import { metricsRoutes, type ServiceSeries } from './metrics-routes.ts'
import type { Metrics } from './metrics/metrics.ts'

/** The servers of healthzBindAddress and metricsBindAddress, not started; none for an empty address. */
export function listeners(
  config: ProxyConfig,
  metrics: Metrics,
  health: ProxierHealth,
  log: Log,
  series?: ServiceSeries,
  page?: Routes,
): HttpServer[] {
  const at = (name: string, address: string, port: number, routes: Routes): HttpServer[] => {
    const listen = address === '' ? undefined : parseListen(address, port)
    if (listen === undefined) return []
    return [new HttpServer({ name, at: listen, hardFail: config.bindAddressHardFail, log, routes })]
  }
  return [
    ...at('health', config.healthzBindAddress, 10256, healthRoutes(metrics, health)),
    ...at('metrics', config.metricsBindAddress, 10249, metricsRoutes(config, metrics, log, series, page)),
  ]
}

/** As upstream, whatever the method. */
function healthRoutes(metrics: Metrics, health: ProxierHealth): Routes {
  const told = (counter: Metrics['healthz'], { code, body }: HealthAnswer): Reply => {
    counter.inc({ code })
    return { code, type: 'application/json', body }
  }
  return {
    '/healthz': { any: () => told(metrics.healthz, health.healthz()) },
    '/livez': { any: () => told(metrics.livez, health.livez()) },
  }
}
