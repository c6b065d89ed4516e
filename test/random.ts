/** Reproducible random numbers: the same seed gives the same sequence everywhere. 32 bits of state, not for secrets. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** 0 to 2³² − 1. A Weyl sequence through a mixer of multiplications and shifts. */
  seed(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
    return (mixed ^ (mixed >>> 16)) >>> 0
  }

  /** A whole number from 0 to below the limit. */
  below(limit: number): number {
    return Math.floor((this.seed() / 2 ** 32) * limit)
  }

  /** A whole number, both ends included. */
  between(least: number, most: number): number {
    return least + this.below(most - least + 1)
  }

  chance(probability: number): boolean {
    return this.seed() / 2 ** 32 < probability
  }

  pick<T>(list: readonly T[]): T {
    if (list.length === 0) throw new Error('nothing to pick from')
    return list[this.below(list.length)]!
  }

  /** So many of the list, or all of a shorter one, in random order. */
  some<T>(list: readonly T[], count: number): T[] {
    const rest = [...list]
    const chosen: T[] = []
    while (chosen.length < count && rest.length > 0) chosen.push(...rest.splice(this.below(rest.length), 1))
    return chosen
  }

  /** One of the words, each as often as its weight says. */
  weighted<T extends string>(weights: Readonly<Record<T, number>>): T {
    const entries = Object.entries<number>(weights)
    let at = this.below(entries.reduce((sum, [, weight]) => sum + weight, 0))
    for (const [word, weight] of entries) {
      if (at < weight) return word as T
      at -= weight
    }
    throw new Error('no weights')
  }
}
