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
  kubeproxy_conntrack_reconciler_sync_duration_seconds: 'histogram',
  kubeproxy_conntrack_reconciler_deleted_entries_total: 'counter',
}

/** Names of the labels of a family's samples, but for a histogram's bounds. */
function labels(text: string, name: string): string[] {
  const sample = new RegExp(`^${name}(?:_count)?(?:\\{(.*)\\})? `, 'm').exec(text)?.[1] ?? ''
  return [...sample.matchAll(/(\w+)="/g)].map(([, label]) => label!).sort()
}

const metrics = createMetrics()
metrics.lastSync.set({ ip_family: 'IPv4' }, 1)
metrics.lastQueued.set({ ip_family: 'IPv4' }, 1)
metrics.noLocalEndpoints.set({ ip_family: 'IPv4', traffic_policy: 'internal' }, 0)
metrics.restRequests.inc({ code: '200', method: 'GET', host: 'a:1' })
metrics.restDuration.observe({ verb: 'GET', host: 'a:1' }, 1)
for (const histogram of [metrics.syncDuration, metrics.networkProgramming]) histogram.observe({ ip_family: 'IPv4' }, 1)
const ours = await metrics.registry.metrics()
const names = [...ours.matchAll(/^# TYPE (kubeproxy_\w+|rest_client_\w+|kubernetes_build_info)/gm)].map(
  ([, name]) => name!,
)

test('there are as many families of upstream’s as the record has', () => {
  expect(names.length).toBe(17)
})

test.each(names)('%s is as upstream’s', (name) => {
  const theirs = shape(upstream, name)
  const mine = shape(ours, name)
  expect(mine.type).toBe(theirs.type ?? unobserved[name])
  if (theirs.type === undefined) return
  expect(mine.bounds).toEqual(theirs.bounds)
  // Of the build, what only a Go program has is left out.
  if (name === 'kubernetes_build_info')
    expect(labels(upstream, name)).toEqual(expect.arrayContaining(labels(ours, name)))
  else expect(labels(ours, name)).toEqual(labels(upstream, name))
})
