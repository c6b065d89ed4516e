import { ProxyError } from '../lib/errors.ts'

/** NLA_F_NESTED, NLA_F_NET_BYTEORDER of linux/netlink.h. */
export const attributeFlags = { nested: 0x8000, netByteOrder: 0x4000, typeMask: 0x3fff } as const

/** nla_len, nla_type. */
export const attributeHeaderLength = 4
/** nla_len is 16 bits wide. */
export const maxAttributeLength = 0xffff

function refuse(path: string, offset: number, what: string): never {
  throw new ProxyError('CODEC', `${path} at byte ${offset}: ${what}`, { path, offset })
}

/** A growing buffer: messages are written one after another and sent together, without a small Buffer each. */
export class Writer {
  buffer: Buffer
  length = 0

  constructor(size = 4096) {
    this.buffer = Buffer.allocUnsafe(size)
  }

  /** Makes room for `count` bytes more and answers where they start. */
  reserve(count: number): number {
    const start = this.length
    const end = start + count
    if (end > this.buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(end, this.buffer.length * 2))
      this.buffer.copy(larger, 0, 0, start)
      this.buffer = larger
    }
    this.length = end
    return start
  }

  /** Header of an attribute with a payload of known length, zero-padded to 4; answers where the payload starts. */
  attribute(type: number, payload: number): number {
    if (attributeHeaderLength + payload > maxAttributeLength)
      refuse(`attribute ${type}`, this.length, `${payload} bytes are too many`)
    const start = this.reserve(attributeHeaderLength + ((payload + 3) & ~3))
    this.word16(start, attributeHeaderLength + payload)
    this.word16(start + 2, type)
    for (let i = start + attributeHeaderLength + payload; i < this.length; i++) this.buffer[i] = 0
    return start + attributeHeaderLength
  }

  /** Starts an attribute whose length is not known yet; `endAttribute` takes the answer. */
  beginAttribute(type: number): number {
    const start = this.reserve(attributeHeaderLength)
    this.word16(start + 2, type)
    return start
  }

  endAttribute(start: number): void {
    const length = this.length - start
    if (length > maxAttributeLength) refuse('attribute', start, `${length} bytes are too many`)
    this.word16(start, length)
  }

  /** Bytes as they are, zero-padded to 4. */
  raw(bytes: Uint8Array): void {
    const start = this.reserve((bytes.length + 3) & ~3)
    this.buffer.set(bytes, start)
    this.buffer.fill(0, start + bytes.length, this.length)
  }

  /** A copy of what was written; the writer may go on. */
  bytes(from = 0): Buffer {
    return Buffer.from(this.buffer.subarray(from, this.length))
  }

  /** Overwrites 2 bytes that were reserved. */
  word16(at: number, value: number): void {
    putLe16(this.buffer, value, at)
  }

  /** Overwrites 4 bytes that were reserved. */
  word32(at: number, value: number): void {
    putLe32(this.buffer, value, at)
  }
}

/** How one kind of attribute is written and read. `read` gets the payload's bounds; `path` names it in errors. */
export interface FieldCodec<T> {
  write(writer: Writer, type: number, value: T): void
  read(buffer: Buffer, start: number, end: number, path: string): T
}

function fixed(
  length: number,
  flags: number,
  put: (buffer: Buffer, value: number, at: number) => void,
  get: (buffer: Buffer, at: number) => number,
): FieldCodec<number> {
  const most = 2 ** (8 * length) - 1
  return {
    write: (writer, type, value) => {
      if (!(value >= 0 && value <= most)) refuse(`attribute ${type}`, writer.length, `${value} is not within ${most}`)
      const at = writer.attribute(type | flags, length)
      put(writer.buffer, value, at)
    },
    read: (buffer, start, end, path) => {
      if (end - start !== length) refuse(path, start, `${end - start} bytes instead of ${length}`)
      return get(buffer, start)
    },
  }
}

