import { readFileSync } from 'node:fs'
import { hostname, release } from 'node:os'
import type { CommandLine } from './cli/flags.ts'
import { cleanup } from './cleanup.ts'
import {
  buildFamily,
  dispatch,
  localDetectorOf,
  openIptables,
  openKernel,
  type FamilySettings,
  type Kernel,
} from './compose.ts'
import { externalForm } from './config/external.ts'
import { loadConfig, reportProblems } from './config/load.ts'
import { parseListen, type ProxyConfig } from './config/schema.ts'
import { HttpServer, type Reply } from './health/server.ts'
import { ProxierHealth } from './health/healthz.ts'
import { applySysctls } from './ipvs/kernel-settings.ts'
import { ApiSource } from './kube/api-source.ts'
import { Client } from './kube/client.ts'
import { loadAccess } from './kube/kubeconfig.ts'
import { ManifestsSource } from './kube/manifests.ts'
import { systemClock } from './lib/clock.ts'
import { describeError, ProxyError } from './lib/errors.ts'
import { createLog, type Log } from './lib/log.ts'
import { version } from './lib/version.ts'
import { createMetrics, type Metrics } from './metrics/metrics.ts'
import { parseCidr, type Cidr, type Family } from './model/address.ts'
import type { ClusterKind, ClusterSource } from './model/cluster.ts'
import { checkCapability, checkDummy, checkIpset, checkIpvs } from './preflight.ts'
import type { Proxier, ProxierObserver } from './proxier/proxier.ts'

/** Runs until SIGTERM or SIGINT; leaves the kernel as it is then. Answers the exit code. */
export async function runDaemon(line: CommandLine): Promise<number> {
  const { config, notices } = readConfig(line)
  const log = createLog(config['logging.verbosity'])
  for (const notice of notices) log.warn(notice)
  const nodeName = (config.hostnameOverride || hostname()).trim().toLowerCase()
  log.info('Starting kube-ipvs-proxy', { version, node: nodeName, scheduler: config['ipvs.scheduler'] })
  const settings = settingsOf(config, nodeName)

  const stop = new AbortController()
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      log.info('Stopping; the kernel keeps its state', { signal })
      stop.abort()
    })
  }

  checkCapability()
  const metrics = createMetrics()
  const source = await openSource(line, config, nodeName, log, metrics)
  const kernel = openKernel()
  const servers: HttpServer[] = []
  try {
    await checkIpvs(kernel.ipvs, config['ipvs.scheduler'])
    await checkIpset(kernel.ipset)
    const iptables = await openIptables(log)
    await checkDummy(kernel.dummy)
    applySysctls({ strictARP: config['ipvs.strictARP'], release: release() }, log)
    await setTimeouts(kernel, config, log)

    const families = [...iptables.keys()]
    const waiting = new Set<ClusterKind>(['services', 'endpointslices'])
    const health = new ProxierHealth(
      families,
      2 * settings.syncPeriod,
      line.manifests !== undefined,
      systemClock,
      () =>
        waiting.size > 0
          ? `waiting for ${[...waiting].join(' and ')}${source.trouble()}`
          : 'the kernel is being written',
    )
    const observer = observe(metrics, health, log)
    const proxiers = new Map<Family, Proxier>(
      [...iptables].map(([family, tool]) => [family, buildFamily(family, settings, kernel, tool, log, observer)]),
    )
    servers.push(...listeners(config, metrics, health, log))
    for (const server of servers) await server.start()

    const listener = dispatch(proxiers, {
      service: () => metrics.serviceChanges.inc(),
      slice: () => metrics.endpointChanges.inc(),
      node: (node) => health.setEligible(node?.eligible ?? line.manifests !== undefined),
    })
    await Promise.all([
      source.run(
        {
          ...listener,
          synced: (kind) => {
            waiting.delete(kind)
            listener.synced(kind)
          },
        },
        stop.signal,
      ),
      ...[...proxiers.values()].map((proxier) => proxier.run(stop.signal)),
    ])
    return 0
  } finally {
    stop.abort()
    for (const server of servers) server.close()
    kernel.close()
  }
}

/** Removes what is ours from the kernel. Answers the exit code. */
export async function runCleanup(line: CommandLine): Promise<number> {
  const { config } = readConfig(line)
  const log = createLog(config['logging.verbosity'])
  checkCapability()
  const kernel = openKernel()
  try {
    const failures = await cleanup(kernel, await openIptables(log), log)
    if (failures.length === 0) log.info('Removed all that was ours')
    return failures.length === 0 ? 0 : 1
  } finally {
    kernel.close()
  }
}

function readConfig(line: CommandLine): { config: ProxyConfig; notices: readonly string[] } {
  let file: string | undefined
  if (line.config !== undefined) {
    try {
      file = readFileSync(line.config, 'utf8')
    } catch (error) {
      throw new ProxyError(
        'CONFIG',
        `cannot read the configuration file ${line.config}`,
        { object: line.config },
        error,
      )
    }
  }
  const { config, problems, notices } = loadConfig({ file, flags: line.flags })
  if (problems.length > 0) throw new ProxyError('CONFIG', reportProblems(line.config ?? 'the flags', problems))
  return { config, notices }
}

