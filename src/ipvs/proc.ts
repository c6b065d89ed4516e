import { addressBytes, addressText, type Family, type Protocol } from '../model/address.ts'
import type { ServerId } from '../model/virtual-server.ts'
import type { ServerStanding } from './ipvs.ts'

/** One line of a destination; the parser fills the same object again for the next one. */
export interface ProcDestination {
  family: Family
  /** The address as signed 32-bit words; an IPv4 address is the fourth. */
  readonly words: Int32Array
  port: number
  /** IP_VS_CONN_F_FWD_MASK by that column: -1 where it is none that we know. */
  forwarding: number
  weight: number
  activeConnections: number
  inactiveConnections: number
}

/** Gets what the file says, in its order. */
export interface ProcVisitor {
  /** `ticks`: persistence timeout in the kernel's own ticks, 0 without persistence. */
  server(id: ServerId, scheduler: string, ticks: number, onePacket: boolean): void
  /** Of the server last given. */
  destination(destination: ProcDestination): void
}

const protocols = new Map<string, Protocol>([
  ['TCP', 'TCP'],
  ['UDP', 'UDP'],
  ['SCTP', 'SCTP'],
])

/** First letters of the names of IP_VS_CONN_F_* in the column Forward: Masq, Local, Tunnel, Route, Bypass. */
const forwardingByLetter = new Map(Array.from(Buffer.from('MLTRB'), (letter, number) => [letter, number]))

const SPACE = 0x20
const NEWLINE = 0x0a
const MINUS = 0x2d
const OPEN_BRACKET = 0x5b

/**
 * Reads /proc/net/ip_vs (ip_vs_info_seq_show) as its bytes come, in any chunking. Lines that are no server of TCP, UDP or
 * SCTP and no destination of one are passed over.
 */
