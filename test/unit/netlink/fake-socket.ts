import { readMessages, type Received } from '../../../src/netlink/header.ts'
import type { OpenSocket, SocketPurpose } from '../../../src/netlink/socket.ts'

export interface FakeKernel {
  readonly open: OpenSocket
  /** Messages of each send, in order. */
  readonly sends: { readonly purpose: SocketPurpose; readonly messages: readonly Received[]; readonly bytes: number }[]
  opened: number
  closed: number
}

/** A netlink message with its header. */
export function message(type: number, sequence: number, payload: Buffer, flags = 0): Buffer {
  const bytes = Buffer.alloc(16 + ((payload.length + 3) & ~3))
  bytes.writeUInt32LE(16 + payload.length, 0)
  bytes.writeUInt16LE(type, 4)
  bytes.writeUInt16LE(flags, 6)
  bytes.writeUInt32LE(sequence, 8)
  payload.copy(bytes, 16)
  return bytes
}

/** A message that came, of this payload. */
export function received(payload: Buffer): Received {
  return readMessages(message(16, 1, payload))[0]!
}

/** NLMSG_ERROR (2) or NLMSG_DONE (3) with an errno. */
export function result(type: 2 | 3, sequence: number, errno: number, flags = 0, echo = Buffer.alloc(16)): Buffer {
  const number = Buffer.alloc(4)
  number.writeInt32LE(-errno)
  return message(type, sequence, Buffer.concat([number, echo]), flags)
}

/** A socket whose kernel is a function: messages of one send in, datagrams out. An Error fails the socket. */
export function fakeKernel(
  answer: (messages: readonly Received[], purpose: SocketPurpose) => readonly Buffer[] | Error,
): FakeKernel {
  const kernel: FakeKernel = {
    sends: [],
    opened: 0,
    closed: 0,
    open: (purpose, handlers) => {
      kernel.opened++
      return {
        send: (bytes) => {
          const messages = readMessages(bytes)
          kernel.sends.push({ purpose, messages, bytes: bytes.length })
          const datagrams = answer(messages, purpose)
          setImmediate(() => {
            if (datagrams instanceof Error) return handlers.error(datagrams)
            for (const datagram of datagrams) handlers.message(datagram)
          })
        },
        close: () => {
          kernel.closed++
        },
      }
    },
  }
  return kernel
}

/** Refuses messages as the function says, acknowledges those that ask for it. */
export function refusing(errnoOf: (message: Received) => number): (messages: readonly Received[]) => readonly Buffer[] {
  return (messages) =>
    messages.flatMap((one) => {
      const errno = errnoOf(one)
      return errno !== 0 || (one.flags & 4) !== 0 ? [result(2, one.sequence, errno)] : []
    })
}
