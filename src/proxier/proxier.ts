import type { Clock } from '../lib/clock.ts'
import { describeError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { Cidr, Family } from '../model/address.ts'
import type { EndpointSliceRecord, NodeRecord, ServiceRecord } from '../model/cluster.ts'
import type { SetRole } from '../model/sets.ts'
import { applyOnce, asError, type LayerOutcome } from '../reconcile/apply.ts'
import type { Drift, Layer, Owner } from '../reconcile/layer.ts'
import { ClusterState, type DirtyPort } from './cluster-state.ts'
import type { OutFilterDrop } from './contribution.ts'
import { mergeEndpoints } from './endpoint-choice.ts'
import type { Ledger } from './ledger.ts'
import { nodePortAddresses } from './node-addresses.ts'
import { Pacer, type RunReason } from './pacer.ts'
import { planPort, type NodeFacts } from './planner.ts'

export interface ProxierOptions {
  readonly family: Family
  readonly nodeName: string
  readonly scheduler: string
  readonly nodePortRanges: readonly Cidr[] | 'primary'
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
  readonly rules: { want(nonEmpty: ReadonlySet<SetRole>, drops: readonly OutFilterDrop[]): void }
  /** Addresses of this family on any link of the node but the dummy device. */
  readonly readNodeAddresses: () => Promise<readonly string[]>
  readonly observer: ProxierObserver
}

/** Hears of what the proxier does; metrics and health listen. */
export interface ProxierObserver {
  queued(family: Family): void
  drift(family: Family, drift: Drift): void
  passed(report: PassReport): void
}

export interface PassReport {
  readonly family: Family
  readonly reason: RunReason
  readonly started: number
  readonly milliseconds: number
  readonly planned: number
  readonly applied: number
  readonly refused: ReadonlyMap<Owner, Error>
  readonly failures: readonly { readonly layer: string; readonly error: Error }[]
  readonly well: boolean
  /** Trigger times of the EndpointSlices that this pass has brought into the kernel. */
  readonly triggerTimes: readonly number[]
  readonly pendingServices: number
  readonly pendingSlices: number
  readonly noLocal: { readonly internal: number; readonly external: number }
}

/** How many ports are planned before the event loop gets its turn. */
const portsPerTurn = 256

/** One family's pass: take the dirty ports, plan each, hand the contributions to the ledger, apply the layers, report. */
export class Proxier {
  readonly #options: ProxierOptions
  readonly #parts: ProxierParts
  readonly #state = new ClusterState()
  readonly #pacer: Pacer
  readonly #noLocal = { internal: new Set<string>(), external: new Set<string>() }
  /** Layers that failed half-way: what they had written before is not known, so it cannot be told from others' work. */
  readonly #uncertain = new Set<string>()
  #triggerTimes: number[] = []
  #node: NodeRecord | undefined
  #nodeAddresses: readonly string[] = []
  #nodeAddressesRead = false
  #facts: NodeFacts
  #complete = { services: false, slices: false }
  #start = Promise.withResolvers<void>()

  constructor(options: ProxierOptions, parts: ProxierParts) {
    this.#options = options
    this.#parts = parts
    this.#facts = this.#makeFacts()
    this.#pacer = new Pacer(
      {
        minInterval: options.minSyncPeriod,
        maxInterval: options.syncPeriod,
        retryInterval: Math.min(1000, options.syncPeriod),
        clock: options.clock,
      },
      (reason) => this.#pass(reason),
    )
  }

  serviceChanged(key: string, service: ServiceRecord | undefined): void {
    if (this.#state.setService(key, service)) this.#request()
  }

  sliceChanged(key: string, slice: EndpointSliceRecord | undefined): void {
    // A slice of the name may have been deleted and made anew for the other family between two looks of the source.
    const own = slice?.family === this.#options.family ? slice : undefined
    if (!this.#state.setSlice(key, own)) return
    if (own !== undefined && own.triggerTime > 0) this.#triggerTimes.push(own.triggerTime)
    this.#request()
  }

  nodeChanged(node: NodeRecord | undefined): void {
    // A node that is gone from the API is most likely ourselves in trouble: what was known of it stays in force.
    if (node === undefined) return
    this.#node = node
    if (this.#refreshFacts()) this.#request()
  }

  /** Nothing is written before Services and EndpointSlices are both known whole. */
  synced(kind: 'services' | 'endpointslices'): void {
    if (kind === 'services') this.#complete.services = true
    else this.#complete.slices = true
    if (this.#complete.services && this.#complete.slices) this.#start.resolve()
  }

  /** Runs until the signal fires; leaves the kernel as it is then. */
  async run(signal: AbortSignal): Promise<void> {
    const stopped = new Promise<void>((resolve) => {
      if (signal.aborted) resolve()
      else signal.addEventListener('abort', () => resolve(), { once: true })
    })
    await Promise.race([this.#start.promise, stopped])
    if (signal.aborted) return
    await this.#pacer.loop(signal)
  }

  #request(): void {
    this.#parts.observer.queued(this.#options.family)
    this.#pacer.request()
  }

  async #pass(reason: RunReason): Promise<boolean> {
    const { clock, family, log } = this.#options
    const started = clock.now()
    const unread = new Map<string, Error>()
    if (reason !== 'change') await this.#readBack(unread)

    const dirty = this.#state.take()
    const triggerTimes = this.#triggerTimes
    this.#triggerTimes = []
    await this.#plan(dirty)

    const { ledger, layers, rules } = this.#parts
    rules.want(ledger.nonEmptyRoles(), ledger.drops())
    // Before the node's addresses are known, all that stands for its node ports would look unwanted.
    const outcomes = this.#nodeAddressesRead ? await applyOnce(layers, new Set(unread.keys())) : []

    const refused = new Map<Owner, Error>()
    const failures = [...unread].map(([layer, error]) => ({ layer, error }))
    for (const outcome of outcomes) {
      for (const [owner, error] of outcome.refused) if (!refused.has(owner)) refused.set(owner, error)
      if (outcome.broken === undefined) continue
      failures.push({ layer: outcome.layer, error: outcome.broken })
      if (!outcome.waits) this.#uncertain.add(outcome.layer)
    }
    const well = failures.length === 0 && refused.size === 0
    const report: PassReport = {
      family,
      reason,
      started,
      milliseconds: clock.now() - started,
      planned: dirty.size,
      applied: outcomes.reduce((sum, outcome) => sum + outcome.applied, 0),
      refused,
      failures,
      well,
      triggerTimes,
      pendingServices: this.#state.pendingServices,
      pendingSlices: this.#state.pendingSlices,
      noLocal: { internal: this.#noLocal.internal.size, external: this.#noLocal.external.size },
    }
    this.#say(report, outcomes)
    this.#parts.observer.passed(report)
    log.v(4, 'Pass ended', { family, reason, milliseconds: report.milliseconds, planned: dirty.size })
    return well
  }

  async #readBack(unread: Map<string, Error>): Promise<void> {
    const { family, log } = this.#options
    for (const layer of this.#parts.layers) {
      try {
        const drifts = await layer.resync()
        if (this.#uncertain.delete(layer.name)) continue
        for (const drift of drifts) {
          log.warn('Kernel state was changed by someone else, repairing it', { family, ...drift })
          this.#parts.observer.drift(family, drift)
        }
      } catch (error) {
        unread.set(layer.name, asError(error))
      }
    }
    try {
      this.#nodeAddresses = await this.#parts.readNodeAddresses()
      this.#nodeAddressesRead = true
      this.#refreshFacts()
    } catch (error) {
      // Node ports must not vanish because an address dump failed once: the last good one stays in force.
      unread.set('node addresses', asError(error))
    }
  }

  async #plan(dirty: ReadonlyMap<Owner, DirtyPort>): Promise<void> {
    let count = 0
    for (const [owner, { service: key, port }] of dirty) {
      if (++count % portsPerTurn === 0) await new Promise(setImmediate)
      const service = this.#state.service(key)
      if (service === undefined || port === undefined) {
        this.#parts.ledger.replace(owner, undefined)
        this.#noteNoLocal(owner, [])
        continue
      }
      try {
        const endpoints = mergeEndpoints(this.#state.slices(key), port)
        const contribution = planPort(service, port, endpoints, this.#facts)
        this.#parts.ledger.replace(owner, contribution)
        this.#noteNoLocal(owner, contribution.noLocal)
      } catch (error) {
        this.#state.mark(owner, { service: key, port })
        this.#options.log.error('Service port could not be planned; its last state stays in force', {
          object: owner,
          error: describeError(error),
        })
      }
    }
  }

  #noteNoLocal(owner: Owner, policies: readonly ('internal' | 'external')[]): void {
    for (const policy of ['internal', 'external'] as const) {
      if (policies.includes(policy)) this.#noLocal[policy].add(owner)
      else this.#noLocal[policy].delete(owner)
    }
  }

  #say(report: PassReport, outcomes: readonly LayerOutcome[]): void {
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
    if (report.applied > 0) {
      const byLayer = new Map<string, number>()
      for (const { layer, applied } of outcomes) byLayer.set(layer, (byLayer.get(layer) ?? 0) + applied)
      log.v(2, 'Kernel state written', {
        family,
        servicePorts: report.planned,
        milliseconds: report.milliseconds,
        ...Object.fromEntries([...byLayer].filter(([, applied]) => applied > 0)),
      })
    }
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
    this.#state.markAll()
    this.#options.log.v(2, 'Node facts changed, all service ports are planned again', {
      family: next.family,
      nodePortAddresses: next.nodePortAddresses,
      nodeIP: next.nodeIP,
      zone: next.zone,
    })
    return true
  }

  #makeFacts(): NodeFacts {
    const { family, nodeName, scheduler, nodePortRanges } = this.#options
    const separator = family === 'IPv6'
    const nodeIP = this.#node?.addresses.find((address) => address.includes(':') === separator) ?? ''
    const ports =
      nodePortRanges === 'primary'
        ? this.#nodeAddresses.filter((address) => address === nodeIP)
        : nodePortAddresses(this.#nodeAddresses, nodePortRanges, family)
    return {
      family,
      nodeName,
      scheduler,
      zone: this.#node?.zone ?? '',
      nodeIP,
      nodeAddresses: new Set(this.#nodeAddresses),
      nodePortAddresses: ports,
    }
  }
}
