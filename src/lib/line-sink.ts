import { constants, fstatSync, openSync, writeSync } from 'node:fs'
import { Socket } from 'node:net'

/** Writes bytes and answers how many were taken; throws as node:fs does (EAGAIN: the reader has no room now). */
export type WriteNow = (bytes: Buffer) => number
/** Writes all of the bytes, however long that takes. */
export type WriteLater = (bytes: Buffer, done: (error: Error | undefined) => void) => void

export type SinkTarget = { readonly now: WriteNow; readonly later?: never } | { readonly later: WriteLater }

/** So much is kept for a reader that does not read, and no more. */
const mostBytes = 256 * 1024
/** Milliseconds until it is tried again. */
const retryAfter = 250

/**
 * Lines to a reader that may be slow, stuck or gone, or to a disk that is full: a line is written at once where that is
 * possible; where it is not, it waits among few others, and what is too much is dropped and counted. Never blocks or throws.
 */
export class LineSink {
  readonly #target: SinkTarget
  /** What has not been taken yet; the first may be half of a line. */
  #waiting: Buffer[] = []
  #bytes = 0
  #busy = false
  #timer: NodeJS.Timeout | undefined
  /** Lines dropped that no line has told of. */
  #untold = 0
  /** Lines dropped so far. */
  dropped = 0

  constructor(target: SinkTarget) {
    this.#target = target
  }

  /** Standard error of this process. */
  static standardError(): LineSink {
    return new LineSink(standardError())
  }

  write(line: string): void {
    const bytes = Buffer.from(line)
    if (this.#bytes + bytes.length > mostBytes) {
      this.dropped++
      this.#untold++
      return
    }
    this.#add(bytes)
    if (!this.#busy && this.#timer === undefined) this.#flush()
  }

  #add(bytes: Buffer): void {
    this.#waiting.push(bytes)
    this.#bytes += bytes.length
  }

  #flush(): void {
    const target = this.#target
    if (target.later !== undefined) return this.#flushLater(target.later)
    try {
      for (let next = this.#next(); next !== undefined; next = this.#next()) this.#took(target.now(next))
    } catch {
      // Whatever the reason is, there is no other place to tell it.
      this.#retry()
    }
  }

  #flushLater(write: WriteLater): void {
    const next = this.#next()
    if (next === undefined) return
    this.#busy = true
    write(next, (error) => {
      this.#busy = false
      if (error !== undefined) return this.#retry()
      this.#took(next.length)
      this.#flushLater(write)
    })
  }

  /** Once the reader reads again it hears first how much it has missed. */
  #next(): Buffer | undefined {
    if (this.#waiting.length === 0 && this.#untold > 0) {
      const [time, dropped] = [new Date().toISOString(), this.#untold]
      this.#untold = 0
      const told = { level: 'warn', time, dropped, msg: 'Log lines were dropped: nobody took them' }
      this.#add(Buffer.from(`${JSON.stringify(told)}\n`))
    }
    return this.#waiting[0]
  }

  #took(count: number): void {
    const [first] = this.#waiting
    if (first === undefined) return
    this.#bytes -= count
    if (count < first.length) this.#waiting[0] = first.subarray(count)
    else this.#waiting.shift()
  }

  #retry(): void {
    // It keeps no process alive that has nothing else to do.
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#flush()
    }, retryAfter).unref()
  }
}

const standardErrorNumber = 2

/**
 * A pipe or a terminal is opened once more, without blocking: the flag of the descriptor that we were given is shared with
 * whoever has it, too. A socket cannot be opened again. A file does not block, and has its place to write at in the
 * descriptor.
 */
function standardError(): SinkTarget {
  const straight = { now: (bytes: Buffer) => writeSync(standardErrorNumber, bytes) }
  try {
    const stat = fstatSync(standardErrorNumber)
    if (stat.isSocket()) return socketTarget()
    // One of somebody else's cannot be opened; a pipe is then written to as a socket is.
    if (stat.isFIFO()) return openedAgain() ?? socketTarget()
    return (stat.isCharacterDevice() ? openedAgain() : undefined) ?? straight
  } catch {
    return straight
  }
}

function openedAgain(): SinkTarget | undefined {
  const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants
  try {
    const number = openSync(`/proc/self/fd/${standardErrorNumber}`, O_WRONLY | O_NONBLOCK | O_NOCTTY)
    return { now: (bytes) => writeSync(number, bytes) }
  } catch {
    return undefined
  }
}

function socketTarget(): SinkTarget {
  const socket = new Socket({ fd: standardErrorNumber, readable: false, writable: true })
  socket.unref()
  socket.on('error', () => {})
  return { later: (bytes, done) => void socket.write(bytes, (error) => done(error ?? undefined)) }
}
