import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { describeError } from '../lib/errors.ts'
import type { Family } from '../model/address.ts'
import type { TraceEvent } from './events.ts'

/** Milliseconds: nft loads a library for each extension that it prints first, and nodes in trouble are slow. */
const patience = 10_000
const loopbacks = { IPv4: '127.0.0.1', IPv6: '::1' } as const

/** Where our own datagrams go. */
export interface EchoTarget {
  readonly address: string
  readonly port: number
}

/**
 * A datagram of ours to ourselves that is followed like the packets asked for. nft tells in the order in which the kernel
 * told: with this one's event, all that was before it has come, however far nft was behind.
 */
export class Echo {
  readonly target: EchoTarget
  readonly #socket: Socket
  /** Kernel's numbers of our datagrams. */
  readonly #ids = new Set<string>()
  readonly #heard = new Set<number>()
  #wake = (): void => {}

  private constructor(socket: Socket, target: EchoTarget) {
    this.#socket = socket
    this.target = target
  }

  /** Throws what the system says: a node may have no loopback of that family. */
  static async open(family: Family): Promise<Echo> {
    const address = loopbacks[family]
    const socket = await boundTo(address)
    return new Echo(socket, { address, port: socket.address().port })
  }

  /** Whether an event is of one of our datagrams; it is of no flow then. */
  take(event: TraceEvent): boolean {
    if (event.kind !== 'packet') return this.#ids.has(event.id)
    const { protocol, destination, destinationPort, source, sourcePort } = event.packet
    const { address, port } = this.target
    if (protocol !== 'UDP' || source !== address || destination !== address || destinationPort !== port) return false
    this.#ids.add(event.id)
    if (event.variant === 'nft') {
      this.#heard.add(sourcePort)
      this.#wake()
    }
    return true
  }

  /** Resolves once all is told that the kernel had to tell before; answers why that is not known, "" where it is. */
  async caughtUp(limit = patience): Promise<string> {
    let sender: Socket | undefined
    try {
      // A port of its own tells it from those before.
      sender = await boundTo(this.target.address)
      const { port } = sender.address()
      const deadline = performance.now() + limit
      await new Promise<void>((settle, fail) => {
        sender!.send('', this.target.port, this.target.address, (error) => {
          // A rule of OUTPUT that drops it answers EPERM; it was followed until there.
          if (error === null || ('code' in error && error.code === 'EPERM')) settle()
          else fail(error)
        })
      })
      while (!this.#heard.has(port)) {
        const left = deadline - performance.now()
        if (left <= 0) return `nft did not tell of a datagram of ours within ${limit / 1000} s: events may be missing`
        await this.#news(left)
      }
      return ''
    } catch (error) {
      return `events may be missing: no datagram to ${this.target.address} can be sent: ${describeError(error)}`
    } finally {
      sender?.close()
    }
  }

  close(): void {
    this.#socket.close()
  }

  #news(most: number): Promise<void> {
    return new Promise((wake) => {
      const timer = setTimeout(wake, most)
      this.#wake = () => {
        clearTimeout(timer)
        wake()
      }
    })
  }
}

async function boundTo(address: string): Promise<Socket> {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4')
  socket.bind(0, address)
  await once(socket, 'listening')
  return socket
}
