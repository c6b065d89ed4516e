import type { Clock } from '../lib/clock.ts'
import type { Drift } from './layer.ts'

export interface RepairSpacingOptions {
  readonly clock: Clock
  /** Milliseconds between two looks. */
  readonly period: number
  /** The same thing has been repaired so many times in a row, and is repaired less and less often from now on. */
  readonly repeats: (drift: Drift, repairs: number) => void
}

/** So many repairs in a row are made as each look finds them. */
const atOnce = 5
/** The longest that one waits, in milliseconds, unless the period itself is longer. */
const longest = 5 * 60_000
/** So many things are remembered at most; of what goes beyond, each is repaired as it is found. */
const mostRemembered = 10_000

interface Repairs {
  /** In a row: each found changed again soon after the one before. */
  readonly count: number
  readonly at: number
}

/**
 * Spaces the repairs of what somebody else changes again and again: two who write against each other at full speed help
 * nobody. What the cluster asks for anew is no repair and never waits.
 */
export class RepairSpacing {
  readonly #options: RepairSpacingOptions
  readonly #repairs = new Map<string, Repairs>()
  #forgotAt = Number.NEGATIVE_INFINITY

  constructor(options: RepairSpacingOptions) {
    this.#options = options
  }

  /** Whether what a look has found changed is put right now; where not, a later look finds it again. */
  judge(drift: Drift): boolean {
    const { clock, repeats } = this.#options
    const now = clock.now()
    const key = `${drift.layer} ${drift.kind} ${drift.object}`
    const former = this.#repairs.get(key)
    if (former === undefined || this.#isOver(former, now)) {
      this.#forgetOld(now)
      if (former !== undefined || this.#repairs.size < mostRemembered) this.#repairs.set(key, { count: 1, at: now })
      return true
    }
    if (now - former.at < this.#wait(former)) return false
    const count = former.count + 1
    this.#repairs.set(key, { count, at: now })
    if (count === atOnce) repeats(drift, count)
    return true
  }

  /** How long after these repairs the next one waits. */
  #wait({ count }: Repairs): number {
    const { period } = this.#options
    return count < atOnce ? 0 : Math.min(Math.max(longest, period), period * 2 ** (count - atOnce + 1))
  }

  /** It held for long enough that the next change is another story. */
  #isOver(repairs: Repairs, now: number): boolean {
    return now - repairs.at > this.#wait(repairs) + 2 * this.#options.period
  }

  /** Once a period at most: a thousand things may be found changed in one look. */
  #forgetOld(now: number): void {
    if (this.#repairs.size < mostRemembered || now - this.#forgotAt < this.#options.period) return
    this.#forgotAt = now
    for (const [key, repairs] of this.#repairs) if (this.#isOver(repairs, now)) this.#repairs.delete(key)
  }
}
