import type { SetSpec } from './ipset.ts'

/** IPPROTO_*, by how an entry's text names them. */
export const protocolNumbers: ReadonlyMap<string, number> = new Map([
  ['tcp', 6],
  ['udp', 17],
  ['sctp', 132],
])
const named = [...protocolNumbers].map(([name, number]) => ({ prefix: `,${name}:`, number }))

const [zero, nine, dot] = [48, 57, 46]

/**
 * Reads entries of IPv4 in their canonical text by character, without an object for any of their parts: a cold start
 * has tens of thousands of them. What it refuses may be an entry all the same.
 */
export class PlainEntry {
  /** What was read last. Addresses are signed 32 bits; those parts that its type does not have are 0. */
  ip = 0
  protocol = 0
  port = 0
  ip2 = 0
  #at = 0

  /** Whether the text is such an entry of the set. */
  read(set: Pick<SetSpec, 'type' | 'family'>, text: string): boolean {
    const { type } = set
    if (set.family !== 'IPv4' || (type !== 'hash:ip' && type !== 'hash:ip,port' && type !== 'hash:ip,port,ip'))
      return false
    this.#at = 0
    this.protocol = this.port = this.ip2 = 0
    const ip = this.#address(text)
    if (ip === undefined) return false
    this.ip = ip
    if (type === 'hash:ip') return this.#at === text.length
    const protocol = named.find(({ prefix }) => text.startsWith(prefix, this.#at))
    if (protocol === undefined) return false
    this.protocol = protocol.number
    this.#at += protocol.prefix.length
    const port = this.#number(text, 65535)
    if (port === undefined) return false
    this.port = port
    if (type === 'hash:ip,port') return this.#at === text.length
    if (text[this.#at++] !== ',') return false
    const ip2 = this.#address(text)
    if (ip2 === undefined) return false
    this.ip2 = ip2
    return this.#at === text.length
  }

  #address(text: string): number | undefined {
    let address = 0
    for (let i = 0; i < 4; i++) {
      if (i > 0 && text.charCodeAt(this.#at++) !== dot) return undefined
      const octet = this.#number(text, 255)
      if (octet === undefined) return undefined
      address = (address << 8) | octet
    }
    return address
  }

  /** A decimal number without leading zeros. */
  #number(text: string, most: number): number | undefined {
    const from = this.#at
    let value = 0
    for (; this.#at < text.length; this.#at++) {
      const digit = text.charCodeAt(this.#at)
      if (digit < zero || digit > nine) break
      value = value * 10 + digit - zero
      if (value > most) return undefined
    }
    const digits = this.#at - from
    return digits === 0 || (digits > 1 && text.charCodeAt(from) === zero) ? undefined : value
  }
}
