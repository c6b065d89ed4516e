import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import { systemClock, timeOfDay } from '../lib/clock.ts'
import type { Family } from '../model/address.ts'
import { kernelCallBuckets, syncBuckets } from './buckets.ts'
import type { FamilyFigures, NodeFigures, ResourceFigures } from './figures.ts'

const family = ['ip_family'] as const

/** Netlink messages and system calls that sent them so far, by layer. */
export type Traffic = ReadonlyMap<string, { readonly messages: number; readonly sends: number }>

/** What passes, changes and the configuration come to. */
export function passMetrics(registry: Registry) {
  const registers = [registry]
  return {
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
    clashes: new Counter({
      name: 'kube_ipvs_address_clashes_total',
      help: 'Service addresses found to be addresses of the node, too',
      labelNames: family,
      registers,
    }),
    refusals: new Gauge({
      name: 'kube_ipvs_refused_service_ports',
      help: 'Service ports of which the kernel refused an entry in the last pass',
      labelNames: family,
      registers,
    }),
    refusedAddresses: new Gauge({
      name: 'kube_ipvs_refused_external_addresses',
      help: 'External addresses of Services that the settings do not let them have, and that are not served',
      labelNames: family,
      registers,
    }),
    eventToKernel: new Histogram({
      name: 'kube_ipvs_event_to_kernel_seconds',
      help: 'Time from a change being taken in until the kernel has it, of the change that waited longest in each pass',
      labelNames: family,
      buckets: syncBuckets,
      registers,
    }),
    eventLoopStalls: new Counter({
      name: 'kube_ipvs_event_loop_stalls_total',
      help: 'Times that the event loop stood still for more than 5 seconds',
      registers,
    }),
    heldBack: new Counter({
      name: 'kube_ipvs_drift_held_back_total',
      help: 'Repairs put off of what somebody else changes again and again',
      labelNames: ['ip_family', 'layer', 'kind', 'state'] as const,
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
  }
}

/** What is asked of the kernel, and how it answers. */
export function kernelCallMetrics(registry: Registry, traffic: Traffic) {
  const registers = [registry]
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
  byLayer('messages', 'Netlink messages sent to the kernel')
  byLayer('sends', 'System calls that sent netlink messages to the kernel')
  return {
    kernelCalls: new Histogram({
      name: 'kube_ipvs_kernel_call_duration_seconds',
      help: 'How long the kernel took to answer: a send of many netlink messages, a request, a dump, a run of an iptables tool',
      labelNames: ['layer', 'operation'] as const,
      buckets: kernelCallBuckets,
      registers,
    }),
    kernelErrors: new Counter({
      name: 'kube_ipvs_kernel_call_errors_total',
      help: 'Messages that the kernel refused, by its error; "failed" where the call itself failed',
      labelNames: ['layer', 'operation', 'error'] as const,
      registers,
    }),
  }
}

/** What is read at each scrape. */
export function figureMetrics(
  registry: Registry,
  families: ReadonlyMap<Family, FamilyFigures>,
  resources: () => readonly ResourceFigures[],
  node: () => NodeFigures,
): void {
  const gauge = <L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[],
    read: (set: (labels: Readonly<Partial<Record<L, string>>>, value: number | undefined) => void) => void,
  ) =>
    new Gauge<L>({
      name: `kube_ipvs_${name}`,
      help,
      labelNames: [...labelNames],
      registers: [registry],
      collect() {
        this.reset()
        // What is not known is left out: a 0, as prom-client would have it without labels, says something else.
        if (labelNames.length === 0) this.remove()
        read((labels, value) => value !== undefined && this.set(labels, value))
      },
    })
  const ofFamily = <L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[],
    read: (
      figures: FamilyFigures,
      set: (labels: Readonly<Partial<Record<L, string>>>, value: number | undefined) => void,
    ) => void,
  ) =>
    gauge<string>(name, help, ['ip_family', ...labelNames], (set) => {
      for (const [ip_family, figures] of families) {
        read(figures, (labels, value) => set({ ip_family, ...labels }, value))
      }
    })

  ofFamily('entries_wanted', 'Things that the cluster’s objects ask for', ['layer', 'kind'], (figures, set) => {
    for (const { layer, kind, wanted } of figures.counts()) set({ layer, kind }, wanted)
  })
  ofFamily('entries_present', 'Things known to be in the kernel', ['layer', 'kind'], (figures, set) => {
    for (const { layer, kind, present } of figures.counts()) set({ layer, kind }, present)
  })
  ofFamily('set_members', 'Entries of a set', ['set'], (figures, set) => {
    for (const one of figures.sets()) set({ set: one.set }, one.members)
  })
  ofFamily('set_fill_ratio', 'Entries of a set, by those that it has room for', ['set'], (figures, set) => {
    for (const { set: name, members, size } of figures.sets()) set({ set: name }, members / size)
  })
  ofFamily('draining_destinations', 'Destinations at weight 0 with connections left', [], (figures, set) =>
    set({}, figures.draining),
  )
  ofFamily(
    'longest_drain_seconds',
    'For how long the destination has drained that has drained longest',
    [],
    (figures, set) => set({}, figures.longestDrain / 1000),
  )
  ofFamily('connections', 'Connections through virtual servers, by the last look', ['state'], (figures, set) => {
    set({ state: 'active' }, figures.connections?.active)
    set({ state: 'inactive' }, figures.connections?.inactive)
  })
  ofFamily('last_look_timestamp_seconds', 'When the last look at the whole kernel state ended', [], (figures, set) =>
    set({}, figures.lastLook && figures.lastLook.endedAt / 1000),
  )
  ofFamily('last_look_duration_seconds', 'How long the last look at the whole kernel state took', [], (figures, set) =>
    set({}, figures.lastLook && figures.lastLook.took / 1000),
  )
  gauge(
    'api_last_contact_timestamp_seconds',
    'When the API server last answered well or sent something about a resource',
    ['resource'],
    (set) => {
      for (const { resource, lastContact } of resources())
        set({ resource }, lastContact === 0 ? undefined : timeOfDay(lastContact) / 1000)
    },
  )
  gauge(
    'api_failing_seconds',
    'For how long every attempt to follow a resource has failed; 0 while it is followed',
    ['resource'],
    (set) => {
      const now = systemClock.now()
      for (const { resource, failingSince } of resources())
        set({ resource }, failingSince === undefined ? 0 : (now - failingSince) / 1000)
    },
  )
  gauge('connection_table_buckets', 'Buckets of the kernel’s table of IPVS connections', [], (set) =>
    set({}, node().connectionTableBuckets),
  )
  gauge('conntrack_entries', 'Entries of the kernel’s table of connections (nf_conntrack_count)', [], (set) =>
    set({}, node().conntrackEntries),
  )
  gauge('conntrack_limit', 'Entries that the table has room for (nf_conntrack_max)', [], (set) =>
    set({}, node().conntrackLimit),
  )
}

/** What the log has lost. */
export function logMetrics(registry: Registry, dropped: () => number) {
  return {
    droppedLines: new Counter({
      name: 'kube_ipvs_log_lines_dropped_total',
      help: 'Log lines dropped because nobody took them: the reader is stuck or gone, or the disk is full',
      registers: [registry],
      collect() {
        this.reset()
        this.inc(dropped())
      },
    }),
  }
}
