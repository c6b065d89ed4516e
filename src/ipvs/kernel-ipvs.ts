import { setTimeout as sleep } from 'node:timers/promises'
import type { KernelError } from '../lib/errors.ts'
import { mapInTurns, PatientTurn, Queue } from '../lib/turn.ts'
import type { Family } from '../model/address.ts'
import { Connection, type Message } from '../netlink/connection.ts'
import { errno, kernelError } from '../netlink/errno.ts'
import { resolveFamily } from '../netlink/generic.ts'
import { protocols } from '../netlink/header.ts'
import {
  changesOf,
  differences,
  serverKey,
  standingOf,
  type FoundServer,
  type Ipvs,
  type IpvsChange,
  type IpvsDifferences,
  type IpvsTimeouts,
  type IpvsTraffic,
  type KnownServer,
  type Made,
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
  makeMessages,
  setTimeoutsMessage,
} from './messages.ts'
import { StandingVisitor, wordsText, type ProcDestination, type ProcVisitor } from './proc.ts'
import { openProcFile, readProcFile, type ProcFile } from './proc-file.ts'
import { Survey, type KernelFrequency } from './survey.ts'

/** From so many servers on, reading the proc file beats one dump per server. */
const manyServers = 64

/** With more suspects than these, and than a share of all, the whole list is read instead of each. */
const mostSuspects = 256
const mostSuspectsShare = 1 / 8

/** Milliseconds in which another family may join a reading. */
const joinTime = 20

/**
 * So much of a core reading the proc file may take. Each page of it makes the kernel count its way through all servers up to
 * there (ip_vs_info_array): the time grows with their square.
 */
const readingShare = 0.0075

/** Milliseconds that a look may read even where another one was just before it. */
const leastReading = 20

/** Changes turned into messages at a time, so that 100,000 of them are never there at once. */
const changesPerBatch = 2048

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

/**
 * The kernel's IPVS by generic netlink. Calls wait for each other: the kernel continues a list of servers by counting
 * how many it has given, so that it skips some where others are removed between two parts of it.
 */
export class KernelIpvs implements Ipvs, IpvsTraffic {
  readonly #connection: Connection
  readonly #openProc: () => ProcFile
  #familyId: Promise<number> | undefined
  readonly #queue = new Queue()
  /** What each family knew when it looked last. */
  readonly #known = new Map<Family, ReadonlyMap<string, KnownServer>>()
  /** The survey under way, or the last one. */
  #survey: Survey | undefined
  /** When the proc file was read last, in milliseconds. */
  #surveyedAt = 0
  /** Families of which all servers have been listed once. */
  readonly #listed = new Set<Family>()
  /** About so many servers there are, of both families. */
  #serverCount = 0
  readonly #frequency: KernelFrequency = {}
  /** Rises before and after virtual servers are deleted. */
  #deletions = 0
  /** Called when ip_vs was found to have been loaded anew: all of its settings are the kernel's defaults then. */
  reloaded: () => void = () => {}

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

  make(servers: readonly KnownServer[]): Promise<readonly Made[]> {
    return this.#queue.run(() => this.#make(servers))
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
    let family = await this.#family()
    const answers: (KernelError | undefined)[] = []
    for (let from = 0; from < changes.length; from += changesPerBatch) {
      const part = changes.slice(from, from + changesPerBatch)
      const deletes = part.some(({ kind }) => kind === 'deleteServer')
      if (deletes) this.#deletions++
      let results = await this.#connection.batch(changeMessages(family, part))
      if (results.includes(errno.ENOENT) && (await this.#isLoadedAnew(family))) {
        family = await this.#family()
        results = await this.#connection.batch(changeMessages(family, part))
      }
      if (deletes) this.#deletions++
      for (const [index, change] of part.entries()) {
        const result = results[index] ?? 0
        if (result === 0) this.#serverCount += change.kind === 'newServer' ? 1 : change.kind === 'deleteServer' ? -1 : 0
        answers.push(result === 0 ? undefined : changeError(change, result))
      }
    }
    return answers
  }

  async #make(servers: readonly KnownServer[]): Promise<readonly Made[]> {
    let family = await this.#family()
    let results = await this.#connection.batch(makeMessages(family, servers))
    if (results.includes(errno.ENOENT) && (await this.#isLoadedAnew(family))) {
      family = await this.#family()
      results = await this.#connection.batch(makeMessages(family, servers))
    }
    let next = 0
    return servers.map((one) => {
      const own = results.slice(next, (next += 1 + one.destinations.length))
      if (own[0] === 0) this.#serverCount++
      if (own.every((result) => result === 0)) return undefined
      return changesOf(one).map((change, i) => (own[i] === 0 ? undefined : changeError(change, own[i]!)))
    })
  }

  async #listServers(): Promise<readonly VirtualServer[]> {
    const payloads = await this.#dump(listServersMessage, 'virtual servers')
    return mapInTurns(payloads, decodeServer, new PatientTurn())
  }

