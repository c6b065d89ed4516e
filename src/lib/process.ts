import { spawn } from 'node:child_process'
import { ProxyError } from './errors.ts'
import { Turn } from './turn.ts'

export interface CommandOptions {
  /** Written to standard input, which is then closed. */
  readonly input?: string
  /** After this the command is killed and the call rejects; 30 s where absent. */
  readonly timeoutMs?: number
  /** When it fires, the command is killed and the call rejects. */
  readonly signal?: AbortSignal
  /** Added to the own environment. */
  readonly env?: Readonly<Record<string, string>>
}

export interface CommandResult {
  /** Exit status; 128 + signal number is not imitated: a command ended by a signal rejects. */
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export type RunCommand = (command: string, args: readonly string[], options?: CommandOptions) => Promise<CommandResult>

/** Whether the error says that there is no such command. */
export function isMissingCommand(error: unknown): boolean {
  return error instanceof ProxyError && error.code === 'COMMAND' && error.facts.errno === 'ENOENT'
}

/** Runs a command to its end. Any exit status is an answer; not starting, a signal or running too long is an error. */
export async function runCommand(
  command: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const timeoutMs = options.timeoutMs ?? 30_000
  const shown = [command, ...args].join(' ')
  const fail = (what: string, errno?: string, cause?: unknown) =>
    new ProxyError('COMMAND', `${shown}: ${what}`, { object: shown, operation: 'run', errno }, cause)
  // Starting a process keeps the event loop for milliseconds: one in each round of it.
  await new Turn().next()
  const { signal } = options
  if (signal?.aborted) throw fail('not run: nobody waits for it any more', 'ECANCELED')
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      // Tools of the administrator are often missing from a service's PATH, and messages are parsed: no translations.
      env: { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C', ...options.env },
    })
    const stdout: Buffer[] = []
    const stderr: Buffer[] = []
    let late = false
    const end = (): void => {
      child.kill('SIGKILL')
      // A grandchild may hold the pipes open: do not wait for them.
      child.stdout.destroy()
      child.stderr.destroy()
    }
    const timer = setTimeout(() => {
      late = true
      end()
    }, timeoutMs)
    signal?.addEventListener('abort', end, { once: true })
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk))
    child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk))
    child.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', end)
      reject(fail(error.code === 'ENOENT' ? 'no such command' : 'cannot be run', error.code, error))
    })
    child.on('close', (code, endedBy) => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', end)
      if (signal?.aborted) reject(fail('ended: nobody waits for it any more', 'ECANCELED'))
      else if (late) reject(fail(`no end after ${timeoutMs / 1000} s, killed`, 'ETIMEDOUT'))
      else if (code === null) reject(fail(`ended by ${endedBy ?? 'a signal'}`))
      else resolve({ code, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() })
    })
    // A command that ends without reading its input says why by its status and words.
    child.stdin.on('error', () => {})
    child.stdin.end(options.input ?? '')
  })
}
