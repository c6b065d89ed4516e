import { describeError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { runCommand, type RunCommand } from '../lib/process.ts'

/**
 * What modprobe is asked for. The kernel loads the rest by itself as it is asked for it, but older ones do not find IPVS by the
 * name of its netlink family, and a security policy may forbid containers to have anything loaded.
 */
export function modulesFor(scheduler: string): readonly string[] {
  return ['ip_vs', `ip_vs_${scheduler}`, 'ip_set']
}

/** Has modprobe load them. One that is not to be had is no error here: it may be built in, and the preflight asks the kernel. */
export async function loadModules(names: readonly string[], log: Log, run: RunCommand = runCommand): Promise<void> {
  for (const module of names) {
    let trouble: string
    try {
      const { code, stderr } = await run('modprobe', [module])
      if (code === 0) continue
      trouble = stderr.trim() || `exit code ${code}`
    } catch (error) {
      trouble = describeError(error)
    }
    log.v(1, 'A module could not be loaded', { module, error: trouble })
  }
}
