import type { AddressDigest, AddressFilter, Dummy, InterfaceAddress, Link } from '../../../src/dummy/dummy.ts'
import type { Ipset, ObservedSet, SetDigest, SetSpec } from '../../../src/ipset/ipset.ts'
import type { Iptables } from '../../../src/iptables/iptables.ts'
import {
  answersOf,
  changesOf,
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
import { ProxyError, type KernelError } from '../../../src/lib/errors.ts'
import type { Family } from '../../../src/model/address.ts'
import { errno, kernelError } from '../../../src/netlink/errno.ts'
import type { FaultPlan, FaultyPort } from './events.ts'
import { Random } from '../../random.ts'
import type { Ports } from './tamper.ts'

/** What a call shall do instead of its work. */
type Mode = 'unread' | 'gone' | 'torn' | 'refused' | 'denied'

const refusals = [errno.ENOMEM, errno.EBUSY, errno.EINTR, errno.ENOBUFS, errno.EAGAIN]

const calm: FaultPlan = { seed: 0, unread: 0, gone: 0, torn: 0, refused: 0, denied: 0 }

/** Decides which calls of one family's stack fail, and how; counts them. */
export class FaultSource {
  /** How often each fault was injected: "ipvs gone". */
  readonly counts: Map<string, number>
  #plan = calm
  #random = new Random(0)
  /** Calls that still get through; after that none does. */
  #left = Number.POSITIVE_INFINITY

  constructor(counts: Map<string, number>) {
    this.counts = counts
  }

  set(plan: FaultPlan, salt: number): void {
    this.#plan = plan
    this.#random = new Random(plan.seed + salt)
  }

  off(): void {
    this.#plan = calm
    this.#left = Number.POSITIVE_INFINITY
  }

  /** Lets so many calls through and none after them. */
  dieAfter(calls: number): void {
    this.#left = calls
  }

  /** What is to happen to the next call of a port, of the modes that it may have. */
  draw<M extends Mode>(port: FaultyPort, ...modes: readonly M[]): M | 'gone' | undefined {
    if (this.#left-- <= 0) return this.#count(port, 'gone')
    const plan = this.#plan
    if (plan.ports !== undefined && !plan.ports.includes(port)) return undefined
    for (const mode of modes) if (this.#random.chance(plan[mode])) return this.#count(port, mode)
    return undefined
  }

  /** How many of so many are done before a call tears. */
  part(count: number): number {
    return this.#random.chance(0.3) ? count : this.#random.below(count + 1)
  }

  /** Which of a call's entries are hit: at least one of them. */
  hits(count: number): ReadonlySet<number> {
    const most = this.#random.chance(0.2) ? count : Math.max(1, Math.floor(count / 3))
    return new Set(
      this.#random.some(
        Array.from({ length: count }, (_, i) => i),
        this.#random.between(1, most),
      ),
    )
  }

  error(operation: string, object: string): KernelError {
    return kernelError(this.#random.pick(refusals), operation, object)
  }

  #count<M extends Mode>(port: FaultyPort, mode: M): M {
    const name = `${port} ${mode}`
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
    return mode
  }
}

function socketGone(): Error {
  return new ProxyError('KERNEL', 'the netlink socket failed (injected)')
}

/** The ports of one family's stack, with faults. */
export function faulty(ports: Ports, faults: FaultSource): Ports {
  return {
    ipvs: new FaultyIpvs(ports.ipvs, faults),
    ipset: new FaultyIpset(ports.ipset, faults),
    dummy: new FaultyDummy(ports.dummy, faults),
    iptables: new Map(
      [...ports.iptables].map(([family, tool]): [Family, FaultyIptables] => [family, new FaultyIptables(tool, faults)]),
    ),
  }
}

type WriteFault = 'gone' | 'torn' | 'refused' | 'denied'

class FaultyIpvs implements Ipvs {
  readonly #inner: Ipvs
  readonly #faults: FaultSource

  constructor(inner: Ipvs, faults: FaultSource) {
    this.#inner = inner
    this.#faults = faults
  }

  async apply(changes: readonly IpvsChange[]): Promise<readonly (KernelError | undefined)[]> {
    const fault = this.#draw()
    return fault === undefined ? this.#inner.apply(changes) : this.#fail(fault, changes)
  }

  async make(servers: readonly KnownServer[]): Promise<readonly Made[]> {
    const fault = this.#draw()
    if (fault === undefined) return this.#inner.make(servers)
    const changes = servers.map(changesOf)
    return answersOf(changes, await this.#fail(fault, changes.flat()))
  }

  #draw(): WriteFault | undefined {
    return this.#faults.draw('ipvs', 'gone', 'torn', 'refused', 'denied')
  }

  async #fail(fault: WriteFault, changes: readonly IpvsChange[]): Promise<readonly (KernelError | undefined)[]> {
    const faults = this.#faults
    switch (fault) {
      case 'gone':
        throw socketGone()
      case 'torn':
        await this.#inner.apply(changes.slice(0, faults.part(changes.length)))
        throw socketGone()
      case 'refused': {
        const hit = faults.hits(changes.length)
        const answers = await this.#inner.apply(changes.filter((_, i) => !hit.has(i)))
        let next = 0
        return changes.map((change, i) => (hit.has(i) ? faults.error(change.kind, 'injected') : answers[next++]))
      }
      case 'denied': {
        const hit = faults.hits(changes.length)
        const answers = await this.#inner.apply(changes)
        return changes.map((change, i) => (hit.has(i) ? faults.error(change.kind, 'injected') : answers[i]))
      }
    }
  }

  async listServers(): Promise<readonly VirtualServer[]> {
    this.#read()
    return this.#inner.listServers()
  }

  async listDestinations(server: ServerId): Promise<readonly ObservedDestination[]> {
    this.#read()
    return this.#inner.listDestinations(server)
  }

  async find(server: ServerId): Promise<FoundServer | undefined> {
    this.#read()
    return this.#inner.find(server)
  }

  async listAll(): Promise<readonly ObservedServer[]> {
    this.#read()
    return this.#inner.listAll()
  }

  async compare(family: Family, known: ReadonlyMap<string, KnownServer>, thrifty?: boolean): Promise<IpvsDifferences> {
    this.#read()
    return this.#inner.compare(family, known, thrifty)
  }

  timeouts(): Promise<IpvsTimeouts> {
    return this.#inner.timeouts()
  }

  setTimeouts(timeouts: IpvsTimeouts): Promise<void> {
    return this.#inner.setTimeouts(timeouts)
  }

  close(): void {}

  #read(): void {
    if (this.#faults.draw('ipvs', 'unread') !== undefined) throw socketGone()
  }
}

/** A call that changes many entries of one thing and answers the refused ones. */
async function changeEntries(
  port: FaultyPort,
  faults: FaultSource,
  operation: string,
  entries: readonly string[],
  act: (entries: readonly string[]) => Promise<ReadonlyMap<string, KernelError>>,
): Promise<ReadonlyMap<string, KernelError>> {
  const refuse = (hit: ReadonlySet<number>): [string, KernelError][] =>
    entries.flatMap((entry, i) => (hit.has(i) ? [[entry, faults.error(operation, entry)]] : []))
  switch (faults.draw(port, 'gone', 'torn', 'refused', 'denied')) {
    case 'gone':
      throw socketGone()
    case 'torn':
      await act(entries.slice(0, faults.part(entries.length)))
      throw socketGone()
    case 'refused': {
      const hit = faults.hits(entries.length)
      return new Map([...(await act(entries.filter((_, i) => !hit.has(i)))), ...refuse(hit)])
    }
    case 'denied': {
      const hit = faults.hits(entries.length)
      return new Map([...(await act(entries)), ...refuse(hit)])
    }
    default:
      return act(entries)
  }
}

/** A call that changes one thing. */
async function changeOne(
  port: FaultyPort,
  faults: FaultSource,
  operation: string,
  object: string,
  act: () => Promise<void>,
): Promise<void> {
  switch (faults.draw(port, 'gone', 'torn', 'refused', 'denied')) {
    case 'gone':
      throw socketGone()
    case 'refused':
      throw faults.error(operation, object)
    case 'torn':
      if (faults.part(1) > 0) await act()
      throw socketGone()
    case 'denied':
      await act()
      throw faults.error(operation, object)
    default:
      return act()
  }
}

class FaultyIpset implements Ipset {
  readonly #inner: Ipset
  readonly #faults: FaultSource

  constructor(inner: Ipset, faults: FaultSource) {
    this.#inner = inner
    this.#faults = faults
  }

  protocol(): Promise<number> {
    return this.#inner.protocol()
  }
  loadType(spec: SetSpec): Promise<void> {
    return this.#inner.loadType(spec)
  }

  create(spec: SetSpec): Promise<void> {
    return changeOne('ipset', this.#faults, 'create', `set ${spec.name}`, () => this.#inner.create(spec))
  }

  add(set: SetSpec, entries: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return changeEntries('ipset', this.#faults, 'add', entries, (some) => this.#inner.add(set, some))
  }

  remove(set: SetSpec, entries: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return changeEntries('ipset', this.#faults, 'delete', entries, (some) => this.#inner.remove(set, some))
  }

  async list(name: string): Promise<ObservedSet | undefined> {
    this.#read(`set ${name}`)
    return this.#inner.list(name)
  }

  async digest(name: string): Promise<SetDigest | undefined> {
    this.#read(`set ${name}`)
    return this.#inner.digest(name)
  }

  async sizes(): Promise<ReadonlyMap<string, number | undefined>> {
    this.#read('headers of sets')
    return this.#inner.sizes()
  }

  async names(): Promise<readonly string[]> {
    this.#read('names of sets')
    return this.#inner.names()
  }

  swap(from: string, to: string): Promise<void> {
    return changeOne('ipset', this.#faults, 'swap', `set ${from} with ${to}`, () => this.#inner.swap(from, to))
  }

  destroy(name: string): Promise<void> {
    return changeOne('ipset', this.#faults, 'destroy', `set ${name}`, () => this.#inner.destroy(name))
  }

  close(): void {}

  #read(object: string): void {
    if (this.#faults.draw('ipset', 'unread') !== undefined) throw this.#faults.error('list', object)
  }
}

class FaultyDummy implements Dummy {
  readonly #inner: Dummy
  readonly #faults: FaultSource

  constructor(inner: Dummy, faults: FaultSource) {
    this.#inner = inner
    this.#faults = faults
  }

  async links(): Promise<readonly Link[]> {
    this.#read('links')
    return this.#inner.links()
  }

  async addresses(filter?: AddressFilter): Promise<readonly InterfaceAddress[]> {
    this.#read('addresses')
    return this.#inner.addresses(filter)
  }

  async digest(filter: AddressFilter): Promise<AddressDigest> {
    this.#read('addresses')
    return this.#inner.digest(filter)
  }

  createDevice(name: string): Promise<void> {
    return changeOne('dummy', this.#faults, 'create', `device ${name}`, () => this.#inner.createDevice(name))
  }

  deleteDevice(name: string): Promise<void> {
    return changeOne('dummy', this.#faults, 'delete', `device ${name}`, () => this.#inner.deleteDevice(name))
  }

  renameDevice(linkIndex: number, name: string): Promise<void> {
    return changeOne('dummy', this.#faults, 'rename', `link ${linkIndex}`, () =>
      this.#inner.renameDevice(linkIndex, name),
    )
  }

  bind(linkIndex: number, addresses: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return changeEntries('dummy', this.#faults, 'bind', addresses, (some) => this.#inner.bind(linkIndex, some))
  }

  unbind(linkIndex: number, addresses: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return changeEntries('dummy', this.#faults, 'unbind', addresses, (some) => this.#inner.unbind(linkIndex, some))
  }

  close(): void {}

  #read(object: string): void {
    if (this.#faults.draw('dummy', 'unread') !== undefined) throw this.#faults.error('list', object)
  }
}

function toolFailed(what: string): Error {
  return new ProxyError('COMMAND', `iptables-${what} exited with 4: resource temporarily unavailable (injected)`)
}

class FaultyIptables implements Iptables {
  readonly #inner: Iptables & { readonly randomFully: boolean }
  readonly #faults: FaultSource

  constructor(inner: Iptables & { readonly randomFully: boolean }, faults: FaultSource) {
    this.#inner = inner
    this.#faults = faults
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

  async save(table: 'nat' | 'filter'): Promise<string> {
    if (this.#faults.draw('iptables', 'unread') !== undefined) throw toolFailed('save')
    return this.#inner.save(table)
  }

  /** The tool commits table after table: it may fail before, between and after them. */
  async restore(input: string): Promise<void> {
    switch (this.#faults.draw('iptables', 'gone', 'torn', 'refused', 'denied')) {
      case 'gone':
      case 'refused':
        throw toolFailed('restore')
      case 'torn': {
        const parts = input.split(/(?<=^COMMIT\n)/m)
        for (const part of parts.slice(0, this.#faults.part(parts.length))) await this.#inner.restore(part)
        throw toolFailed('restore')
      }
      case 'denied':
        await this.#inner.restore(input)
        throw toolFailed('restore')
      default:
        return this.#inner.restore(input)
    }
  }
}
