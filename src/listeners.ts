import { externalForm } from './config/external.ts'
import { parseListen, type ProxyConfig } from './config/schema.ts'
import type { ProxierHealth } from './health/healthz.ts'
import { HttpServer, type Reply, type Routes } from './health/server.ts'
import type { Log } from './lib/log.ts'
import type { Metrics } from './metrics/metrics.ts'

const plainText = 'text/plain; charset=utf-8'

/** The servers of healthzBindAddress and metricsBindAddress, not started; none for an empty address. */
export function listeners(config: ProxyConfig, metrics: Metrics, health: ProxierHealth, log: Log): HttpServer[] {
  const json = (answer: { code: number; body: string }): Reply => ({ ...answer, type: 'application/json' })
  const at = (name: string, address: string, port: number, routes: Routes): HttpServer[] => {
    const listen = address === '' ? undefined : parseListen(address, port)
    if (listen === undefined) return []
    return [new HttpServer({ name, ...listen, hardFail: config.bindAddressHardFail, log, routes })]
  }
  return [
    ...at('health', config.healthzBindAddress, 10256, {
      '/healthz': () => {
        const answer = health.healthz()
        metrics.healthz.inc({ code: answer.code })
        return json(answer)
      },
      '/livez': () => {
        const answer = health.livez()
        metrics.livez.inc({ code: answer.code })
        return json(answer)
      },
    }),
    ...at('metrics', config.metricsBindAddress, 10249, {
      '/metrics': async () => ({
        code: 200,
        type: metrics.registry.contentType,
        body: await metrics.registry.metrics(),
      }),
      '/healthz': () => ({ code: 200, type: plainText, body: 'ok' }),
      '/proxyMode': () => ({ code: 200, type: plainText, body: 'ipvs' }),
      '/configz': () => ({
        code: 200,
        type: 'application/json',
        body: JSON.stringify({ 'kubeproxy.config.k8s.io': externalForm(config) }),
      }),
    }),
  ]
}
