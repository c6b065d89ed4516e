import type { CommandLine } from './cli/flags.ts'
import { buildStack, dispatch, type Effects } from './compose.ts'
import { knownGates } from './config/gates.ts'
import type { ProxyConfig } from './config/schema.ts'
import { FlowCleaner } from './conntrack/cleaner.ts'
import { deviceName } from './dummy/layer.ts'
import type { ProxierHealth, WorkUnderWay } from './health/healthz.ts'
import { HttpServer } from './health/server.ts'
import { identityOf } from './identity.ts'
import { ServiceHealth } from './health/service-health.ts'
import { Watchdog } from './health/watchdog.ts'
import type { IptablesTool } from './iptables/restore.ts'
import { findLeftovers, findNftLeftovers, removeLeftovers, removeNftLeftovers } from './iptables/leftovers.ts'
import { applySysctls } from './ipvs/kernel-settings.ts'
import { ApiSource } from './kube/api-source.ts'
import { Client } from './kube/client.ts'
import { ApiEvents } from './kube/events.ts'
import { loadAccess } from './kube/kubeconfig.ts'
import { ManifestsSource } from './kube/manifests.ts'
import { TokenReviewer } from './kube/token-review.ts'
import { systemClock } from './lib/clock.ts'
import { describeError, ProxyError } from './lib/errors.ts'
import type { Log } from './lib/log.ts'
import { keepHeapSmall } from './lib/memory.ts'
import { runCommand } from './lib/process.ts'
import { inOwnTurn, Turn } from './lib/turn.ts'
import { version } from './lib/version.ts'
import { listeners } from './listeners.ts'
import { tokenGuard } from './metrics-guard.ts'
import type { ResourceFigures } from './metrics/figures.ts'
import type { Metrics } from './metrics/metrics.ts'
import type { Family } from './model/address.ts'
import type { ClusterKind, ClusterSource } from './model/cluster.ts'
import { noEvents, type Events } from './model/events.ts'
import { AddressMonitor } from './node/address-monitor.ts'
import { applyConntrackLimits } from './node/conntrack-limits.ts'
import { observe } from './observe.ts'
import type { Kernel } from './open.ts'
import type { FamilySources } from './page/sources.ts'
import { checkDummy, checkIpset, checkIpvs } from './preflight.ts'
import type { Ledger } from './proxier/ledger.ts'
import type { Proxier } from './proxier/proxier.ts'
import { ServiceTraffic } from './service-traffic.ts'
import { conntrackConfigOf, kernelSettingsOf, nodeNameOf, settingsOf } from './settings.ts'
import type { WantedSource } from './wanted/local.ts'
import { wantedRoutes } from './wanted/routes.ts'
import type { DaemonIdentity } from './wanted/wire.ts'

/** What outlives a change of the configuration. */
export interface Shared {
  readonly line: CommandLine
  readonly log: Log
  readonly metrics: Metrics
  readonly kernel: Kernel
  readonly iptables: ReadonlyMap<Family, IptablesTool>
  readonly health: ProxierHealth
}

/** A configuration found good on this node, with the source that it names. */
export interface Prepared {
  readonly config: ProxyConfig
  readonly source: TellingSource
  readonly events: Events
  /** Who says whose a token is; undefined: nobody is asked for one. */
  readonly reviewer: TokenReviewer | undefined
  /** Lets go of what the source and the Events hold open. */
  close(): void
}

/** A source that can say in words why it has not delivered, and for scrapes how each resource is followed. */
type TellingSource = ClusterSource & { trouble(): string; resources(): readonly ResourceFigures[] }

/**
 * Checks a configuration against this node without changing anything, and opens what it names. Throws ProxyError CONFIG
 * or PREFLIGHT.
 */
