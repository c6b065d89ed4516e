import { RawNetlinkSocket } from 'netlink/dist/raw.js'
import { ProxyError } from '../lib/errors.ts'
import { kernelError } from './errno.ts'

/** What a raw socket calls. Neither may throw into the native code. */
export interface SocketHandlers {
  /** One datagram from the kernel. */
  message(datagram: Buffer): void
  /** The socket is of no use any more. */
  error(error: Error): void
}

/** A netlink socket, no more than what travels over it. */
export interface RawSocket {
  /** The buffer belongs to the socket from here on. */
  send(bytes: Buffer): void
  close(): void
}

/** Requests are answered in small datagrams of any size, dumps in ones that fill the buffer: two ways to receive. */
export type SocketPurpose = 'requests' | 'dumps'

export type OpenSocket = (purpose: SocketPurpose, handlers: SocketHandlers) => RawSocket

/** The largest that needs no right; the kernel doubles it. An overrun would abort the process. */
const bufferSize = 212992

/** The socket reads 32 datagrams in a row, in which nothing else has its turn. */
const dumpBufferSize = 8192

/** Opens sockets of a NETLINK_* protocol in the process's network namespace. */
export function openRawSocket(protocol: number): OpenSocket {
  return (purpose, handlers) => {
    const buffers = { recvBufferSize: bufferSize, sendBufferSize: bufferSize }
    const reading = purpose === 'dumps' ? { messagePeeking: false, msgBufferSize: dumpBufferSize } : {}
    let socket: RawNetlinkSocket
    try {
      socket = new RawNetlinkSocket(protocol, { ...buffers, ...reading })
    } catch (error) {
      const object = `netlink socket of protocol ${protocol}`
      if (error instanceof Error && 'errno' in error && typeof error.errno === 'number') {
        throw kernelError(Math.abs(error.errno), 'open', object, protocol === 12 ? 'modprobe nfnetlink' : undefined)
      }
      throw new ProxyError('PREFLIGHT', `cannot open a ${object}`, {}, error)
    }
    // An exception that reaches the native code, or an 'error' without a listener, aborts the process.
    const guarded = (action: () => void): void => {
      try {
        action()
      } catch (error) {
        queueMicrotask(() => {
          handlers.error(error instanceof Error ? error : new Error(String(error)))
        })
      }
    }
    socket.on('message', (datagram, from) => {
      if (from.port === 0) guarded(() => handlers.message(datagram))
    })
    socket.on('truncatedMessage', (_datagram, from) => {
      guarded(() => handlers.error(new Error(`a netlink answer of ${from.truncated} bytes was cut`)))
    })
    socket.on('error', (error) => guarded(() => handlers.error(error)))
    return {
      send: (bytes) => {
        socket.send(bytes, undefined, (error) => {
          if (error !== undefined) guarded(() => handlers.error(error))
        })
      },
      close: () => {
        // Never from inside one of the socket's own callbacks: its native part goes on using itself after them.
        setImmediate(() => socket.close())
      },
    }
  }
}