export class ProcParser {
  readonly #visitor: ProcVisitor
  readonly #destination: ProcDestination = {
    family: 'IPv4',
    words: new Int32Array(4),
    port: 0,
    forwarding: -1,
    weight: 0,
    activeConnections: 0,
    inactiveConnections: 0,
  }
  /** What has come and is not read yet, at its beginning. */
  #bytes = Buffer.allocUnsafe(16_384)
  #length = 0
  #inServer = false
  #at = 0

  constructor(visitor: ProcVisitor) {
    this.#visitor = visitor
  }

  /** The chunk may be overwritten afterwards. */
  push(chunk: Buffer): void {
    const length = this.#length + chunk.length
    if (length > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(2 * length)
      this.#bytes.copy(larger, 0, 0, this.#length)
      this.#bytes = larger
    }
    const bytes = this.#bytes
    chunk.copy(bytes, this.#length)
    const end = bytes.subarray(0, length).lastIndexOf(NEWLINE) + 1
    this.#at = 0
    while (this.#at < end) {
      if (bytes[this.#at] === SPACE && bytes[this.#at + 2] === MINUS) this.#readDestination(bytes)
      else this.#readServer(bytes)
    }
    // The beginning of a line whose end has not come yet.
    bytes.copyWithin(0, end, length)
    this.#length = length - end
  }

  #readServer(bytes: Buffer): void {
    const end = bytes.indexOf(NEWLINE, this.#at)
    const words = bytes.toString('latin1', this.#at, end).split(' ').filter(Boolean)
    this.#at = end + 1
    const protocol = protocols.get(words[0] ?? '')
    const id = protocol === undefined ? undefined : readId(protocol, words[1] ?? '')
    this.#inServer = id !== undefined
    if (id === undefined) return
    const persistent = words.indexOf('persistent')
    const ticks = persistent < 0 ? 0 : Number(words[persistent + 1])
    this.#visitor.server(id, words[2] ?? '', ticks, words.includes('ops'))
  }

  #readDestination(bytes: Buffer): void {
    const found = this.#destination
    let at = this.#at + 5
    let valid = this.#inServer
    if (bytes[at] === OPEN_BRACKET) {
      const close = bytes.indexOf(0x5d, at)
      const address = addressBytes(bytes.toString('latin1', at + 1, close))
      for (let i = 0; i < 4; i++) {
        found.words[i] =
          (address[4 * i]! << 24) | (address[4 * i + 1]! << 16) | (address[4 * i + 2]! << 8) | address[4 * i + 3]!
      }
      found.family = 'IPv6'
      at = close + 1
    } else {
      let word = 0
      for (const end = at + 8; at < end; at++) {
        const digit = hexDigit(bytes[at]!)
        if (digit < 0) valid = false
        word = (word << 4) | digit
      }
      found.words.fill(0, 0, 3)
      found.words[3] = word
      found.family = 'IPv4'
    }
    if (bytes[at] !== 0x3a) valid = false
    if (!valid) {
      this.#at = bytes.indexOf(NEWLINE, this.#at) + 1
      return
    }
    let port = 0
    for (at++; bytes[at] !== SPACE && bytes[at] !== NEWLINE; at++) port = (port << 4) | hexDigit(bytes[at]!)
    found.port = port
    this.#at = at
    this.#skipSpaces(bytes)
    found.forwarding = forwardingByLetter.get(bytes[this.#at]!) ?? -1
    while (bytes[this.#at] !== SPACE && bytes[this.#at] !== NEWLINE) this.#at++
    found.weight = this.#readNumber(bytes)
    found.activeConnections = this.#readNumber(bytes)
    found.inactiveConnections = this.#readNumber(bytes)
    this.#skipSpaces(bytes)
    while (bytes[this.#at] !== NEWLINE) this.#at++
    this.#at++
    if (found.forwarding >= 0) this.#visitor.destination(found)
  }

  #skipSpaces(bytes: Buffer): void {
    while (bytes[this.#at] === SPACE) this.#at++
  }

  #readNumber(bytes: Buffer): number {
    this.#skipSpaces(bytes)
    const negative = bytes[this.#at] === MINUS
    if (negative) this.#at++
    let number = 0
    for (let c = bytes[this.#at]!; c >= 0x30 && c <= 0x39; c = bytes[++this.#at]!) number = number * 10 + c - 0x30
    return negative ? -number : number
  }
}

/** Sums up the destinations of each virtual server. */
export class StandingVisitor implements ProcVisitor {
  readonly #tell: (server: ServerId, standing: ServerStanding) => void
  readonly #sum = { ready: 0, draining: 0, activeConnections: 0, inactiveConnections: 0 }
  #current: ServerId | undefined

  /** `tell` gets the same sums, filled again, each time. */
  constructor(tell: (server: ServerId, standing: ServerStanding) => void) {
    this.#tell = tell
  }

  server(id: ServerId): void {
    this.end()
    this.#current = id
  }

  destination({ weight, activeConnections, inactiveConnections }: ProcDestination): void {
    if (weight === 0) this.#sum.draining++
    else this.#sum.ready++
    this.#sum.activeConnections += activeConnections
    this.#sum.inactiveConnections += inactiveConnections
  }

  /** Tells the last server. */
  end(): void {
    if (this.#current !== undefined) this.#tell(this.#current, this.#sum)
    this.#current = undefined
    Object.assign(this.#sum, { ready: 0, draining: 0, activeConnections: 0, inactiveConnections: 0 })
  }
}

/** "0A600001:01BB", "[fd00:0000:0000:0000:0000:0000:0000:000a]:0035" */
function readId(protocol: Protocol, text: string): ServerId | undefined {
  const colon = text.lastIndexOf(':')
  const port = Number.parseInt(text.slice(colon + 1), 16)
  const host = text.slice(0, colon)
  if (colon < 0 || Number.isNaN(port)) return undefined
  if (host.startsWith('[')) {
    return { family: 'IPv6', protocol, address: addressText(addressBytes(host.slice(1, -1))), port }
  }
  if (!/^[0-9A-F]{8}$/.test(host)) return undefined
  return { family: 'IPv4', protocol, address: hexAddress(host), port }
}

/** An IPv4 address of eight hexadecimal digits. */
function hexAddress(digits: string): string {
  return [0, 2, 4, 6].map((at) => Number.parseInt(digits.slice(at, at + 2), 16)).join('.')
}

function hexDigit(c: number): number {
  if (c >= 0x30 && c <= 0x39) return c - 0x30
  return c >= 0x41 && c <= 0x46 ? c - 0x37 : -1
}

/** Text of an address out of its words. */
export function wordsText(family: Family, words: Int32Array): string {
  const bytes = Buffer.alloc(16)
  for (const [i, word] of words.entries()) bytes.writeInt32BE(word, 4 * i)
  return addressText(family === 'IPv4' ? bytes.subarray(12) : bytes)
}
