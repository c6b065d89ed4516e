import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { FamilyFigures } from '../../../src/metrics/figures.ts'
import { createMetrics, startAtZero } from '../../../src/metrics/metrics.ts'
import type { Family } from '../../../src/model/address.ts'

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
for (const one of [metrics.restDuration, metrics.restLimiter, metrics.restRequestSize, metrics.restResponseSize]) {
  one.observe({ verb: 'GET', host: 'a:1' }, 1)
}
metrics.featureEnabled.set({ name: 'ComponentFlagz', stage: 'BETA' }, 1)
for (const histogram of [metrics.syncDuration, metrics.networkProgramming]) histogram.observe({ ip_family: 'IPv4' }, 1)
const ours = await metrics.registry.metrics()
const likeTheirs =
  /^# TYPE (kubeproxy_\w+|rest_client_\w+|kubernetes_\w+|(?:registered|hidden|disabled)_metrics_total|go_goroutines) /gm
const names = [...ours.matchAll(likeTheirs)].map(([, name]) => name!)

test('there are as many families of upstream’s as the record has', () => {
  expect(names.length).toBe(25)
})

test.each(names)('%s is as upstream’s', (name) => {
  const theirs = shape(upstream, name)
  const mine = shape(ours, name)
  expect(mine.type).toBe(theirs.type ?? unobserved[name])
  if (theirs.type === undefined) return
  expect(mine.bounds).toEqual(theirs.bounds)
  expect(labels(ours, name)).toEqual(labels(upstream, name))
})

// kubernetes-mixin, dashboards/proxy.libsonnet.
test.each([
  'kubeproxy_sync_proxy_rules_duration_seconds_count',
  'kubeproxy_sync_proxy_rules_duration_seconds_bucket',
  'kubeproxy_network_programming_duration_seconds_count',
  'kubeproxy_network_programming_duration_seconds_bucket',
  'rest_client_requests_total',
  'rest_client_request_duration_seconds_bucket',
  'process_resident_memory_bytes',
  'process_cpu_seconds_total',
  'go_goroutines',
])('the dashboard finds %s', (name) => {
  expect(ours).toMatch(new RegExp(`^${name}(\\{.*\\})? [\\d.e+-]+$`, 'm'))
})

test('what is known to be counted is there with 0 before it happens', async () => {
  const fresh = createMetrics()
  startAtZero(fresh, ['IPv4', 'IPv6'])
  const text = await fresh.registry.metrics()
  const zero = text.split('\n').filter((line) => /^kube(proxy|_ipvs)_.* 0$/.test(line) && !line.includes('_bucket'))
  expect(zero).toEqual(
    expect.arrayContaining([
      'kubeproxy_proxy_healthz_total{code="200"} 0',
      'kubeproxy_proxy_healthz_total{code="503"} 0',
      'kubeproxy_proxy_livez_total{code="503"} 0',
      'kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family="IPv6"} 0',
      'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 0',
      'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv6",traffic_policy="external"} 0',
      'kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"} 0',
      'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 0',
      'kubeproxy_sync_proxy_rules_service_changes_total 0',
      'kube_ipvs_sync_failures_total{ip_family="IPv4"} 0',
      'kube_ipvs_entries_written_total{ip_family="IPv6",layer="dummy"} 0',
    ]),
  )
})

