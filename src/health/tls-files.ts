import { readFile } from 'node:fs/promises'
import { createSecureContext } from 'node:tls'
import { describeError, ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'

/** A certificate with its chain, and its key, as PEM. */
export interface KeyPair {
  readonly cert: Buffer
  readonly key: Buffer
}

export interface TlsFilesOptions {
  readonly certFile: string
  readonly keyFile: string
  readonly log: Log
  /** How often the files are looked at, in milliseconds: a Secret's volume itself lags by up to a minute. */
  readonly lookEvery?: number
}

/** A certificate and its key from files, followed by content, whatever way they are replaced. */
export class TlsFiles {
  readonly #options: TlsFilesOptions
  #inForce: KeyPair | undefined
  #complaint = ''
  #isClosed = false
  #timer: NodeJS.Timeout | undefined

  constructor(options: TlsFilesOptions) {
    this.#options = options
  }

  /** Throws ProxyError CONFIG where a file cannot be read, or where the two do not go together. */
  async read(): Promise<KeyPair> {
    const { certFile, keyFile } = this.#options
    const [cert, key] = await Promise.all([readOne('certificate', certFile), readOne('key', keyFile)])
    try {
      createSecureContext({ cert, key })
    } catch (error) {
      const facts = { object: certFile, advice: 'give a PEM certificate and its own PEM key' }
      throw new ProxyError('CONFIG', `certificate ${certFile} and key ${keyFile} cannot be used`, facts, error)
    }
    this.#inForce = { cert, key }
    return this.#inForce
  }

  /** Calls back with every other pair from now on; one that cannot be used is told, and the former stays in force. */
  follow(changed: (pair: KeyPair) => void): void {
    const { certFile, log, lookEvery = 5000 } = this.#options
    const look = async (): Promise<void> => {
      const before = this.#inForce
      try {
        const pair = await this.read()
        if (this.#isClosed) return
        this.#complaint = ''
        if (before?.cert.equals(pair.cert) === true && before.key.equals(pair.key)) return
        changed(pair)
        log.info('The certificate of the metrics server was read anew', { object: certFile })
      } catch (error) {
        const complaint = describeError(error)
        // Whoever closes it may have taken the files away, too.
        if (this.#isClosed || complaint === this.#complaint) return
        this.#complaint = complaint
        log.error('The changed certificate cannot be used, the former one stays in force', { error: complaint })
      }
    }
    this.#timer = setInterval(() => void look(), lookEvery)
    this.#timer.unref()
  }

  close(): void {
    this.#isClosed = true
    clearInterval(this.#timer)
  }
}

async function readOne(what: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (error) {
    throw new ProxyError('CONFIG', `the ${what} ${path} cannot be read`, { object: path }, error)
  }
}