export async function prepare(shared: Shared, config: ProxyConfig): Promise<Prepared> {
  const { line, kernel, log, metrics } = shared
  const nodeName = nodeNameOf(config)
  await checkIpvs(kernel.ipvs, config['ipvs.scheduler'])
  await checkIpset(kernel.ipset)
  if (line.manifests !== undefined) {
    const source = new ManifestsSource({ directory: line.manifests, nodeName, log })
    await source.check()
    if (config['kubeIpvsProxy.metricsTokenReview']) {
      throw new ProxyError(
        'CONFIG',
        'kubeIpvsProxy.metricsTokenReview has no API server to ask: --manifests is given',
        {
          advice: 'unset it, or bind the metrics server to 127.0.0.1',
        },
      )
    }
    return {
      config,
      reviewer: undefined,
      source: Object.assign(source, { trouble: () => '', resources: () => [] }),
      events: noEvents,
      close: () => {},
    }
  }
  const access = await loadAccess({ kubeconfig: config['clientConnection.kubeconfig'], master: line.master })
  const { host } = new URL(access.server)
  const client = new Client({
    access,
    version,
    observer: {
      answered: (method, code, seconds, bytes) => {
        const labels = { verb: method, host }
        metrics.restRequests.inc({ method, code, host })
        metrics.restDuration.observe(labels, seconds)
        metrics.restLimiter.observe(labels, 0)
        metrics.restRequestSize.observe(labels, bytes)
      },
      received: (method, bytes) => {
        metrics.lag.working()
        metrics.restResponseSize.observe({ verb: method, host }, bytes)
      },
    },
  })
  const source = new ApiSource({ client, nodeName, log })
  const trouble = (): string => {
    const error = (['services', 'endpointslices'] as const).map((kind) => source.state(kind).lastError).find(Boolean)
    return error === undefined ? '' : `: ${error}`
  }
  const ended = new AbortController()
  const events = new ApiEvents({ client, nodeName, log, clock: systemClock, signal: ended.signal })
  const close = (): void => {
    ended.abort()
    client.close()
  }
  const reviewer = config['kubeIpvsProxy.metricsTokenReview'] ? new TokenReviewer({ client }) : undefined
  const telling = Object.assign(source, { trouble, resources: () => source.states() })
  return { config, source: telling, events, reviewer, close }
}

/** Kernel settings beside the data path: what --init-only does. Throws ProxyError PREFLIGHT. */
export async function applyNodeSettings(config: ProxyConfig, kernel: Kernel, log: Log): Promise<void> {
  applyConntrackLimits(conntrackConfigOf(config), log)
  applySysctls(kernelSettingsOf(config), log)
  await setTimeouts(config, kernel, log)
}

async function setTimeouts(config: ProxyConfig, kernel: Kernel, log: Log): Promise<void> {
  const seconds = (milliseconds: number): number => Math.round(milliseconds / 1000)
  const timeouts = {
    tcp: seconds(config['ipvs.tcpTimeout']),
    tcpFin: seconds(config['ipvs.tcpFinTimeout']),
    udp: seconds(config['ipvs.udpTimeout']),
  }
  if (timeouts.tcp + timeouts.tcpFin + timeouts.udp === 0) return
  try {
    await kernel.ipvs.setTimeouts(timeouts)
  } catch (error) {
    log.error('IPVS timeouts could not be set, the kernel keeps its own', { ...timeouts, error: describeError(error) })
  }
}