// Plain stores: Buffer's own methods check each value, and these are called a million times in a cold start.
const putLe16 = (b: Buffer, v: number, at: number): void => {
  b[at] = v
  b[at + 1] = v >>> 8
}
const putLe32 = (b: Buffer, v: number, at: number): void => {
  b[at] = v
  b[at + 1] = v >>> 8
  b[at + 2] = v >>> 16
  b[at + 3] = v >>> 24
}
const putBe16 = (b: Buffer, v: number, at: number): void => {
  b[at] = v >>> 8
  b[at + 1] = v
}
const putBe32 = (b: Buffer, v: number, at: number): void => {
  b[at] = v >>> 24
  b[at + 1] = v >>> 16
  b[at + 2] = v >>> 8
  b[at + 3] = v
}
const getBe16 = (b: Buffer, at: number): number => b.readUInt16BE(at)
const getBe32 = (b: Buffer, at: number): number => b.readUInt32BE(at)

/** Numbers in the machine's order (x64 and arm64 are both little endian). */
export const u8 = fixed(
  1,
  0,
  (b, v, at) => void (b[at] = v),
  (b, at) => b.readUInt8(at),
)
export const u16 = fixed(2, 0, putLe16, (b, at) => b.readUInt16LE(at))
export const u32 = fixed(4, 0, putLe32, (b, at) => b.readUInt32LE(at))
/** Numbers in network order, as the kernel keeps them. */
export const be16 = fixed(2, 0, putBe16, getBe16)
export const be32 = fixed(4, 0, putBe32, getBe32)
/** The same with NLA_F_NET_BYTEORDER, which ipset demands. */
export const net16 = fixed(2, attributeFlags.netByteOrder, putBe16, getBe16)
export const net32 = fixed(4, attributeFlags.netByteOrder, putBe32, getBe32)

export const u64: FieldCodec<bigint> = {
  write: (writer, type, value) => {
    const at = writer.attribute(type, 8)
    writer.buffer.writeBigUInt64LE(value, at)
  },
  read: (buffer, start, end, path) => {
    if (end - start !== 8) refuse(path, start, `${end - start} bytes instead of 8`)
    return buffer.readBigUInt64LE(start)
  },
}

/** A 64-bit counter as a number: exact up to 2^53. */
export const count64: FieldCodec<number> = {
  write: (writer, type, value) => u64.write(writer, type, BigInt(value)),
  read: (buffer, start, end, path) => {
    if (end - start !== 8) refuse(path, start, `${end - start} bytes instead of 8`)
    return buffer.readUInt32LE(start) + buffer.readUInt32LE(start + 4) * 2 ** 32
  },
}

/** Text with its final NUL. */
export const text: FieldCodec<string> = {
  write: (writer, type, value) => {
    const length = Buffer.byteLength(value) + 1
    const at = writer.attribute(type, length)
    writer.buffer.write(value, at)
    writer.buffer[at + length - 1] = 0
  },
  read: (buffer, start, end, path) => {
    const nul = buffer.indexOf(0, start)
    if (nul < start || nul >= end) refuse(path, start, 'text without its final NUL')
    return buffer.toString('utf8', start, nul)
  },
}

/** Any bytes, as they are; what is read is a view of the buffer. */
export const bytes: FieldCodec<Uint8Array> = {
  write: (writer, type, value) => {
    const at = writer.attribute(type, value.length)
    writer.buffer.set(value, at)
  },
  read: (buffer, start, end) => buffer.subarray(start, end),
}

/** An attribute whose presence is the message (NLA_FLAG). */
export const flag: FieldCodec<true> = {
  write: (writer, type) => void writer.attribute(type, 0),
  read: (_buffer, start, end, path) => (end === start ? true : refuse(path, start, 'a flag with a payload')),
}

/** An address in `length` bytes, shorter ones zero-padded at the end. */
function address(length: number, flags: number): FieldCodec<Uint8Array> {
  return {
    write: (writer, type, value) => {
      if (value.length > length) refuse(`attribute ${type}`, writer.length, `an address of ${value.length} bytes`)
      const at = writer.attribute(type | flags, length)
      writer.buffer.set(value, at)
      for (let i = at + value.length; i < at + length; i++) writer.buffer[i] = 0
    },
    read: (buffer, start, end, path) =>
      end - start === length
        ? buffer.subarray(start, end)
        : refuse(path, start, `${end - start} bytes instead of ${length}`),
  }
}

