import { closeSync, constants, openSync, readSync } from 'node:fs'
import { describeError } from '../lib/errors.ts'

/** Milliseconds between looks: the log is not told of, it is asked. */
const interval = 100
/** A record is no longer than this (CONSOLE_EXT_LOG_MAX of the kernel). */
const longest = 8192

/** The text of a record, "6,1234,98765,-;IPVS: …"; undefined for what is none. */
export function recordText(record: string): string | undefined {
  const at = record.indexOf(';')
  if (at < 0 || !/^\d+,\d+,\d+,/.test(record)) return undefined
  return record.slice(at + 1).split('\n')[0]
}

/** The kernel's log from now on. */
export class KernelLog {
  readonly #file: number
  readonly #timer: NodeJS.Timeout
  readonly #take: (line: string) => void
  readonly #buffer = Buffer.allocUnsafe(longest)
  /** Why some lines are missing; "" where none are. */
  trouble = ''

  private constructor(file: number, take: (line: string) => void) {
    this.#file = file
    this.#take = take
    this.#read(() => {})
    this.#timer = setInterval(() => this.poll(), interval)
  }

  /** Throws what the system says where it cannot be read. */
  static open(take: (line: string) => void, path = '/dev/kmsg'): KernelLog {
    return new KernelLog(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK), take)
  }

  /** Takes what has come. */
  poll(): void {
    this.#read(this.#take)
  }

  close(): void {
    clearInterval(this.#timer)
    this.poll()
    closeSync(this.#file)
  }

  /** One record each read, until there is no more. */
  #read(take: (line: string) => void): void {
    for (;;) {
      try {
        const count = readSync(this.#file, this.#buffer)
        if (count === 0) return
        const text = recordText(this.#buffer.toString('utf8', 0, count))
        if (text !== undefined) take(text)
      } catch (error) {
        const code = error instanceof Error && 'code' in error ? error.code : undefined
        if (code === 'EAGAIN') return
        // The oldest records were overwritten; the next read goes on behind them.
        if (code === 'EPIPE') {
          this.trouble = 'the kernel log was written faster than read: lines are missing'
          continue
        }
        this.trouble = `the kernel log cannot be read: ${describeError(error)}`
        return
      }
    }
  }
}