/** Runs with one configuration until the signal fires; leaves the kernel as it is then. */
export async function runSession(shared: Shared, prepared: Prepared, signal: AbortSignal): Promise<void> {
  const { line, log, metrics, kernel, iptables, health } = shared
  const { config, source, events } = prepared
  const settings = settingsOf(config, nodeNameOf(config))
  const servers: HttpServer[] = []
  const serviceHealth: ServiceHealth[] = []
  const inner = new AbortController()
  const end = AbortSignal.any([signal, inner.signal])
  // Each step is new to V8, which makes it slow the first time: one in each round of the event loop.
  const turn = new Turn()
  try {
    await applyNodeSettings(config, kernel, log)
    kernel.ipvs.reloaded = () => {
      log.warn('The module ip_vs was loaded anew; its settings are made again, and its virtual servers')
      applyNodeSettings(config, kernel, log).catch((error: unknown) =>
        log.error('Settings of the node could not be made again', { error: describeError(error) }),
      )
    }
    await checkDummy(kernel.dummy)
    const proxiers = new Map<Family, Proxier>()
    const ledgers = new Map<Family, Ledger>()
    const wanted = new Map<Family, WantedSource>()
    const waiting = new Set<ClusterKind>(['services', 'endpointslices'])
    const waitingFor = (): string => {
      if (waiting.size > 0) return `waiting for ${[...waiting].join(' and ')}${source.trouble()}`
      const lacking = [...proxiers.values()].some((proxier) => proxier.lacksPodCIDR)
      return lacking ? 'waiting for the Node to get a podCIDR' : 'the kernel is being written'
    }
    health.follow(2 * settings.syncPeriod, waitingFor, () => workOf(proxiers))
    const unsynced = new Set(iptables.keys())
    // Loaded only where it is asked for: a daemon without the page does not carry it.
    const page = showsPage(config) ? new (await import('./web-page.ts')).WebPage() : undefined
    const observed = observe({
      metrics,
      health,
      events,
      log,
      syncPeriod: settings.syncPeriod,
      firstSync: (family) => {
        unsynced.delete(family)
        if (unsynced.size === 0) keepHeapSmall()
        void tidy(iptables.get(family)!, family, log, end)
      },
    })
    const observer = page?.besides(observed) ?? observed
    const shown = new Map<Family, FamilySources>()
    for (const [family, tool] of iptables) {
      await turn.next()
      const effects = effectsOf(family, shared, events, () => proxiers.get(family)!)
      serviceHealth.push(effects.serviceHealth)
      const stack = buildStack(family, settings, kernel, tool, log, observer, effects)
      proxiers.set(family, stack.proxier)
      ledgers.set(family, stack.ledger)
      wanted.set(family, stack.wanted)
      metrics.families.set(family, stack.figures)
      const { proxier, ledger, figures } = stack
      shown.set(family, { view: () => proxier.view, ledger, figures })
    }
    metrics.source.resources = () => source.resources()
    metrics.featureEnabled.reset()
    for (const [name, { stage, enabled }] of knownGates(config)) {
      metrics.featureEnabled.set({ name, stage }, enabled ? 1 : 0)
    }
    const limit = config['kubeIpvsProxy.serviceMetricsLimit']
    const traffic = new ServiceTraffic({ ipvs: kernel.ipvs, ledgers, limit, log })
    const guard = prepared.reviewer && tokenGuard(prepared.reviewer, log)
    const pages = page?.routes({ settings, families: shown, health, ipvs: kernel.ipvs, traffic })
    servers.push(
      ...listeners(config, metrics, health, log, { series: (format) => traffic.series(format), page: pages, guard }),
    )
    const path = config['kubeIpvsProxy.statusSocket']
    if (path !== '') {
      const identity = (): Promise<DaemonIdentity> =>
        identityOf({
          ...shared,
          config,
          trouble: () => source.trouble(),
          proxiers,
          hasSynced: (family) => !unsynced.has(family),
        })
      const routes = wantedRoutes(identity, wanted)
      servers.push(
        new HttpServer({
          name: 'status',
          at: { path },
          hardFail: false,
          log,
          routes,
          asked: () => metrics.lag.working(),
        }),
      )
    }
    for (const server of servers) {
      await turn.next()
      await server.start()
    }
    await turn.next()

    const listener = dispatch(proxiers, {
      service: () => metrics.serviceChanges.inc(),
      slice: () => metrics.endpointChanges.inc(),
      node: (node) => health.setEligible(node?.eligible ?? line.manifests !== undefined),
    })
    const monitor = new AddressMonitor({
      ignore: deviceName,
      changed: () => {
        for (const proxier of proxiers.values()) proxier.addressesChanged()
      },
      log,
    })
    const watchdog = new Watchdog({
      clock: systemClock,
      log,
      stuck: () => health.stuck(),
      stalled: () => metrics.eventLoopStalls.inc(),
    })
    const synced = (kind: ClusterKind): void => {
      waiting.delete(kind)
      listener.synced(kind)
    }
    const parts = [
      () => source.run({ ...listener, synced }, end),
      () => monitor.run(end),
      () => watchdog.run(end),
      ...[...proxiers.values()].map((proxier) => () => proxier.run(end)),
    ]
    await Promise.all(parts.map(inOwnTurn))
  } finally {
    inner.abort()
    metrics.families.clear()
    metrics.source.resources = () => []
    for (const part of [...servers, ...serviceHealth, prepared]) part.close()
  }
}

