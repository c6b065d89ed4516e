import { addressText, type Family, type Protocol } from '../model/address.ts'
import type { ServerId } from '../model/virtual-server.ts'
import type { ServerStanding } from './ipvs.ts'

/** Frequencies that kernels are built with (CONFIG_HZ): the file shows persistence in ticks. */
export const kernelFrequencies = [100, 250, 300, 1000]

/** What a line says of a virtual server; the parser fills the same object again for the next one. */
export class ProcServer {
  family: Family = 'IPv4'
  protocol: Protocol = 'TCP'
  /** The address as signed 32-bit words; an IPv4 address is the fourth. */
  readonly words = new Int32Array(4)
  port = 0
  scheduler = ''
  /** Persistence timeout in the kernel's own ticks, 0 without persistence. */
  ticks = 0
  onePacket = false

  /** Made when asked for: whoever only adds up needs no texts. */
  get id(): ServerId {
    const { family, protocol, words, port } = this
    return { family, protocol, address: wordsText(family, words), port }
  }
}

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
  server(server: ProcServer): void
  /** Of the server last given. */
  destination(destination: ProcDestination): void
}

/** By the bytes of their names as one number. */
const protocols = new Map<number, Protocol>(
  (['TCP', 'UDP', 'SCTP'] as const).map((name) => [Buffer.from(name).reduce((word, c) => (word << 8) | c, 0), name]),
)

/** First letters of the names of IP_VS_CONN_F_* in the column Forward: Masq, Local, Tunnel, Route, Bypass. */
const forwardingByLetter = new Int8Array(256).fill(-1)
for (const [number, letter] of Buffer.from('MLTRB').entries()) forwardingByLetter[letter] = number

const hexDigits = new Int8Array(256).fill(-1)
for (const [value, digit] of Buffer.from('0123456789abcdef').entries()) hexDigits[digit] = value
for (const [value, digit] of Buffer.from('ABCDEF').entries()) hexDigits[digit] = value + 10

const SPACE = 0x20
const NEWLINE = 0x0a
const MINUS = 0x2d
const COLON = 0x3a
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d

/** Columns of a destination's line after its port: six blanks, "%-7s %-6d %-10d %-10d". The last numbers begin here at least. */
const columnsAfterPort = { forwarding: 6, weight: 14, connections: 32 } as const
const widths = { weight: 6, connections: 10 } as const

/**
 * Reads /proc/net/ip_vs (ip_vs_info_seq_show) as its bytes come, in any chunking. Lines that are no server of TCP, UDP or
 * SCTP and no destination of one are passed over. A hundred thousand lines are usual: their columns are where they are, and
 * nothing is searched for.
 */
