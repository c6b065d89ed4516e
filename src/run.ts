import { writeFileSync } from 'node:fs'
import { stringify } from 'yaml'
import type { CommandLine } from './cli/flags.ts'
import { cleanup } from './cleanup.ts'
import { nextConfig } from './config-follower.ts'
import { externalForm } from './config/external.ts'
import type { ProxyConfig } from './config/schema.ts'
import { ProxierHealth } from './health/healthz.ts'
import { tables } from './iptables/rules.ts'
import { systemClock } from './lib/clock.ts'
import { describeError, ProxyError } from './lib/errors.ts'
import { LineSink } from './lib/line-sink.ts'
import { createLog, type Log } from './lib/log.ts'
import { version } from './lib/version.ts'
import { createMetrics, startAtZero, type Metrics } from './metrics/metrics.ts'
import { loadModules, modulesFor } from './node/modules.ts'
import { adjustOomScore } from './node/oom-score.ts'
import { readTables } from './node/tables.ts'
import { openIptables, openKernel, type Kernel, type KernelWatch } from './open.ts'
import { checkCapability, checkIpset, checkIpvs } from './preflight.ts'
import { readConfig, readConfigFile } from './read-config.ts'
import { applyNodeSettings, prepare, runSession, type Prepared, type Shared } from './session.ts'
import { checkAgainstFamilies, nodeNameOf } from './settings.ts'

/** Runs until SIGTERM or SIGINT; leaves the kernel as it is then. Answers the exit code. */
export async function runDaemon(line: CommandLine): Promise<number> {
  const text = readConfigFile(line.config)
  const { config, notices } = readConfig(line, text)
  const lines = LineSink.standardError()
  const log = createLog(config['logging.verbosity'], lines)
  for (const notice of notices) log.warn(notice)
  log.info('Starting kube-ipvs-proxy', { version, node: nodeNameOf(config), scheduler: config['ipvs.scheduler'] })
  const stop = new AbortController()
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      log.info('Stopping; the kernel keeps its state', { signal })
      stop.abort()
    })
  }
  checkCapability()
  adjustOomScore(config.oomScoreAdj, log)
  const traffic: KernelWatch['traffic'] = new Map()
  const metrics = createMetrics(traffic, () => ({ ...readTables(), droppedLines: lines.dropped }))
  const watch = { traffic, ...watchOf(metrics) }
  const kernel = openKernel(watch)
  try {
    const shared = await openShared(line, config, kernel, metrics, watch, log)
    await follow(shared, text, await prepare(shared, config), stop.signal)
    return 0
  } finally {
    stop.abort()
    kernel.close()
  }
}

function watchOf({ kernelCalls, kernelErrors }: Metrics): Omit<KernelWatch, 'traffic'> {
  return {
    answered: (layer, operation, milliseconds) => kernelCalls.observe({ layer, operation }, milliseconds / 1000),
    refused: (layer, operation, error) => kernelErrors.inc({ layer, operation, error }),
  }
}

async function openShared(
  line: CommandLine,
  config: ProxyConfig,
  kernel: Kernel,
  metrics: Metrics,
  watch: KernelWatch,
  log: Log,
): Promise<Shared> {
  // The kernel's own answer first: a tool that is missing as well is the lesser trouble.
  await checkIpvs(kernel.ipvs, config['ipvs.scheduler'])
  const iptables = await openIptables(log, watch)
  const families = [...iptables.keys()]
  for (const notice of checkAgainstFamilies(config, families)) log.info(notice)
  const eligible = line.manifests !== undefined
  const health = new ProxierHealth(families, 2 * config['ipvs.syncPeriod'], eligible, systemClock, () => 'starting')
  startAtZero(metrics, families)
  return { line, log, metrics, kernel, iptables, health }
}

/** One session after the other, each with the configuration that the file has come to say. */
async function follow(
  shared: Shared,
  firstText: string | undefined,
  first: Prepared,
  stop: AbortSignal,
): Promise<void> {
  const { line, log, metrics } = shared
  let text = firstText
  let current = first
  let former: Prepared | undefined
  metrics.configInForce.set(1)
  const rejected = (error: unknown): void => {
    metrics.configRejected.inc()
    metrics.configInForce.set(0)
    const note = describeError(error)
    log.error('The changed configuration is not put in force; the one before stays', {
      object: line.config,
      error: note,
    })
    current.events.report({ type: 'Warning', reason: 'ConfigRejected', action: 'Reload', note })
  }
  while (!stop.aborted) {
    const change = new AbortController()
    const signal = AbortSignal.any([stop, change.signal])
    const session = runSession(shared, current, signal)
    // Without a file there is nothing to follow: the session ends with the process.
    const next = line.config === undefined ? undefined : nextAfter(shared, current, text, rejected, signal)
    try {
      const found = await Promise.race([session.then(() => undefined), ...(next === undefined ? [] : [next])])
      if (found === undefined) {
        await session
        return
      }
      log.info('The configuration has changed: going on with the new one; the kernel keeps its state')
      change.abort()
      await session
      former = current
      ;({ text, prepared: current } = found)
      log.setVerbosity(current.config['logging.verbosity'])
      metrics.configInForce.set(1)
    } catch (error) {
      change.abort()
      if (former === undefined) throw error
      rejected(error)
      current = await prepare(shared, former.config)
      former = undefined
    }
  }
}

function nextAfter(
  shared: Shared,
  current: Prepared,
  text: string | undefined,
  rejected: (error: unknown) => void,
  signal: AbortSignal,
): Promise<{ text: string; prepared: Prepared } | undefined> {
  const { line, log, metrics, iptables } = shared
  return nextConfig(
    {
      path: line.config!,
      text,
      read: (content) => {
        const { config, notices } = readConfig(line, content)
        for (const notice of notices) log.warn(notice)
        return config
      },
      inForce: current.config,
      prepare: async (config) => {
        for (const notice of checkAgainstFamilies(config, [...iptables.keys()])) log.info(notice)
        return prepare(shared, config)
      },
      rejected,
      accepted: () => metrics.configInForce.set(1),
      clock: systemClock,
      log,
    },
    signal,
  )
}

/** Does what needs more rights than the daemon itself, and ends: for a privileged init container. */
export async function runInit(line: CommandLine): Promise<number> {
  const { config, notices } = readConfig(line)
  const log = createLog(config['logging.verbosity'])
  for (const notice of notices) log.warn(notice)
  checkCapability()
  await loadModules(modulesFor(config['ipvs.scheduler']), log)
  const kernel = openKernel()
  try {
    await checkIpvs(kernel.ipvs, config['ipvs.scheduler'])
    await checkIpset(kernel.ipset)
    await openTables(log)
    await applyNodeSettings(config, kernel, log)
    log.info('Kernel settings are in place')
    return 0
  } finally {
    kernel.close()
  }
}

/** The legacy tool has a table's module loaded when it is first asked for it: the daemon itself may not. */
async function openTables(log: Log): Promise<void> {
  for (const tool of (await openIptables(log)).values()) {
    if (tool.variant === 'legacy') for (const table of tables) await tool.save(table)
  }
}

/** Writes the effective configuration as YAML. */
export function runWriteConfig(line: CommandLine): number {
  const { config } = readConfig(line)
  const path = line.writeConfigTo!
  try {
    writeFileSync(path, stringify(externalForm(config)))
  } catch (error) {
    throw new ProxyError('CONFIG', `cannot write the configuration to ${path}`, { object: path }, error)
  }
  return 0
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
