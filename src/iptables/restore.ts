import { readFile } from 'node:fs/promises'
import { ProxyError } from '../lib/errors.ts'
import { isMissingCommand, runCommand } from '../lib/process.ts'
import type { RunCommand } from '../lib/process.ts'
import type { Family } from '../model/address.ts'
import type { Iptables } from './iptables.ts'
import type { Table } from './rules.ts'

export type Variant = 'nft' | 'legacy'

/** The seams to the host, replaced in tests. */
export interface Host {
  readonly run: RunCommand
  /** Content of a file; "" where there is none. */
  readonly read: (path: string) => Promise<string>
}

/** This machine. */
export const theHost: Host = {
  run: runCommand,
  read: async (path) => {
    try {
      return await readFile(path, 'utf8')
    } catch {
      return ''
    }
  },
}

/** Which commands to run: "iptables" + infix + "-save". */
export interface Choice {
  readonly infix: '-nft' | '-legacy' | ''
  /** Why, for the log. */
  readonly reason: string
}

const names: Readonly<Record<Family, string>> = { IPv4: 'iptables', IPv6: 'ip6tables' }
const families: readonly Family[] = ['IPv4', 'IPv6']

/** Chains that kubelet leaves in table mangle to tell which variant the node uses. */
const hint = /^:(KUBE-IPTABLES-HINT|KUBE-KUBELET-CANARY) /m

/** Text of a save; "" where the command is missing or fails. */
async function peek(host: Host, command: string, args: readonly string[]): Promise<string> {
  try {
    const result = await host.run(command, args, { timeoutMs: 10_000 })
    return result.code === 0 ? result.stdout : ''
  } catch {
    return ''
  }
}

async function exists(host: Host, command: string): Promise<boolean> {
  try {
    await host.run(command, ['--version'], { timeoutMs: 10_000 })
    return true
  } catch (error) {
    return !isMissingCommand(error)
  }
}

/** Tables that the legacy kernel side has of a family. Asking the tool for another one would create it. */
async function legacyTables(host: Host, family: Family): Promise<string[]> {
  const text = await host.read(family === 'IPv4' ? '/proc/net/ip_tables_names' : '/proc/net/ip6_tables_names')
  return text.split('\n').filter((name) => name !== '')
}

/**
 * The variant that the node's other software uses, the same for both families: the one with kubelet's hint (nft first),
 * else the one with more rules, else whatever plain `iptables` is. Two variants side by side would each see half.
 */
export async function chooseVariant(host: Host = theHost): Promise<Choice> {
  const [nft, legacy] = await Promise.all([exists(host, 'iptables-nft'), exists(host, 'iptables-legacy')])
  if (!nft || !legacy) return { infix: '', reason: 'no choice of variants' }
  const nftText: string[] = []
  const legacyText: string[] = []
  for (const family of families) {
    const text = await peek(host, `${names[family]}-nft-save`, ['-t', 'mangle'])
    if (hint.test(text)) return { infix: '-nft', reason: 'kubelet hint' }
  }
  for (const family of families) {
    for (const table of await legacyTables(host, family)) {
      const text = await peek(host, `${names[family]}-legacy-save`, ['-t', table])
      if (table === 'mangle' && hint.test(text)) return { infix: '-legacy', reason: 'kubelet hint' }
      legacyText.push(text)
    }
    nftText.push(await peek(host, `${names[family]}-nft-save`, []))
  }
  const [nftRules = 0, legacyRules = 0] = [nftText, legacyText].map((texts) => texts.join('\n').match(/^-A /gm)?.length)
  if (nftRules > legacyRules) return { infix: '-nft', reason: `more rules: ${nftRules} against ${legacyRules}` }
  if (legacyRules > nftRules) return { infix: '-legacy', reason: `more rules: ${legacyRules} against ${nftRules}` }
  return { infix: '', reason: 'no hint and no rules' }
}

export interface ToolVersion {
  readonly variant: Variant
  readonly version: string
  /** MASQUERADE --random-fully: since 1.6.2. */
  readonly randomFully: boolean
}

