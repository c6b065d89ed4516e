import { Counter, Gauge, Registry } from 'prom-client'

/** /metrics/slis: results of the metrics server's own checks, as component-base has them. */
export function checkMetrics() {
  const registry = new Registry()
  const registers = [registry]
  const last = new Gauge({
    name: 'kubernetes_healthcheck',
    help: 'This metric records the result of a single healthcheck.',
    labelNames: ['name', 'type'] as const,
    registers,
  })
  const total = new Counter({
    name: 'kubernetes_healthchecks_total',
    help: 'This metric records the results of all healthcheck.',
    labelNames: ['name', 'status', 'type'] as const,
    registers,
  })
  return {
    registry,
    /** A check of /healthz was asked for, and found well. */
    checked: (name: string): void => {
      last.set({ name, type: 'healthz' }, 1)
      total.inc({ name, status: 'success', type: 'healthz' })
    },
  }
}
