import { readFile } from 'node:fs/promises'
import type { KernelError } from '../lib/errors.ts'
import { Turn } from '../lib/turn.ts'
import { Connection, type Message } from '../netlink/connection.ts'
import { kernelError } from '../netlink/errno.ts'
import { resolveFamily } from '../netlink/generic.ts'
import { protocols } from '../netlink/header.ts'
import {
  serverKey,
  type Ipvs,
  type IpvsChange,
  type IpvsTimeouts,
  type ObservedDestination,
  type ObservedServer,
  type ServerId,
  type VirtualServer,
} from './ipvs.ts'
import {
  changeError,
  changeMessage,
  decodeDestination,
  decodeServer,
  decodeTimeouts,
  familyName,
  getTimeoutsMessage,
  listDestinationsMessage,
  listServersMessage,
  ProcIpVsParser,
  setTimeoutsMessage,
} from './messages.ts'

/** From so many servers on, reading the proc file beats one dump per server. */
const manyServers = 64

/** Changes turned into messages at a time, so that 100,000 of them are never there at once. */
const changesPerBatch = 4096

/**
 * The kernel's IPVS by generic netlink. Calls wait for each other: the kernel continues a list of servers by counting
 * how many it has given, so that it skips some where others are removed between two parts of it.
 */
export class KernelIpvs implements Ipvs {
  readonly #connection: Connection
  readonly #readProc: () => Promise<string>
  #familyId: Promise<number> | undefined
  #turn: Promise<unknown> = Promise.resolve()

  /** `connect` gives a connection of NETLINK_GENERIC; `readProc` the text of /proc/net/ip_vs. */
  constructor(
    connect: () => Connection = () => Connection.open(protocols.generic),
    readProc: () => Promise<string> = () => readFile('/proc/net/ip_vs', 'utf8'),
  ) {
    this.#connection = connect()
    this.#readProc = readProc
  }

  /** Opens the socket and has the kernel load ip_vs; throws KernelError where it has none. */
  static async open(): Promise<KernelIpvs> {
    const ipvs = new KernelIpvs()
    try {
      await ipvs.#family()
    } catch (error) {
      ipvs.close()
      throw error
    }
    return ipvs
  }

  apply(changes: readonly IpvsChange[]): Promise<readonly (KernelError | undefined)[]> {
    return this.#inTurn(() => this.#apply(changes))
  }

  listServers(): Promise<readonly VirtualServer[]> {
    return this.#inTurn(() => this.#listServers())
  }

  listDestinations(server: ServerId): Promise<readonly ObservedDestination[]> {
    return this.#inTurn(() => this.#listDestinations(server))
  }

  listAll(): Promise<readonly ObservedServer[]> {
    return this.#inTurn(() => this.#listAll())
  }

  async #apply(changes: readonly IpvsChange[]): Promise<readonly (KernelError | undefined)[]> {
    const family = await this.#family()
    const answers: (KernelError | undefined)[] = []
    for (let from = 0; from < changes.length; from += changesPerBatch) {
      const part = changes.slice(from, from + changesPerBatch)
      const results = await this.#connection.batch(part.map((change) => changeMessage(family, change)))
      for (const [index, change] of part.entries()) {
        const result = results[index] ?? 0
        answers.push(result === 0 ? undefined : changeError(change, result))
      }
    }
    return answers
  }

  async #listServers(): Promise<readonly VirtualServer[]> {
    const payloads = await this.#dump(listServersMessage(await this.#family()), 'virtual servers')
    const turn = new Turn()
    const servers: VirtualServer[] = []
    for (const payload of payloads) {
      if (turn.isOver) await turn.next()
      const server = decodeServer(payload)
      if (server !== undefined) servers.push(server)
    }
    return servers
  }

  async #listDestinations(server: ServerId): Promise<readonly ObservedDestination[]> {
    const message = listDestinationsMessage(await this.#family(), server)
    const payloads = await this.#dump(message, `destinations of virtual server ${serverKey(server)}`)
    return payloads.flatMap((payload) => decodeDestination(payload, server.family) ?? [])
  }

  async #listAll(): Promise<readonly ObservedServer[]> {
    const servers = await this.#listServers()
    // With virtual servers in other network namespaces the file leaves some of ours out, each with its destinations
    // (Linux 6.1: after a page it goes on at a place counted over all namespaces). Those are asked for one by one.
    const byServer = servers.length >= manyServers ? await this.#parseProc() : undefined
    const all: ObservedServer[] = []
    for (const server of servers) {
      all.push({ server, destinations: byServer?.get(serverKey(server)) ?? (await this.#listDestinations(server)) })
    }
    return all
  }

  /** Destinations by server out of the proc file; it may be of many megabytes. */
  async #parseProc(): Promise<ReadonlyMap<string, readonly ObservedDestination[]>> {
    const text = await this.#readProc()
    const parser = new ProcIpVsParser()
    const turn = new Turn()
    for (let from = 0; from < text.length;) {
      if (turn.isOver) await turn.next()
      const end = text.indexOf('\n', from)
      parser.line(text.slice(from, end < 0 ? text.length : end))
      from = end < 0 ? text.length : end + 1
    }
    return parser.servers
  }

  async timeouts(): Promise<IpvsTimeouts> {
    const reply = await this.#connection.request(getTimeoutsMessage(await this.#family()))
    if (reply.errno !== 0) throw kernelError(reply.errno, 'read', 'IPVS timeouts')
    return decodeTimeouts(reply.payloads[0] ?? Buffer.alloc(4))
  }

  async setTimeouts(timeouts: IpvsTimeouts): Promise<void> {
    const reply = await this.#connection.request(setTimeoutsMessage(await this.#family(), timeouts))
    if (reply.errno !== 0) throw kernelError(reply.errno, 'set', 'IPVS timeouts')
  }

  close(): void {
    this.#connection.close()
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(act)
    this.#turn = result.catch(() => {})
    return result
  }

  async #family(): Promise<number> {
    this.#familyId ??= resolveFamily(this.#connection, familyName, 'ip_vs')
    try {
      return await this.#familyId
    } catch (error) {
      this.#familyId = undefined
      throw error
    }
  }

  async #dump(message: Message, object: string): Promise<readonly Buffer[]> {
    const reply = await this.#connection.dump(message)
    if (reply.errno !== 0) throw kernelError(reply.errno, 'list', object)
    return reply.payloads
  }
}