/** Reads "iptables v1.8.9 (nf_tables)". Before 1.8 there was but one variant, which is now called legacy. */
export function parseVersion(text: string): ToolVersion | undefined {
  const [, version, kind] = /v(\d+(?:\.\d+)+)(?: \((\w+)\))?/.exec(text) ?? []
  if (version === undefined) return undefined
  const [major = 0, minor = 0, patch = 0] = version.split('.').map(Number)
  const number = major * 1e6 + minor * 1e3 + patch
  return { variant: kind === 'nf_tables' ? 'nft' : 'legacy', version, randomFully: number >= 1_006_002 }
}

function notInstalled(command: string, cause: unknown): ProxyError {
  return new ProxyError(
    'PREFLIGHT',
    `${command} is not there`,
    { object: command, operation: 'run', advice: 'install the package "iptables", version 1.6.2 or newer' },
    cause,
  )
}

/** Version of the chosen command of a family. Throws PREFLIGHT where there is none. */
export async function detectVersion(family: Family, choice: Choice, host: Host = theHost): Promise<ToolVersion> {
  const command = `${names[family]}${choice.infix}`
  let text: string
  try {
    const result = await host.run(command, ['--version'])
    text = result.stdout || result.stderr
  } catch (error) {
    throw isMissingCommand(error) ? notInstalled(command, error) : error
  }
  const version = parseVersion(text)
  if (version) return version
  throw new ProxyError('PREFLIGHT', `${command} does not tell its version: ${text.trim()}`, {
    object: command,
    operation: 'version',
    advice: 'install the package "iptables", version 1.6.2 or newer',
  })
}

/** The lines around the one that the tool complains about, numbered. */
export function linesAround(input: string, stderr: string): string {
  const number = Number(/line:? (\d+)/i.exec(stderr)?.[1])
  if (!Number.isInteger(number)) return ''
  const lines = input.split('\n')
  const shown: string[] = []
  for (let n = Math.max(1, number - 1); n <= Math.min(lines.length, number + 1); n++)
    shown.push(`${n}: ${lines[n - 1]}`)
  return shown.join('\n')
}

/** What to do about the tool's complaint, where it is a known one. */
function adviceFor(words: string): string | undefined {
  if (/xtables lock/i.test(words)) {
    return 'another program has held /run/xtables.lock for too long: lslocks says which; it is tried again'
  }
  if (/Permission denied|you must be root/i.test(words)) return 'needs the capability CAP_NET_ADMIN'
  if (/can't initialize|Table does not exist|No chain\/target\/match/i.test(words)) {
    return 'a module is missing, or rules are of the other variant of iptables: kube-ipvs-proxy doctor'
  }
  return undefined
}

/** iptables of one family, by its commands. */
export class IptablesTool implements Iptables {
  readonly variant: Variant
  readonly version: string
  readonly randomFully: boolean
  readonly infix: Choice['infix']
  readonly #prefix: string
  readonly #host: Host

  constructor(family: Family, choice: Choice, version: ToolVersion, host: Host = theHost) {
    this.variant = version.variant
    this.version = version.version
    this.randomFully = version.randomFully
    this.infix = choice.infix
    this.#prefix = `${names[family]}${choice.infix}`
    this.#host = host
  }

  static async open(family: Family, choice: Choice, host: Host = theHost): Promise<IptablesTool> {
    return new IptablesTool(family, choice, await detectVersion(family, choice, host), host)
  }

  async save(table: Table | 'mangle'): Promise<string> {
    const { stdout } = await this.#run(`${this.#prefix}-save`, ['-t', table])
    return stdout
  }

  /** All tables in one run: to start a process costs more than to print them. */
  async saveAll(): Promise<string> {
    const { stdout } = await this.#run(`${this.#prefix}-save`, [])
    return stdout
  }

  async restore(input: string): Promise<void> {
    await this.#run(`${this.#prefix}-restore`, ['--noflush', '-w', '5'], input)
  }

  async #run(command: string, args: readonly string[], input = '') {
    let result
    try {
      result = await this.#host.run(command, args, { input, timeoutMs: 30_000 })
    } catch (error) {
      throw isMissingCommand(error) ? notInstalled(command, error) : error
    }
    if (result.code === 0) return result
    const words = result.stderr.trim()
    const around = linesAround(input, words)
    const advice = adviceFor(words)
    throw new ProxyError('COMMAND', `${command} exited with ${result.code}: ${words}${around && `\n${around}`}`, {
      object: command,
      operation: args.join(' '),
      stderr: words,
      lines: around,
      ...(advice === undefined ? {} : { advice }),
    })
  }
}
