import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { systemClock, type Clock } from '../lib/clock.ts'
import { describeError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'

export interface AddressMonitorOptions {
  /** Name of the device whose addresses are our own doing. */
  readonly ignore: string
  /** Some address of another device has come or gone. */
  readonly changed: () => void
  readonly log: Log
  readonly clock?: Clock
  readonly watch?: WatchAddresses
}

/**
 * Tells each line of `ip -o monitor address` until it ends or the signal fires. Rejects where it cannot be started, with
 * the code of the reason.
 */
export type WatchAddresses = (line: (text: string) => void, signal: AbortSignal) => Promise<void>

/** A burst of changes is one: an interface that comes up brings several addresses. */
const settle = 200
const firstRetry = 1000
const lastRetry = 30_000

/**
 * Follows rtnetlink's address notifications through iproute2: a multicast socket in this process would end it when it
 * falls behind, for the library aborts at a receive overrun. Binding our own addresses makes thousands of lines.
 */
export class AddressMonitor {
  readonly #options: AddressMonitorOptions
  readonly #clock: Clock
  #settling = false

  constructor(options: AddressMonitorOptions) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
  }

  /** Runs until the signal fires; never throws. */
  async run(signal: AbortSignal): Promise<void> {
    const { ignore, changed, log, watch = watchByIp } = this.#options
    const own = ` ${ignore} `
    let retry = firstRetry
    while (!signal.aborted) {
      const began = this.#clock.now()
      try {
        await watch((line) => {
          // "7: eth0    inet 192.168.0.1/24 …" or "Deleted 7: eth0 …"
          if (!line.includes(own)) this.#note(signal)
        }, signal)
        if (signal.aborted) return
        log.v(1, 'The watch of the node’s addresses has ended, starting it again')
      } catch (error) {
        log.warn('Changes of the node’s addresses are not told; they are found by the periodic check', {
          error: describeError(error),
          advice: 'install iproute2 (the command ip)',
        })
        if (isMissing(error)) return
      }
      if (this.#clock.now() - began > lastRetry) retry = firstRetry
      await this.#clock.sleep(retry, signal)
      retry = Math.min(retry * 2, lastRetry)
      // What happened meanwhile was not told.
      if (!signal.aborted) changed()
    }
  }

  #note(signal: AbortSignal): void {
    if (this.#settling) return
    this.#settling = true
    void this.#clock.sleep(settle, signal).then(() => {
      this.#settling = false
      if (!signal.aborted) this.#options.changed()
    })
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}

const watchByIp: WatchAddresses = (line, signal) =>
  new Promise((resolve, reject) => {
    const child = spawn('ip', ['-o', 'monitor', 'address'], {
      // When we are killed, its next line has nowhere to go and ends it.
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C' },
    })
    const stop = (): void => void child.kill('SIGKILL')
    signal.addEventListener('abort', stop, { once: true })
    createInterface({ input: child.stdout }).on('line', line)
    // It complains when notifications were lost, and goes on: something may have changed.
    createInterface({ input: child.stderr }).on('line', line)
    child.on('error', reject)
    child.on('close', () => {
      signal.removeEventListener('abort', stop)
      resolve()
    })
    if (signal.aborted) stop()
  })
