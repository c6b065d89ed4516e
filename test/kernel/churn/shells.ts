import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { CommandResult, RunCommand } from '../../../src/lib/process.ts'

/** One command a line; answers the exit status. */
const loop = 'while IFS= read -r line; do eval "$line"; echo "$?"; done'

/**
 * Runs commands from a few shells that stay. In an emulated machine, for a process of Node's size to fork takes longer
 * than most commands run; a shell is small.
 */
export class Shells {
  readonly #folder = mkdtempSync(join(tmpdir(), 'churn-'))
  readonly #idle: Shell[]
  readonly #all: readonly Shell[]
  readonly #waiting: ((shell: Shell) => void)[] = []

  constructor(count: number) {
    this.#all = Array.from({ length: count }, (_, i) => new Shell(join(this.#folder, String(i))))
    this.#idle = [...this.#all]
  }

  readonly run: RunCommand = async (command, args, options) => {
    const shell = this.#idle.pop() ?? (await new Promise<Shell>((free) => this.#waiting.push(free)))
    try {
      return await shell.run([command, ...args], options?.input ?? '')
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#idle.push(shell)
      else next(shell)
    }
  }

  close(): void {
    for (const shell of this.#all) shell.close()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

class Shell {
  readonly #child: ChildProcess
  readonly #files: string
  #answer: (status: string) => void = () => {}

  /** `files`: what the names of its files begin with. */
  constructor(files: string) {
    this.#files = files
    this.#child = spawn('bash', ['-c', loop], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C' },
    })
    createInterface({ input: this.#child.stdout! }).on('line', (line) => this.#answer(line))
  }

  async run(words: readonly string[], input: string): Promise<CommandResult> {
    const files = this.#files
    writeFileSync(`${files}.in`, input)
    const answered = new Promise<string>((answer) => (this.#answer = answer))
    const quoted = words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ')
    this.#child.stdin!.write(`${quoted} < ${files}.in > ${files}.out 2> ${files}.err\n`)
    const code = Number(await answered)
    return { code, stdout: readFileSync(`${files}.out`, 'utf8'), stderr: readFileSync(`${files}.err`, 'utf8') }
  }

  close(): void {
    this.#child.stdin!.end()
  }
}