function settingsOf(config: ProxyConfig, nodeName: string): FamilySettings {
  const cidrs = (texts: readonly string[]): Cidr[] => texts.map((text) => parseCidr(text)!)
  const nodePorts = config.nodePortAddresses
  return {
    nodeName,
    scheduler: config['ipvs.scheduler'],
    nodePortRanges: nodePorts[0] === 'primary' ? 'primary' : cidrs(nodePorts),
    minSyncPeriod: config['ipvs.minSyncPeriod'],
    syncPeriod: config['ipvs.syncPeriod'],
    excludeCIDRs: cidrs(config['ipvs.excludeCIDRs']),
    masqueradeBit: config['iptables.masqueradeBit'],
    masqueradeAll: config['iptables.masqueradeAll'],
    localDetector: localDetectorOf(
      config.detectLocalMode,
      cidrs(config.clusterCIDR === '' ? [] : config.clusterCIDR.split(',')),
      config['detectLocal.bridgeInterface'],
      config['detectLocal.interfaceNamePrefix'],
    ),
  }
}

/** A source that can say in words why it has not delivered. */
type TellingSource = ClusterSource & { trouble(): string }

async function openSource(
  line: CommandLine,
  config: ProxyConfig,
  nodeName: string,
  log: Log,
  metrics: Metrics,
): Promise<TellingSource> {
  if (line.manifests !== undefined) {
    const source = new ManifestsSource({ directory: line.manifests, nodeName, log })
    await source.check()
    return Object.assign(source, { trouble: () => '' })
  }
  const access = await loadAccess({ kubeconfig: config['clientConnection.kubeconfig'], master: line.master })
  const { host } = new URL(access.server)
  const client = new Client({
    access,
    version,
    observe: (method, code, seconds) => {
      metrics.restRequests.inc({ method, code, host })
      metrics.restDuration.observe({ verb: method, host }, seconds)
    },
  })
  const source = new ApiSource({ client, nodeName, log })
  return Object.assign(source, {
    trouble: () => {
      const error = (['services', 'endpointslices'] as const).map((kind) => source.state(kind).lastError).find(Boolean)
      return error === undefined ? '' : `: ${error}`
    },
  })
}

async function setTimeouts(kernel: Kernel, config: ProxyConfig, log: Log): Promise<void> {
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

function observe(
  metrics: Metrics,
  health: ProxierHealth,
  log: Log,
): ProxierObserver & { restoreFailed(family: Family): void } {
  const synced = new Set<Family>()
  return {
    queued: (family) => {
      health.queued(family)
      metrics.lastQueued.set({ ip_family: family }, Date.now() / 1000)
    },
    drift: (family, { layer, kind, state }) => metrics.driftRepaired.inc({ ip_family: family, layer, kind, state }),
    restoreFailed: (family) => metrics.restoreFailures.inc({ ip_family: family }),
    passed: (report) => {
      const label = { ip_family: report.family }
      metrics.syncDuration.observe(label, report.milliseconds / 1000)
      metrics.endpointChangesPending.set(report.pendingSlices)
      metrics.serviceChangesPending.set(report.pendingServices)
      metrics.noLocalEndpoints.set({ ...label, traffic_policy: 'internal' }, report.noLocal.internal)
      metrics.noLocalEndpoints.set({ ...label, traffic_policy: 'external' }, report.noLocal.external)
      metrics.refusals.set(label, report.refused.size)
      if (!report.well) metrics.syncFailures.inc(label)
      // A refused entry is its owner's trouble; a failed layer is everybody's.
      if (report.failures.length > 0) return
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
    },
  }
}

const plainText = 'text/plain; charset=utf-8'

function listeners(config: ProxyConfig, metrics: Metrics, health: ProxierHealth, log: Log): HttpServer[] {
  const hardFail = config.bindAddressHardFail
  const json = (answer: { code: number; body: string }): Reply => ({ ...answer, type: 'application/json' })
  const servers: HttpServer[] = []
  const healthAt = config.healthzBindAddress && parseListen(config.healthzBindAddress, 10256)
  if (healthAt) {
    servers.push(
      new HttpServer({
        name: 'health',
        ...healthAt,
        hardFail,
        log,
        routes: {
          '/healthz': () => {
            const answer = health.healthz()
            metrics.healthz.inc({ code: answer.code })
            return json(answer)
          },
          '/livez': () => {
            const answer = health.livez()
            metrics.livez.inc({ code: answer.code })
            return json(answer)
          },
        },
      }),
    )
  }
  const metricsAt = config.metricsBindAddress && parseListen(config.metricsBindAddress, 10249)
  if (metricsAt) {
    servers.push(
      new HttpServer({
        name: 'metrics',
        ...metricsAt,
        hardFail,
        log,
        routes: {
          '/metrics': async () => ({
            code: 200,
            type: metrics.registry.contentType,
            body: await metrics.registry.metrics(),
          }),
          '/healthz': () => ({ code: 200, type: plainText, body: 'ok' }),
          '/proxyMode': () => ({ code: 200, type: plainText, body: 'ipvs' }),
          '/configz': () => ({
            code: 200,
            type: 'application/json',
            body: JSON.stringify({ 'kubeproxy.config.k8s.io': externalForm(config) }),
          }),
        },
      }),
    )
  }
  return servers
}
