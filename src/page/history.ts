import type { Family } from '../model/address.ts'
import { describeError } from '../lib/errors.ts'
import type { PassReport, ProxierObserver } from '../proxier/proxier.ts'
import type { Drift } from '../reconcile/layer.ts'

/** What is kept of a pass. Times in milliseconds, `ended` since the epoch. */
export interface PassRecord {
  readonly ended: number
  readonly took: number
  readonly family: Family
  readonly reason: PassReport['reason']
  /** Service ports planned. */
  readonly planned: number
  /** Things written to the kernel. */
  readonly written: number
  /** Service ports of which the kernel refused an entry. */
  readonly refused: number
  /** "": it went well. */
  readonly failure: string
}

export interface DriftRecord extends Drift {
  /** Milliseconds since the epoch. */
  readonly at: number
  readonly family: Family
}

export interface DriftCount {
  readonly family: Family
  readonly layer: string
  readonly kind: string
  readonly state: string
  readonly count: number
}

/** So much of a failure's text is kept. */
const longestFailure = 300

/** The newest so many things. */
class Ring<T> {
  readonly #room: number
  #list: T[] = []
  #next = 0

  constructor(room: number) {
    this.#room = room
  }

  add(one: T): void {
    this.#list[this.#next] = one
    this.#next = (this.#next + 1) % this.#room
  }

  /** The oldest first. */
  list(): readonly T[] {
    return this.#list.length < this.#room
      ? this.#list.slice()
      : [...this.#list.slice(this.#next), ...this.#list.slice(0, this.#next)]
  }
}

/** The last passes and what drifted lately: a few hundred small records, whatever happens. */
export class History {
  readonly #passes: Ring<PassRecord>
  readonly #drifts: Ring<DriftRecord>
  readonly #lastPasses = new Map<Family, PassRecord>()
  readonly #lastGood = new Map<Family, PassRecord>()
  readonly #driftCounts = new Map<string, DriftCount>()
  /** Since when it listens. */
  readonly since: number
  readonly #now: () => number

  constructor({ passes = 360, drifts = 50, now = Date.now } = {}) {
    this.#passes = new Ring(passes)
    this.#drifts = new Ring(drifts)
    this.#now = now
    this.since = now()
  }

  passed(report: PassReport): void {
    const { family, reason, planned, failures, refused } = report
    const record: PassRecord = {
      ended: this.#now(),
      took: report.milliseconds,
      family,
      reason,
      planned,
      written: [...report.written.values()].reduce((sum, one) => sum + one, 0),
      refused: refused.size,
      failure: failureOf(failures, refused),
    }
    this.#passes.add(record)
    this.#lastPasses.set(family, record)
    if (record.failure === '') this.#lastGood.set(family, record)
  }

  drift(family: Family, drift: Drift): void {
    const { layer, kind, state } = drift
    this.#drifts.add({ ...drift, family, at: this.#now() })
    const key = [family, layer, kind, state].join('/')
    const count = (this.#driftCounts.get(key)?.count ?? 0) + 1
    this.#driftCounts.set(key, { family, layer, kind, state, count })
  }

  /** The oldest first. */
  passes(): readonly PassRecord[] {
    return this.#passes.list()
  }

  lastPass(family: Family): PassRecord | undefined {
    return this.#lastPasses.get(family)
  }

  lastGoodPass(family: Family): PassRecord | undefined {
    return this.#lastGood.get(family)
  }

  /** The newest first. */
  drifts(): readonly DriftRecord[] {
    return this.#drifts.list().toReversed()
  }

  /** Of all that was seen, not of the newest only; the most frequent first. */
  driftCounts(): readonly DriftCount[] {
    return [...this.#driftCounts.values()].sort((a, b) => b.count - a.count)
  }
}

function failureOf(failures: PassReport['failures'], refused: PassReport['refused']): string {
  const [layer] = failures
  if (layer !== undefined) return `${layer.layer}: ${describeError(layer.error)}`.slice(0, longestFailure)
  const [first] = refused
  return first === undefined ? '' : `${first[0]}: ${describeError(first[1])}`.slice(0, longestFailure)
}

/** The observer, and the history beside it. */
export function withHistory<T extends ProxierObserver>(observer: T, history: History): T {
  return {
    ...observer,
    drift: (family, drift) => {
      observer.drift(family, drift)
      history.drift(family, drift)
    },
    passed: (report) => {
      observer.passed(report)
      history.passed(report)
    },
  }
}
