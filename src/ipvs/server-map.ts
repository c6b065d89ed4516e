import type { DestinationList } from '../model/destination-list.ts'

interface WithDestinations {
  readonly destinations: DestinationList
}

/** Virtual servers by key; how many of them count, and all of their destinations, is kept current. */
export class ServerMap<T extends WithDestinations> extends Map<string, T> {
  readonly #counts: (one: T) => boolean
  #servers = 0
  #destinations = 0

  constructor(counts: (one: T) => boolean = () => true) {
    super()
    this.#counts = counts
  }

  get serverCount(): number {
    return this.#servers
  }

  get destinationCount(): number {
    return this.#destinations
  }

  override set(key: string, one: T): this {
    this.#note(this.get(key), -1)
    this.#note(one, 1)
    return super.set(key, one)
  }

  override delete(key: string): boolean {
    this.#note(this.get(key), -1)
    return super.delete(key)
  }

  #note(one: T | undefined, sign: 1 | -1): void {
    if (one === undefined || !this.#counts(one)) return
    this.#servers += sign
    this.#destinations += sign * one.destinations.length
  }
}
