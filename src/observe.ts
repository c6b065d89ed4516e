import type { ProxierHealth } from './health/healthz.ts'
import { describeError, KernelError } from './lib/errors.ts'
import type { Log } from './lib/log.ts'
import type { Metrics } from './metrics/metrics.ts'
import type { Family } from './model/address.ts'
import type { Events } from './model/events.ts'
import type { PassReport, ProxierObserver } from './proxier/proxier.ts'

export interface ObserveOptions {
  readonly metrics: Metrics
  readonly health: ProxierHealth
  readonly events: Events
  readonly log: Log
  /** Milliseconds. */
  readonly syncPeriod: number
  /** The family's first good pass has ended. */
  readonly firstSync: (family: Family) => void
}

/** What the passes tell, made into metrics, health and Events. */
export function observe(options: ObserveOptions): ProxierObserver & { restoreFailed(family: Family): void } {
  const { metrics, health, events, log } = options
  const synced = new Set<Family>()
  const failing = new Map<Family, { since: number; told: boolean }>()

  const tellFailure = (report: PassReport): void => {
    if (report.well) {
      failing.delete(report.family)
      return
    }
    for (const [owner, error] of report.refused) {
      if (!(error instanceof KernelError) || error.errnoName !== 'IPSET_ERR_HASH_FULL') continue
      events.report({ type: 'Warning', reason: 'SetFull', action: 'Sync', note: `${owner}: ${describeError(error)}` })
      break
    }
    const state = failing.get(report.family) ?? { since: report.started, told: false }
    failing.set(report.family, state)
    if (state.told || report.started - state.since < 2 * options.syncPeriod) return
    state.told = true
    const [failure] = [...report.failures.map(({ error }) => error), ...report.refused.values()]
    events.report({
      type: 'Warning',
      reason: 'SyncFailing',
      action: 'Sync',
      note: `${report.family} has not been in sync for more than two periods: ${describeError(failure)}`,
    })
  }

  return {
    began: () => metrics.lag.working(),
    queued: (family) => {
      health.queued(family)
      metrics.lastQueued.set({ ip_family: family }, Date.now() / 1000)
    },
    drift: (family, { layer, kind, state }) => metrics.driftRepaired.inc({ ip_family: family, layer, kind, state }),
    heldBack: (family, { layer, kind, state }) => metrics.heldBack.inc({ ip_family: family, layer, kind, state }),
    clash: (family, owner, address) => {
      metrics.clashes.inc({ ip_family: family })
      events.report({
        type: 'Warning',
        reason: 'ServiceAddressIsNodeAddress',
        action: 'Sync',
        note: `${address} of ${owner} is an address of this node, too: what listens there may be out of reach`,
      })
    },
    refused: (_family, service, { address, reason }) => {
      const [namespace = '', name = ''] = service.split('/')
      events.report({
        type: 'Warning',
        reason: 'ExternalAddressRefused',
        action: 'Sync',
        note: `${address} of Service ${service} is not served on this node: ${reason}`,
        regarding: { kind: 'Service', apiVersion: 'v1', namespace, name },
      })
    },
    restoreFailed: (family) => metrics.restoreFailures.inc({ ip_family: family }),
    passed: (report) => {
      const label = { ip_family: report.family }
      metrics.syncDuration.observe(label, report.milliseconds / 1000)
      metrics.endpointChangesPending.set(report.pendingSlices)
      metrics.serviceChangesPending.set(report.pendingServices)
      metrics.noLocalEndpoints.set({ ...label, traffic_policy: 'internal' }, report.noLocal.internal)
      metrics.noLocalEndpoints.set({ ...label, traffic_policy: 'external' }, report.noLocal.external)
      metrics.refusals.set(label, report.refused.size)
      metrics.refusedAddresses.set(label, report.refusedAddresses)
      for (const [layer, count] of report.written) metrics.written.inc({ ...label, layer }, count)
      if (!report.well) metrics.syncFailures.inc(label)
      tellFailure(report)
      // A refused entry is its owner's trouble; a failed layer is everybody's.
      if (report.failures.length > 0) return
      if (report.waited !== undefined) metrics.eventToKernel.observe(label, report.waited / 1000)
      const now = Date.now()
      health.updated(report.family)
      metrics.lastSync.set(label, now / 1000)
      for (const time of report.triggerTimes) metrics.networkProgramming.observe(label, Math.max(0, now - time) / 1000)
      if (synced.has(report.family)) return
      synced.add(report.family)
      log.info('In sync for the first time', {
        family: report.family,
        milliseconds: report.milliseconds,
        servicePorts: report.planned,
      })
      options.firstSync(report.family)
    },
  }
}
