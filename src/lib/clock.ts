/** Time as a parameter, so that tests move it. */
export interface Clock {
  /** Milliseconds that only go forward: for periods, not for telling the time of day. */
  now(): number
  /** Resolves after the time, at once where that is over already, or when the signal fires. */
  sleep(milliseconds: number, signal?: AbortSignal): Promise<void>
}

/**
 * The kernel's monotonic clock, counted from the time of day at the start of the process: whoever sets the node's clock,
 * back or forward, puts off no pass and lets no wait end early.
 */
export const systemClock: Clock = {
  now: () => performance.timeOrigin + performance.now(),
  sleep: (milliseconds, signal) =>
    new Promise((resolve) => {
      if (signal?.aborted) return resolve()
      const done = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      // Of less than nothing Node would warn on standard error, past the log.
      const timer = setTimeout(done, Math.max(0, milliseconds))
      signal?.addEventListener('abort', done)
    }),
}

/** Milliseconds that the two clocks may be apart without anybody having set one. */
const unset = 1000

/** The time of day, in milliseconds since the epoch, of a moment of the clock, by what the node's clock says now. */
export function timeOfDay(moment: number): number {
  const set = Date.now() - systemClock.now()
  return Math.abs(set) < unset ? moment : moment + set
}
