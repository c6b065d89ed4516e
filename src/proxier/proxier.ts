import { isDeepStrictEqual } from 'node:util'
import { systemClock, timeOfDay, type Clock } from '../lib/clock.ts'
import { describeError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { Thrift } from '../lib/thrift.ts'
import { inOwnTurn, Turn, urgently } from '../lib/turn.ts'
import { familyOf, type Cidr, type Family } from '../model/address.ts'
import type { EndpointSliceRecord, NodeRecord, ServiceRecord } from '../model/cluster.ts'
import type { LocalDetector } from '../model/local-detector.ts'
import type { SetRole } from '../model/sets.ts'
import { applyOnce, asError, type LayerOutcome } from '../reconcile/apply.ts'
import type { Drift, Layer, Owner } from '../reconcile/layer.ts'
import { RepairSpacing } from '../reconcile/repair-spacing.ts'
import { ClusterState, ownerOf, type DirtyPort } from './cluster-state.ts'
import type { Contribution, OutFilterDrop } from './contribution.ts'
import { mergeEndpoints } from './endpoint-choice.ts'
import type { Ledger } from './ledger.ts'
import type { ExternalRanges, RefusedAddress } from './external-addresses.ts'
import { nodePortAddresses } from './node-addresses.ts'
import { Pacer, type RunReason } from './pacer.ts'
import { planPort, type NodeFacts } from './planner.ts'

export interface ProxierOptions {
  readonly family: Family
  readonly nodeName: string
  readonly scheduler: string
  readonly nodePortRanges: readonly Cidr[] | 'primary'
  /** The node's IP where the configuration names it; "": the Node object's. */
  readonly nodeIP: string
  readonly strictExternal: boolean
  readonly externalRanges: ExternalRanges
  /** How a pod of this node is told, by the Node's podCIDRs where it depends on them. */
  readonly localDetector: (podCIDRs: readonly string[]) => LocalDetector | undefined
  /** Nothing is written before the Node object has a podCIDR. */
  readonly needsPodCIDR: boolean
  /** "namespace/name" of Services that a starting node needs before all others. */
  readonly first: ReadonlySet<string>
  readonly minSyncPeriod: number
  readonly syncPeriod: number
  readonly clock: Clock
  readonly log: Log
}

export interface ProxierParts {
  readonly ledger: Ledger
  /** In the order of writing. */
  readonly layers: readonly Layer[]
  /** Rules depend on which sets have members, not on the members. */
  readonly rules: {
    want(nonEmpty: ReadonlySet<SetRole>, drops: readonly OutFilterDrop[], detector: LocalDetector | undefined): void
  }
  /** Addresses of this family on any link of the node but the dummy device. */
  readonly readNodeAddresses: () => Promise<readonly string[]>
  readonly observer: ProxierObserver
  readonly flows: FlowSink
  readonly serviceHealth: ServiceHealthSink
}

/** Clears UDP flows that go to endpoints they should not go to: an effect, carried out after the pass. */
export interface FlowSink {
  /** Backends as "address:port"; undefined: the frontend is gone. */
  touch(frontend: string, backends: ReadonlySet<string> | undefined): void
  /** Never throws; what failed is tried again at the next run. */
  run(): Promise<unknown>
}

/** The servers of Services' healthCheckNodePort. */
export interface ServiceHealthSink {
  set(service: string, want: { readonly port: number; readonly localEndpoints: number } | undefined): void
  /** Addresses to listen on. */
  setHosts(hosts: readonly string[] | 'all'): void
  /** Never throws; what failed is tried again at the next call. */
  apply(): Promise<void>
}

/** Hears of what the proxier does; metrics and health listen. */
export interface ProxierObserver {
  /** A pass, or a look at the kernel, begins. */
  began(): void
  queued(family: Family): void
  drift(family: Family, drift: Drift): void
  /** What somebody else changes again and again is left for now. */
  heldBack(family: Family, drift: Drift): void
  /** A service address is an address of the node's own, too; told once per owner and address. */
  clash(family: Family, owner: Owner, address: string): void
  /** The settings do not let a Service ("namespace/name") have an external address; told once while it is so. */
  refused(family: Family, service: string, refused: RefusedAddress): void
  passed(report: PassReport): void
}

/** For those who only look: the objects as last told, and what plans depend on. */
export interface ProxierView {
  services(): Iterable<ServiceRecord>
  /** "namespace/name" */
  service(key: string): ServiceRecord | undefined
  slices(service: string): readonly EndpointSliceRecord[]
  readonly facts: NodeFacts
  /** The own Node as last told. */
  readonly node: NodeRecord | undefined
}

export interface PassReport {
  readonly family: Family
  /** 'period': it brings in what a look at the whole kernel state has found. */
  readonly reason: RunReason
  /** When it began; of a 'period' pass, when the look at the kernel began that it brings in. */
  readonly started: number
  /** How long it took, without that look. */
  readonly milliseconds: number
  readonly planned: number
  /** Things written to the kernel, by layer; a layer that wrote none is left out. */
  readonly written: ReadonlyMap<string, number>
  readonly refused: ReadonlyMap<Owner, Error>
  /** External addresses of Services that the settings do not let them have, after this pass. */
  readonly refusedAddresses: number
  readonly failures: readonly { readonly layer: string; readonly error: Error }[]
  readonly well: boolean
  /** Milliseconds from the earliest change that it brought into the kernel being taken in; undefined: there was none. */
  readonly waited: number | undefined
  /** Trigger times of the EndpointSlices that this pass has brought into the kernel. */
  readonly triggerTimes: readonly number[]
  readonly pendingServices: number
  readonly pendingSlices: number
  readonly noLocal: { readonly internal: number; readonly external: number }
}

/** Shared by the families, so that one look at what they share serves both. */
const processStart = systemClock.now()

/** A service port and what it needs; undefined: nothing any more. */
interface Planned {
  readonly owner: Owner
  readonly service: string
  readonly next: Contribution | undefined
}

interface PassBegun {
  /** Of a pass that brings in a look: when that began. */
  readonly started: number
  readonly began: number
  /** What could not be read, and why. */
  readonly unread: ReadonlyMap<string, Error>
}

/** A Service may have thousands of external addresses: so many that are refused are told one by one. */
const mostRefusedTold = 10

/** So few service ports are written before a pass of its own for the first ones would be. */
const fewPorts = 200

/** One family's pass: take the dirty ports, plan each, hand the contributions to the ledger, apply the layers, report. */
export class Proxier {
  readonly #options: ProxierOptions
  readonly #parts: ProxierParts
  readonly #state = new ClusterState()
  readonly #pacer: Pacer
  readonly #retryInterval: number
  readonly #spacing: RepairSpacing
  readonly #noLocal = { internal: new Set<string>(), external: new Set<string>() }
  /** Layers that failed half-way: what they had written before is not known, so it cannot be told from others' work. */
  readonly #uncertain = new Set<string>()
  /** Layers that nothing may be written to before they have been read: at the start, and after a failure. */
  readonly #unread = new Set<string>()
  /** The look at the whole kernel state that goes on beside the passes. */
  #check: Promise<void> | undefined
  /** When the pass and the look began that have not ended, by the clock. */
  readonly #underWay = new Map<'pass' | 'look', number>()
  /** When the last look ended well or not, and how long it took. */
  #checkEnded = { at: Number.NEGATIVE_INFINITY, took: 0 }
  /** When the look began whose result no pass has brought in yet. */
  #checkedSince: number | undefined
  #lastWell = true
  /** Owner and address of clashes that were told. */
  readonly #clashes = new Map<Owner, readonly string[]>()
  /** Service and its refused addresses that were told. */
  readonly #refusedAddresses = new Map<string, readonly string[]>()
  #addressesStale = true
  /** Their changes are told as they happen: reading them again only makes up for what was not told. */
  readonly #addressThrift = new Thrift(0.001)
  #passes = 0
  #readAheadAt = Number.NEGATIVE_INFINITY
  /** By slice the first one since the last pass: a slice that changes all the time must not fill the memory meanwhile. */
  #triggerTimes = new Map<string, number>()
  /** When the earliest change was taken in that no pass has brought into the kernel; undefined: there is none. */
  #changedAt: number | undefined
  readonly #began: number
  #node: NodeRecord | undefined
  #nodeAddresses: readonly string[] = []
  #nodeAddressesRead = false
  #facts: NodeFacts
  #detector: LocalDetector | undefined
  #complete = { services: false, slices: false }
  #start = Promise.withResolvers<void>()

  constructor(options: ProxierOptions, parts: ProxierParts) {
    this.#options = options
    this.#began = options.clock.now()
    this.#parts = parts
    this.#facts = this.#makeFacts()
    this.#detector = options.localDetector([])
    for (const { name } of parts.layers) this.#unread.add(name)
    this.#retryInterval = Math.min(1000, options.syncPeriod)
    const { clock, syncPeriod: period } = options
    this.#spacing = new RepairSpacing({ clock, period, repeats: (drift, repairs) => this.#tellRepeats(drift, repairs) })
    this.#pacer = new Pacer(
      {
        minInterval: options.minSyncPeriod,
        maxInterval: options.syncPeriod,
        retryInterval: this.#retryInterval,
        base: processStart,
        clock: options.clock,
      },
      (reason) => this.#run(reason),
    )
  }

  serviceChanged(key: string, service: ServiceRecord | undefined): void {
    const isOurs = (address: string): boolean => familyOf(address) === this.#options.family
    if (this.#state.setService(key, service?.clusterIPs.some(isOurs) ? service : undefined)) this.#request()
  }

  sliceChanged(key: string, slice: EndpointSliceRecord | undefined): void {
    // A slice of the name may have been deleted and made anew for the other family between two looks of the source.
    const own = slice?.family === this.#options.family ? slice : undefined
    if (!this.#state.setSlice(key, own)) return
    // What was changed before we were here was not ours to bring in.
    if (own !== undefined && own.triggerTime >= timeOfDay(this.#began) && !this.#triggerTimes.has(key)) {
      this.#triggerTimes.set(key, own.triggerTime)
    }
    this.#request()
  }

  nodeChanged(node: NodeRecord | undefined): void {
    // A node that is gone from the API is most likely ourselves in trouble: what was known of it stays in force.
    if (node === undefined) return
    this.#node = node
    const changed = this.#refreshFacts()
    const detector = this.#options.localDetector(node.podCIDRs)
    const differs = !isDeepStrictEqual(detector, this.#detector)
    this.#detector = detector
    if (changed || differs) this.#request()
    this.#startWhenComplete()
  }

  hasNodeAddress(address: string): boolean {
    return this.#facts.nodeAddresses.has(address)
  }

  /** Addresses of the node's links have changed. */
  addressesChanged(): void {
    this.#addressesStale = true
    this.#request()
  }

  /** Nothing is written before Services and EndpointSlices are both known whole. */
  synced(kind: 'services' | 'endpointslices'): void {
    if (kind === 'services') this.#complete.services = true
    else this.#complete.slices = true
    this.#startWhenComplete()
  }

  #startWhenComplete(): void {
    const { services, slices } = this.#complete
    if (services && slices && !this.lacksPodCIDR) this.#start.resolve()
  }

  /** The state of the moment; nobody changes anything by it. */
  get view(): ProxierView {
    const state = this.#state
    return {
      services: () => state.services(),
      service: (key) => state.service(key),
      slices: (service) => state.slices(service),
      facts: this.#facts,
      node: this.#node,
    }
  }

  /** Whether the first pass waits for the Node's podCIDR. */
  get lacksPodCIDR(): boolean {
    return this.#options.needsPodCIDR && this.#detector === undefined
  }

  /** Services and EndpointSlices that have changed and are not planned yet. */
  get waiting(): number {
    return this.#state.pendingServices + this.#state.pendingSlices
  }

  /** When the last look ended, in milliseconds since the epoch, and how many it took; undefined before the first. */
  get lastLook(): { readonly endedAt: number; readonly took: number } | undefined {
    const { at, took } = this.#checkEnded
    return Number.isFinite(at) ? { endedAt: timeOfDay(performance.timeOrigin + at), took } : undefined
  }

  /** What has begun and not ended, and when by the clock. */
  get underWay(): Iterable<readonly ['pass' | 'look', number]> {
    return this.#underWay
  }

  /** Runs until the signal fires; leaves the kernel as it is then. */
  async run(signal: AbortSignal): Promise<void> {
    const stopped = new Promise<void>((resolve) => {
      if (signal.aborted) resolve()
      else signal.addEventListener('abort', () => resolve(), { once: true })
    })
    const ahead = this.#noted('look', () => this.#readAhead())
    await Promise.race([Promise.all([this.#start.promise, ahead]), stopped])
    if (signal.aborted) return
    await inOwnTurn(() => this.#pacer.loop(signal))
    await this.#check
  }

  /** What stands in the kernel is read while the cluster's objects are on their way. */
  async #readAhead(): Promise<void> {
    this.#readAheadAt = this.#options.clock.now()
    this.#wantRules()
    const read = async (layer: Layer): Promise<void> => {
      await layer.resync()
      this.#unread.delete(layer.name)
    }
    // Those that failed are read by the first pass, which tells why.
    await Promise.allSettled(this.#parts.layers.map((layer) => inOwnTurn(() => read(layer))))
  }

  #request(): void {
    this.#changedAt ??= performance.now()
    this.#parts.observer.queued(this.#options.family)
    this.#pacer.request()
  }

  /** A full run looks at the kernel beside the passes and has one of its own when it is done. */
  async #run(reason: RunReason): Promise<boolean> {
    if (this.#passes === 0 || this.#checkedSince !== undefined) return this.#noted('pass', () => this.#pass('period'))
    if (reason === 'change') return this.#noted('pass', () => this.#pass('change'))
    if (this.#check === undefined && (reason === 'period' || this.#maySuspect)) {
      this.#check = this.#noted('look', () => this.#look())
      void this.#check.finally(() => (this.#check = undefined))
    }
    return reason === 'period' ? this.#lastWell : this.#noted('pass', () => this.#pass('retry'))
  }

  async #noted<T>(work: 'pass' | 'look', act: () => Promise<T>): Promise<T> {
    this.#underWay.set(work, this.#options.clock.now())
    this.#parts.observer.began()
    try {
      return await act()
    } finally {
      this.#underWay.delete(work)
    }
  }

  /**
   * The kernel may differ from what is known of it where it has refused something; but looks must not follow one another
   * without end, and what has failed is read by the pass itself.
   */
  get #maySuspect(): boolean {
    const { at, took } = this.#checkEnded
    return this.#unread.size === 0 && performance.now() - at > Math.max(10 * took, this.#retryInterval)
  }

  async #look(): Promise<void> {
    const since = this.#options.clock.now()
    const began = performance.now()
    for (const layer of this.#parts.layers) {
      // One that failed is read by the next pass, which must know.
      if (this.#unread.has(layer.name)) continue
      try {
        this.#tellDrifts(layer, await layer.resync(true, (drift) => this.#judge(layer, drift)))
      } catch {
        this.#unread.add(layer.name)
      }
    }
    // What fails is read again by the pass, which tells why.
    if (this.#addressThrift.isDue) await this.#addressThrift.during(() => this.#readNodeAddresses(new Map()))
    this.#checkEnded = { at: performance.now(), took: performance.now() - began }
    this.#checkedSince = since
    this.#pacer.request()
  }

  async #pass(reason: RunReason): Promise<boolean> {
    const { clock } = this.#options
    const { layers } = this.#parts
    const started = clock.now()
    const checkedSince = this.#checkedSince
    this.#checkedSince = undefined
    const unread = new Map<string, Error>()
    this.#wantRules()
    // The objects were long on their way: others may have written meanwhile.
    const isStale = this.#passes === 0 && started - this.#readAheadAt > this.#options.syncPeriod
    if (isStale) for (const { name } of layers) this.#unread.add(name)
    await this.#readBack(unread)
    if (this.#addressesStale || !this.#nodeAddressesRead) await this.#readNodeAddresses(unread)

    return urgently(() => this.#write(reason, { started: checkedSince ?? started, began: started, unread }))
  }

  /** Plans what is dirty, writes it, tells. */
  async #write(reason: RunReason, { started, began, unread }: PassBegun): Promise<boolean> {
    const { clock, family, log } = this.#options
    const { layers } = this.#parts
    const turn = new Turn(1)
    const dirty = this.#state.take()
    const triggerTimes = [...this.#triggerTimes.values()]
    this.#triggerTimes = new Map()
    // What the objects' first list brings has no change behind it.
    const changedAt = this.#passes === 0 ? undefined : this.#changedAt
    this.#changedAt = undefined
    const skip = new Set(unread.keys())
    // At once: a look that goes on meanwhile must not take for others' work what was half done.
    const onBroken = (layer: string): void => {
      this.#uncertain.add(layer)
      this.#unread.add(layer)
    }
    const early: LayerOutcome[] = []
    const first = this.#passes++ === 0 ? this.#urgent(dirty) : undefined
    if (first !== undefined && this.#nodeAddressesRead) {
      const urgent = await this.#plan(first)
      await turn.next()
      await this.#want(urgent)
      await turn.next()
      const growth = applyOnce(layers, skip, 'grow', onBroken)
      // The others are worked out while kernel and tools are busy with these.
      const [planned, outcomes] = await Promise.all([this.#plan(dirty), growth])
      early.push(...outcomes)
      await this.#want(planned)
    } else await this.#want(await this.#plan(dirty))
    if (turn.isOver) await turn.next()
    // Before the node's addresses are known, all that stands for its node ports would look unwanted.
    const outcomes = this.#nodeAddressesRead ? await applyOnce(layers, skip, 'whole', onBroken) : []
    const waited = changedAt === undefined ? undefined : performance.now() - changedAt
    // Flows to an endpoint may go once the kernel sends no new ones there.
    if (!outcomes.some(({ layer, broken }) => layer === 'ipvs' && broken)) await this.#parts.flows.run()
    this.#parts.serviceHealth.setHosts(
      this.#options.nodePortRanges.length === 0 ? 'all' : this.#facts.nodePortAddresses,
    )
    await this.#parts.serviceHealth.apply()

    const refused = new Map<Owner, Error>()
    const failures = [...unread].map(([layer, error]) => ({ layer, error }))
    for (const outcome of outcomes) {
      for (const [owner, error] of outcome.refused) if (!refused.has(owner)) refused.set(owner, error)
      if (outcome.broken === undefined) continue
      failures.push({ layer: outcome.layer, error: outcome.broken })
    }
    const well = failures.length === 0 && refused.size === 0
    // A layer that failed has not brought it in; what the kernel refuses is told by itself.
    if (failures.length > 0) this.#changedAt = changedAt ?? this.#changedAt
    const report: PassReport = {
      family,
      reason,
      started,
      milliseconds: Math.round(clock.now() - began),
      planned: dirty.size,
      written: writtenBy([...early, ...outcomes]),
      refused,
      refusedAddresses: [...this.#refusedAddresses.values()].reduce((sum, { length }) => sum + length, 0),
      failures,
      well,
      waited: failures.length > 0 ? undefined : waited,
      triggerTimes,
      pendingServices: this.#state.pendingServices,
      pendingSlices: this.#state.pendingSlices,
      noLocal: { internal: this.#noLocal.internal.size, external: this.#noLocal.external.size },
    }
    this.#say(report)
    this.#parts.observer.passed(report)
    log.v(4, 'Pass ended', { family, reason, milliseconds: report.milliseconds, planned: dirty.size })
    this.#lastWell = well
    return well
  }

  /** Reads what must not be written to from memory. */
  async #readBack(unread: Map<string, Error>): Promise<void> {
    if (this.#unread.size > 0) await this.#check
    for (const layer of this.#parts.layers) {
      if (!this.#unread.has(layer.name)) continue
      try {
        const drifts = await layer.resync(false, (drift) => this.#judge(layer, drift))
        this.#unread.delete(layer.name)
        if (!this.#uncertain.delete(layer.name)) this.#tellDrifts(layer, drifts)
      } catch (error) {
        unread.set(layer.name, asError(error))
      }
    }
  }

  /** What is of our own doing, or stands in the way of what is wanted, never waits. */
  #judge(layer: Layer, drift: Drift): boolean {
    if (this.#uncertain.has(layer.name) || !this.#lastWell || this.#spacing.judge(drift)) return true
    this.#parts.observer.heldBack(this.#options.family, drift)
    return false
  }

  #tellRepeats(drift: Drift, repairs: number): void {
    const { family, log } = this.#options
    log.error('Somebody else changes the same thing again and again; it is repaired less and less often from now on', {
      family,
      ...drift,
      repairs,
      advice: 'find who writes it and stop one of the two: kube-ipvs-proxy doctor',
    })
  }

  #tellDrifts(layer: Layer, drifts: readonly Drift[]): void {
    const { family, log } = this.#options
    if (this.#uncertain.has(layer.name)) return
    for (const drift of drifts) {
      log.warn('Kernel state was changed by someone else, repairing it', { family, ...drift })
      this.#parts.observer.drift(family, drift)
    }
  }

  async #readNodeAddresses(unread: Map<string, Error>): Promise<void> {
    // Cleared first: a change while they are read is read again.
    this.#addressesStale = false
    try {
      this.#nodeAddresses = await this.#parts.readNodeAddresses()
      this.#nodeAddressesRead = true
      this.#refreshFacts()
    } catch (error) {
      this.#addressesStale = true
      // Node ports must not vanish because an address dump failed once: the last good one stays in force.
      unread.set('node addresses', asError(error))
    }
  }

  #wantRules(): void {
    const { ledger, rules } = this.#parts
    rules.want(ledger.nonEmptyRoles(), ledger.drops(), this.#detector)
  }

  /** Those of the Services that go first; undefined where there are none, or all are written soon enough. */
  #urgent(dirty: ReadonlyMap<Owner, DirtyPort>): ReadonlyMap<Owner, DirtyPort> | undefined {
    if (dirty.size < fewPorts) return undefined
    const urgent = new Map<Owner, DirtyPort>()
    for (const service of this.#options.first) {
      for (const port of this.#state.service(service)?.ports ?? []) {
        const owner = ownerOf(service, port)
        const one = dirty.get(owner)
        if (one !== undefined) urgent.set(owner, one)
      }
    }
    return urgent.size === 0 ? undefined : urgent
  }

  /** Works out what the ports need; nothing is said to the layers yet. */
  async #plan(dirty: ReadonlyMap<Owner, DirtyPort>): Promise<Planned[]> {
    const turn = new Turn()
    const planned: Planned[] = []
    for (const [owner, { service: key, port }] of dirty) {
      if (turn.isOver) await turn.next()
      const service = this.#state.service(key)
      if (service === undefined || port === undefined) {
        planned.push({ owner, service: key, next: undefined })
        continue
      }
      try {
        const endpoints = mergeEndpoints(this.#state.slices(key), port)
        planned.push({ owner, service: key, next: planPort(service, port, endpoints, this.#facts) })
      } catch (error) {
        this.#state.mark(owner, { service: key, port })
        this.#options.log.error('Service port could not be planned; its last state stays in force', {
          object: owner,
          error: describeError(error),
        })
      }
    }
    return planned
  }

  /** Says to the layers what has come to be wanted and what no longer is. */
  async #want(planned: readonly Planned[]): Promise<void> {
    const turn = new Turn()
    const frontends = new Map<string, string>()
    const services = new Map<string, readonly RefusedAddress[]>()
    for (const { owner, service, next } of planned) {
      if (turn.isOver) await turn.next()
      // All ports of a Service have the same addresses; one that is gone has none.
      services.set(service, next?.refused ?? services.get(service) ?? [])
      this.#replace(owner, next, frontends)
    }
    this.#touchFlows(frontends)
    for (const [key, refused] of services) {
      if (turn.isOver) await turn.next()
      this.#noteServiceHealth(key)
      this.#noteRefused(key, refused)
    }
    this.#wantRules()
  }

  /** Puts a contribution in the place of the owner's last one; adds to `frontends` those whose flows are to be checked. */
  #replace(owner: Owner, next: Contribution | undefined, frontends: Map<string, string>): void {
    const { ledger } = this.#parts
    const last = ledger.contribution(owner)
    if (last?.flows !== next?.flows && !isDeepStrictEqual(last?.flows, next?.flows)) {
      for (const { name, server } of [...(last?.flows?.frontends ?? []), ...(next?.flows?.frontends ?? [])]) {
        frontends.set(name, server)
      }
    }
    ledger.replace(owner, next)
    this.#noteNoLocal(owner, next?.noLocal ?? [])
    this.#noteClashes(owner, next?.clashes ?? [])
  }

  #touchFlows(frontends: ReadonlyMap<string, string>): void {
    const { ledger, flows } = this.#parts
    for (const [name, server] of frontends) {
      const [owner] = ledger.serverOwners(server)
      const want = owner === undefined ? undefined : ledger.contribution(owner)?.flows
      flows.touch(name, want === undefined ? undefined : new Set(want.backends))
    }
  }

  /** The local endpoints that a load balancer's health check asks for: distinct addresses, ready ones only. */
  #noteServiceHealth(key: string): void {
    const port = this.#state.service(key)?.healthCheckNodePort ?? 0
    if (port === 0) {
      this.#parts.serviceHealth.set(key, undefined)
      return
    }
    const local = new Set<string>()
    for (const slice of this.#state.slices(key)) {
      for (const endpoint of slice.endpoints) if (endpoint.local && endpoint.ready) local.add(endpoint.address)
    }
    this.#parts.serviceHealth.set(key, { port, localEndpoints: local.size })
  }

  #noteClashes(owner: Owner, addresses: readonly string[]): void {
    const told = this.#clashes.get(owner) ?? []
    if (addresses.length === 0) this.#clashes.delete(owner)
    else this.#clashes.set(owner, addresses)
    const { family, log } = this.#options
    for (const address of addresses) {
      if (told.includes(address)) continue
      log.warn('A service address is an address of this node, too: what listens there may be out of reach', {
        family,
        object: owner,
        address,
      })
      this.#parts.observer.clash(family, owner, address)
    }
  }

  #noteRefused(service: string, refused: readonly RefusedAddress[]): void {
    const told = this.#refusedAddresses.get(service) ?? []
    if (refused.length === 0) this.#refusedAddresses.delete(service)
    else
      this.#refusedAddresses.set(
        service,
        refused.map(({ address }) => address),
      )
    const news = refused.filter(({ address }) => !told.includes(address))
    const { family, log } = this.#options
    for (const one of news.slice(0, mostRefusedTold)) {
      log.warn('An external address of a Service is refused by the settings: it is not served', {
        family,
        object: `Service ${service}`,
        ...one,
      })
      this.#parts.observer.refused(family, service, one)
    }
    const left = news.length - mostRefusedTold
    if (left > 0)
      log.warn('More external addresses of a Service are refused', { family, object: `Service ${service}`, left })
  }

  #noteNoLocal(owner: Owner, policies: readonly ('internal' | 'external')[]): void {
    for (const policy of ['internal', 'external'] as const) {
      if (policies.includes(policy)) this.#noLocal[policy].add(owner)
      else this.#noLocal[policy].delete(owner)
    }
  }

  #say(report: PassReport): void {
    const { log, family } = this.#options
    for (const { layer, error } of report.failures) {
      log.error('Layer failed; the others go on, this one is tried again', {
        family,
        layer,
        error: describeError(error),
      })
    }
    for (const [owner, error] of report.refused) {
      log.error('Kernel refused an entry; the others go on, this one is tried again', {
        family,
        object: owner,
        error: describeError(error),
      })
    }
    if (report.written.size === 0) return
    log.v(2, 'Kernel state written', {
      family,
      servicePorts: report.planned,
      milliseconds: report.milliseconds,
      ...Object.fromEntries(report.written),
    })
  }

  /** Whether plans may come out otherwise now. */
  #refreshFacts(): boolean {
    const next = this.#makeFacts()
    const before = this.#facts
    const same =
      before.zone === next.zone &&
      before.nodeIP === next.nodeIP &&
      before.nodePortAddresses.join() === next.nodePortAddresses.join() &&
      [...before.nodeAddresses].join() === [...next.nodeAddresses].join()
    if (same) return false
    this.#facts = next
    // Before the first pass all of them wait to be planned anyway.
    if (this.#passes === 0) return true
    const services = this.#state.markWhere(affectedBy(before, next))
    this.#options.log.v(2, 'Node facts changed, Services that they matter to are planned again', {
      services,
      family: next.family,
      nodePortAddresses: next.nodePortAddresses,
      nodeIP: next.nodeIP,
      zone: next.zone,
    })
    return true
  }

  #makeFacts(): NodeFacts {
    const { family, nodeName, scheduler, nodePortRanges, strictExternal, externalRanges } = this.#options
    const ofNode = this.#node?.addresses.find((address) => familyOf(address) === family)
    const nodeIP = this.#options.nodeIP || (ofNode ?? '')
    const ports =
      nodePortRanges === 'primary'
        ? this.#nodeAddresses.filter((address) => address === nodeIP)
        : nodePortAddresses(this.#nodeAddresses, nodePortRanges, family)
    return {
      family,
      nodeName,
      scheduler,
      strictExternal,
      externalRanges,
      zone: this.#node?.zone ?? '',
      nodeIP,
      nodeAddresses: new Set(this.#nodeAddresses),
      nodePortAddresses: ports,
    }
  }
}

function writtenBy(outcomes: readonly LayerOutcome[]): Map<string, number> {
  const written = new Map<string, number>()
  for (const { layer, applied } of outcomes) if (applied > 0) written.set(layer, (written.get(layer) ?? 0) + applied)
  return written
}

/** Whether a Service may come out otherwise with other facts: by what the planner looks at. */
function affectedBy(
  before: NodeFacts,
  next: NodeFacts,
): (service: ServiceRecord, slices: readonly EndpointSliceRecord[]) => boolean {
  const zone = before.zone !== next.zone
  const nodePorts = before.nodePortAddresses.join() !== next.nodePortAddresses.join()
  const nodeIP = before.nodeIP !== next.nodeIP
  const moved = before.nodeAddresses.symmetricDifference(next.nodeAddresses)
  const isMoved = (address: string): boolean => moved.has(address)
  return ({ ports, sourceRanges, clusterIPs, externalIPs, loadBalancerIPs }, slices) =>
    (zone && slices.some(({ endpoints }) => endpoints.hints !== undefined)) ||
    (nodePorts && ports.some(({ nodePort }) => nodePort !== 0)) ||
    (nodeIP && sourceRanges.length > 0) ||
    (moved.size > 0 && (clusterIPs.some(isMoved) || externalIPs.some(isMoved) || loadBalancerIPs.some(isMoved)))
}
