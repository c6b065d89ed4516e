/** Mixes a word of 32 bits into a hash. */
export function step(hash: number, word: number): number {
  const mixed = Math.imul(hash ^ word, 0x9e3779b1)
  return mixed ^ (mixed >>> 15)
}

/** Ends a hash; different factors make two of one. */
export function finish(hash: number, factor: number): number {
  const mixed = Math.imul(hash ^ (hash >>> 16), factor)
  return mixed ^ (mixed >>> 13)
}

const modulus = 2 ** 52

/** A hash of 52 bits, against accidents only, out of two of 32. */
export function joined(first: number, second: number): number {
  return (finish(first, 0x85ebca6b) >>> 0) * 2 ** 20 + (finish(second, 0xc2b2ae35) >>> 12)
}

/** The sum of hashes, the same in any order. */
export function withHash(sum: number, hash: number): number {
  return (sum + hash) % modulus
}

/** Takes a hash out of a sum. */
export function withoutHash(sum: number, hash: number): number {
  return (sum - hash + modulus) % modulus
}
