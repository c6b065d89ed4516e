import type { AddressDigest, AddressFilter, Dummy, InterfaceAddress, Link } from '../../../src/dummy/dummy.ts'
import type { Ipset, ObservedSet, SetDigest, SetSpec } from '../../../src/ipset/ipset.ts'
import type { Iptables } from '../../../src/iptables/iptables.ts'
import { tables, type Table } from '../../../src/iptables/rules.ts'
import { canonicalRule, parseSave } from '../../../src/iptables/text.ts'
import {
  destinationKey,
  serverKey,
  type FoundServer,
  type Ipvs,
  type IpvsChange,
  type IpvsTimeouts,
  type IpvsDifferences,
  type KnownServer,
  type Made,
  type ObservedDestination,
  type ObservedServer,
  type ServerId,
  type VirtualServer,
} from '../../../src/ipvs/ipvs.ts'
import type { KernelError } from '../../../src/lib/errors.ts'
import type { Family } from '../../../src/model/address.ts'
import type { Ports } from './tamper.ts'

/** What one service port wants, as the guard looks at it. */
export interface OwnerWant {
  /** "SET ENTRY" */
  readonly entries: readonly string[]
  /** Keys of the virtual servers that it has: of shared ones only those it is the first by name of. */
  readonly servers: readonly string[]
  readonly addresses: readonly string[]
}

/** What is wanted at this moment, both families. */
export interface Wanted {
  /** Keys of virtual servers with the keys of their destinations. */
  readonly servers: ReadonlyMap<string, ReadonlySet<string>>
  readonly owners: readonly OwnerWant[]
  /** "FAMILY TABLE CHAIN RULE" */
  readonly rules: ReadonlySet<string>
  /** Nobody else has touched anything: what is not there the daemon has not made. */
  readonly undisturbed: boolean
  /** No process has started in this round: one that starts may begin with some Services and their rules. */
  readonly atOnce: boolean
}

/**
 * Watches each single write of the daemon, also while calls fail. Nothing that is wanted is taken away, and never the
 * last working destination of a server that has others to come; a virtual server is made when its set entries and rules
 * stand, an address is bound when its virtual servers do.
 */
export class Guard {
  readonly wrongs: string[] = []
  /**
   * "FAMILY TABLE CHAIN RULE" of the rules that were in force when the round began, and still are. What a failed restore
   * of this round brought in may go again: nothing was built upon it.
   */
  readonly standing = new Set<string>()
  readonly #kernel: Ports
  /** Undefined: what the daemon can know is not certain now, nothing is judged. */
  readonly wanted: () => Promise<Wanted | undefined>

  constructor(kernel: Ports, wanted: () => Promise<Wanted | undefined>) {
    this.#kernel = kernel
    this.wanted = wanted
  }

  /** The kernel's ports under watch. */
  ports(): Ports {
    const { ipvs, ipset, dummy, iptables } = this.#kernel
    return {
      ipvs: new GuardedIpvs(ipvs, this),
      ipset: new GuardedIpset(ipset, this),
      dummy: new GuardedDummy(dummy, this),
      iptables: new Map(
        [...iptables].map(([family, tool]): [Family, GuardedIptables] => [
          family,
          new GuardedIptables(family, tool, this),
        ]),
      ),
    }
  }

  /** Before virtual servers are made: whether what they need stands. */
  async making(servers: readonly VirtualServer[]): Promise<void> {
    const wanted = await this.wanted()
    if (wanted === undefined || !wanted.undisturbed || servers.length === 0) return
    const entries = await this.#entries()
    for (const server of servers) {
      const key = serverKey(server)
      const owner = wanted.owners.find((one) => one.servers.includes(key))
      for (const entry of owner?.entries ?? []) {
        if (!entries.has(entry)) this.wrongs.push(`virtual server ${key} was made before set entry ${entry}`)
      }
    }
    if (!wanted.atOnce) return
    for (const family of new Set(servers.map((server) => server.family))) {
      const rules = await this.rules(family)
      for (const rule of wanted.rules) {
        if (rule.startsWith(family) && !rules.has(rule))
          this.wrongs.push(`virtual servers were made before rule ${rule}`)
      }
    }
  }

