import { withHash, withoutHash } from '../lib/digest.ts'
import { PatientTurn } from '../lib/turn.ts'

export interface DumpDifferences {
  /** Known to be present, and not there. */
  readonly missing: readonly string[]
  /** There, and not known. */
  readonly foreign: readonly string[]
}

const wanted = 1
const present = 2

/**
 * What is wanted, what is known to be in the kernel, and the difference, kept current key by key: the cost of asking
 * for the difference is the difference.
 */
export class DeltaSet {
  /** By key: wanted, present, or both. One map, for its keys are many. */
  readonly #states = new Map<string, number>()
  readonly #toAdd = new Set<string>()
  readonly #toRemove = new Set<string>()
  readonly #hashOf: (key: string) => number
  #wanted = 0
  #present = 0
  #presentSum = 0

  /** `hashOf`: what a key adds to `presentSum`. */
  constructor(hashOf: (key: string) => number) {
    this.#hashOf = hashOf
  }

  want(key: string): void {
    this.#change(key, wanted, 0)
  }

  unwant(key: string): void {
    this.#change(key, 0, wanted)
  }

  /** The kernel has it. */
  observed(key: string): void {
    this.#change(key, present, 0)
  }

  /** The kernel has it no longer. */
  gone(key: string): void {
    this.#change(key, 0, present)
  }

  /** Where a dump differs from what was known to be present; worked out in turns with others. */
  async differences(now: ReadonlySet<string>): Promise<DumpDifferences> {
    const turn = new PatientTurn()
    const missing: string[] = []
    const foreign: string[] = []
    for (const [key, state] of this.#states) {
      if (turn.isOver) await turn.next()
      if ((state & present) !== 0 && !now.has(key)) missing.push(key)
    }
    for (const key of now) {
      if (turn.isOver) await turn.next()
      if (!this.isPresent(key)) foreign.push(key)
    }
    return { missing, foreign }
  }

  /** Takes over what a dump said. */
  take({ missing, foreign }: DumpDifferences): void {
    for (const key of missing) this.gone(key)
    for (const key of foreign) this.observed(key)
  }

  /** The kernel has none of them. */
  observedNone(): void {
    for (const key of this.presentKeys()) this.gone(key)
  }

  additions(): Iterable<string> {
    return this.#toAdd
  }

  removals(): Iterable<string> {
    return this.#toRemove
  }

  isWanted(key: string): boolean {
    return (this.#state(key) & wanted) !== 0
  }

  isPresent(key: string): boolean {
    return (this.#state(key) & present) !== 0
  }

  *presentKeys(): Iterable<string> {
    for (const [key, state] of this.#states) if ((state & present) !== 0) yield key
  }

  get wantedCount(): number {
    return this.#wanted
  }

  get presentCount(): number {
    return this.#present
  }

  /** The sum of the hashes of all that is present: a dump of the same sum need not be looked into. */
  get presentSum(): number {
    return this.#presentSum
  }

  /** The same of all that is wanted: the cost of asking is what is pending. */
  get wantedSum(): number {
    let sum = this.#presentSum
    for (const key of this.#toAdd) sum = withHash(sum, this.#hashOf(key))
    for (const key of this.#toRemove) sum = withoutHash(sum, this.#hashOf(key))
    return sum
  }

  get pendingCount(): number {
    return this.#toAdd.size + this.#toRemove.size
  }

  #state(key: string): number {
    return this.#states.get(key) ?? 0
  }

  #change(key: string, added: number, removed: number): void {
    const before = this.#state(key)
    const state = (before | added) & ~removed
    if (state === before) return
    this.#wanted += (state & wanted) - (before & wanted)
    if ((state & present) !== (before & present)) this.#note(key, (state & present) !== 0)
    if (state === 0) this.#states.delete(key)
    else this.#states.set(key, state)
    if (state === wanted) this.#toAdd.add(key)
    else if (before === wanted) this.#toAdd.delete(key)
    if (state === present) this.#toRemove.add(key)
    else if (before === present) this.#toRemove.delete(key)
  }

  #note(key: string, isPresent: boolean): void {
    this.#present += isPresent ? 1 : -1
    this.#presentSum = (isPresent ? withHash : withoutHash)(this.#presentSum, this.#hashOf(key))
  }
}
