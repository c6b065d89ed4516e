import { describeError } from '../lib/errors.ts'
import { mapInTurns, PatientTurn } from '../lib/turn.ts'
import { canonicalAddress, familyOf, putAddress, type Family } from '../model/address.ts'
import type { EndpointSliceRecord, ServiceRecord } from '../model/cluster.ts'
import { ownerOf } from '../proxier/cluster-state.ts'
import type { Owner } from '../reconcile/layer.ts'
import type { ProxierView } from '../proxier/proxier.ts'
import type { ConnectionsReading, PageSources } from './sources.ts'

/** What Services may be sorted by. */
export const sortKeys = ['name', 'ready', 'endpoints', 'active', 'inactive'] as const
export type SortKey = (typeof sortKeys)[number]
export type Direction = 'up' | 'down'

export interface EndpointCount {
  readonly ready: number
  readonly total: number
}

export interface Connections {
  readonly active: number
  readonly inactive: number
}

export interface Sorted {
  readonly services: readonly ServiceRecord[]
  /** The reading that the order is by; undefined where it is by something else. */
  readonly reading: ConnectionsReading | undefined
  /** Why the order is by name all the same; "" where it is as asked for. */
  readonly trouble: string
}

type Families = PageSources['families']

/** A Service as the daemon has it; undefined: it knows none of the name with a cluster IP. */
export function serviceOf(families: Families, key: string): ServiceRecord | undefined {
  for (const { view } of families.values()) {
    const service = view().service(key)
    if (service !== undefined) return service
  }
  return undefined
}

/** Each Service once, whatever families it has. */
function* allServices(families: Families): Generator<ServiceRecord> {
  const former: ProxierView[] = []
  for (const { view } of families.values()) {
    const state = view()
    for (const service of state.services()) {
      if (!former.some((other) => other.service(service.key) !== undefined)) yield service
    }
    former.push(state)
  }
}

/** How many Services there are. */
export function countServices(families: Families): number {
  let count = 0
  for (const _service of allServices(families)) count++
  return count
}

/** Slices of a Service, of all families. */
export function slicesOf(families: Families, key: string): readonly EndpointSliceRecord[] {
  return [...families.values()].flatMap(({ view }) => view().slices(key))
}

/** The Services that have every word of the text: in their name, as an address or as a port. */
export function findServices(families: Families, text: string): Promise<ServiceRecord[]> {
  const words = text
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((word) => word !== '')
    .map(wordOf)
  const has = (service: ServiceRecord): boolean => words.every((word) => word(service, families))
  return mapInTurns(
    allServices(families),
    (service) => (has(service) ? service : undefined),
    new PatientTurn(words.length > 0 ? 1 : 64),
  )
}

type Word = (service: ServiceRecord, families: Families) => boolean

/** What a word of the search asks of a Service. */
function wordOf(word: string): Word {
  const address = canonicalAddress(word)
  if (address !== undefined) {
    const packed = packedAddress(address)
    return (service, families) =>
      addressesOf(service).includes(address) || hasEndpoint(slicesOf(families, service.key), packed)
  }
  // "10.96.0.10:80", "[fd00::1]:80"
  const [, host = '', number = ''] = /^\[?([^\]]+?)\]?:(\d{1,5})$/.exec(word) ?? []
  const known = canonicalAddress(host)
  if (known !== undefined) {
    const [packed, port] = [packedAddress(known), Number(number)]
    return (service, families) =>
      (addressesOf(service).includes(known) && service.ports.some((one) => one.port === port)) ||
      hasEndpoint(
        slicesOf(families, service.key).filter(({ ports }) => ports.some((one) => one.port === port)),
        packed,
      )
  }
  const port = /^\d{1,5}$/.test(word) ? Number(word) : undefined
  const isPart = /^[0-9a-f.:]+$/.test(word) && /[.:]/.test(word)
  return (service) =>
    service.key.includes(word) ||
    service.type.toLowerCase() === word ||
    service.ports.some((one) => one.port === port || one.nodePort === port || one.name === word) ||
    (isPart && addressesOf(service).some((one) => one.startsWith(word)))
}

export function addressesOf({ clusterIPs, externalIPs, loadBalancerIPs }: ServiceRecord): readonly string[] {
  return [...clusterIPs, ...externalIPs, ...loadBalancerIPs]
}

function packedAddress(address: string): string {
  const bytes = Buffer.alloc(familyOf(address) === 'IPv4' ? 4 : 16)
  putAddress(bytes, 0, address)
  return bytes.toString('latin1')
}

