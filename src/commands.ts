import type { CommandName } from './cli/commands.ts'
import type { CommandLine } from './cli/flags.ts'
import { apiCluster, manifestCluster, type Cluster } from './explain/cluster.ts'
import { runExplain } from './explain/run.ts'
import { runSupportBundle } from './inspect/bundle.ts'
import { runConns } from './inspect/conns.ts'
import { runDiff } from './inspect/diff.ts'
import { runDoctor } from './inspect/doctor.ts'
import { runPlan } from './inspect/plan.ts'
import { openInspection, type Inspection } from './inspect/setup.ts'
import { runStatus } from './inspect/status.ts'
import { describeError } from './lib/errors.ts'

/** What each command does; it answers the exit code. */
const runners: Readonly<Record<CommandName, (inspection: Inspection) => Promise<number>>> = {
  status: runStatus,
  diff: runDiff,
  plan: runPlan,
  conns: runConns,
  doctor: runDoctor,
  explain: runExplanation,
  'support-bundle': runSupportBundle,
}

/** The packet's way; without the cluster's objects where they cannot be had. */
async function runExplanation(inspection: Inspection): Promise<number> {
  const { command, settings } = inspection
  const ended = new AbortController()
  const cluster = await clusterOf(inspection, ended.signal).catch((error: unknown) => {
    process.stderr.write(`Without the cluster's objects: ${describeError(error)}\n`)
    return undefined
  })
  const from = command.options.get('from')
  const request = { target: command.argument, output: command.output, ...(from === undefined ? {} : { from }) }
  const text = await runExplain(request, { settings, ...(cluster === undefined ? {} : { cluster }) })
  process.stdout.write(text)
  ended.abort()
  return 0
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