export class ProcParser {
  readonly #visitor: ProcVisitor
  readonly #server = new ProcServer()
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
  /** Where the next number of a destination's line begins. */
  #column = 0
  /** The end of the last server's line, scheduler and flags: that of the next one is nearly always the same. */
  #tail = Buffer.alloc(0)

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
    const server = this.#server
    let at = this.#at
    this.#skipLine(bytes)
    const end = this.#at - 1
    let name = 0
    for (; at < end && bytes[at] !== SPACE; at++) name = (name << 8) | bytes[at]!
    while (at < end && bytes[at] === SPACE) at++
    const protocol = protocols.get(name)
    this.#inServer = false
    if (protocol === undefined) return
    at = readAddress(bytes, at, server)
    if (at < 0 || bytes[at] !== COLON) return
    const port = hexWord(bytes, at + 1, at + 5)
    if (port < 0) return
    server.protocol = protocol
    server.port = port
    this.#readTail(bytes, at + 5, end)
    this.#inServer = true
    this.#visitor.server(server)
  }

  #readTail(bytes: Buffer, from: number, end: number): void {
    const tail = this.#tail
    let same = tail.length === end - from
    for (let i = 0; same && i < tail.length; i++) same = tail[i] === bytes[from + i]
    if (same) return
    this.#tail = Buffer.from(bytes.subarray(from, end))
    const words = this.#tail.toString('latin1').split(' ').filter(Boolean)
    const persistent = words.indexOf('persistent')
    this.#server.scheduler = words[0] ?? ''
    this.#server.ticks = persistent < 0 ? 0 : Number(words[persistent + 1])
    this.#server.onePacket = words.includes('ops')
  }

  #readDestination(bytes: Buffer): void {
    const found = this.#destination
    let at = this.#inServer ? readAddress(bytes, this.#at + 5, found) : -1
    this.#skipLine(bytes)
    const end = this.#at - 1
    const port = at < 0 || bytes[at] !== COLON ? -1 : hexWord(bytes, at + 1, at + 5)
    at += 5
    // A shorter line has not all columns: what would be read belongs to the next one.
    if (port < 0 || at + columnsAfterPort.connections >= end) return
    found.port = port
    found.forwarding = forwardingByLetter[bytes[at + columnsAfterPort.forwarding]!]!
    this.#column = at + columnsAfterPort.weight
    found.weight = this.#readNumber(bytes, widths.weight)
    found.activeConnections = this.#readNumber(bytes, widths.connections)
    found.inactiveConnections = this.#readNumber(bytes, widths.connections)
    if (found.forwarding >= 0) this.#visitor.destination(found)
  }

  #skipLine(bytes: Buffer): void {
    let at = this.#at
    while (bytes[at] !== NEWLINE) at++
    this.#at = at + 1
  }

  /** A number padded to a width, and the blank after it. */
  #readNumber(bytes: Buffer, width: number): number {
    const start = this.#column
    let at = start
    const negative = bytes[at] === MINUS
    if (negative) at++
    let number = 0
    for (let c = bytes[at]!; c >= 0x30 && c <= 0x39; c = bytes[++at]!) number = number * 10 + c - 0x30
    this.#column = Math.max(at, start + width) + 1
    return negative ? -number : number
  }
}

/** A number of hexadecimal digits; negative where one of them is none. */
function hexWord(bytes: Buffer, from: number, end: number): number {
  let word = 0
  let all = 0
  for (let at = from; at < end; at++) {
    const digit = hexDigits[bytes[at]!]!
    all |= digit
    word = (word << 4) | digit
  }
  return all < 0 ? -1 : word
}

/**
 * An address as the file writes it, "0A600001" or "[fd00:0000:0000:0000:0000:0000:0000:000a]"; answers where it ends, -1
 * where it is none.
 */
function readAddress(bytes: Buffer, from: number, into: { family: Family; readonly words: Int32Array }): number {
  const { words } = into
  if (bytes[from] !== OPEN_BRACKET) {
    const upper = hexWord(bytes, from, from + 4)
    const lower = hexWord(bytes, from + 4, from + 8)
    if ((upper | lower) < 0) return -1
    if (into.family !== 'IPv4') words.fill(0)
    words[3] = (upper << 16) | lower
    into.family = 'IPv4'
    return from + 8
  }
  if (bytes[from + 40] !== CLOSE_BRACKET) return -1
  for (let i = 0; i < 4; i++) {
    const upper = hexWord(bytes, from + 1 + 10 * i, from + 5 + 10 * i)
    const lower = hexWord(bytes, from + 6 + 10 * i, from + 10 + 10 * i)
    if ((upper | lower) < 0) return -1
    words[i] = (upper << 16) | lower
  }
  into.family = 'IPv6'
  return from + 41
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

  server({ id }: ProcServer): void {
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

/** Text of an address out of its words. */
export function wordsText(family: Family, words: Int32Array): string {
  if (family === 'IPv4') {
    const word = words[3]!
    return `${word >>> 24}.${(word >>> 16) & 255}.${(word >>> 8) & 255}.${word & 255}`
  }
  const bytes = Buffer.alloc(16)
  for (const [i, word] of words.entries()) bytes.writeInt32BE(word, 4 * i)
  return addressText(bytes)
}