/** Without unpacking them: a hundred thousand endpoints are looked through for a search. */
function hasEndpoint(slices: readonly EndpointSliceRecord[], packed: string): boolean {
  return slices.some(({ endpoints: { bytes, width } }) => {
    if (width !== packed.length) return false
    for (let at = bytes.indexOf(packed); at >= 0; at = bytes.indexOf(packed, at + 1)) {
      if (at % (width + 1) === 0) return true
    }
    return false
  })
}

/** Of all slices, by address: a pod of both families counts for each, one of two slices once. */
export function countEndpoints(slices: readonly EndpointSliceRecord[]): EndpointCount {
  const known = new Map<string, boolean>()
  for (const { endpoints } of slices) {
    for (const { packedAddress: address, ready } of endpoints.packed()) {
      known.set(address, ready || known.get(address) === true)
    }
  }
  let ready = 0
  for (const one of known.values()) if (one) ready++
  return { ready, total: known.size }
}

/** The owners of a Service, by family. */
export function* ownersOf(families: Families, service: ServiceRecord): Generator<readonly [Family, Owner]> {
  for (const family of families.keys()) {
    if (!service.clusterIPs.some((address) => familyOf(address) === family)) continue
    for (const port of service.ports) yield [family, ownerOf(service.key, port)]
  }
}

/** By a reading of all; undefined where the kernel has no virtual server of the Service. */
export function connectionsIn(
  reading: ConnectionsReading,
  families: Families,
  service: ServiceRecord,
): Connections | undefined {
  let sum: { active: number; inactive: number } | undefined
  for (const [family, owner] of ownersOf(families, service)) {
    const one = reading.of(family, owner)
    if (one === undefined) continue
    sum ??= { active: 0, inactive: 0 }
    sum.active += one.active
    sum.inactive += one.inactive
  }
  return sum
}

/** Sorted; equal ones by name. Connections are read from the kernel where the order is by them. */
export async function sortServices(
  sources: Pick<PageSources, 'families' | 'connections'>,
  services: readonly ServiceRecord[],
  by: SortKey,
  direction: Direction,
): Promise<Sorted> {
  const { families } = sources
  const sign = direction === 'up' ? 1 : -1
  const byName = (a: ServiceRecord, b: ServiceRecord): number => (a.key < b.key ? -1 : 1)
  if (by === 'name') {
    const sorted = await sortInTurns(services, (a, b) => sign * byName(a, b))
    return { services: sorted, reading: undefined, trouble: '' }
  }
  let reading: ConnectionsReading | undefined
  try {
    if (by === 'active' || by === 'inactive') reading = await sources.connections()
  } catch (error) {
    return { ...(await sortServices(sources, services, 'name', 'up')), trouble: describeError(error) }
  }
  const valueOf = (service: ServiceRecord): number => {
    if (by === 'active' || by === 'inactive') return connectionsIn(reading!, families, service)?.[by] ?? -1
    const { ready, total } = countEndpoints(slicesOf(families, service.key))
    return by === 'ready' ? ready : total
  }
  const values = await mapInTurns(services, (service) => ({ service, value: valueOf(service) }), new PatientTurn(1))
  const sorted = await sortInTurns(values, (a, b) => sign * (a.value - b.value) || byName(a.service, b.service))
  return { services: sorted.map(({ service }) => service), reading, trouble: '' }
}

/** So many are sorted or merged in one go. */
const piece = 256

/** A sorted copy, in turns with others: ten thousand at once would keep the event loop to themselves. */
export async function sortInTurns<T>(list: readonly T[], compare: (a: T, b: T) => number): Promise<readonly T[]> {
  const turn = new PatientTurn(1)
  let runs: T[][] = []
  for (let at = 0; at < list.length; at += piece) {
    if (turn.isOver) await turn.next()
    runs.push(list.slice(at, at + piece).sort(compare))
  }
  while (runs.length > 1) {
    const merged: T[][] = []
    for (let i = 0; i < runs.length; i += 2) {
      const [a, b] = [runs[i]!, runs[i + 1] ?? []]
      const both: T[] = []
      for (let x = 0, y = 0; both.length < a.length + b.length;) {
        both.push(y >= b.length || (x < a.length && compare(a[x]!, b[y]!) <= 0) ? a[x++]! : b[y++]!)
        if (both.length % piece === 0 && turn.isOver) await turn.next()
      }
      merged.push(both)
    }
    runs = merged
  }
  return runs[0] ?? []
}
