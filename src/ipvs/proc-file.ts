import { closeSync, openSync, readSync } from 'node:fs'
import { PatientTurn } from '../lib/turn.ts'
import { ProcParser, type ProcVisitor } from './proc.ts'

export interface ProcFile {
  /** Bytes read, 0 at the end. */
  read(buffer: Buffer): number
  close(): void
}

export function openProcFile(): ProcFile {
  const file = openSync('/proc/net/ip_vs', 'r')
  return { read: (buffer) => readSync(file, buffer), close: () => closeSync(file) }
}

/** One way through /proc/net/ip_vs, as far at a time as there is time for. */
export class ProcReading {
  readonly #open: () => ProcFile
  readonly #parser: ProcParser
  /** The kernel gives a page at most. */
  readonly #buffer = Buffer.allocUnsafe(16_384)
  #file: ProcFile | undefined
  isOver = false
  /** Whether it is over because all has been read. */
  isAtEnd = false

  constructor(visitor: ProcVisitor, open: () => ProcFile) {
    this.#parser = new ProcParser(visitor)
    this.#open = open
  }

  /**
   * Reads to the end, or until it has taken so many milliseconds of a core, in turns with others. Throws where the file
   * can't be read, and is over then. Not through the thread pool: each page would cost more than it takes to read.
   */
  async goOn(allowance = Number.POSITIVE_INFINITY): Promise<void> {
    // Near the end of a long file the kernel takes milliseconds for a page.
    const turn = new PatientTurn(1)
    let spent = 0
    let began = performance.now()
    while (!this.isOver && spent < allowance) {
      this.#readPage()
      if (!turn.isOver) continue
      spent += performance.now() - began
      if (spent < allowance) await turn.next()
      began = performance.now()
    }
  }

  #readPage(): void {
    try {
      this.#file ??= this.#open()
      const count = this.#file.read(this.#buffer)
      this.#parser.push(this.#buffer.subarray(0, count))
      this.isAtEnd = count === 0
    } catch (error) {
      this.close()
      throw error
    }
    if (this.isAtEnd) this.close()
  }

  close(): void {
    this.isOver = true
    this.#file?.close()
    this.#file = undefined
  }
}

/** Reads the whole proc file in turns with others. */
export function readProcFile(visitor: ProcVisitor, open: () => ProcFile = openProcFile): Promise<void> {
  return new ProcReading(visitor, open).goOn()
}
