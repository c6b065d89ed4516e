import { closeSync, openSync, readSync } from 'node:fs'
import { Turn } from '../lib/turn.ts'
import { addressBytes, addressText, type Family, type Protocol } from '../model/address.ts'

/** One line of /proc/net/ip_vs_conn. */
export interface IpvsConnection {
  readonly family: Family
  readonly protocol: Protocol
  readonly client: string
  readonly clientPort: number
  /** Of the virtual server. */
  readonly address: string
  readonly port: number
  readonly destination: string
  readonly destinationPort: number
  /** "ESTABLISHED", "TIME_WAIT", "UDP"; "NONE" of a persistence template. */
  readonly state: string
  /** Seconds until it is forgotten, if nothing more comes. */
  readonly expires: number
}

const protocols: readonly Protocol[] = ['TCP', 'UDP', 'SCTP']

/**
 * Reads a line as ip_vs_conn_seq_show prints it: addresses in hexadecimal, IPv6 ones with colons. Undefined for the heading
 * and for other protocols.
 */
export function parseConnection(line: string): IpvsConnection | undefined {
  const words = line.split(' ').filter(Boolean)
  const protocol = protocols.find((name) => name === words[0])
  if (protocol === undefined || words.length < 9) return undefined
  const [, client, clientPort, address, port, destination, destinationPort, state, expires] = words
  const from = addressOf(client!)
  const to = addressOf(address!)
  const via = addressOf(destination!)
  if (from === undefined || to === undefined || via === undefined) return undefined
  return {
    family: to.includes(':') ? 'IPv6' : 'IPv4',
    protocol,
    client: from,
    clientPort: Number.parseInt(clientPort!, 16),
    address: to,
    port: Number.parseInt(port!, 16),
    destination: via,
    destinationPort: Number.parseInt(destinationPort!, 16),
    state: state!,
    expires: Number(expires),
  }
}

function addressOf(text: string): string | undefined {
  if (/^([0-9a-fA-F]{4}:){7}[0-9a-fA-F]{4}$/.test(text)) return addressText(addressBytes(text))
  if (!/^[0-9A-Fa-f]{8}$/.test(text)) return undefined
  return [0, 2, 4, 6].map((at) => Number.parseInt(text.slice(at, at + 2), 16)).join('.')
}

/** Lines of a file of the kernel, in pieces: a table of a million connections is never in memory whole. */
export async function* procLines(path: string): AsyncGenerator<string> {
  const file = openSync(path, 'r')
  const buffer = Buffer.allocUnsafe(65_536)
  const turn = new Turn(1)
  let rest = ''
  try {
    for (let count = readSync(file, buffer); count > 0; count = readSync(file, buffer)) {
      if (turn.isOver) await turn.next()
      const lines = (rest + buffer.toString('latin1', 0, count)).split('\n')
      rest = lines.pop()!
      yield* lines
    }
    if (rest !== '') yield rest
  } finally {
    closeSync(file)
  }
}

/** The first of very many by an order, without keeping them all. */
export class Best<T> {
  readonly #most: number
  readonly #order: (a: T, b: T) => number
  #kept: T[] = []
  count = 0

  /** `most` 0: all. */
  constructor(most: number, order: (a: T, b: T) => number) {
    this.#most = most
    this.#order = order
  }

  add(one: T): void {
    this.count++
    this.#kept.push(one)
    if (this.#most > 0 && this.#kept.length >= 2 * this.#most + 1024) this.#cut()
  }

  get list(): readonly T[] {
    this.#cut()
    return this.#kept
  }

  #cut(): void {
    this.#kept.sort(this.#order)
    if (this.#most > 0) this.#kept = this.#kept.slice(0, this.#most)
  }
}
