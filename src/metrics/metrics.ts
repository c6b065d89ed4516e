import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client'
import { version } from '../lib/version.ts'

/** 1 ms doubling to 16.4 s, as upstream's sync durations. */
const syncBuckets = Array.from({ length: 15 }, (_, n) => 0.001 * 2 ** n)

/** As upstream's network programming latency: fine below a minute, coarse up to five. */
const programmingBuckets = [
  0.25,
  0.5,
  ...Array.from({ length: 59 }, (_, n) => n + 1),
  ...Array.from({ length: 12 }, (_, n) => 60 + 5 * n),
  ...Array.from({ length: 7 }, (_, n) => 120 + 30 * n),
]

export type Metrics = ReturnType<typeof createMetrics>

/** Netlink messages and system calls that sent them so far, by layer. */
export type Traffic = ReadonlyMap<string, { readonly messages: number; readonly sends: number }>

/** All series, in a registry of their own. Upstream's names, labels and buckets first, then ours under kube_ipvs_. */
export function createMetrics(traffic: Traffic = new Map()) {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 20 })
  const family = ['ip_family'] as const
  const [major = '', minor = ''] = version.split('.')
  const buildInfo = new Gauge({
    name: 'kubernetes_build_info',
    help: 'A metric with a constant 1 value labeled by the build this binary was made of.',
    labelNames: ['major', 'minor', 'git_version', 'platform'] as const,
    registers,
  })
  const arch = process.arch === 'x64' ? 'amd64' : process.arch
  buildInfo.set({ major, minor, git_version: `v${version}`, platform: `${process.platform}/${arch}` }, 1)
  const byLayer = (what: 'messages' | 'sends', help: string) =>
    new Counter({
      name: `kube_ipvs_netlink_${what}_total`,
      help,
      labelNames: ['layer'] as const,
      registers,
      collect() {
        this.reset()
        for (const [layer, counts] of traffic) this.inc({ layer }, counts[what])
      },
    })
  return {
    registry,
    syncDuration: new Histogram({
      name: 'kubeproxy_sync_proxy_rules_duration_seconds',
      help: 'SyncProxyRules latency in seconds',
      labelNames: family,
      buckets: syncBuckets,
      registers,
    }),
    lastSync: new Gauge({
      name: 'kubeproxy_sync_proxy_rules_last_timestamp_seconds',
      help: 'The last time proxy rules were successfully synced',
      labelNames: family,
      registers,
    }),
    lastQueued: new Gauge({
      name: 'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds',
      help: 'The last time a sync of proxy rules was queued',
      labelNames: family,
      registers,
    }),
    networkProgramming: new Histogram({
      name: 'kubeproxy_network_programming_duration_seconds',
      help: 'In Cluster Network Programming Latency in seconds',
      labelNames: family,
      buckets: programmingBuckets,
      registers,
    }),
    endpointChangesPending: new Gauge({
      name: 'kubeproxy_sync_proxy_rules_endpoint_changes_pending',
      help: 'Pending proxy rules Endpoint changes',
      registers,
    }),
    endpointChanges: new Counter({
      name: 'kubeproxy_sync_proxy_rules_endpoint_changes_total',
      help: 'Cumulative proxy rules Endpoint changes',
      registers,
    }),
    serviceChangesPending: new Gauge({
      name: 'kubeproxy_sync_proxy_rules_service_changes_pending',
      help: 'Pending proxy rules Service changes',
      registers,
    }),
    serviceChanges: new Counter({
      name: 'kubeproxy_sync_proxy_rules_service_changes_total',
      help: 'Cumulative proxy rules Service changes',
      registers,
    }),
    noLocalEndpoints: new Gauge({
      name: 'kubeproxy_sync_proxy_rules_no_local_endpoints_total',
      help: 'Number of services with a Local traffic policy and no endpoints',
      labelNames: ['ip_family', 'traffic_policy'] as const,
      registers,
    }),
    restoreFailures: new Counter({
      name: 'kubeproxy_sync_proxy_rules_iptables_restore_failures_total',
      help: 'Cumulative proxy iptables restore failures',
      labelNames: family,
      registers,
    }),
    healthz: new Counter({
      name: 'kubeproxy_proxy_healthz_total',
      help: 'Cumulative proxy healthz HTTP status',
      labelNames: ['code'] as const,
      registers,
    }),
    livez: new Counter({
      name: 'kubeproxy_proxy_livez_total',
      help: 'Cumulative proxy livez HTTP status',
      labelNames: ['code'] as const,
      registers,
    }),
    restRequests: new Counter({
      name: 'rest_client_requests_total',
      help: 'Number of HTTP requests, partitioned by status code, method, and host.',
      labelNames: ['code', 'method', 'host'] as const,
      registers,
    }),
    restDuration: new Histogram({
      name: 'rest_client_request_duration_seconds',
      help: 'Request latency in seconds. Broken down by verb, and host.',
      labelNames: ['verb', 'host'] as const,
      buckets: [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60],
      registers,
    }),
    syncFailures: new Counter({
      name: 'kube_ipvs_sync_failures_total',
      help: 'Passes in which a layer failed or the kernel refused an entry',
      labelNames: family,
      registers,
    }),
    driftRepaired: new Counter({
      name: 'kube_ipvs_drift_repaired_total',
      help: 'Things of the kernel that somebody else had changed and that were put right',
      labelNames: ['ip_family', 'layer', 'kind', 'state'] as const,
      registers,
    }),
    written: new Counter({
      name: 'kube_ipvs_entries_written_total',
      help: 'Things written to the kernel: entries, rules, servers, destinations, addresses',
      labelNames: ['ip_family', 'layer'] as const,
      registers,
    }),
    netlinkMessages: byLayer('messages', 'Netlink messages sent to the kernel'),
    netlinkSends: byLayer('sends', 'System calls that sent netlink messages to the kernel'),
    clashes: new Counter({
      name: 'kube_ipvs_address_clashes_total',
      help: 'Service addresses found to be addresses of the node, too',
      labelNames: family,
      registers,
    }),
    conntrackDuration: new Histogram({
      name: 'kubeproxy_conntrack_reconciler_sync_duration_seconds',
      help: 'ReconcileConntrackFlowsLatency latency in seconds',
      labelNames: family,
      buckets: syncBuckets,
      registers,
    }),
    conntrackDeleted: new Counter({
      name: 'kubeproxy_conntrack_reconciler_deleted_entries_total',
      help: 'Cumulative conntrack flows deleted by conntrack reconciler',
      labelNames: family,
      registers,
    }),
    configRejected: new Counter({
      name: 'kube_ipvs_config_rejected_total',
      help: 'Changes of the configuration file that could not be put in force',
      registers,
    }),
    configInForce: new Gauge({
      name: 'kube_ipvs_config_in_force',
      help: '1 while the configuration file is the one in force, 0 while it was rejected',
      registers,
    }),
    refusals: new Gauge({
      name: 'kube_ipvs_refused_service_ports',
      help: 'Service ports of which the kernel refused an entry in the last pass',
      labelNames: family,
      registers,
    }),
  }
}
