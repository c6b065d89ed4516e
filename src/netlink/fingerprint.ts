import type { Received } from './header.ts'

/** Two sums over the words of messages, in their order. */
export class Fingerprint {
  #count = 0
  #first = 0x1f83d9ab
  #second = 0x5be0cd19

  add({ datagram, start, end }: Received): void {
    let first = this.#first
    let second = this.#second
    // Messages are padded to 4 bytes.
    for (let at = start; at < end; at += 4) {
      const word = datagram[at]! | (datagram[at + 1]! << 8) | (datagram[at + 2]! << 16) | (datagram[at + 3]! << 24)
      first = Math.imul(first ^ word, 0x9e3779b1)
      first ^= first >>> 15
      second = Math.imul(second + word, 0x85ebca6b)
      second ^= second >>> 13
    }
    this.#first = first
    this.#second = second
    this.#count++
  }

  get text(): string {
    return `${this.#count}:${this.#first >>> 0}:${this.#second >>> 0}`
  }
}
