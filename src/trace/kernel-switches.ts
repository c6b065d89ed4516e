import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { describeError } from '../lib/errors.ts'
import { runCommand, type RunCommand } from '../lib/process.ts'
import { readSysctl } from '../lib/sysctl.ts'
import type { Family } from '../model/address.ts'
import { helperEnd, startHelper } from './helper.ts'

/** A debug statement of the kernel, as /proc/dynamic_debug/control lists it. */
export interface DebugSite {
  readonly file: string
  readonly line: number
  readonly module: string
  /** "_" for none, "p" for printed, further letters for what is put before the text. */
  readonly flags: string
}

/** Statements of a module. */
export function parseControl(text: string, module: string): readonly DebugSite[] {
  return text.split('\n').flatMap((row) => {
    const [, file, line, of, flags] = /^(\S+):(\d+) \[([^\]]+)\]\S+ =(\S+) /.exec(row) ?? []
    if (file === undefined || of !== module) return []
    return [{ file, line: Number(line), module, flags: flags! }]
  })
}

/** The command that gives a statement back the flags that it has now. */
export function restoreCommand({ file, line, module, flags }: DebugSite): string {
  return `module ${module} file ${file} line ${line} =${flags}`
}

/** A file of the kernel that is written to, and what puts it back as it was. */
interface Switch {
  readonly path: string
  readonly on: string
  readonly off: readonly string[]
  /** "net.ipv4.vs.debug_level 0 → 7" */
  readonly text: string
}

/** A few lines for each new connection; from 9 on there are lines for each packet. */
const debugLevel = '7'

/** The module that prints; schedulers and helpers print next to nothing. */
const module = 'ip_vs'

const controls = ['/proc/dynamic_debug/control', '/sys/kernel/debug/dynamic_debug/control']

function debugSwitches(notes: string[]): Switch[] {
  const found: Switch[] = []
  const level = readSysctl('net/ipv4/vs/debug_level')
  if (level === undefined) {
    notes.push(
      'this kernel has no net.ipv4.vs.debug_level: it is built without IP_VS_DEBUG, so IPVS itself tells next to nothing',
    )
  } else {
    const path = '/proc/sys/net/ipv4/vs/debug_level'
    found.push({ path, on: debugLevel, off: [level], text: `net.ipv4.vs.debug_level ${level} → ${debugLevel}` })
  }
  const control = controls.find((path) => existsSync(path))
  if (control === undefined) {
    notes.push('this kernel has no dynamic_debug, or it is not shown here (CONFIG_DYNAMIC_DEBUG, or mount debugfs)')
    return found
  }
  const sites = parseControl(readFileSync(control, 'utf8'), module)
  if (sites.length === 0) {
    notes.push(`module ${module} has no statement for dynamic_debug in this kernel`)
    return found
  }
  const off = sites.filter(({ flags }) => !flags.includes('p')).map(restoreCommand)
  if (off.length > 0) {
    const text = `dynamic_debug: ${off.length} of ${sites.length} statements of module ${module} on`
    found.push({ path: control, on: `module ${module} +p`, off, text })
  }
  return found
}

/** nf_log has the tables of legacy iptables tell of packets; families by NFPROTO_*. */
function loggerSwitch(family: Family, notes: string[]): Switch | undefined {
  const path = `/proc/sys/net/netfilter/nf_log/${family === 'IPv4' ? 2 : 10}`
  const now = readSysctl(path.slice('/proc/sys/'.length))
  if (now !== 'NONE') return undefined
  const on = family === 'IPv4' ? 'nf_log_ipv4' : 'nf_log_ipv6'
  notes.push(`nf_log of ${family} had no logger: ${on} for the time of the trace`)
  return { path, on, off: ['NONE'], text: `nf_log of ${family}: ${on}` }
}

/** A shell puts them back when we are gone, however we go: `path value` pairs. */
const script = `cat > /dev/null
while [ $# -gt 1 ]; do printf '%s\\n' "$2" > "$1" || echo "$1: $2"; shift 2; done`

/** Switches of the kernel that are on for a time. */
export class KernelSwitches {
  readonly #helper: ReturnType<typeof startHelper> | undefined
  #errors = ''
  /** What was turned on. */
  readonly on: readonly string[]

  private constructor(switches: readonly Switch[], notes: string[]) {
    const back = switches.flatMap(({ path, off }) => off.flatMap((value) => [path, value]))
    this.#helper = back.length === 0 ? undefined : startHelper(script, back)
    for (const stream of [this.#helper?.stdout, this.#helper?.stderr]) {
      stream?.on('data', (chunk: Buffer) => (this.#errors += chunk.toString()))
    }
    const on: string[] = []
    for (const one of switches) {
      try {
        writeFileSync(one.path, one.on)
        on.push(one.text)
      } catch (error) {
        notes.push(`${one.path} cannot be written: ${describeError(error)}`)
      }
    }
    this.on = on
  }

  /**
   * Turns on what this kernel has; what it lacks is noted. `legacy`: tables of legacy iptables, whose rules are told of in
   * the kernel's log alone.
   */
  static async turnOn(
    wanted: { readonly debug: boolean; readonly legacy: Family | undefined },
    notes: string[],
    run: RunCommand = runCommand,
  ): Promise<KernelSwitches> {
    const switches: Switch[] = []
    if (wanted.debug) switches.push(...debugSwitches(notes))
    if (wanted.legacy !== undefined) {
      const before = loggerSwitch(wanted.legacy, notes)
      if (before !== undefined) {
        // One module since Linux 5.13, one for each family before. It makes itself the logger where there is none.
        for (const name of ['nf_log_syslog', before.on]) {
          const loaded = await run('modprobe', [name]).catch(() => undefined)
          if (loaded?.code === 0) break
        }
        switches.push(before)
      }
    }
    return new KernelSwitches(switches, notes)
  }

  /** Puts all back; answers what could not be. */
  async restore(): Promise<string> {
    if (this.#helper === undefined) return ''
    const end = helperEnd(this.#helper)
    this.#helper.stdin.end()
    await end
    return this.#errors.trim()
  }
}
