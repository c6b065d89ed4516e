import type { CommandName } from './cli/commands.ts'
import type { CommandLine } from './cli/flags.ts'
import { apiCluster, manifestCluster, type Cluster } from './explain/cluster.ts'
import { runExplain } from './explain/run.ts'
import { parseDuration } from './config/duration.ts'
import { runSupportBundle } from './inspect/bundle.ts'
import { runConns } from './inspect/conns.ts'
import { runDiff } from './inspect/diff.ts'
import { runDoctor } from './inspect/doctor.ts'
import { runPlan } from './inspect/plan.ts'
import { openInspection, type Inspection } from './inspect/setup.ts'
import { runStatus } from './inspect/status.ts'
import { describeError } from './lib/errors.ts'
import { printed, traceHere } from './trace/run.ts'

/** What each command does; it answers the exit code. */
const runners: Readonly<Record<CommandName, (inspection: Inspection) => Promise<number>>> = {
  status: runStatus,
  diff: runDiff,
  plan: runPlan,
  conns: runConns,
  doctor: runDoctor,
  explain: runExplanation,
  trace: runTrace,
  'support-bundle': runSupportBundle,
}

/** The packet's way; without the cluster's objects where they cannot be had. */
async function runExplanation(inspection: Inspection): Promise<number> {
  const { command, settings } = inspection
  const from = command.options.get('from')
  const request = { target: command.argument, output: command.output, ...(from === undefined ? {} : { from }) }
  const text = await withCluster(inspection, (cluster) => runExplain(request, { settings, ...cluster }))
  process.stdout.write(text)
  return 0
}

/** Live packets' way. */
async function runTrace(inspection: Inspection): Promise<number> {
  const { command, settings } = inspection
  const { options } = command
  const from = options.get('from')
  const request = {
    target: command.argument,
    ...(from === undefined ? {} : { from }),
    limit: parseDuration(options.get('for') ?? '30s') ?? 30_000,
    count: Number(options.get('count') ?? 5),
    packets: options.get('packets') === 'all' ? ('all' as const) : ('opening' as const),
    kernelDebug: options.has('kernel-debug'),
  }
  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  const report = await withCluster(inspection, (cluster) => traceHere(request, { settings, ...cluster }, say))
  process.stdout.write(printed(report, command.output))
  return report.flows.length === 0 ? 1 : 0
}

async function withCluster<T>(
  inspection: Inspection,
  act: (cluster: { readonly cluster?: Cluster }) => Promise<T>,
): Promise<T> {
  const ended = new AbortController()
  const cluster = await clusterOf(inspection, ended.signal).catch((error: unknown) => {
    process.stderr.write(`Without the cluster's objects: ${describeError(error)}\n`)
    return undefined
  })
  try {
    return await act(cluster === undefined ? {} : { cluster })
  } finally {
    ended.abort()
  }
}

async function clusterOf({ source, nodeName, notes }: Inspection, signal: AbortSignal): Promise<Cluster> {
  const found = await source()
  if ('manifests' in found) return manifestCluster(found.manifests, nodeName, notes)
  return apiCluster(found.client, nodeName, signal)
}

/** Carries out the command of the line. Answers the exit code; throws ProxyError. */
export async function runCommandLine(line: CommandLine): Promise<number> {
  // Whoever reads has seen enough: `status | head`.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })
  const inspection = await openInspection(line)
  try {
    return await runners[inspection.command.name](inspection)
  } finally {
    inspection.close()
  }
}
