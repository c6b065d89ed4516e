import { createServer } from 'node:net'
import { expect, test } from 'vitest'
import { loadConfig } from '../../../src/config/load.ts'
import { ProxierHealth } from '../../../src/health/healthz.ts'
import { ServiceHealth } from '../../../src/health/service-health.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { listeners } from '../../../src/listeners.ts'
import { createMetrics } from '../../../src/metrics/metrics.ts'

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  return typeof address === 'object' && address !== null ? address.port : 0
}

test('answers of /healthz and /livez are counted by their codes', async () => {
  const port = await freePort()
  const flags = new Map([
    ['healthz-bind-address', `127.0.0.1:${port}`],
    ['metrics-bind-address', ''],
  ])
  const { config, problems } = loadConfig({ flags })
  expect(problems).toEqual([])
  const metrics = createMetrics()
  const health = new ProxierHealth(['IPv4'], 60_000, true, systemClock, () => 'a test')
  const [server] = listeners(config, metrics, health, silentLog)
  await server!.start()
  try {
    const ask = async (path: string): Promise<number> => (await fetch(`http://127.0.0.1:${port}${path}`)).status
    health.updated('IPv4')
    expect([await ask('/healthz'), await ask('/healthz'), await ask('/livez')]).toEqual([200, 200, 200])
    health.setEligible(false)
    expect([await ask('/healthz'), await ask('/livez')]).toEqual([503, 200])
  } finally {
    server!.close()
  }
  const text = await metrics.registry.metrics()
  expect(text.match(/^kubeproxy_proxy_(healthz|livez)_total.*/gm)?.sort()).toEqual([
    'kubeproxy_proxy_healthz_total{code="200"} 2',
    'kubeproxy_proxy_healthz_total{code="503"} 1',
    'kubeproxy_proxy_livez_total{code="200"} 2',
    'kubeproxy_proxy_livez_total{code="503"} 0',
  ])
})

test('without Services there is no health check server, and one that goes unknown leaves none', async () => {
  const health = new ServiceHealth({ family: 'IPv4', healthy: () => true, log: silentLog, onListenFailed: () => {} })
  health.set('default/never', undefined)
  expect(health.pending).toBe(0)
  await health.apply()
  health.close()
})
