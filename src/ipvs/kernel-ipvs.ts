import { closeSync, openSync, readSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { KernelError } from '../lib/errors.ts'
import { Thrift } from '../lib/thrift.ts'
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
  standingOf,
  type FoundServer,
  type Ipvs,
  type IpvsChange,
  type IpvsDifferences,
  type IpvsTimeouts,
  type IpvsTraffic,
  type KnownServer,
  type ObservedDestination,
  type ObservedServer,
  type ServerId,
  type TrafficVisitor,
  type VirtualServer,
} from './ipvs.ts'
import {
  changeError,
  changeMessages,
  decodeCounters,
  decodeDestination,
  decodeBalancing,
  decodeRate,
  decodeServer,
  markMessage,
  decodeTimeouts,
  familyName,
  getServerMessage,
  getTimeoutsMessage,
  listDestinationsMessage,
  listServersMessage,
  setTimeoutsMessage,
} from './messages.ts'
import {
  ProcParser,
  StandingVisitor,
  wordsText,
  type ProcDestination,
  type ProcServer,
  type ProcVisitor,
} from './proc.ts'

/** From so many servers on, reading the proc file beats one dump per server. */
const manyServers = 64

/** With more suspects than these the whole list is read instead of each. */
const mostSuspects = 256

/** Milliseconds in which another family may join a reading. */
const joinTime = 20

/**
 * So much of a core reading the proc file may take. Each page of it makes the kernel count its way through all servers up to
 * there (ip_vs_info_array): the time grows with their square.
 */
const readingShare = 0.01

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

/**
 * Reads the proc file in small pieces, in turns with others; answers the milliseconds that it took of a core. The kernel
 * gives at most a page at once: through the thread pool each would cost more than it takes to read.
 */
