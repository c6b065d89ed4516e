/**
 * What is wanted, what is known to be in the kernel, and the difference, kept current key by key: the cost of asking
 * for the difference is the difference. K is a string or number: a key equal to itself.
 */
export class DeltaTable<K, V> {
  readonly #desired = new Map<K, V>()
  readonly #actual = new Map<K, V>()
  readonly #toAdd = new Set<K>()
  readonly #toRemove = new Set<K>()
  readonly #same: (a: V, b: V) => boolean

  constructor(same: (a: V, b: V) => boolean = Object.is) {
    this.#same = same
  }

  want(key: K, value: V): void {
    this.#desired.set(key, value)
    this.#compare(key)
  }

  unwant(key: K): void {
    this.#desired.delete(key)
    this.#compare(key)
  }

  /** The kernel has it. */
  observed(key: K, value: V): void {
    this.#actual.set(key, value)
    this.#compare(key)
  }

  /** The kernel has it no longer. */
  gone(key: K): void {
    this.#actual.delete(key)
    this.#compare(key)
  }

  /** After a dump: what is not in it is gone. */
  observedAll(now: ReadonlyMap<K, V>): void {
    for (const key of this.#actual.keys()) if (!now.has(key)) this.gone(key)
    for (const [key, value] of now) this.observed(key, value)
  }

  *additions(): Iterable<readonly [K, V]> {
    for (const key of this.#toAdd) yield [key, this.#desired.get(key)!]
  }

  removals(): Iterable<K> {
    return this.#toRemove
  }

  isWanted(key: K): boolean {
    return this.#desired.has(key)
  }

  actual(key: K): V | undefined {
    return this.#actual.get(key)
  }

  actualKeys(): Iterable<K> {
    return this.#actual.keys()
  }

  get wantedCount(): number {
    return this.#desired.size
  }

  get actualCount(): number {
    return this.#actual.size
  }

  get pendingCount(): number {
    return this.#toAdd.size + this.#toRemove.size
  }

  #compare(key: K): void {
    const wanted = this.#desired.get(key)
    const present = this.#actual.get(key)
    const settled = wanted !== undefined && present !== undefined && this.#same(wanted, present)
    keep(this.#toAdd, key, wanted !== undefined && !settled)
    keep(this.#toRemove, key, wanted === undefined && present !== undefined)
  }
}

function keep<K>(set: Set<K>, key: K, belongs: boolean): void {
  if (belongs) set.add(key)
  else set.delete(key)
}
