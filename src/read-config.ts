import { readFileSync } from 'node:fs'
import type { CommandLine } from './cli/flags.ts'
import { loadConfig, reportProblems } from './config/load.ts'
import type { ProxyConfig } from './config/schema.ts'
import { ProxyError } from './lib/errors.ts'

/** The text of the configuration file; undefined where none is named. Throws ProxyError CONFIG. */
export function readConfigFile(path: string | undefined): string | undefined {
  if (path === undefined) return undefined
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new ProxyError('CONFIG', `cannot read the configuration file ${path}`, { object: path }, error)
  }
}

/** The effective configuration; throws ProxyError CONFIG that names every mistake. */
export function readConfig(
  line: CommandLine,
  file: string | undefined = readConfigFile(line.config),
): { config: ProxyConfig; notices: readonly string[] } {
  const { config, problems, notices } = loadConfig({ file, flags: line.flags })
  if (problems.length > 0) throw new ProxyError('CONFIG', reportProblems(line.config ?? 'the flags', problems))
  return { config, notices }
}
