import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import type { WorkUnderWay } from './healthz.ts'

export interface WatchdogOptions {
  readonly clock: Clock
  readonly log: Log
  /** What has been under way for too long; undefined: nothing. */
  readonly stuck: () => WorkUnderWay | undefined
  /** The event loop stood still for so many milliseconds. */
  readonly stalled: (milliseconds: number) => void
}

/** Milliseconds between two looks at the clock. */
const every = 1000
/** Later than that, and the loop stood still: liveness probes of this time have found nobody. */
const stalledFrom = 5000

/**
 * Tells what a liveness probe cannot be told. While the event loop stands still nothing can be answered, /livez neither: the
 * kubelet's probe runs into its time-out, which counts as a failure, and in the end it kills the process. Afterwards this says
 * that it was so. A pass or a look that hangs while the loop goes on fails /livez, and is said here once.
 */
export class Watchdog {
  readonly #options: WatchdogOptions
  /** When the work began that was told. */
  #told: number | undefined

  constructor(options: WatchdogOptions) {
    this.#options = options
  }

  /** Runs until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log, stalled } = this.#options
    while (!signal.aborted) {
      const before = clock.now()
      await clock.sleep(every, signal)
      if (signal.aborted) return
      const late = clock.now() - before - every
      if (late >= stalledFrom) {
        stalled(late)
        log.warn('The event loop stood still; nothing was answered or written meanwhile', {
          milliseconds: Math.round(late),
          advice: 'give the process more CPU (requests, limits); where it has enough, take a CPU profile and report it',
        })
      }
      this.#tellStuck()
    }
  }

  #tellStuck(): void {
    const stuck = this.#options.stuck()
    if (stuck === undefined || stuck.since === this.#told) return
    this.#told = stuck.since
    this.#options.log.error('Work does not come to its end; /livez fails as long as it lasts', {
      family: stuck.family,
      work: stuck.work,
      seconds: Math.round((this.#options.clock.now() - stuck.since) / 1000),
      advice: 'what it waits for is in the log before; a restart cuts no connection',
    })
  }
}