export async function readProcFile(visitor: ProcVisitor, open: () => ProcFile = openProcFile): Promise<number> {
  const parser = new ProcParser(visitor)
  // Near the end of a long file the kernel takes milliseconds for a page.
  const turn = new PatientTurn(1)
  const buffer = Buffer.allocUnsafe(65_536)
  const file = open()
  let spent = 0
  let began = performance.now()
  try {
    for (let count = file.read(buffer); count > 0; count = file.read(buffer)) {
      parser.push(buffer.subarray(0, count))
      if (!turn.isOver) continue
      spent += performance.now() - began
      await turn.next()
      began = performance.now()
    }
  } finally {
    file.close()
  }
  return spent + performance.now() - began
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
  readonly connections = { active: 0, inactive: 0 }
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

  server(server: ProcServer): void {
    this.end()
    if (server.family !== this.#family) return
    const { id, scheduler, ticks, onePacket } = server
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

  destination(one: ProcDestination): void {
    const { family, words, port, forwarding, weight } = one
    this.#count++
    this.connections.active += one.activeConnections
    this.connections.inactive += one.inactiveConnections
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
export class KernelIpvs implements Ipvs, IpvsTraffic {
  readonly #connection: Connection
  readonly #openProc: () => ProcFile
  #familyId: Promise<number> | undefined
  readonly #queue = new Queue()
  readonly #thrift = new Thrift(readingShare)
  /** A reading of the proc file that has not begun: others may join it. */
  #joinable: { readonly visitors: Map<Family, ProcVisitor>; readonly done: Promise<void> } | undefined
  /** Families of which all servers have been listed once. */
  readonly #listed = new Set<Family>()
  /** About so many servers there are, of both families. */
  #serverCount = 0
  /** Of the kernel's clock that persistence timeouts are shown in; undefined until known. */
  #ticksPerSecond: number | undefined
  /** Rises before and after virtual servers are deleted. */
  #deletions = 0

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

  find(id: ServerId): Promise<FoundServer | undefined> {
    return this.#queue.run(() => this.#lookAt(id))
  }

  /** The virtual server of a firewall mark, which takes packets before any of an address; named by `id`. */
  findByMark(mark: number, id: ServerId): Promise<ObservedServer | undefined> {
    return this.#queue.run(() => this.#lookAtMark(mark, id))
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
      const deletes = part.some(({ kind }) => kind === 'deleteServer')
      if (deletes) this.#deletions++
      const results = await this.#connection.batch(changeMessages(family, part))
      if (deletes) this.#deletions++
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
    const visitor: ProcVisitor = {
      server: (one) => {
        current = family === undefined || one.family === family ? [] : undefined
        if (current !== undefined) servers.set(serverKey(one.id), current)
      },
      destination: (one) => void current?.push(observed(one)),
    }
    await readProcFile(visitor, this.#openProc)
    return servers
  }

  async compare(family: Family, known: ReadonlyMap<string, KnownServer>, thrifty = false): Promise<IpvsDifferences> {
    // The first time nothing may be missed; afterwards a list of many servers would keep the writes waiting.
    if (!this.#listed.has(family) || this.#serverCount < manyServers) {
      const all = await this.#listFamily(family)
      this.#listed.add(family)
      return differences(family, all, known)
    }
    if (thrifty && this.#joinable === undefined && !this.#thrift.isDue)
      return { found: [], missing: [], connections: undefined }
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
    return {
      found: (await differences(family, found, looked)).found,
      missing: gone.filter(isKnown),
      connections: survey.connections,
    }
  }

  async traffic(visitor: TrafficVisitor): Promise<void> {
    /** Those whose destinations are not told yet. */
    const outstanding = new Map<string, ServerId>()
    // Beside the writes at first, for a dump of many servers would keep them waiting; where one of them deleted
    // servers, the dump may have left others out.
    const before = this.#deletions
    await this.#count(visitor, outstanding)
    if (this.#deletions !== before) await this.#queue.run(() => this.#count(visitor, outstanding))
    if (outstanding.size >= manyServers) {
      const standing = new StandingVisitor((id, sums) => {
        if (outstanding.delete(serverKey(id))) visitor.standing(id, sums)
      })
      await readProcFile(standing, this.#openProc)
      standing.end()
    }
    // Those that the file has left out; too many of them would take too long.
    if (outstanding.size > mostSuspects) return
    for (const id of outstanding.values()) {
      const destinations = await this.#queue.run(() => this.#listDestinations(id))
      visitor.standing(id, standingOf(destinations))
    }
  }

  async #count(visitor: TrafficVisitor, counted: Map<string, ServerId>): Promise<void> {
    const message = listServersMessage(await this.#family())
    const value = await this.#connection.scan(message, () => {
      visitor.begin()
      counted.clear()
      return ({ datagram, start, end }) => {
        const one = decodeCounters(datagram, start, end)
        if (one === undefined) return
        counted.set(serverKey(one.id), one.id)
        visitor.counted(one.id, one.counters)
      }
    })
    if (value !== 0) throw kernelError(value, 'list', 'counters of virtual servers')
  }

  async #survey(family: Family, known: ReadonlyMap<string, KnownServer>, seen?: Set<string>): Promise<Survey> {
    const survey = new Survey(family, known, this.#ticksPerSecond, seen)
    await this.#readProcTogether(family, survey)
    survey.end()
    this.#ticksPerSecond = survey.ticksPerSecond
    return survey
  }

  /** One server as it stands, undefined where it does not. */
  async #lookAt(id: ServerId): Promise<FoundServer | undefined> {
    const reply = await this.#connection.request(getServerMessage(await this.#family(), id))
    if (reply.errno === errno.ESRCH) return undefined
    if (reply.errno !== 0) throw kernelError(reply.errno, 'read', `virtual server ${serverKey(id)}`)
    const [payload] = reply.payloads
    const server = payload && decodeServer(payload)
    return (
      server && {
        server,
        destinations: await this.#listDestinations(server),
        connectionsPerSecond: decodeRate(payload),
      }
    )
  }

  async #lookAtMark(mark: number, id: ServerId): Promise<ObservedServer | undefined> {
    const { family } = id
    const number = await this.#family()
    const reply = await this.#connection.request(markMessage(number, 'getServer', family, mark))
    const [payload] = reply.payloads
    if (reply.errno === errno.ESRCH) return undefined
    if (reply.errno !== 0 || payload === undefined)
      throw kernelError(reply.errno, 'read', `virtual server of mark ${mark}`)
    const listing = markMessage(number, 'getDestination', family, mark)
    const payloads = await this.#dump(listing, `destinations of mark ${mark}`)
    const destinations = payloads.flatMap((one) => decodeDestination(one, family) ?? [])
    return { server: { ...id, ...decodeBalancing(payload) }, destinations }
  }

  /** One reading serves both families where they ask at about the same time. */
  async #readProcTogether(family: Family, visitor: ProcVisitor): Promise<void> {
    if (this.#joinable === undefined || this.#joinable.visitors.has(family)) {
      const visitors = new Map<Family, ProcVisitor>()
      const done = sleep(joinTime).then(async () => {
        if (this.#joinable?.visitors === visitors) this.#joinable = undefined
        let current: ProcVisitor | undefined
        const each: ProcVisitor = {
          server: (one) => {
            current = visitors.get(one.family)
            current?.server(one)
          },
          destination: (one) => current?.destination(one),
        }
        this.#thrift.spent(await readProcFile(each, this.#openProc))
      })
      this.#joinable = { visitors, done }
    }
    this.#joinable.visitors.set(family, visitor)
    await this.#joinable.done
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
