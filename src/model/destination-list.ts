import { finish, step } from '../lib/digest.ts'
import { familyOf, putAddress, unpackAddress } from './address.ts'
import type { Destination } from './virtual-server.ts'

const weightLength = 4
/** So long is what follows an address in `bytes`: its port in 2, its weight in 4, both with the highest byte first. */
export const portAndWeight = 2 + weightLength
/** ::ffff:0:0/96 (RFC 4291, 2.5.5.2). */
export const mappedPrefix = '\0\0\0\0\0\0\0\0\0\0\u00ff\u00ff'

/**
 * The destinations of a virtual server, packed: address, port and weight of each, in order of these bytes, so that lists
 * of the same destinations are the same text. An IPv4 address among IPv6 ones is kept in its mapped form.
 */
export class DestinationList implements Iterable<Destination> {
  /** Length of an address: 4 or 16. */
  readonly width: number
  readonly bytes: string
  #digest: readonly [number, number] | undefined

  private constructor(width: number, bytes: string) {
    this.width = width
    this.bytes = bytes
  }

  static readonly empty = new DestinationList(4, '')

  static of(destinations: readonly Destination[]): DestinationList {
    if (destinations.length === 0) return DestinationList.empty
    const width = destinations.every(({ address }) => familyOf(address) === 'IPv4') ? 4 : 16
    return DestinationList.ofIds(
      destinations.map((one) => destinationId(one.address, one.port, width)),
      destinations.map(({ weight }) => weight),
    )
  }

  /** Of ids by `destinationId`, all of one width; the weight is one for all, or one each. */
  static ofIds(ids: readonly string[], weights: number | readonly number[]): DestinationList {
    const [first] = ids
    if (first === undefined) return DestinationList.empty
    const common = typeof weights === 'number' ? packWeight(weights) : ''
    const entries = ids.map((id, i) => id + (typeof weights === 'number' ? common : packWeight(weights[i]!)))
    return new DestinationList(first.length - 2, asOne(entries.sort().join('')))
  }

  get length(): number {
    return this.bytes.length / (this.width + 2 + weightLength)
  }

  equals(other: DestinationList): boolean {
    return this === other || this.bytes === other.bytes
  }

  *[Symbol.iterator](): Generator<Destination> {
    for (const [id, weight] of this.weights()) yield { ...destinationOf(id), weight }
  }

  /** Id and weight of each. */
  *weights(): Generator<readonly [id: string, weight: number]> {
    const idLength = this.width + 2
    for (let at = 0; at < this.bytes.length; at += idLength + weightLength) {
      yield [this.bytes.slice(at, at + idLength), unpackWeight(this.bytes, at + idLength)]
    }
  }

  /** The same destinations with addresses of 16 bytes; itself where they have. */
  widened(): DestinationList {
    if (this.width === 16) return this
    const entries = [...this.weights()]
    const ids = entries.map(([id]) => mappedPrefix + id)
    return DestinationList.ofIds(
      ids,
      entries.map(([, weight]) => weight),
    )
  }

  /** A sum over all destinations, the same in any order: see `DestinationDigest`. */
  get digest(): readonly [number, number] {
    if (this.#digest !== undefined) return this.#digest
    const digest = new DestinationDigest()
    const { bytes, width } = this
    const word = (at: number): number =>
      (bytes.charCodeAt(at) << 24) |
      (bytes.charCodeAt(at + 1) << 16) |
      (bytes.charCodeAt(at + 2) << 8) |
      bytes.charCodeAt(at + 3)
    for (let at = 0; at < bytes.length; at += width + 2 + weightLength) {
      const port = (bytes.charCodeAt(at + width) << 8) | bytes.charCodeAt(at + width + 1)
      const weight = unpackWeight(bytes, at + width + 2)
      if (width === 4) digest.add(0, 0, 0, word(at), port, weight)
      else digest.add(word(at), word(at + 4), word(at + 8), word(at + 12), port, weight)
    }
    return (this.#digest = digest.sums)
  }
}

/** Adds up destinations so that equal sets have equal sums, whatever their order: 64 bits, against accidents only. */
export class DestinationDigest {
  #first = 0
  #second = 0

  /** An IPv4 address is the fourth word; the words are signed 32 bits. */
  add(a: number, b: number, c: number, d: number, port: number, weight: number): void {
    let h = 0x2f0b4a27
    h = step(h, a)
    h = step(h, b)
    h = step(h, c)
    h = step(h, d)
    h = step(h, port)
    h = step(h, weight)
    this.#first = (this.#first + finish(h, 0x85ebca6b)) | 0
    this.#second = (this.#second + finish(h ^ Math.imul(d, 0x27d4eb2f) ^ port, 0xc2b2ae35)) | 0
  }

  get sums(): readonly [number, number] {
    return [this.#first, this.#second]
  }

  reset(): void {
    this.#first = 0
    this.#second = 0
  }
}

/** A buffer for each of many small texts would be one of malloc's, too. */
const scratch = Buffer.alloc(4096)

/** A joined text keeps its parts until it is looked into: this makes it one. */
function asOne(text: string): string {
  if (text.length > scratch.length) return Buffer.from(text, 'latin1').toString('latin1')
  return scratch.toString('latin1', 0, scratch.write(text, 'latin1'))
}

/** Address and port as text of `width` + 2 characters up to U+00FF: equal destinations have equal ids. */
export function destinationId(address: string, port: number, width = familyOf(address) === 'IPv4' ? 4 : 16): string {
  if (putAddress(scratch, width === 16 && familyOf(address) === 'IPv4' ? 12 : 0, address) < width) {
    scratch.fill(0, 0, 10)
    scratch.fill(0xff, 10, 12)
  }
  scratch[width] = port >>> 8
  scratch[width + 1] = port & 255
  return scratch.toString('latin1', 0, width + 2)
}

/** What an id stands for. */
export function destinationOf(id: string): { address: string; port: number } {
  const width = id.length - 2
  const mapped = width === 16 && id.startsWith(mappedPrefix)
  return {
    address: mapped ? unpackAddress(id, 12, 4) : unpackAddress(id, 0, width),
    port: (id.charCodeAt(width) << 8) | id.charCodeAt(width + 1),
  }
}

function packWeight(weight: number): string {
  return String.fromCharCode((weight >>> 24) & 255, (weight >>> 16) & 255, (weight >>> 8) & 255, weight & 255)
}

function unpackWeight(text: string, at: number): number {
  return (
    (text.charCodeAt(at) << 24) |
    (text.charCodeAt(at + 1) << 16) |
    (text.charCodeAt(at + 2) << 8) |
    text.charCodeAt(at + 3)
  )
}
