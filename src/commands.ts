import type { CommandName } from './cli/commands.ts'
import type { CommandLine } from './cli/flags.ts'
import { runExplanation, runTrace } from './explanation.ts'
import { runDiff } from './inspect/diff.ts'
import { runDoctor } from './inspect/doctor.ts'
import { openInspection, type Inspection } from './inspect/setup.ts'
import { runStatus } from './inspect/status.ts'

type Runner = (inspection: Inspection) => Promise<number>

/** What each command does; it answers the exit code. */
const runners: Readonly<Record<CommandName, Runner>> = {
  status: runStatus,
  diff: runDiff,
  plan: async (inspection) => (await import('./inspect/planning.ts')).runPlan(inspection),
  conns: async (inspection) => (await import('./inspect/planning.ts')).runConns(inspection),
  doctor: runDoctor,
  explain: runExplanation,
  trace: runTrace,
  migrate: async (inspection) => (await import('./inspect/migrate.ts')).runMigrateCheck(inspection),
  'support-bundle': async (inspection) => (await import('./inspect/planning.ts')).runSupportBundle(inspection),
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