function* workOf(proxiers: ReadonlyMap<Family, Proxier>): Generator<WorkUnderWay> {
  for (const [family, proxier] of proxiers) {
    for (const [work, since] of proxier.underWay) yield { family, work, since }
  }
}

function showsPage(config: ProxyConfig): boolean {
  return config['kubeIpvsProxy.webPage'] && config.metricsBindAddress !== ''
}

function effectsOf(
  family: Family,
  { kernel, metrics, log, health }: Shared,
  events: Events,
  proxier: () => Proxier,
): Effects & { serviceHealth: ServiceHealth } {
  const label = { ip_family: family }
  const isNodeAddress = (address: string): boolean => proxier().hasNodeAddress(address)
  const cleaner = new FlowCleaner({ family, flows: kernel.flows, log, isNodeAddress })
  const flows: Effects['flows'] = {
    touch: (frontend, backends) => cleaner.touch(frontend, backends),
    run: async () => {
      if (cleaner.pending === 0) return
      const began = performance.now()
      const { removed, failed } = await cleaner.run()
      metrics.conntrackDuration.observe(label, (performance.now() - began) / 1000)
      metrics.conntrackDeleted.inc(label, removed)
      if (failed === undefined) return
      log.error('Stale UDP flows could not be removed, trying again in the next pass', {
        family,
        frontends: cleaner.pending,
        error: describeError(failed),
      })
    },
  }
  const serviceHealth = new ServiceHealth({
    family,
    healthy: () => health.keepsUp,
    log,
    onListenFailed: (service, port, error) => {
      const [namespace = '', name = ''] = service.split('/')
      events.report({
        type: 'Warning',
        reason: 'FailedToStartServiceHealthcheck',
        action: 'Listen',
        note: `node cannot listen on healthCheckNodePort ${port} of Service ${service}: ${describeError(error)}`,
        regarding: { kind: 'Service', apiVersion: 'v1', namespace, name },
      })
    },
  })
  return { flows, serviceHealth }
}

/** What other modes of kube-proxy left goes only now that our own rules stand: no moment without any. */
async function tidy(tool: IptablesTool, family: Family, log: Log, signal: AbortSignal): Promise<void> {
  try {
    const leftovers = await findLeftovers(tool)
    if (signal.aborted) return
    const removed = await removeLeftovers(tool, leftovers)
    if (signal.aborted) return
    const tables = await removeNftLeftovers(runCommand, await findNftLeftovers(runCommand, family))
    const all = [...removed, ...tables]
    if (all.length > 0) log.info('Removed what another mode of kube-proxy left', { family, removed: all.join(', ') })
  } catch (error) {
    log.error('What another mode of kube-proxy left could not be removed; it may go on answering beside us', {
      family,
      error: describeError(error),
      advice: 'remove it by hand, or run kube-proxy --cleanup of the former mode before',
    })
  }
}
