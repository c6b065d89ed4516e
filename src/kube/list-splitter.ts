import { ProxyError } from '../lib/errors.ts'

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const COLON = 0x3a
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d

/** What the splitter stands before. */
type State = 'start' | 'first-key' | 'key' | 'colon' | 'value' | 'comma' | 'first-item' | 'item' | 'item-comma' | 'end'

/** No object of the API server's store is nearly as large: more bytes in one value are no list of objects. */
const mostValueBytes = 32 * 1024 * 1024

/**
 * Splits the JSON text of a Kubernetes list into its items as the bytes come, in any chunking: the list as a whole,
 * tens of megabytes in a large cluster, is never in memory. Members may be in any order.
 */
export class ListSplitter {
  readonly #onItem: (json: string) => void
  readonly #head: Record<string, unknown> = {}
  #state: State = 'start'
  #key = ''
  /** Bytes of the value being read that came in earlier chunks. */
  #parts: Uint8Array[] = []
  #partsLength = 0
  readonly #most: number
  #reading: 'key' | 'value' | 'item' | undefined
  #scalar = false
  #depth = 0
  #inString = false
  #escaped = false

  constructor(onItem: (json: string) => void, most = mostValueBytes) {
    this.#onItem = onItem
    this.#most = most
  }

  /** Takes the next bytes, which are kept until their value ends and must not be overwritten. */
  push(chunk: Uint8Array): void {
    let start = 0
    let i = 0
    while (i < chunk.length) {
      if (this.#reading === undefined) {
        i = this.#between(chunk, i)
        start = i
        continue
      }
      const end = this.#scan(chunk, i)
      if (end < 0) break
      this.#finish(chunk.subarray(start, end))
      i = end
    }
    if (this.#reading === undefined || start === chunk.length) return
    this.#parts.push(chunk.subarray(start))
    this.#partsLength += chunk.length - start
    if (this.#partsLength > this.#most) {
      throw new ProxyError('CODEC', `the list has a value of more than ${this.#most} bytes`)
    }
  }

  /** The list's members other than `items`; throws where the list is not complete. */
  end(): Readonly<Record<string, unknown>> {
    if (this.#state !== 'end') throw new ProxyError('CODEC', 'the list ends in the middle')
    return this.#head
  }

  /** Handles one byte outside of values; returns the index to go on at. */
  #between(chunk: Uint8Array, i: number): number {
    const c = chunk[i]!
    if (c === 0x20 || c === 0x0a || c === 0x0d || c === 0x09) return i + 1
    switch (this.#state) {
      case 'start':
        return this.#step(c === OPEN_BRACE, 'first-key', i)
      case 'first-key':
        if (c === CLOSE_BRACE) return this.#step(true, 'end', i)
        return this.#begin('key', c === QUOTE, i)
      case 'key':
        return this.#begin('key', c === QUOTE, i)
      case 'colon':
        return this.#step(c === COLON, 'value', i)
      case 'value':
        if (this.#key === 'items' && c === OPEN_BRACKET) return this.#step(true, 'first-item', i)
        return this.#begin('value', true, i, c)
      case 'comma':
        return this.#step(c === COMMA || c === CLOSE_BRACE, c === COMMA ? 'key' : 'end', i)
      case 'first-item':
        if (c === CLOSE_BRACKET) return this.#step(true, 'comma', i)
        return this.#begin('item', c === OPEN_BRACE, i)
      case 'item':
        return this.#begin('item', c === OPEN_BRACE, i)
      case 'item-comma':
        return this.#step(c === COMMA || c === CLOSE_BRACKET, c === COMMA ? 'item' : 'comma', i)
      default:
        return this.#step(false, 'end', i)
    }
  }

  #step(valid: boolean, next: State, i: number): number {
    if (!valid) throw new ProxyError('CODEC', `the list is not JSON: unexpected byte before ${this.#state}`)
    this.#state = next
    return i + 1
  }

  #begin(reading: 'key' | 'value' | 'item', valid: boolean, i: number, c?: number): number {
    if (!valid) this.#step(false, this.#state, i)
    this.#reading = reading
    this.#depth = 0
    this.#inString = false
    this.#escaped = false
    this.#scalar = c !== undefined && c !== QUOTE && c !== OPEN_BRACE && c !== OPEN_BRACKET
    return i
  }

  /** Index after the value's last byte, or -1 where the chunk ends first. */
  #scan(chunk: Uint8Array, from: number): number {
    const length = chunk.length
    if (this.#scalar) {
      for (let i = from; i < length; i++) {
        const c = chunk[i]!
        if (c === COMMA || c === CLOSE_BRACE || c === CLOSE_BRACKET || c <= 0x20) return i
      }
      return -1
    }
    let depth = this.#depth
    let inString = this.#inString
    let escaped = this.#escaped
    for (let i = from; i < length; i++) {
      const c = chunk[i]!
      if (inString) {
        if (escaped) escaped = false
        else if (c === BACKSLASH) escaped = true
        else if (c === QUOTE) {
          inString = false
          if (depth === 0) return i + 1
        }
      } else if (c === QUOTE) inString = true
      else if (c === OPEN_BRACE || c === OPEN_BRACKET) depth++
      else if ((c === CLOSE_BRACE || c === CLOSE_BRACKET) && --depth === 0) return i + 1
    }
    this.#depth = depth
    this.#inString = inString
    this.#escaped = escaped
    return -1
  }

  #finish(last: Uint8Array): void {
    const bytes = this.#parts.length === 0 ? last : Buffer.concat([...this.#parts, last])
    this.#parts = []
    this.#partsLength = 0
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8')
    const reading = this.#reading
    this.#reading = undefined
    if (reading === 'item') {
      this.#state = 'item-comma'
      this.#onItem(text)
      return
    }
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch (error) {
      throw new ProxyError('CODEC', 'the list is not JSON', {}, error)
    }
    if (reading === 'key') {
      this.#key = String(value)
      this.#state = 'colon'
      return
    }
    // A list without items may say null; anything else there is no list.
    if (this.#key === 'items' && value !== null) throw new ProxyError('CODEC', "the list's items are not a list")
    this.#head[this.#key] = value
    this.#state = 'comma'
  }
}
