import { readFileSync } from 'node:fs'
import { parseFlags, type CommandLine } from '../cli/flags.ts'

/** The arguments of a process of ours, out of /proc/PID/cmdline; undefined where it is none of ours. */
export function ownArguments(cmdline: string): readonly string[] | undefined {
  const words = cmdline.split('\0').slice(0, -1)
  const at = words.findIndex((word) => /(^|\/)(kube-ipvs-proxy(\.cjs)?|src\/main\.ts)$/.test(word))
  return at < 0 ? undefined : words.slice(at + 1)
}

function readFirstProcess(): string {
  try {
    return readFileSync('/proc/1/cmdline', 'utf8')
  } catch {
    return ''
  }
}

/**
 * A command without any flag that says where objects and configuration come from takes the flags of the daemon in its own
 * container, which is the first process there: `kubectl exec` need not repeat them.
 */
export async function withDaemonFlags(
  line: CommandLine,
  cmdline: () => string = readFirstProcess,
): Promise<CommandLine> {
  const isGiven = line.config ?? line.manifests ?? line.master
  if (isGiven !== undefined || line.flags.size > 0) return line
  const args = ownArguments(cmdline())
  if (args === undefined) return line
  const daemon = await parseFlags(args)
  if (daemon.operation !== 'run') return line
  const { config, manifests, master, flags } = daemon
  return { ...line, config, manifests, master, flags }
}
