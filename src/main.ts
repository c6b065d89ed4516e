#!/usr/bin/env node
import type { CommandLine } from './cli/flags.ts'
import { beginCopyFor } from './inspect/proc-copy.ts'
import { describeError, ProxyError } from './lib/errors.ts'
import { version } from './lib/version.ts'

/** Exit codes: 0 done, 1 wrong settings, a surprise, or a command that found something, 3 the node lacks something. */
async function main(args: readonly string[]): Promise<number> {
  // Before all else is even loaded: the kernel may take seconds over it.
  beginCopyFor(args[0] ?? '')
  try {
    const { parseFlags } = await import('./cli/flags.ts')
    const line = await parseFlags(args)
    switch (line.operation) {
      case 'help':
        process.stdout.write(`${line.help}\n`)
        return 0
      case 'version':
        process.stdout.write(`kube-ipvs-proxy v${version}\n`)
        return 0
      case 'command': {
        // The daemon does not carry the commands, nor they the daemon: most of a command's time would be its start.
        const { runCommandLine } = await import('./commands.ts')
        return await runCommandLine(line)
      }
      default:
        return await runItself(line)
    }
  } catch (error) {
    // What was foreseen is one message; a surprise shows where it came from.
    const text =
      error instanceof ProxyError ? describeError(error) : error instanceof Error ? error.stack : String(error)
    process.stderr.write(`kube-ipvs-proxy: ${text}\n`)
    return error instanceof ProxyError && error.code === 'PREFLIGHT' ? 3 : 1
  }
}

async function runItself(line: CommandLine): Promise<number> {
  const { runCleanup, runDaemon, runInit, runWriteConfig } = await import('./run.ts')
  switch (line.operation) {
    case 'writeConfig':
      return runWriteConfig(line)
    case 'init':
      return runInit(line)
    case 'cleanup':
      return runCleanup(line)
    default:
      return runDaemon(line)
  }
}

// Not awaited: what is bundled is CommonJS.
void main(process.argv.slice(2)).then((code) => (process.exitCode = code))
