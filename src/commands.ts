import type { CommandName } from './cli/commands.ts'
import type { CommandLine } from './cli/flags.ts'
import { runSupportBundle } from './inspect/bundle.ts'
import { runConns } from './inspect/conns.ts'
import { runDiff } from './inspect/diff.ts'
import { runDoctor } from './inspect/doctor.ts'
import { runPlan } from './inspect/plan.ts'
import { openInspection, type Inspection } from './inspect/setup.ts'
import { runStatus } from './inspect/status.ts'
import { ProxyError } from './lib/errors.ts'

/** What each command does; it answers the exit code. */
const runners: Readonly<Record<CommandName, (inspection: Inspection) => Promise<number>>> = {
  status: runStatus,
  diff: runDiff,
  plan: runPlan,
  conns: runConns,
  doctor: runDoctor,
  // The one place where src/explain is joined.
  explain: () => Promise.reject(new ProxyError('CONFIG', 'explain is not part of this build')),
  'support-bundle': runSupportBundle,
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