  async #listDestinations(server: ServerId): Promise<readonly ObservedDestination[]> {
    const message = (family: number): Message => listDestinationsMessage(family, server)
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
    this.#known.set(family, known)
    // The first time nothing may be missed; afterwards a list of many servers would keep the writes waiting.
    if (!this.#listed.has(family) || this.#serverCount < manyServers) {
      const all = await this.#listFamily(family)
      this.#listed.add(family)
      return differences(family, all, known)
    }
    let survey: Survey
    try {
      survey = thrifty ? await this.#goOn(family) : await this.#goThrough()
    } catch {
      // Without ip_vs there is no such file; the list loads it, or says what is wrong.
      return differences(family, await this.#listFamily(family), known)
    }
    // What the file says is only a suspicion: it leaves servers out while others come and go, here or in another
    // network namespace.
    const { suspects, connections } = await survey.take(family)
    if (suspects.length > Math.max(mostSuspects, mostSuspectsShare * known.size))
      return differences(family, await this.#listFamily(family), known)
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
      connections,
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

  /** As much more of a survey as there is time for; a new one where this family has the last one's end. */
  async #goOn(family: Family): Promise<Survey> {
    let survey = this.#survey
    if (survey === undefined || survey.isOverFor(family)) survey = this.#newSurvey()
    const allowance = Math.max(leastReading, readingShare * (performance.now() - this.#surveyedAt))
    await survey.goOn(allowance)
    this.#surveyedAt = performance.now()
    return survey
  }

  /** A whole survey; one serves both families where they ask at about the same time. */
  async #goThrough(): Promise<Survey> {
    let survey = this.#survey
    if (survey === undefined || survey.hasBegun) {
      survey = this.#newSurvey()
      await sleep(joinTime)
    }
    // A thrifty look of the other family may have begun it.
    while (!survey.isOver) await survey.goOn()
    this.#surveyedAt = performance.now()
    return survey
  }

  #newSurvey(): Survey {
    this.#survey?.close()
    return (this.#survey = new Survey(this.#known, this.#frequency, this.#openProc))
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
    const listing = (id: number): Message => markMessage(id, 'getDestination', family, mark)
    const payloads = await this.#dump(listing, `destinations of mark ${mark}`)
    const destinations = payloads.flatMap((one) => decodeDestination(one, family) ?? [])
    return { server: { ...id, ...decodeBalancing(payload) }, destinations }
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
    this.#survey?.close()
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

  /** Whether ip_vs was unloaded and loaded since: the kernel has another number for it then, and knows no servers. */
  async #isLoadedAnew(former: number): Promise<boolean> {
    this.#familyId = undefined
    // Asking loads it.
    if ((await this.#family()) === former) return false
    this.reloaded()
    return true
  }

  async #dump(message: (family: number) => Message, object: string): Promise<readonly Buffer[]> {
    const family = await this.#family()
    let reply = await this.#connection.dump(message(family))
    if (reply.errno === errno.ENOENT && (await this.#isLoadedAnew(family))) {
      reply = await this.#connection.dump(message(await this.#family()))
    }
    if (reply.errno !== 0) throw kernelError(reply.errno, 'list', object)
    return reply.payloads
  }
}