  /** Before addresses are bound: whether somebody who wants it has all the rest. */
  async binding(addresses: readonly string[]): Promise<void> {
    const wanted = await this.wanted()
    if (wanted === undefined || !wanted.undisturbed || addresses.length === 0) return
    const entries = await this.#entries()
    const servers = new Set((await this.#kernel.ipvs.listAll()).map(({ server }) => serverKey(server)))
    for (const address of addresses) {
      const owners = wanted.owners.filter((owner) => owner.addresses.includes(address))
      const served = owners.some(
        (owner) =>
          owner.entries.every((entry) => entries.has(entry)) && owner.servers.every((server) => servers.has(server)),
      )
      if (owners.length > 0 && !served) this.wrongs.push(`address ${address} was bound before what it leads to`)
    }
  }

  async removingEntries(set: string, entries: readonly string[]): Promise<void> {
    const owners = (await this.wanted())?.owners ?? []
    for (const entry of entries) {
      if (!owners.some((owner) => owner.entries.includes(`${set} ${entry}`))) continue
      this.wrongs.push(`entry ${entry} of set ${set} was taken away although it is wanted`)
    }
  }

  async unbinding(addresses: readonly string[]): Promise<void> {
    const owners = (await this.wanted())?.owners ?? []
    for (const address of addresses) {
      if (!owners.some((owner) => owner.addresses.includes(address))) continue
      this.wrongs.push(`address ${address} was taken away although it is wanted`)
    }
  }

  /** Destinations that take new connections, by server. */
  async live(): Promise<Map<string, Set<string>>> {
    const all = await this.#kernel.ipvs.listAll()
    return new Map(
      all.map(({ server, destinations }) => [
        serverKey(server),
        new Set(destinations.filter(({ weight }) => weight > 0).map(destinationKey)),
      ]),
    )
  }

  async rules(family: Family): Promise<Set<string>> {
    const found = new Set<string>()
    for (const table of tables) {
      const saved = parseSave(await this.#kernel.iptables.get(family)!.save(table)).get(table) ?? []
      for (const [name, { rules }] of saved) {
        for (const rule of rules) found.add(`${family} ${canonicalRule(`${table} ${name} ${rule}`)}`)
      }
    }
    return found
  }

  async #entries(): Promise<Set<string>> {
    const found = new Set<string>()
    for (const name of await this.#kernel.ipset.names()) {
      for (const entry of (await this.#kernel.ipset.list(name))?.entries ?? []) found.add(`${name} ${entry}`)
    }
    return found
  }
}

class GuardedIpvs implements Ipvs {
  readonly #inner: Ipvs
  readonly #guard: Guard

  constructor(inner: Ipvs, guard: Guard) {
    this.#inner = inner
    this.#guard = guard
  }

  async apply(changes: readonly IpvsChange[]): Promise<readonly (KernelError | undefined)[]> {
    const guard = this.#guard
    await guard.making(changes.flatMap((change) => (change.kind === 'newServer' ? [change.server] : [])))
    const lessens = changes.some(
      (change) =>
        change.kind.startsWith('delete') || (change.kind === 'setDestination' && change.destination.weight === 0),
    )
    const wanted = lessens ? await guard.wanted() : undefined
    if (wanted === undefined) return this.#inner.apply(changes)
    const before = await guard.live()
    const answers = await this.#inner.apply(changes)
    this.#judge(wanted, before, await guard.live())
    return answers
  }

  async make(servers: readonly KnownServer[]): Promise<readonly Made[]> {
    await this.#guard.making(servers.map(({ server }) => server))
    return this.#inner.make(servers)
  }

  #judge(
    wanted: Wanted,
    before: ReadonlyMap<string, ReadonlySet<string>>,
    after: ReadonlyMap<string, ReadonlySet<string>>,
  ): void {
    const { wrongs } = this.#guard
    for (const [server, had] of before) {
      const want = wanted.servers.get(server)
      if (want === undefined) continue
      const has = after.get(server)
      if (has === undefined) {
        wrongs.push(`virtual server ${server} was taken away although it is wanted`)
        continue
      }
      if (want.size > 0 && had.size > 0 && has.size === 0) {
        wrongs.push(`virtual server ${server} lost its last destination although ${[...want].join(', ')} are wanted`)
      }
      for (const destination of had) {
        if (!want.has(destination) || has.has(destination)) continue
        wrongs.push(`destination ${destination} of ${server} was taken away although it is wanted`)
      }
    }
  }

  listServers(): Promise<readonly VirtualServer[]> {
    return this.#inner.listServers()
  }

  listDestinations(server: ServerId): Promise<readonly ObservedDestination[]> {
    return this.#inner.listDestinations(server)
  }

  find(server: ServerId): Promise<FoundServer | undefined> {
    return this.#inner.find(server)
  }

  listAll(): Promise<readonly ObservedServer[]> {
    return this.#inner.listAll()
  }

  compare(family: Family, known: ReadonlyMap<string, KnownServer>, thrifty?: boolean): Promise<IpvsDifferences> {
    return this.#inner.compare(family, known, thrifty)
  }

  timeouts(): Promise<IpvsTimeouts> {
    return this.#inner.timeouts()
  }

  setTimeouts(timeouts: IpvsTimeouts): Promise<void> {
    return this.#inner.setTimeouts(timeouts)
  }

  close(): void {}
}

class GuardedIpset implements Ipset {
  readonly #inner: Ipset
  readonly #guard: Guard

  constructor(inner: Ipset, guard: Guard) {
    this.#inner = inner
    this.#guard = guard
  }

  protocol(): Promise<number> {
    return this.#inner.protocol()
  }
  loadType(spec: SetSpec): Promise<void> {
    return this.#inner.loadType(spec)
  }

  create(spec: SetSpec): Promise<void> {
    return this.#inner.create(spec)
  }

  add(set: SetSpec, entries: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return this.#inner.add(set, entries)
  }

  async remove(set: SetSpec, entries: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    await this.#guard.removingEntries(set.name, entries)
    return this.#inner.remove(set, entries)
  }

  list(name: string): Promise<ObservedSet | undefined> {
    return this.#inner.list(name)
  }

  digest(name: string): Promise<SetDigest | undefined> {
    return this.#inner.digest(name)
  }

  sizes(): Promise<ReadonlyMap<string, number | undefined>> {
    return this.#inner.sizes()
  }

  names(): Promise<readonly string[]> {
    return this.#inner.names()
  }

  swap(from: string, to: string): Promise<void> {
    return this.#inner.swap(from, to)
  }

  destroy(name: string): Promise<void> {
    return this.#inner.destroy(name)
  }

  close(): void {}
}

class GuardedDummy implements Dummy {
  readonly #inner: Dummy
  readonly #guard: Guard

  constructor(inner: Dummy, guard: Guard) {
    this.#inner = inner
    this.#guard = guard
  }

  links(): Promise<readonly Link[]> {
    return this.#inner.links()
  }

  addresses(filter?: AddressFilter): Promise<readonly InterfaceAddress[]> {
    return this.#inner.addresses(filter)
  }

  digest(filter: AddressFilter): Promise<AddressDigest> {
    return this.#inner.digest(filter)
  }

  createDevice(name: string): Promise<void> {
    return this.#inner.createDevice(name)
  }

  deleteDevice(name: string): Promise<void> {
    this.#guard.wrongs.push(`device ${name} was deleted`)
    return this.#inner.deleteDevice(name)
  }

  renameDevice(linkIndex: number, name: string): Promise<void> {
    return this.#inner.renameDevice(linkIndex, name)
  }

  async bind(linkIndex: number, addresses: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    await this.#guard.binding(addresses)
    return this.#inner.bind(linkIndex, addresses)
  }

  async unbind(linkIndex: number, addresses: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    await this.#guard.unbinding(addresses)
    return this.#inner.unbind(linkIndex, addresses)
  }

  close(): void {}
}

class GuardedIptables implements Iptables {
  readonly #family: Family
  readonly #inner: Iptables & { readonly randomFully: boolean }
  readonly #guard: Guard

  constructor(family: Family, inner: Iptables & { readonly randomFully: boolean }, guard: Guard) {
    this.#family = family
    this.#inner = inner
    this.#guard = guard
  }

  get variant(): 'nft' | 'legacy' {
    return this.#inner.variant
  }

  get version(): string {
    return this.#inner.version
  }

  get randomFully(): boolean {
    return this.#inner.randomFully
  }

  save(table: Table): Promise<string> {
    return this.#inner.save(table)
  }

  async restore(input: string): Promise<void> {
    const { standing, wrongs } = this.#guard
    const wanted = await this.#guard.wanted()
    const before = await this.#guard.rules(this.#family)
    await this.#inner.restore(input)
    const after = await this.#guard.rules(this.#family)
    for (const rule of before.difference(after)) {
      if (!standing.delete(rule) || !wanted?.rules.has(rule)) continue
      wrongs.push(`rule was taken away although it is wanted: ${rule}`)
    }
  }
}
