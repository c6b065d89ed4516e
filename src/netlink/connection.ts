import { setTimeout as sleep } from 'node:timers/promises'
import { ProxyError } from '../lib/errors.ts'
import { Queue, Turn } from '../lib/turn.ts'
import { Writer } from './attributes.ts'
import { errno } from './errno.ts'
import {
  addFlags,
  controlTypes,
  flags,
  readEcho,
  readErrno,
  readMessages,
  writeMessage,
  type Message,
  type Received,
} from './header.ts'
import { openRawSocket, type OpenSocket, type RawSocket, type SocketPurpose } from './socket.ts'

export type { Message } from './header.ts'

/** Messages to send, an array or what makes them up one after the other: each is written before the next is asked for. */
export interface MessageList {
  readonly length: number
  at(index: number): Message | undefined
}

/** What came back for one request. errno 0 is success. */
export interface Reply {
  readonly errno: number
  /** Payloads after the netlink header. */
  readonly payloads: readonly Buffer[]
}

/** How a streamed dump ended. */
export interface DumpEnd {
  readonly errno: number
  /** The table changed under the dump in a way that may have hidden or repeated entries (NLM_F_DUMP_INTR, EINTR). */
  readonly interrupted: boolean
}

/** What went to the kernel so far. */
export interface Traffic {
  messages: number
  sends: number
}

/** What is waited for: the answer to many messages sent at once, to one, or to all parts of a dump. */
export type Operation = 'send' | 'request' | 'dump'

/** Hears of each time that the kernel was asked something. */
export interface CallObserver {
  answered(operation: Operation, milliseconds: number): void
  /** The kernel refused a message, EINTR: it interrupted a dump; "failed": the socket did not work, or no answer came. */
  refused(operation: Operation, errno: number | 'failed'): void
}

export interface ConnectionOptions {
  /** Counted up. */
  readonly traffic?: Traffic
  readonly observer?: CallObserver | undefined
  /** Milliseconds in which the kernel has to say something, once it was asked. */
  readonly timeout?: number
  /** Milliseconds, for tests. */
  readonly now?: () => number
}

/** Called for each refused message of a batch, with the request as the kernel repeats it. */
export type OnRefusal = (index: number, errno: number, echo: Buffer) => void

/** Whether a message of a dump is a part of what is asked for. */
export type IsPart = (answer: Received) => boolean
const all: IsPart = () => true

/** More unread errors than these would overrun the receive buffer. */
const maxMessagesPerSend = 256
const minMessagesPerSend = 8
/** Milliseconds that one send may keep the event loop: the kernel does the work inside of it. */
const longestSend = 10
const maxBytesPerSend = 128 * 1024
const maxDumpAttempts = 8
/** Milliseconds before a dump is started over for the first time; each time twice as long. */
const firstPause = 5

/** Takes one answer; true when it was the last one. */
type Listener = (message: Received) => boolean

interface Exchange {
  readonly listener: Listener
  /** An answer came since this was last reset: a long dump is not a late one. */
  heard: boolean
  readonly settle: (error?: Error) => void
}

/** One socket, one exchange at a time. */
class Channel {
  readonly #open: OpenSocket
  readonly #purpose: SocketPurpose
  readonly #timeout: number
  #socket: RawSocket | undefined
  #exchange: Exchange | undefined
  readonly #queue = new Queue()
  #sequence = 0
  #closed = false

  constructor(open: OpenSocket, purpose: SocketPurpose, timeout: number) {
    this.#open = open
    this.#purpose = purpose
    this.#timeout = timeout
  }

  /** Runs the action once all earlier ones are through. */
  exclusive<T>(action: () => Promise<T>): Promise<T> {
    return this.#queue.run(action)
  }