/** union nf_inet_addr: 16 bytes, an IPv4 address zero-padded. */
export const ipAddress = address(16, 0)
/** 4 and 16 bytes with NLA_F_NET_BYTEORDER, as ipset has them. */
export const netIPv4 = address(4, attributeFlags.netByteOrder)
export const netIPv6 = address(16, attributeFlags.netByteOrder)

type Shape = Readonly<Record<string, readonly [type: number, codec: FieldCodec<unknown>]>>
type ValueOf<C> = C extends FieldCodec<infer T> ? T : never
type ValuesOf<S extends Shape> = { [K in keyof S]?: ValueOf<S[K][1]> | undefined }

/** A declared set of attributes. All are optional; what is required is the caller's to say. */
export interface Attributes<V> {
  readonly name: string
  write(writer: Writer, value: V): void
  encode(value: V): Buffer
  /** Unknown types are ignored: newer kernels send more than we know. */
  decode(buffer: Buffer, start?: number, end?: number): V
}
export type AttributesOf<A> = A extends Attributes<infer V> ? V : never

/** Walks the attributes between two offsets, their types without flags; refuses headers that do not fit. */
export function walk(
  buffer: Buffer,
  from: number,
  end: number,
  path: string,
  visit: (type: number, start: number, stop: number, buffer: Buffer) => void,
): void {
  let at = from
  while (at < end) {
    if (end - at < attributeHeaderLength) refuse(path, at, `${end - at} bytes are no attribute header`)
    const length = buffer.readUInt16LE(at)
    if (length < attributeHeaderLength || at + length > end)
      refuse(path, at, `attribute length ${length}, ${end - at} bytes left`)
    visit(buffer.readUInt16LE(at + 2) & attributeFlags.typeMask, at + attributeHeaderLength, at + length, buffer)
    at += (length + 3) & ~3
  }
}

/** Declares attributes once; the type of their values is read off the declaration. */
export function attributes<const S extends Shape>(name: string, shape: S): Attributes<ValuesOf<S>> {
  const fields = Object.entries(shape).map(([key, [type, codec]]) => ({ key, type, codec, path: `${name}.${key}` }))
  const byType: ((typeof fields)[number] | undefined)[] = []
  for (const field of fields) byType[field.type] = field
  const write = (writer: Writer, value: Readonly<Record<string, unknown>>): void => {
    for (const field of fields) {
      const part = value[field.key]
      if (part !== undefined) field.codec.write(writer, field.type, part)
    }
  }
  return {
    name,
    write,
    encode: (value) => {
      const writer = new Writer(256)
      write(writer, value)
      return writer.bytes()
    },
    decode: (buffer, start = 0, end = buffer.length) => {
      const value: Record<string, unknown> = {}
      walk(buffer, start, end, name, (type, from, to) => {
        const field = byType[type]
        if (field !== undefined) value[field.key] = field.codec.read(buffer, from, to, field.path)
      })
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- each field was read by its own codec
      return value as ValuesOf<S>
    },
  }
}

/** Attributes inside an attribute, marked NLA_F_NESTED. */
export function nested<V>(inner: Attributes<V>): FieldCodec<V> {
  return {
    write: (writer, type, value) => {
      const start = writer.beginAttribute(type | attributeFlags.nested)
      inner.write(writer, value)
      writer.endAttribute(start)
    },
    read: (buffer, start, end) => inner.decode(buffer, start, end),
  }
}

/** An attribute with a row of equal attributes inside, all of type `itemType`. */
export function nestedList<V>(itemType: number, item: FieldCodec<V>): FieldCodec<readonly V[]> {
  return {
    write: (writer, type, values) => {
      const start = writer.beginAttribute(type | attributeFlags.nested)
      for (const value of values) item.write(writer, itemType, value)
      writer.endAttribute(start)
    },
    read: (buffer, start, end, path) => {
      const values: V[] = []
      walk(buffer, start, end, path, (type, from, to) => {
        if (type === itemType) values.push(item.read(buffer, from, to, path))
      })
      return values
    },
  }
}