describe('figures', () => {
  const figures: FamilyFigures = {
    counts: () => [
      { layer: 'ipvs', kind: 'virtual server', wanted: 3, present: 2 },
      { layer: 'dummy', kind: 'address', wanted: 1, present: 1 },
    ],
    sets: () => [{ set: 'KUBE-CLUSTER-IP', members: 16384, size: 65536 }],
    draining: 4,
    longestDrain: 61_500,
    drainingDestinations: () => [],
    connections: { active: 5, inactive: 6 },
    lastLook: { endedAt: 1_700_000_000_500, took: 250 },
  }
  const unknown: FamilyFigures = { ...figures, sets: () => [], connections: undefined, lastLook: undefined }
  const own = createMetrics(new Map([['ipvs', { messages: 7, sends: 2 }]]), () => ({
    conntrackEntries: 10,
    conntrackLimit: 100,
    connectionTableBuckets: undefined,
  }))

  test.each<[string, [Family, FamilyFigures][], string[]]>([
    [
      'of a session',
      [
        ['IPv4', figures],
        ['IPv6', unknown],
      ],
      [
        'connections{ip_family="IPv4",state="active"} 5',
        'connections{ip_family="IPv4",state="inactive"} 6',
        'conntrack_entries 10',
        'conntrack_limit 100',
        'draining_destinations{ip_family="IPv4"} 4',
        'draining_destinations{ip_family="IPv6"} 4',
        'entries_present{ip_family="IPv4",layer="dummy",kind="address"} 1',
        'entries_present{ip_family="IPv4",layer="ipvs",kind="virtual server"} 2',
        'entries_present{ip_family="IPv6",layer="dummy",kind="address"} 1',
        'entries_present{ip_family="IPv6",layer="ipvs",kind="virtual server"} 2',
        'entries_wanted{ip_family="IPv4",layer="dummy",kind="address"} 1',
        'entries_wanted{ip_family="IPv4",layer="ipvs",kind="virtual server"} 3',
        'entries_wanted{ip_family="IPv6",layer="dummy",kind="address"} 1',
        'entries_wanted{ip_family="IPv6",layer="ipvs",kind="virtual server"} 3',
        'last_look_duration_seconds{ip_family="IPv4"} 0.25',
        'last_look_timestamp_seconds{ip_family="IPv4"} 1700000000.5',
        'longest_drain_seconds{ip_family="IPv4"} 61.5',
        'longest_drain_seconds{ip_family="IPv6"} 61.5',
        'netlink_messages_total{layer="ipvs"} 7',
        'netlink_sends_total{layer="ipvs"} 2',
        'set_fill_ratio{ip_family="IPv4",set="KUBE-CLUSTER-IP"} 0.25',
        'set_members{ip_family="IPv4",set="KUBE-CLUSTER-IP"} 16384',
      ],
    ],
    [
      'between two sessions',
      [],
      [
        'conntrack_entries 10',
        'conntrack_limit 100',
        'netlink_messages_total{layer="ipvs"} 7',
        'netlink_sends_total{layer="ipvs"} 2',
      ],
    ],
  ])('%s', async (_name, families, want) => {
    own.families.clear()
    for (const [family, one] of families) own.families.set(family, one)
    const lines = (await own.registry.metrics()).split('\n').filter((line) => line.startsWith('kube_ipvs_'))
    const read = lines
      .filter((line) => !/_config_|_event_loop_|_log_lines_/.test(line))
      .map((line) => line.replace('kube_ipvs_', ''))
    expect(read.sort()).toEqual(want)
  })
})

test('each resource of the API server is told: when it was last heard of, and for how long it has failed', async () => {
  const own = createMetrics()
  const ago = Date.now() - 90_000
  own.source.resources = () => [
    { resource: 'services', lastContact: 1_700_000_000_500, failingSince: undefined },
    { resource: 'endpointslices', lastContact: 1_700_000_001_000, failingSince: ago },
    { resource: 'nodes', lastContact: 0, failingSince: ago },
  ]
  const lines = (await own.registry.metrics()).split('\n').filter((line) => line.startsWith('kube_ipvs_api_'))
  expect(lines.map((line) => line.replace(/} (9\d)(\.\d+)?$/, '} about 90'))).toEqual([
    'kube_ipvs_api_last_contact_timestamp_seconds{resource="services"} 1700000000.5',
    'kube_ipvs_api_last_contact_timestamp_seconds{resource="endpointslices"} 1700000001',
    'kube_ipvs_api_failing_seconds{resource="services"} 0',
    'kube_ipvs_api_failing_seconds{resource="endpointslices"} about 90',
    'kube_ipvs_api_failing_seconds{resource="nodes"} about 90',
  ])
})