  /** Sequence numbers for `count` messages: the first of them. 0 is left to notifications. */
  sequences(count: number): number {
    if (this.#sequence + count >= 0xffffffff) this.#sequence = 0
    const first = this.#sequence + 1
    this.#sequence += count
    return first
  }

  /** Sends the bytes and hands all answers to the listener until it has enough. */
  exchange(bytes: Buffer, listener: Listener): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new ProxyError('KERNEL', 'the netlink connection is closed'))
      let timer: NodeJS.Timeout | undefined
      const exchange: Exchange = {
        listener,
        heard: false,
        settle: (error) => {
          if (this.#exchange !== exchange) return
          this.#exchange = undefined
          clearTimeout(timer)
          if (error === undefined) return resolve()
          // What else may come over this socket belongs to an exchange that nobody waits for.
          this.#drop()
          reject(error)
        },
      }
      this.#exchange = exchange
      try {
        this.#socket ??= this.#connect()
        this.#socket.send(bytes)
      } catch (error) {
        return exchange.settle(asFailure(error))
      }
      const check = (): void => {
        if (this.#exchange !== exchange) return
        if (!exchange.heard) return exchange.settle(this.#late())
        exchange.heard = false
        wait()
      }
      const wait = (): void => {
        // setImmediate lets answers that lie ready go first.
        timer = setTimeout(() => setImmediate(check), this.#timeout)
      }
      // The kernel works inside send: only now the wait begins.
      if (this.#exchange === exchange) wait()
    })
  }

  close(): void {
    this.#closed = true
    this.#exchange?.settle(new ProxyError('KERNEL', 'the netlink connection was closed'))
    this.#drop()
  }

  #connect(): RawSocket {
    const socket: RawSocket = this.#open(this.#purpose, {
      message: (datagram) => {
        if (this.#socket === undefined || this.#socket === socket) this.#receive(datagram)
      },
      error: (error) => {
        if (this.#socket !== undefined && this.#socket !== socket) return
        if (this.#exchange === undefined) this.#drop()
        else this.#exchange.settle(asFailure(error))
      },
    })
    return socket
  }

  #receive(datagram: Buffer): void {
    try {
      for (const message of readMessages(datagram)) {
        const exchange = this.#exchange
        if (exchange === undefined) return
        exchange.heard = true
        if (message.type === controlTypes.noop) continue
        if (message.type === controlTypes.overrun) throw new ProxyError('KERNEL', 'netlink answers were lost (overrun)')
        if (exchange.listener(message)) exchange.settle()
      }
    } catch (error) {
      this.#exchange?.settle(asFailure(error))
    }
  }

  #late(): ProxyError {
    return new ProxyError('KERNEL', `the kernel did not answer a netlink request within ${this.#timeout} ms`, {
      advice: 'the next request goes over a new socket; where it repeats, look at the kernel log (dmesg)',
    })
  }

  #drop(): void {
    const socket = this.#socket
    this.#socket = undefined
    socket?.close()
  }
}

function asFailure(error: unknown): ProxyError {
  return error instanceof ProxyError ? error : new ProxyError('KERNEL', 'the netlink socket failed', {}, error)
}

/**
 * A netlink connection of one protocol: requests and batches on one socket, dumps on another that is opened when
 * first needed. Calls wait for each other. A failed exchange rejects, and the next call opens a new socket.
 */
export class Connection {
  readonly #requests: Channel
  readonly #dumps: Channel
  readonly #writer = new Writer(maxBytesPerSend)
  readonly #traffic: Traffic | undefined
  readonly #observer: CallObserver | undefined
  readonly #now: () => number
  /** So many messages make up one send: fewer where the kernel takes long over each. */
  #perSend = maxMessagesPerSend

  constructor(open: OpenSocket, options: ConnectionOptions = {}) {
    const timeout = options.timeout ?? 10_000
    this.#traffic = options.traffic
    this.#observer = options.observer
    this.#now = options.now ?? (() => performance.now())
    this.#requests = new Channel(open, 'requests', timeout)
    this.#dumps = new Channel(open, 'dumps', timeout)
  }

  /** A connection over the real socket (NETLINK_* protocol). */
  static open(protocol: number, options: ConnectionOptions = {}): Connection {
    return new Connection(openRawSocket(protocol), options)
  }

