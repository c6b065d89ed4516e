import { closeSync, openSync, readSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { KernelError } from '../lib/errors.ts'
import { mapInTurns, PatientTurn, Queue } from '../lib/turn.ts'
import type { Family } from '../model/address.ts'
import { DestinationDigest } from '../model/destination-list.ts'
import { Connection, type Message } from '../netlink/connection.ts'
import { errno, kernelError } from '../netlink/errno.ts'
import { resolveFamily } from '../netlink/generic.ts'
import { protocols } from '../netlink/header.ts'
import {
  differences,
  serverFlags,
  serverKey,
  type Ipvs,
  type IpvsChange,
  type IpvsDifferences,
  type IpvsTimeouts,
  type KnownServer,
  type ObservedDestination,
  type ObservedServer,
  type ServerId,
  type VirtualServer,
} from './ipvs.ts'
import {
  changeError,
  changeMessages,
  decodeDestination,
  decodeServer,
  decodeTimeouts,
  familyName,
  getServerMessage,
  getTimeoutsMessage,
  listDestinationsMessage,
  listServersMessage,
  setTimeoutsMessage,
} from './messages.ts'
import { ProcParser, wordsText, type ProcDestination, type ProcVisitor } from './proc.ts'

/** From so many servers on, reading the proc file beats one dump per server. */
const manyServers = 64

/** With more suspects than these the whole list is read instead of each. */
const mostSuspects = 256

/** Milliseconds in which another family may join a reading. */
const joinTime = 20

/** Changes turned into messages at a time, so that 100,000 of them are never there at once. */
const changesPerBatch = 2048

export interface ProcFile {
  /** Bytes read, 0 at the end. */
  read(buffer: Buffer): number
  close(): void
}

function openProcFile(): ProcFile {
  const file = openSync('/proc/net/ip_vs', 'r')
  return { read: (buffer) => readSync(file, buffer), close: () => closeSync(file) }
}

function observed(one: ProcDestination): ObservedDestination {
  return {
    address: wordsText(one.family, one.words),
    port: one.port,
    weight: one.weight,
    forwarding: one.forwarding,
    activeConnections: one.activeConnections,
    inactiveConnections: one.inactiveConnections,
  }
}

/** Frequencies that kernels are built with (CONFIG_HZ). */
const frequencies = [100, 250, 300, 1000]

/** Goes through the proc file and notes servers that may not be as known. */
class Survey implements ProcVisitor {
  /** How many of the known servers the file has. */
  seenCount = 0
  /** Which ones, where they are to be gathered. */
  readonly seen: Set<string> | undefined
  readonly suspects: ServerId[] = []
  ticksPerSecond: number | undefined
  readonly #family: Family
  readonly #known: ReadonlyMap<string, KnownServer>
  readonly #digest = new DestinationDigest()
  #current: { readonly id: ServerId; readonly former: KnownServer | undefined; readonly same: boolean } | undefined
  #count = 0

  constructor(
    family: Family,
    known: ReadonlyMap<string, KnownServer>,
    ticksPerSecond: number | undefined,
    seen?: Set<string>,
  ) {
    this.seen = seen
    this.#family = family
    this.#known = known
    this.ticksPerSecond = ticksPerSecond
  }

  server(id: ServerId, scheduler: string, ticks: number, onePacket: boolean): void {
    this.end()
    if (id.family !== this.#family) return
    const key = serverKey(id)
    const former = this.#known.get(key)
    if (former !== undefined) this.seenCount++
    this.seen?.add(key)
    const same = former !== undefined && !onePacket && this.#isSame(former, scheduler, ticks)
    this.#current = { id, former, same }
  }

  #isSame({ server }: KnownServer, scheduler: string, ticks: number): boolean {
    const persistent = (server.flags & serverFlags.persistent) !== 0
    if (server.scheduler !== scheduler || persistent !== ticks > 0) return false
    if (!persistent) return true
    const frequency = ticks / server.timeout
    if (this.ticksPerSecond === undefined && frequencies.includes(frequency)) this.ticksPerSecond = frequency
    return frequency === this.ticksPerSecond
  }

  destination({ family, words, port, forwarding, weight }: ProcDestination): void {
    this.#count++
    // An IPv4 address among IPv6 ones is known by its mapped form, which is a sum of its own: a closer look decides.
    const [a = 0, b = 0, c = 0, d = 0] = family === this.#family ? words : []
    this.#digest.add(a, b, c, d, port, forwarding === 0 ? weight : -1)
  }

  /** Judges the last server. */
  end(): void {
    const current = this.#current
    this.#current = undefined
    if (current !== undefined) {
      const { former, same, id } = current
      const [first, second] = this.#digest.sums
      const matches =
        same &&
        former!.destinations.length === this.#count &&
        former!.destinations.digest[0] === first &&
        former!.destinations.digest[1] === second
      if (!matches) this.suspects.push(id)
    }
    this.#digest.reset()
    this.#count = 0
  }
}

/**
 * The kernel's IPVS by generic netlink. Calls wait for each other: the kernel continues a list of servers by counting
 * how many it has given, so that it skips some where others are removed between two parts of it.
 */
export class KernelIpvs implements Ipvs {
  readonly #connection: Connection
  readonly #openProc: () => ProcFile
  #familyId: Promise<number> | undefined
  readonly #queue = new Queue()
  /** A reading of the proc file that has not begun: others may join it. */
  #joinable: { readonly visitors: Map<Family, ProcVisitor>; readonly done: Promise<void> } | undefined
  /** Families of which all servers have been listed once. */
  readonly #listed = new Set<Family>()
  /** About so many servers there are, of both families. */
  #serverCount = 0
  /** Of the kernel's clock that persistence timeouts are shown in; undefined until known. */
  #ticksPerSecond: number | undefined

  /** `connect` gives a connection of NETLINK_GENERIC; `openProc` opens /proc/net/ip_vs. */
  constructor(
    connect: () => Connection = () => Connection.open(protocols.generic),
    openProc: () => ProcFile = openProcFile,
  ) {
    this.#connection = connect()
    this.#openProc = openProc
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
    return this.#queue.run(() => this.#apply(changes))
  }

  listServers(): Promise<readonly VirtualServer[]> {
    return this.#queue.run(() => this.#listServers())
  }

  listDestinations(server: ServerId): Promise<readonly ObservedDestination[]> {
    return this.#queue.run(() => this.#listDestinations(server))
  }

  /** One server with its destinations, as it stands; undefined where it does not. */
  find(id: ServerId): Promise<ObservedServer | undefined> {
    return this.#queue.run(() => this.#lookAt(id))
  }

  listAll(): Promise<readonly ObservedServer[]> {
    return this.#queue.run(() => this.#listAll())
  }

  #listFamily(family: Family): Promise<readonly ObservedServer[]> {
    return this.#queue.run(() => this.#listAll(family))
  }

  async #apply(changes: readonly IpvsChange[]): Promise<readonly (KernelError | undefined)[]> {
    const family = await this.#family()
    const answers: (KernelError | undefined)[] = []
    for (let from = 0; from < changes.length; from += changesPerBatch) {
      const part = changes.slice(from, from + changesPerBatch)
      const results = await this.#connection.batch(changeMessages(family, part))
      for (const [index, change] of part.entries()) {
        const result = results[index] ?? 0
        if (result === 0) this.#serverCount += change.kind === 'newServer' ? 1 : change.kind === 'deleteServer' ? -1 : 0
        answers.push(result === 0 ? undefined : changeError(change, result))
      }
    }
    return answers
  }

  async #listServers(): Promise<readonly VirtualServer[]> {
    const payloads = await this.#dump(listServersMessage(await this.#family()), 'virtual servers')
    return mapInTurns(payloads, decodeServer, new PatientTurn())
  }

  async #listDestinations(server: ServerId): Promise<readonly ObservedDestination[]> {
    const message = listDestinationsMessage(await this.#family(), server)
    const payloads = await this.#dump(message, `destinations of virtual server ${serverKey(server)}`)
    return payloads.flatMap((payload) => decodeDestination(payload, server.family) ?? [])
  }

  /** `family`: of one only. */
  async #listAll(family?: Family): Promise<readonly ObservedServer[]> {
    const both = await this.#listServers()
    this.#serverCount = both.length
    const servers = family === undefined ? both : both.filter((one) => one.family === family)
    // With virtual servers in other network namespaces the file leaves some of ours out, each with its destinations
    // (Linux 6.1: after a page it goes on at a place counted over all namespaces). Those are asked for one by one.
    const byServer = servers.length >= manyServers ? await this.#parseProc(family) : undefined
    const all: ObservedServer[] = []
    const turn = new PatientTurn()
    for (const server of servers) {
      if (turn.isOver) await turn.next()
      all.push({ server, destinations: byServer?.get(serverKey(server)) ?? (await this.#listDestinations(server)) })
    }
    return all
  }

  /** Destinations by server out of the proc file. */
  async #parseProc(family?: Family): Promise<ReadonlyMap<string, readonly ObservedDestination[]>> {
    const servers = new Map<string, ObservedDestination[]>()
    let current: ObservedDestination[] | undefined
    await this.#readProc({
      server: (id) => {
        current = family === undefined || id.family === family ? [] : undefined
        if (current !== undefined) servers.set(serverKey(id), current)
      },
      destination: (one) => current?.push(observed(one)),
    })
    return servers
  }

  async compare(family: Family, known: ReadonlyMap<string, KnownServer>): Promise<IpvsDifferences> {
    // The first time nothing may be missed; afterwards a list of many servers would keep the writes waiting.
    if (!this.#listed.has(family) || this.#serverCount < manyServers) {
      const all = await this.#listFamily(family)
      this.#listed.add(family)
      return differences(family, all, known)
    }
    let survey = await this.#survey(family, known)
    // Gathering ten thousand names in each look would fill the memory for nothing.
    if (survey.seenCount < known.size) survey = await this.#survey(family, known, new Set())
    const { seen } = survey
    const missing =
      seen === undefined
        ? []
        : await mapInTurns(known, ([key, { server }]) => (seen.has(key) ? undefined : server), new PatientTurn())
    // What the file says is only a suspicion: it leaves servers out while others come and go, here or in another
    // network namespace.
    const suspects = [...survey.suspects, ...missing]
    if (suspects.length > mostSuspects) return differences(family, await this.#listFamily(family), known)
    const found: ObservedServer[] = []
    const gone: string[] = []
    for (const id of suspects) {
      const one = await this.find(id)
      if (one === undefined) gone.push(serverKey(id))
      else found.push(one)
    }
    // Those that are as known after all were cleared by the closer look.
    const isKnown = (key: string): boolean => known.has(key)
    const looked = new Map(
      suspects
        .map(serverKey)
        .filter(isKnown)
        .map((key) => [key, known.get(key)!]),
    )
    return { found: (await differences(family, found, looked)).found, missing: gone.filter(isKnown) }
  }

  async #survey(family: Family, known: ReadonlyMap<string, KnownServer>, seen?: Set<string>): Promise<Survey> {
    const survey = new Survey(family, known, this.#ticksPerSecond, seen)
    await this.#readProcTogether(family, survey)
    survey.end()
    this.#ticksPerSecond = survey.ticksPerSecond
    return survey
  }

  /** One server as it stands, undefined where it does not. */
  async #lookAt(id: ServerId): Promise<ObservedServer | undefined> {
    const reply = await this.#connection.request(getServerMessage(await this.#family(), id))
    if (reply.errno === errno.ESRCH) return undefined
    if (reply.errno !== 0) throw kernelError(reply.errno, 'read', `virtual server ${serverKey(id)}`)
    const server = reply.payloads[0] && decodeServer(reply.payloads[0])
    return server && { server, destinations: await this.#listDestinations(server) }
  }

  /** One reading serves both families where they ask at about the same time. */
  async #readProcTogether(family: Family, visitor: ProcVisitor): Promise<void> {
    if (this.#joinable === undefined || this.#joinable.visitors.has(family)) {
      const visitors = new Map<Family, ProcVisitor>()
      const done = sleep(joinTime).then(() => {
        if (this.#joinable?.visitors === visitors) this.#joinable = undefined
        let current: ProcVisitor | undefined
        return this.#readProc({
          server: (...args) => {
            current = visitors.get(args[0].family)
            current?.server(...args)
          },
          destination: (one) => current?.destination(one),
        })
      })
      this.#joinable = { visitors, done }
    }
    this.#joinable.visitors.set(family, visitor)
    await this.#joinable.done
  }

  /**
   * Reads the proc file in small pieces, in turns with others. The kernel gives at most a page at once: through the
   * thread pool each would cost more than it takes to read.
   */
  async #readProc(visitor: ProcVisitor): Promise<void> {
    const parser = new ProcParser(visitor)
    const turn = new PatientTurn()
    const buffer = Buffer.allocUnsafe(65_536)
    const file = this.#openProc()
    try {
      for (let count = file.read(buffer); count > 0; count = file.read(buffer)) {
        parser.push(buffer.subarray(0, count))
        if (turn.isOver) await turn.next()
      }
    } finally {
      file.close()
    }
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
