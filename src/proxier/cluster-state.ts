import { isDeepStrictEqual } from 'node:util'
import { flat } from '../lib/flat.ts'
import type { EndpointSliceRecord, ServicePortRecord, ServiceRecord } from '../model/cluster.ts'
import type { Owner } from '../reconcile/layer.ts'

/** A service port that must be planned again, and the Service it belongs to. */
export interface DirtyPort {
  readonly service: string
  /** Undefined where the Service or its port is gone. */
  readonly port: ServicePortRecord | undefined
}

const noSlices: readonly EndpointSliceRecord[] = []

/** "namespace/name:port/PROTOCOL"; without ":port" where the port has no name. */
export function ownerOf(service: string, port: ServicePortRecord): Owner {
  return flat(service, port.name === '' ? '' : ':', port.name, '/', port.protocol)
}

/** What an owner's name is made of; the port's name is "" where it has none. */
export function partsOf(owner: Owner): {
  readonly namespace: string
  readonly service: string
  readonly port: string
  readonly protocol: string
} {
  const [, namespace = '', service = '', port = '', protocol = ''] =
    /^([^/]*)\/([^/:]*)(?::(.*))?\/(\w+)$/.exec(owner) ?? []
  return { namespace, service, port, protocol }
}

/**
 * The Services and EndpointSlices as last told, and the service ports that must be planned again. An event only marks
 * ports dirty; any number of events on one object between two passes is planned once, from its last state.
 */
export class ClusterState {
  readonly #services = new Map<string, ServiceRecord>()
  readonly #slices = new Map<string, EndpointSliceRecord>()
  readonly #slicesOfService = new Map<string, readonly EndpointSliceRecord[]>()
  #dirty = new Map<Owner, DirtyPort>()
  #dirtyServices = new Set<string>()
  #dirtySlices = new Set<string>()

  /** Whether this changed anything. */
  setService(key: string, service: ServiceRecord | undefined): boolean {
    const former = this.#services.get(key)
    if (isDeepStrictEqual(former, service)) return false
    for (const port of former?.ports ?? []) this.#dirty.set(ownerOf(key, port), { service: key, port: undefined })
    for (const port of service?.ports ?? []) this.#dirty.set(ownerOf(key, port), { service: key, port })
    if (service === undefined) this.#services.delete(key)
    else this.#services.set(key, service)
    this.#dirtyServices.add(key)
    return true
  }

  /** Whether this changed anything. */
  setSlice(key: string, slice: EndpointSliceRecord | undefined): boolean {
    const former = this.#slices.get(key)
    if (isDeepStrictEqual(former, slice)) return false
    if (former !== undefined) this.#ofService(former.service, (all) => all.filter((one) => one !== former))
    if (slice === undefined) this.#slices.delete(key)
    else {
      this.#slices.set(key, slice)
      this.#ofService(slice.service, (all) => [...all, slice])
    }
    this.#dirtySlices.add(key)
    return true
  }

  #ofService(service: string, change: (all: readonly EndpointSliceRecord[]) => readonly EndpointSliceRecord[]): void {
    const slices = change(this.#slicesOfService.get(service) ?? noSlices)
    if (slices.length === 0) this.#slicesOfService.delete(service)
    else this.#slicesOfService.set(service, slices)
    this.#markService(service)
  }

  /** Facts of the node changed: Services whose plans have used them must be planned again. Answers how many. */
  markWhere(isAffected: (service: ServiceRecord, slices: readonly EndpointSliceRecord[]) => boolean): number {
    let count = 0
    for (const [key, service] of this.#services) {
      if (!isAffected(service, this.slices(key))) continue
      this.#markService(key)
      count++
    }
    return count
  }

  mark(owner: Owner, dirty: DirtyPort): void {
    if (!this.#dirty.has(owner)) this.#dirty.set(owner, dirty)
  }

  #markService(key: string): void {
    for (const port of this.#services.get(key)?.ports ?? []) {
      this.#dirty.set(ownerOf(key, port), { service: key, port })
    }
  }

  /** Hands over what is dirty and starts afresh. */
  take(): ReadonlyMap<Owner, DirtyPort> {
    const dirty = this.#dirty
    this.#dirty = new Map()
    this.#dirtyServices = new Set()
    this.#dirtySlices = new Set()
    return dirty
  }

  services(): Iterable<ServiceRecord> {
    return this.#services.values()
  }

  service(key: string): ServiceRecord | undefined {
    return this.#services.get(key)
  }

  slices(service: string): readonly EndpointSliceRecord[] {
    return this.#slicesOfService.get(service) ?? noSlices
  }

  get pendingServices(): number {
    return this.#dirtyServices.size
  }

  get pendingSlices(): number {
    return this.#dirtySlices.size
  }
}
