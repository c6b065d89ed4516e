import type { Clock } from '../lib/clock.ts'

export interface PacerOptions {
  /** A run starts at least this long after the end of the one before. */
  readonly minInterval: number
  /** At least one full run in this time. */
  readonly maxInterval: number
  /** Full runs are due at multiples of maxInterval after this time: those who share it look at the same moment. */
  readonly base?: number
  /** First wait after a failed run; doubles up to maxInterval. */
  readonly retryInterval: number
  readonly clock: Clock
}

/** Why a run takes place. */
export type RunReason = 'change' | 'period' | 'retry'

/**
 * Three promises: not more often than, not less often than, and retry after. Runs never overlap; any number of requests
 * during a run give one run after it.
 */
export class Pacer {
  readonly #options: PacerOptions
  readonly #run: (reason: RunReason) => Promise<boolean>
  #requested = false
  #wake = new AbortController()

  /** `run` answers whether all went well. */
  constructor(options: PacerOptions, run: (reason: RunReason) => Promise<boolean>) {
    this.#options = options
    this.#run = run
  }

  request(): void {
    // Aborting makes an error with its stack: once is enough for a thousand events.
    if (this.#requested) return
    this.#requested = true
    this.#wake.abort()
  }

  /** The first run is a 'period' one and starts at once. */
  async loop(signal: AbortSignal): Promise<void> {
    const { clock, minInterval, maxInterval, retryInterval, base = clock.now() } = this.#options
    let reason: RunReason = 'period'
    let retry = 0
    let fullAt = 0
    while (!signal.aborted) {
      this.#requested = false
      this.#wake = new AbortController()
      const well = await this.#run(reason)
      const ended = clock.now()
      retry = well ? 0 : Math.min(retry === 0 ? retryInterval : retry * 2, maxInterval)
      if (reason === 'period') fullAt = base + (Math.floor((ended - base) / maxInterval) + 1) * maxInterval
      const dueAt = retry > 0 ? Math.min(ended + retry, fullAt) : fullAt
      while (!signal.aborted && !this.#requested && clock.now() < dueAt) {
        await clock.sleep(dueAt - clock.now(), AbortSignal.any([signal, this.#wake.signal]))
      }
      const early = ended + minInterval
      if (clock.now() < early) await clock.sleep(early - clock.now(), signal)
      // After a failure the memory of the kernel is not to be trusted: whatever comes next must know.
      reason = clock.now() >= fullAt ? 'period' : retry > 0 ? 'retry' : 'change'
    }
  }
}
