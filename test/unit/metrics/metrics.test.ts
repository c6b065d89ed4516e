import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createMetrics } from '../../../src/metrics/metrics.ts'

const upstream = readFileSync(join(import.meta.dirname, '../../golden/01-base/metrics.txt'), 'utf8')

/** Types by family, and the bucket bounds of histograms. */
function shape(text: string, name: string): { type: string | undefined; bounds: string[] } {
  const type = new RegExp(`^# TYPE ${name} (\\w+)`, 'm').exec(text)?.[1]
  const lines = text.split('\n').filter((line) => line.startsWith(`${name}_bucket{`) && !/ip_family="IPv6"/.test(line))
  return {
    type,
    bounds: lines
      .map((line) => /le="([^"]+)"/.exec(line)![1]!)
      .map((bound) => (bound === '+Inf' ? bound : String(Number(bound)))),
  }
}

/** Families that the dump lacks because nothing of them had been observed; types by upstream's metrics.go. */
const unobserved: Readonly<Record<string, string>> = {
  kubeproxy_network_programming_duration_seconds: 'histogram',
  kubeproxy_sync_proxy_rules_iptables_restore_failures_total: 'counter',
  kubeproxy_proxy_healthz_total: 'counter',
  kubeproxy_proxy_livez_total: 'counter',
}

const metrics = createMetrics()
for (const histogram of [metrics.syncDuration, metrics.networkProgramming]) histogram.observe({ ip_family: 'IPv4' }, 1)
const ours = await metrics.registry.metrics()
const names = [...ours.matchAll(/^# TYPE (kubeproxy_\w+|rest_client_requests_total|kubernetes_build_info)/gm)].map(
  ([, name]) => name!,
)

test('there are as many families of upstream’s as the record has', () => {
  expect(names.length).toBe(14)
})

test.each(names)('%s is as upstream’s', (name) => {
  const theirs = shape(upstream, name)
  const mine = shape(ours, name)
  expect(mine.type).toBe(theirs.type ?? unobserved[name])
  if (theirs.bounds.length > 0) expect(mine.bounds).toEqual(theirs.bounds)
})
