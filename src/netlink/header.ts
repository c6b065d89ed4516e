import { ProxyError } from '../lib/errors.ts'
import type { Writer } from './attributes.ts'

/** struct nlmsghdr of linux/netlink.h: length u32, type u16, flags u16, sequence u32, port u32. */
export const headerLength = 16

/** NLM_F_* of linux/netlink.h. */
export const flags = {
  request: 0x1,
  multi: 0x2,
  ack: 0x4,
  dumpInterrupted: 0x10,
  dump: 0x300,
  exclusive: 0x200,
  create: 0x400,
} as const

/** NLMSG_* control types of linux/netlink.h. */
export const controlTypes = { noop: 1, error: 2, done: 3, overrun: 4, firstOther: 0x10 } as const

/** NETLINK_* protocols of linux/netlink.h. */
export const protocols = { route: 0, netfilter: 12, generic: 16 } as const

/** One message to send: the header's part of it and what writes the rest. */
export interface Message {
  readonly type: number
  /** Beyond NLM_F_REQUEST and NLM_F_ACK, which the connection sets. */
  readonly flags?: number
  write(writer: Writer): void
}

/** One received message, still in its datagram: most of a large dump is only glanced at. */
export class Received {
  readonly datagram: Buffer
  /** Where the payload begins and ends. */
  readonly start: number
  readonly end: number
  readonly type: number
  readonly flags: number
  readonly sequence: number

  constructor(datagram: Buffer, at: number, length: number) {
    this.datagram = datagram
    this.start = at + headerLength
    this.end = at + length
    this.type = datagram.readUInt16LE(at + 4)
    this.flags = datagram.readUInt16LE(at + 6)
    this.sequence = datagram.readUInt32LE(at + 8)
  }

  /** A view. */
  get payload(): Buffer {
    return this.datagram.subarray(this.start, this.end)
  }
}

/** Appends a message; answers where its header starts. */
export function writeMessage(writer: Writer, message: Message, extraFlags: number, sequence: number): number {
  const start = writer.reserve(headerLength)
  message.write(writer)
  writer.word32(start, writer.length - start)
  writer.word16(start + 4, message.type)
  writer.word16(start + 6, (message.flags ?? 0) | flags.request | extraFlags)
  writer.word32(start + 8, sequence)
  writer.word32(start + 12, 0)
  return start
}

/** Adds flags to a message already written. */
export function addFlags(buffer: Buffer, start: number, extra: number): void {
  buffer.writeUInt16LE(buffer.readUInt16LE(start + 6) | extra, start + 6)
}

/** The messages of one datagram. */
export function readMessages(datagram: Buffer): Received[] {
  const messages: Received[] = []
  let at = 0
  while (at < datagram.length) {
    const left = datagram.length - at
    const length = left < headerLength ? 0 : datagram.readUInt32LE(at)
    if (length < headerLength || length > left) {
      throw new ProxyError('CODEC', `netlink message at byte ${at}: length ${length}, ${left} bytes left`, {
        path: 'nlmsghdr',
        offset: at,
      })
    }
    messages.push(new Received(datagram, at, length))
    at += (length + 3) & ~3
  }
  return messages
}

/** struct nlmsgerr or NLMSG_DONE's number: positive errno, 0 for an acknowledgement. */
export function readErrno(payload: Buffer): number {
  if (payload.length < 4) {
    throw new ProxyError('CODEC', `netlink answer of ${payload.length} bytes has no error number`, {
      path: 'nlmsgerr',
      offset: 0,
    })
  }
  return 0 - payload.readInt32LE(0) // 0 stays 0, not -0
}

/** Payload of the request that an error repeats; empty where the kernel left it out. */
export function readEcho(payload: Buffer): Buffer {
  return payload.subarray(Math.min(payload.length, 4 + headerLength))
}
