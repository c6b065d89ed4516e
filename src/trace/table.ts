import type { ChildProcessByStdio } from 'node:child_process'
import type { Readable, Writable } from 'node:stream'
import { traceTablePrefix } from '../explain/foreign-chains.ts'
import { ProxyError } from '../lib/errors.ts'
import { isMissingCommand, runCommand, type RunCommand } from '../lib/process.ts'
import type { EchoTarget } from './echo.ts'
import { helperEnd, startHelper } from './helper.ts'
import { markCommands, tableCommands, tableName, tableOf, type Marking } from './marking.ts'

/** Milliseconds that nft has for an answer. */
const patience = 20_000

/** nft reads commands until we are gone; then the table goes: by itself where nft owns it, else by hand. */
const script = 'nft -i; nft delete table $1 $2 2>/dev/null; exit 0'

/**
 * Our table in the kernel. A process of nft holds it: with the flag "owner" the table goes with that process, and the process
 * ends with us. On a kernel that does not know the flag the shell around it deletes the table.
 */
export class TraceTable {
  readonly name: string
  /** The kernel removes the table by itself. */
  readonly isOwned: boolean
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>
  readonly #marking: Marking
  #stdout = ''
  #stderr = ''
  #wake = (): void => {}

  private constructor(marking: Marking, name: string, isOwned: boolean) {
    this.#marking = marking
    this.name = name
    this.isOwned = isOwned
    this.#child = startHelper(script, tableOf(marking, name).split(' '))
    this.#child.stdout.on('data', (chunk: Buffer) => {
      this.#stdout += chunk.toString()
      this.#wake()
    })
    this.#child.stderr.on('data', (chunk: Buffer) => {
      this.#stderr += chunk.toString()
      this.#wake()
    })
    this.#child.on('close', () => this.#wake())
  }

  /** Makes the table without what marks. Throws ProxyError PREFLIGHT where the kernel or nft cannot. */
  static async make(marking: Marking): Promise<TraceTable> {
    const unique = `${process.pid.toString(36)}-${Date.now().toString(36)}`
    for (const owned of [true, false]) {
      const table = new TraceTable(marking, tableName(unique), owned)
      try {
        await table.#do(tableCommands(marking, table.name, owned))
        return table
      } catch (error) {
        await table.remove()
        const isUnknown =
          owned && error instanceof ProxyError && /not supported|invalid argument|syntax error/i.test(error.message)
        if (!isUnknown) throw error
      }
    }
    throw new ProxyError('PREFLIGHT', 'no table of nftables can be made')
  }

  /** From now on packets are marked. */
  async mark(echo?: EchoTarget): Promise<void> {
    await this.#do(markCommands(this.#marking, this.name, echo))
  }

  /** Takes it away. */
  async remove(): Promise<void> {
    const gone = helperEnd(this.#child)
    this.#child.stdin.end()
    await gone
  }

  /** nft lists the table after the commands: when that has come they are done. */
  async #do(commands: readonly string[]): Promise<void> {
    const { target } = this.#marking
    this.#stdout = ''
    this.#stderr = ''
    this.#child.stdin.write(`${[...commands, `list table ${tableOf(this.#marking, this.name)}`].join('\n')}\n`)
    const deadline = Date.now() + patience
    while (!/^}$/m.test(this.#stdout) && this.#child.exitCode === null && Date.now() < deadline) {
      if (this.#stderr !== '' && /list table/.test(this.#stderr)) break
      await new Promise<void>((wake) => {
        const timer = setTimeout(wake, 200)
        this.#wake = () => {
          clearTimeout(timer)
          wake()
        }
      })
    }
    // Both come by pipes of their own: what was said before may be read after.
    await new Promise((wake) => setTimeout(wake, 50))
    const said = this.#stderr.trim()
    if (said === '' && /^}$/m.test(this.#stdout)) return
    throw new ProxyError(
      'PREFLIGHT',
      `packets to ${target.address} cannot be followed: ${said === '' ? 'nft gives no answer' : said.split('\n').slice(0, 3).join(' ')}`,
      {
        object: `nftables table ${this.name}`,
        operation: 'create',
        advice:
          'needs CAP_NET_ADMIN, a kernel with nf_tables and nft_ct (modprobe nf_tables nft_ct), and nftables 1.0 or newer',
      },
    )
  }
}

/** Throws PREFLIGHT where there is no nft. */
export async function checkTool(run: RunCommand = runCommand): Promise<void> {
  try {
    await run('nft', ['--version'])
  } catch (error) {
    if (!isMissingCommand(error)) throw error
    throw new ProxyError(
      'PREFLIGHT',
      'nft is not there: live packets are followed by trace events of nftables',
      { object: 'nft', operation: 'run', advice: 'install the package "nftables"; the image of this program has it' },
      error,
    )
  }
}

/** Tables that a killed run left: those of ours that no process owns. Answers their names, removed. */
export async function removeLeftTables(run: RunCommand = runCommand): Promise<readonly string[]> {
  const left = await leftTables(run)
  for (const table of left) await run('nft', ['delete', 'table', ...table.split(' ')])
  return left
}

/** "ip kube-ipvs-proxy-trace-…", those without an owner. A run on a kernel without owners has such a table, too. */
export async function leftTables(run: RunCommand = runCommand): Promise<readonly string[]> {
  const { code, stdout } = await run('nft', ['list', 'tables'])
  if (code !== 0) return []
  const ours = stdout
    .split('\n')
    .map((line) => line.replace(/^table /, '').trim())
    .filter((name) => name.split(' ')[1]?.startsWith(traceTablePrefix))
  const left: string[] = []
  for (const name of ours) {
    const { stdout: text, code: found } = await run('nft', ['list', 'table', ...name.split(' ')])
    if (found === 0 && !/^\s*flags .*\bowner\b/m.test(text)) left.push(name)
  }
  return left
}
