import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import http from 'node:http'
import { setPriority } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

export const root = resolve(import.meta.dirname, '../..')

/** One request over a kept-alive connection; the body of the answer. */
const agent = new http.Agent({ keepAlive: true })
export function ask(url: string, body?: string): Promise<string> {
  return new Promise((done, fail) => {
    const request = http.request(url, { agent, method: body === undefined ? 'GET' : 'POST' }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => (text += chunk))
      response.on('end', () => done(text))
    })
    request.on('error', (error: NodeJS.ErrnoException) => {
      // The server closed a connection that was kept in the moment in which it was taken again.
      if (request.reusedSocket && error.code === 'ECONNRESET') ask(url, body).then(done, fail)
      else fail(error)
    })
    request.end(body)
  })
}

/** The fake API server in a process of its own. */
export class ApiServer {
  readonly #child: ChildProcess
  readonly url: string

  private constructor(child: ChildProcess, url: string) {
    this.#child = child
    this.url = url
  }

  static async start(objects: string): Promise<ApiServer> {
    const script = join(root, 'test/fake-apiserver/main.ts')
    const child = spawn(process.execPath, [...process.execArgv, script, '--port', '6443', '--objects', objects], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    // It would be on another machine: the daemon shall not have to wait for its turn.
    setPriority(child.pid!, 10)
    const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
    return new ApiServer(child, line)
  }

  /** Answers when it had sent what the command has it send, in milliseconds of `process.hrtime`. */
  async tell(command: unknown): Promise<number> {
    const answer = JSON.parse(await ask(`${this.url}/__control`, JSON.stringify(command))) as { sentAt: number }
    return answer.sentAt
  }

  stop(): void {
    this.#child.kill('SIGKILL')
  }
}

export interface Memory {
  /** Megabytes. */
  readonly now: number
  readonly peak: number
}

/** The built daemon. */
export class Daemon {
  readonly #child: ChildProcess
  readonly started = performance.now()
  readonly #lines: Record<string, unknown>[] = []
  readonly #waiting = new Set<() => void>()
  #exit: string | undefined

  /** `profile`: a folder for a CPU profile. */
  constructor(args: readonly string[], profile?: string) {
    this.#child = spawn(join(root, 'bin/kube-ipvs-proxy'), args, {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        ...process.env,
        NODE_ENV: 'production',
        ...(profile === undefined ? {} : { NODE_OPTIONS: `--cpu-prof --cpu-prof-dir=${profile}` }),
      },
    })
    createInterface({ input: this.#child.stderr! }).on('line', (line) => {
      if (!line.startsWith('{')) process.stderr.write(`${line}\n`)
      else this.#lines.push({ ...(JSON.parse(line) as object), at: performance.now() })
      for (const wake of this.#waiting) wake()
    })
    this.#child.on('exit', (code, signal) => {
      this.#exit = `the daemon ended with ${signal ?? code}`
      for (const wake of this.#waiting) wake()
    })
  }

  /** The log line that begins with the message (and has the fields), and when it came. */
  async said(message: string, fields: Record<string, unknown> = {}): Promise<Record<string, unknown> & { at: number }> {
    for (;;) {
      const found = this.#lines.find(
        (line) =>
          String(line.msg).startsWith(message) && Object.entries(fields).every(([key, value]) => line[key] === value),
      )
      if (found !== undefined) return found as Record<string, unknown> & { at: number }
      if (this.#exit !== undefined) throw new Error(this.#exit)
      await new Promise<void>((wake) => {
        const done = (): void => {
          this.#waiting.delete(done)
          wake()
        }
        this.#waiting.add(done)
      })
    }
  }

  count(message: string): number {
    return this.#lines.filter((line) => line.msg === message).length
  }

  /** The log with the milliseconds since the start. */
  timeline(): string {
    return this.#lines
      .map(
        ({ at, msg, family }) =>
          `${Math.round(Number(at) - this.started)} ${String(msg)} ${typeof family === 'string' ? family : ''}\n`,
      )
      .join('')
  }

  errors(): unknown[] {
    return this.#lines.filter((line) => line.level === 'error')
  }

  /** CPU seconds of the process so far, its children that ended included. */
  cpu(): number {
    const fields = readFileSync(`/proc/${this.#child.pid}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ')
    return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / 100
  }

  memory(): Memory {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, 'utf8')
    const megabytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)![1]) / 1024
    return { now: megabytes('VmRSS'), peak: megabytes('VmHWM') }
  }

  /** Resolves when the daemon answers. */
  async answers(): Promise<void> {
    while (this.#exit === undefined) {
      try {
        await ask('http://127.0.0.1:10256/livez')
        return
      } catch {
        await sleep(20)
      }
    }
    throw new Error(this.#exit)
  }

  async metrics(): Promise<string> {
    return ask('http://127.0.0.1:10249/metrics')
  }

  /** Value of a series without labels; 0 where it is not there. */
  async metric(name: string): Promise<number> {
    return Number(new RegExp(`^${name} (\\S+)`, 'm').exec(await this.metrics())?.[1] ?? 0)
  }

  /** Open files and sockets. */
  handles(): number {
    return readdirSync(`/proc/${this.#child.pid}/fd`).length
  }

  /** Lines of log so far. */
  get lineCount(): number {
    return this.#lines.length
  }

  /** How many lines of each message there were from that one on. */
  linesSince(from: number): Record<string, number> {
    const counts: Record<string, number> = {}
    for (const { msg } of this.#lines.slice(from)) counts[String(msg)] = (counts[String(msg)] ?? 0) + 1
    return counts
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (this.#exit !== undefined) return
    const exit = once(this.#child, 'exit')
    this.#child.kill(signal)
    await exit
  }
}
