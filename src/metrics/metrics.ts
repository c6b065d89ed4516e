import { collectDefaultMetrics, Registry } from 'prom-client'
import type { Family } from '../model/address.ts'
import type { FamilyFigures, NodeFigures, ResourceFigures } from './figures.ts'
import { loopLagMetrics } from './loop-lag.ts'
import { figureMetrics, kernelCallMetrics, logMetrics, passMetrics, type Traffic } from './own.ts'
import { checkMetrics } from './slis.ts'
import { componentMetrics, kubeProxyMetrics, restClientMetrics } from './upstream.ts'

export type { Traffic } from './own.ts'

export type Metrics = ReturnType<typeof createMetrics>

/** Milliseconds, the most there can be: how late the event loop is we see ourselves. */
const never = 2 ** 31 - 1

/**
 * All series but those of single service ports, in registries of their own. Upstream's names, labels and buckets first,
 * then ours under kube_ipvs_.
 */
export function createMetrics(traffic: Traffic = new Map(), node: () => NodeFigures = () => ({})) {
  const registry = new Registry()
  /** Who tells of each family; empty while no session runs. */
  const families = new Map<Family, FamilyFigures>()
  /** Tells of each resource that is followed; empty while none is, or out of a folder. */
  const source: { resources: () => readonly ResourceFigures[] } = { resources: () => [] }
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: never })
  const metrics = {
    registry,
    families,
    source,
    ...kubeProxyMetrics(registry),
    ...restClientMetrics(registry),
    ...componentMetrics(registry),
    ...passMetrics(registry),
    ...kernelCallMetrics(registry, traffic),
    ...logMetrics(registry, () => node().droppedLines ?? 0),
    slis: checkMetrics(),
    lag: loopLagMetrics(registry),
  }
  figureMetrics(registry, families, () => source.resources(), node)
  return metrics
}

/** Has what is known to be counted there with 0 before it first happens: a rate needs two samples. */
export function startAtZero(metrics: Metrics, families: Iterable<Family>): void {
  const { syncDuration, networkProgramming, conntrackDuration, eventToKernel } = metrics
  const { restoreFailures, conntrackDeleted, syncFailures, clashes, noLocalEndpoints, refusals } = metrics
  for (const ip_family of families) {
    for (const one of [syncDuration, networkProgramming, conntrackDuration, eventToKernel]) one.zero({ ip_family })
    for (const one of [restoreFailures, conntrackDeleted, syncFailures, clashes, refusals]) one.inc({ ip_family }, 0)
    for (const traffic_policy of ['internal', 'external']) noLocalEndpoints.set({ ip_family, traffic_policy }, 0)
    for (const layer of ['ipset', 'iptables', 'ipvs', 'dummy']) metrics.written.inc({ ip_family, layer }, 0)
  }
}