  /**
   * Carries out messages in order, many a send; answers one errno each, 0 where the kernel did it. Only the last
   * message of a send is acknowledged: the kernel reports each failure anyway, and the rest succeeded.
   */
  batch(messages: MessageList, onRefusal?: OnRefusal): Promise<number[]> {
    return this.#requests.exclusive(async () => {
      const results = Array.from<number>({ length: messages.length }).fill(0)
      // The kernel answers at once: without turns one send would follow the other in the same round of the event loop.
      const turn = new Turn(1)
      let next = 0
      while (next < messages.length) {
        if (turn.isOver) await turn.next()
        next = await this.#sendSome(messages, next, results, onRefusal)
      }
      return results
    })
  }

  /** One request; its answers up to the acknowledgement. */
  request(message: Message): Promise<Reply> {
    return this.#requests.exclusive(async () => {
      const payloads: Buffer[] = []
      const keep = (answer: Received): void => void payloads.push(answer.payload)
      const { errno } = await this.#take('request', message, keep)
      return { errno, payloads }
    })
  }

  /**
   * One dump, of it the messages that are a part of what is asked for; started over while the kernel says that it
   * changed meanwhile.
   */
  async dump(message: Message, isPart: IsPart = all): Promise<Reply> {
    let payloads: Buffer[] = []
    const errno = await this.scan(message, () => {
      payloads = []
      return (answer) => {
        if (isPart(answer)) payloads.push(answer.payload)
      }
    })
    return { errno, payloads }
  }

  /**
   * One dump, whose messages are only glanced at as they come; `begin` is called again where it is started over. Answers
   * the errno.
   */
  scan(message: Message, begin: () => (answer: Received) => void): Promise<number> {
    return this.#dumps.exclusive(async () => {
      for (let attempt = 1; ; attempt++) {
        const { errno, interrupted } = await this.#take('dump', message, begin())
        if (!interrupted) return errno
        if (attempt === maxDumpAttempts) {
          const trouble = `a netlink dump was interrupted by changes ${attempt} times`
          throw new ProxyError('KERNEL', `${trouble}: another program keeps changing what is read`)
        }
        await sleep(firstPause * 2 ** (attempt - 1))
      }
    })
  }

  /**
   * One dump whose payloads are handed over as they come, for tables too large to hold. A payload is a view of a
   * receive buffer: what is kept of it keeps all of it alive. Not started over: the caller has seen the entries.
   */
  stream(message: Message, take: (payload: Buffer) => void): Promise<DumpEnd> {
    return this.#dumps.exclusive(() => this.#take('dump', message, (answer) => take(answer.payload)))
  }

  close(): void {
    this.#requests.close()
    this.#dumps.close()
  }

  #count(messages: number): void {
    if (this.#traffic === undefined) return
    this.#traffic.messages += messages
    this.#traffic.sends++
  }

  /** Sends as many messages from `from` on as one send takes; answers the index of the next one. */
  async #sendSome(
    messages: MessageList,
    from: number,
    results: number[],
    onRefusal: OnRefusal | undefined,
  ): Promise<number> {
    const began = this.#now()
    const writer = this.#writer
    writer.length = 0
    const most = Math.min(messages.length - from, this.#perSend)
    const first = this.#requests.sequences(most)
    let count = 0
    let lastStart = 0
    while (count < most) {
      const start = writeMessage(writer, messages.at(from + count)!, 0, first + count)
      if (count > 0 && writer.length > maxBytesPerSend) {
        writer.length = start
        break
      }
      lastStart = start
      count++
    }
    addFlags(writer.buffer, lastStart, flags.ack)
    this.#count(count)
    const answered = this.#requests.exchange(writer.bytes(), (answer) => {
      const index = answer.sequence - first
      if (answer.type !== controlTypes.error || index < 0 || index >= count) return false
      const result = readErrno(answer.payload)
      results[from + index] = result
      if (result !== 0) {
        this.#observer?.refused('send', result)
        onRefusal?.(from + index, result, readEcho(answer.payload))
      }
      return index === count - 1
    })
    this.#fit(count, this.#now() - began)
    await this.#observed('send', began, answered)
    return from + count
  }

  async #observed(operation: Operation, began: number, answered: Promise<void>): Promise<void> {
    try {
      await answered
    } catch (error) {
      this.#observer?.refused(operation, 'failed')
      throw error
    }
    this.#observer?.answered(operation, this.#now() - began)
  }

  /** Works out how many messages the next send may have. */
  #fit(count: number, took: number): void {
    if (took > longestSend) this.#perSend = Math.max(minMessagesPerSend, Math.floor((count * longestSend) / took))
    else if (took < longestSend / 2 && count === this.#perSend) this.#perSend = Math.min(maxMessagesPerSend, 2 * count)
  }

  async #take(operation: 'request' | 'dump', message: Message, take: (answer: Received) => void): Promise<DumpEnd> {
    const [channel, extra] = operation === 'dump' ? [this.#dumps, flags.dump] : [this.#requests, flags.ack]
    const began = this.#now()
    const sequence = channel.sequences(1)
    const writer = new Writer(256)
    writeMessage(writer, message, extra, sequence)
    let result = 0
    let interrupted = false
    this.#count(1)
    const answered = channel.exchange(writer.bytes(), (answer) => {
      if (answer.sequence !== sequence) return false
      if ((answer.flags & flags.dumpInterrupted) !== 0) interrupted = true
      if (answer.type === controlTypes.error || answer.type === controlTypes.done) {
        result = readErrno(answer.payload)
        return true
      }
      take(answer)
      return false
    })
    await this.#observed(operation, began, answered)
    if (result !== 0 || interrupted) this.#observer?.refused(operation, result === 0 ? errno.EINTR : result)
    return { errno: result, interrupted: interrupted || result === errno.EINTR }
  }
}
