import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import { version } from '../lib/version.ts'
import { programmingBuckets, requestDurationBuckets, requestSizeBuckets, syncBuckets } from './buckets.ts'

const family = ['ip_family'] as const

/** kube-proxy's own series, with upstream's names, labels and buckets. */
export function kubeProxyMetrics(registry: Registry) {
  const registers = [registry]
  const byCode = (name: string, help: string) => {
    const counter = new Counter({ name, help, labelNames: ['code'] as const, registers })
    for (const code of [200, 503]) counter.inc({ code }, 0)
    return counter
  }
  return {
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
    healthz: byCode('kubeproxy_proxy_healthz_total', 'Cumulative proxy healthz HTTP status'),
    livez: byCode('kubeproxy_proxy_livez_total', 'Cumulative proxy livez HTTP status'),
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
  }
}

/** Requests to the API server, as client-go has them. */
export function restClientMetrics(registry: Registry) {
  const byVerb = (name: string, help: string, buckets: number[]) =>
    new Histogram({
      name: `rest_client_${name}`,
      help: `${help}. Broken down by verb, and host.`,
      labelNames: ['verb', 'host'] as const,
      buckets,
      registers: [registry],
    })
  return {
    restRequests: new Counter({
      name: 'rest_client_requests_total',
      help: 'Number of HTTP requests, partitioned by status code, method, and host.',
      labelNames: ['code', 'method', 'host'] as const,
      registers: [registry],
    }),
    restDuration: byVerb('request_duration_seconds', 'Request latency in seconds', requestDurationBuckets),
    restLimiter: byVerb(
      'rate_limiter_duration_seconds',
      'Client side rate limiter latency in seconds: always 0, for there is no such limiter',
      requestDurationBuckets,
    ),
    restRequestSize: byVerb('request_size_bytes', 'Request size in bytes', requestSizeBuckets),
    restResponseSize: byVerb('response_size_bytes', 'Response size in bytes', requestSizeBuckets),
  }
}

/** What every component of Kubernetes tells of itself. */
export function componentMetrics(registry: Registry) {
  const registers = [registry]
  const buildInfo = new Gauge({
    name: 'kubernetes_build_info',
    help:
      'A metric with a constant 1 value labeled by what this program is: its own version, and the version of Node.js ' +
      'where a Go program has that of Go',
    labelNames: [
      'major',
      'minor',
      'git_version',
      'git_commit',
      'git_tree_state',
      'build_date',
      'go_version',
      'compiler',
      'platform',
    ] as const,
    registers,
  })
  const [major = '', minor = ''] = version.split('.')
  const arch = process.arch === 'x64' ? 'amd64' : process.arch
  buildInfo.set(
    {
      major,
      minor,
      git_version: `v${version}`,
      git_commit: '',
      git_tree_state: '',
      build_date: '',
      go_version: `node ${process.version}`,
      compiler: 'v8',
      platform: `${process.platform}/${arch}`,
    },
    1,
  )
  const goroutines = new Gauge({
    name: 'go_goroutines',
    help:
      'Not goroutines, which Node.js has none of: handles, timers and requests that keep the event loop alive, for ' +
      'dashboards that look for a growing number here',
    registers,
    collect() {
      this.set(process.getActiveResourcesInfo().length)
    },
  })
  const registered = new Counter({
    name: 'registered_metrics_total',
    help: 'The count of registered metrics broken by stability level and deprecation version. None here is promised to stay.',
    labelNames: ['stability_level', 'deprecated_version'] as const,
    registers,
    collect() {
      this.reset()
      this.inc({ stability_level: 'ALPHA', deprecated_version: '' }, registry.getMetricsAsArray().length)
    },
  })
  return {
    goroutines,
    registered,
    hidden: new Counter({ name: 'hidden_metrics_total', help: 'The count of hidden metrics: always 0.', registers }),
    disabled: new Counter({
      name: 'disabled_metrics_total',
      help: 'The count of disabled metrics: always 0.',
      registers,
    }),
    featureEnabled: new Gauge({
      name: 'kubernetes_feature_enabled',
      help:
        'The feature gates of the configuration; those without a stage are accepted for the sake of the file and ' +
        'change nothing here',
      labelNames: ['name', 'stage'] as const,
      registers,
    }),
  }
}
