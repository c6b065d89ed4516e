import { familyOf, putAddress, unpackAddress } from './address.ts'

export interface EndpointRecord {
  readonly address: string
  readonly ready: boolean
  readonly serving: boolean
  readonly terminating: boolean
  /** On our own node. */
  readonly local: boolean
  /** Zone hints; undefined: no hints. */
  readonly zones?: readonly string[]
  /** Node hints; undefined: no hints. */
  readonly nodes?: readonly string[]
}

/** An endpoint of one port, whose address is still packed. */
export interface PortEndpoint extends Omit<EndpointRecord, 'address'> {
  /** Address and port, by `destinationId`. */
  readonly id: string
}

/** An endpoint whose address is still packed. */
export interface PackedEndpoint extends Omit<EndpointRecord, 'address'> {
  readonly packedAddress: string
}

interface Hints {
  readonly zones?: readonly string[]
  readonly nodes?: readonly string[]
}

const flagBits = { ready: 1, serving: 2, terminating: 4, local: 8 } as const

/**
 * The endpoints of a slice, all of one family, packed: the address and a byte of flags each. A cluster has ten times
 * more endpoints than anything else, and an object each is what would fill the memory.
 */
export class EndpointList implements Iterable<EndpointRecord> {
  /** Length of an address: 4 or 16. */
  readonly width: number
  readonly bytes: string
  /** By index; undefined: none has any. */
  readonly hints: readonly (Hints | undefined)[] | undefined

  private constructor(width: number, bytes: string, hints: readonly (Hints | undefined)[] | undefined) {
    this.width = width
    this.bytes = bytes
    this.hints = hints
  }

  static readonly empty = new EndpointList(4, '', undefined)

  static of(records: readonly EndpointRecord[]): EndpointList {
    const [first] = records
    if (first === undefined) return EndpointList.empty
    const width = familyOf(first.address) === 'IPv4' ? 4 : 16
    const bytes = Buffer.allocUnsafe(records.length * (width + 1))
    let at = 0
    let hinted = false
    for (const record of records) {
      hinted ||= record.zones !== undefined || record.nodes !== undefined
      at += putAddress(bytes, at, record.address)
      bytes[at++] = flagsOf(record)
    }
    return new EndpointList(width, bytes.toString('latin1', 0, at), hinted ? records.map(hintsOf) : undefined)
  }

  get length(): number {
    return this.bytes.length / (this.width + 1)
  }

  *packed(): Generator<PackedEndpoint> {
    const step = this.width + 1
    for (let at = 0, i = 0; at < this.bytes.length; at += step, i++) {
      const flags = this.bytes.charCodeAt(at + this.width)
      yield {
        packedAddress: this.bytes.slice(at, at + this.width),
        ready: (flags & flagBits.ready) !== 0,
        serving: (flags & flagBits.serving) !== 0,
        terminating: (flags & flagBits.terminating) !== 0,
        local: (flags & flagBits.local) !== 0,
        ...this.hints?.[i],
      }
    }
  }

  /** All of them as endpoints of a port. Planned by the hundred thousand: one object each. */
  ofPort(port: number): PortEndpoint[] {
    const packedPort = String.fromCharCode(port >> 8, port & 255)
    const { bytes, width, hints } = this
    const list: PortEndpoint[] = []
    for (let at = 0; at < bytes.length; at += width + 1) {
      const flags = bytes.charCodeAt(at + width)
      const endpoint = {
        id: bytes.slice(at, at + width) + packedPort,
        ready: (flags & flagBits.ready) !== 0,
        serving: (flags & flagBits.serving) !== 0,
        terminating: (flags & flagBits.terminating) !== 0,
        local: (flags & flagBits.local) !== 0,
      }
      list.push(hints === undefined ? endpoint : { ...endpoint, ...hints[list.length] })
    }
    return list
  }

  *[Symbol.iterator](): Generator<EndpointRecord> {
    for (const { packedAddress, ...rest } of this.packed()) {
      yield { address: unpackAddress(packedAddress, 0, this.width), ...rest }
    }
  }
}

function flagsOf(record: EndpointRecord): number {
  return (
    (record.ready ? flagBits.ready : 0) |
    (record.serving ? flagBits.serving : 0) |
    (record.terminating ? flagBits.terminating : 0) |
    (record.local ? flagBits.local : 0)
  )
}

function hintsOf({ zones, nodes }: EndpointRecord): Hints | undefined {
  if (zones === undefined && nodes === undefined) return undefined
  return { ...(zones === undefined ? {} : { zones }), ...(nodes === undefined ? {} : { nodes }) }
}
