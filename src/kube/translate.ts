import { canonicalAddress, cidrText, familyOf, parseCidr, specialUse } from '../model/address.ts'
import type { Family, Protocol } from '../model/address.ts'
import type {
  EndpointPortRecord,
  EndpointSliceRecord,
  NodeRecord,
  ServicePortRecord,
  ServiceRecord,
} from '../model/cluster.ts'
import { flat } from '../lib/flat.ts'
import { systemClock, type Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { EndpointList, type EndpointRecord } from '../model/endpoint-list.ts'

/** One part of an object that cannot be used; the rest of the object works without it. */
export interface ObjectProblem {
  /** "Service default/web" */
  readonly object: string
  /** "spec.ports[1].port" */
  readonly field: string
  readonly value: unknown
  readonly reason: string
}

export type Report = (problem: ObjectProblem) => void

type Json = Readonly<Record<string, unknown>>

const NAME_LABEL = 'kubernetes.io/service-name'
const EXCLUDING_LABELS = ['service.kubernetes.io/service-proxy-name', 'service.kubernetes.io/headless']
const TRIGGER_ANNOTATION = 'endpoints.kubernetes.io/last-change-trigger-time'
const ZONE_LABEL = 'topology.kubernetes.io/zone'
const AUTOSCALER_TAINT = 'ToBeDeletedByClusterAutoscaler'
const DEFAULT_AFFINITY_SECONDS = 10800
const NONE: readonly never[] = []
const NO_JSON: Json = {}
/** Every name and label value that the API server lets through, and none that means anything in a path or a key of ours. */
const NAME = /^[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?$/
/** No text of an address or a range is longer. */
const LONGEST_ADDRESS = 64
/** The API server lets an endpoint be hinted at eight zones and eight nodes. */
const MOST_HINTS = 8
/** So many entries in the kernel a Service may ask for by its external addresses: each costs every node memory. */
const MOST_EXTERNAL = 200_000

/** Strings and lists that many objects repeat are kept once. The bounds keep those of bygone objects from piling up. */
class Interner<T> {
  readonly #known = new Map<string, T>()

  get(key: string, make: () => T): T {
    // What is as long as this is not what many objects have.
    if (key.length > 256) return make()
    const known = this.#known.get(key)
    if (known !== undefined) return known
    if (this.#known.size >= 50_000) this.#known.clear()
    const made = make()
    this.#known.set(key, made)
    return made
  }
}

const strings = new Interner<string>()
const lists = new Interner<readonly string[]>()
const endpointPorts = new Interner<readonly EndpointPortRecord[]>()
const intern = (text: string): string => strings.get(text, () => text)

export function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * "namespace/name", or the name alone of an object without namespace; undefined where it has no name, or one that could be
 * taken for another object's.
 */
export function objectKey(object: unknown): string | undefined {
  const metadata = isJson(object) ? object.metadata : undefined
  if (!isJson(metadata)) return undefined
  const { name, namespace } = metadata
  if (!isName(name)) return undefined
  if (namespace === undefined || namespace === null || namespace === '') return name
  return isName(namespace) ? flat(namespace, '/', name) : undefined
}

export function isName(value: unknown): value is string {
  return typeof value === 'string' && NAME.test(value)
}

/** Reads members of one object and reports those of a wrong type. An absent or null member is undefined. */
class Reader {
  readonly object: string
  readonly #report: Report

  constructor(object: string, report: Report) {
    this.object = object
    this.#report = report
  }

  problem(field: string, value: unknown, reason: string): undefined {
    this.#report({ object: this.object, field, value, reason })
    return undefined
  }

  json(value: unknown, field: string): Json {
    if (value === undefined || value === null) return NO_JSON
    if (isJson(value)) return value
    this.problem(field, value, 'is not an object')
    return NO_JSON
  }

  list(value: unknown, field: string): readonly unknown[] {
    if (value === undefined || value === null) return NONE
    if (Array.isArray(value)) return value
    this.problem(field, value, 'is not a list')
    return NONE
  }

  text(value: unknown, field: string): string | undefined {
    if (value === undefined || value === null) return undefined
    return typeof value === 'string' ? value : this.problem(field, value, 'is not a string')
  }

  flag(value: unknown, field: string): boolean | undefined {
    if (value === undefined || value === null) return undefined
    return typeof value === 'boolean' ? value : this.problem(field, value, 'is neither true nor false')
  }

  integer(value: unknown, field: string, least: number, most: number): number | undefined {
    if (value === undefined || value === null) return undefined
    if (Number.isInteger(value) && Number(value) >= least && Number(value) <= most) return Number(value)
    return this.problem(field, value, `is not an integer from ${least} to ${most}`)
  }

  /** A name, or the empty text. */
  name(value: unknown, field: string): string | undefined {
    const text = this.text(value, field)
    if (text === undefined || text === '' || isName(text)) return text
    return this.problem(field, value, 'is not a name')
  }

  address(value: unknown, field: string): string | undefined {
    const text = this.text(value, field)
    if (text === undefined) return undefined
    const address = text.length > LONGEST_ADDRESS ? undefined : canonicalAddress(text.trim())
    return address ?? this.problem(field, value, 'is not an IP address')
  }

  /** An address that packets can be sent to from elsewhere: what the API server asks of endpoints and external IPs. */
  reachable(value: unknown, field: string): string | undefined {
    const address = this.address(value, field)
    const use = address === undefined ? undefined : specialUse(address)
    return use === undefined ? address : this.problem(field, value, `is a ${use} address`)
  }

  range(value: unknown, field: string): string | undefined {
    const text = this.text(value, field)
    if (text === undefined) return undefined
    const range = text.length > LONGEST_ADDRESS ? undefined : parseCidr(text.trim())
    return range === undefined ? this.problem(field, value, 'is not a CIDR') : cidrText(range)
  }

  protocol(value: unknown, field: string): Protocol | undefined {
    if (value === undefined || value === null || value === '') return 'TCP'
    if (value === 'TCP' || value === 'UDP' || value === 'SCTP') return value
    return this.problem(field, value, 'is not TCP, UDP or SCTP')
  }

  /** One of the words; the first where absent or, with a report, where it is another. */
  choice<T extends string>(value: unknown, field: string, words: readonly [T, ...T[]]): T {
    if (value === undefined || value === null || value === '') return words[0]
    const word = words.find((candidate) => candidate === value)
    if (word === undefined) this.problem(field, value, `is not one of ${words.join(', ')}`)
    return word ?? words[0]
  }

  addresses(value: unknown, field: string): readonly string[] {
    const result = new Set<string>()
    for (const [i, entry] of this.list(value, field).entries()) {
      const address = this.reachable(entry, `${field}[${i}]`)
      if (address !== undefined) result.add(address)
    }
    return orNone([...result])
  }

  names(value: unknown, field: string): readonly string[] | undefined {
    const result: string[] = []
    const list = this.list(value, field)
    if (list.length > MOST_HINTS) this.problem(field, list.length, `are more than ${MOST_HINTS}: the first ones count`)
    for (const [i, entry] of list.slice(0, MOST_HINTS).entries()) {
      const name = this.name(this.json(entry, `${field}[${i}]`).name, `${field}[${i}].name`)
      if (name !== undefined) result.push(name)
    }
    return result.length === 0 ? undefined : lists.get(result.join('\n'), () => result)
  }
}

/** For what is kept: a list that has grown by push has room for 17 members, a copy for no more than it has. */
function orNone<T>(list: readonly T[]): readonly T[] {
  return list.length === 0 ? NONE : list.slice()
}

function openReader(kind: string, object: unknown, report: Report): [Reader, string, Json] | undefined {
  const key = objectKey(object)
  const reader = new Reader(`${kind} ${key ?? '(unnamed)'}`, report)
  if (!isJson(object)) return reader.problem('', object, 'is not an object')
  const metadata = reader.json(object.metadata, 'metadata')
  if (key !== undefined) return [reader, key, metadata]
  const { name, namespace } = metadata
  if (name === undefined || name === null || name === '') return reader.problem('metadata.name', name, 'is missing')
  if (!isName(name)) return reader.problem('metadata.name', name, 'is not a name')
  return reader.problem('metadata.namespace', namespace, 'is not a name')
}

/** Whether labels hand the object to another proxy, or mark it headless. */
function isExcluded(labels: Json): boolean {
  return EXCLUDING_LABELS.some((label) => labels[label] !== undefined)
}

/** A Service as the proxy sees it; undefined where it is none of the proxy's business or is beyond use. */
export function translateService(object: unknown, report: Report): ServiceRecord | undefined {
  const opened = openReader('Service', object, report)
  if (opened === undefined || !isJson(object)) return undefined
  const [reader, key, metadata] = opened
  if (isExcluded(reader.json(metadata.labels, 'metadata.labels'))) return undefined
  const spec = reader.json(object.spec, 'spec')
  const clusterIP = reader.text(spec.clusterIP, 'spec.clusterIP')
  if (clusterIP === undefined || clusterIP === '' || clusterIP === 'None') return undefined
  if (spec.type === 'ExternalName') return undefined

  const type = reader.choice(spec.type, 'spec.type', ['ClusterIP', 'NodePort', 'LoadBalancer'])
  const externalIPs = reader.addresses(spec.externalIPs, 'spec.externalIPs')
  const sources = readSourceRanges(reader, spec)
  const status = reader.json(reader.json(object.status, 'status').loadBalancer, 'status.loadBalancer')
  const external = reader.choice(spec.externalTrafficPolicy, 'spec.externalTrafficPolicy', ['Cluster', 'Local'])
  const internal = reader.choice(spec.internalTrafficPolicy, 'spec.internalTrafficPolicy', ['Cluster', 'Local'])
  const externalLocal = external === 'Local' && (type !== 'ClusterIP' || externalIPs.length > 0)
  // Ranges of which none can be read must not open the address to everyone.
  const loadBalancerIPs = sources.unreadable ? NONE : readIngress(reader, status)
  const ports = readServicePorts(reader, spec)
  const entries = ports.length * (externalIPs.length + loadBalancerIPs.length * (1 + sources.ranges.length))
  const isTooLarge = entries > MOST_EXTERNAL
  if (isTooLarge) {
    const reason = `asks for more than ${MOST_EXTERNAL} entries by its external addresses: they are left out`
    reader.problem('spec', entries, reason)
  }
  return {
    key,
    type,
    clusterIPs: readClusterIPs(reader, spec, clusterIP),
    externalIPs: isTooLarge ? NONE : externalIPs,
    loadBalancerIPs: isTooLarge ? NONE : loadBalancerIPs,
    sourceRanges: sources.ranges,
    ports,
    affinitySeconds: readAffinity(reader, spec),
    internalLocal: internal === 'Local',
    externalLocal,
    healthCheckNodePort: readHealthCheckNodePort(reader, spec, type === 'LoadBalancer' && external === 'Local'),
  }
}

/** A cluster's range may be a link-local one. */
function readClusterIP(reader: Reader, value: unknown, field: string): string | undefined {
  const address = reader.address(value, field)
  const use = address === undefined ? undefined : specialUse(address)
  return use === undefined || use === 'link-local' ? address : reader.problem(field, value, `is a ${use} address`)
}

function readClusterIPs(reader: Reader, spec: Json, clusterIP: string): readonly string[] {
  const families = reader.list(spec.ipFamilies, 'spec.ipFamilies')
  const listed = reader.list(spec.clusterIPs, 'spec.clusterIPs')
  if (families.length === 0 || listed.length === 0) {
    const address = readClusterIP(reader, clusterIP, 'spec.clusterIP')
    return address === undefined ? NONE : [address]
  }
  const result: string[] = []
  // The family at an index says which address is that family's; addresses beyond the families are not in use.
  for (const [i, entry] of listed.slice(0, families.length).entries()) {
    const field = `spec.clusterIPs[${i}]`
    const address = readClusterIP(reader, entry, field)
    if (address === undefined) continue
    if (familyOf(address) !== families[i]) reader.problem(field, entry, `is not of family ${String(families[i])}`)
    else if (!result.includes(address)) result.push(address)
  }
  return orNone(result)
}

function readIngress(reader: Reader, status: Json): readonly string[] {
  const result = new Set<string>()
  for (const [i, value] of reader.list(status.ingress, 'status.loadBalancer.ingress').entries()) {
    const field = `status.loadBalancer.ingress[${i}]`
    const ingress = reader.json(value, field)
    if (ingress.ip === undefined || ingress.ip === null || ingress.ip === '') continue
    // Mode Proxy: the load balancer wants to see the traffic, so the node must not take its address.
    if (ingress.ipMode !== undefined && ingress.ipMode !== null && ingress.ipMode !== 'VIP') continue
    const address = reader.reachable(ingress.ip, `${field}.ip`)
    if (address !== undefined) result.add(address)
  }
  return orNone([...result])
}

function readSourceRanges(reader: Reader, spec: Json): { ranges: readonly string[]; unreadable: boolean } {
  const field = 'spec.loadBalancerSourceRanges'
  const given = reader.list(spec.loadBalancerSourceRanges, field)
  if (given.length === 0) return { ranges: NONE, unreadable: false }
  const ranges = []
  for (const [i, entry] of given.entries()) {
    const range = reader.range(entry, `${field}[${i}]`)
    if (range !== undefined) ranges.push(parseCidr(range)!)
  }
  if (ranges.length === 0) {
    reader.problem(field, given, 'has no valid CIDR: load balancer addresses are left out')
    return { ranges: NONE, unreadable: true }
  }
  // A zero prefix allows all of its own family; the other family keeps its restriction.
  const open = new Set<Family>(ranges.filter((range) => range.prefix === 0).map((range) => range.family))
  const closed = ranges.filter((range) => !open.has(range.family)).map(cidrText)
  return { ranges: orNone([...new Set(closed)]), unreadable: false }
}

function readServicePorts(reader: Reader, spec: Json): readonly ServicePortRecord[] {
  const result: ServicePortRecord[] = []
  const seen = new Set<string>()
  for (const [i, value] of reader.list(spec.ports, 'spec.ports').entries()) {
    const field = `spec.ports[${i}]`
    const entry = reader.json(value, field)
    if (entry === NO_JSON) continue
    const name = entry.name === undefined || entry.name === null ? '' : reader.name(entry.name, `${field}.name`)
    const protocol = reader.protocol(entry.protocol, `${field}.protocol`)
    if (entry.port === undefined || entry.port === null) reader.problem(`${field}.port`, entry.port, 'is missing')
    const port = reader.integer(entry.port, `${field}.port`, 1, 65535)
    const nodePort = reader.integer(entry.nodePort, `${field}.nodePort`, 0, 65535) ?? 0
    if (name === undefined || port === undefined || protocol === undefined) continue
    // Each would claim the same virtual server, or the same name: the first one has it.
    const number = `${port}/${protocol}`
    if (seen.has(number)) reader.problem(field, number, 'repeats an earlier port and protocol')
    else if (seen.has(`:${name}`)) reader.problem(`${field}.name`, name, 'repeats the name of an earlier port')
    else {
      seen.add(number).add(`:${name}`)
      result.push({ name: intern(name), protocol, port, nodePort })
    }
  }
  return orNone(result)
}

function readAffinity(reader: Reader, spec: Json): number {
  if (reader.choice(spec.sessionAffinity, 'spec.sessionAffinity', ['None', 'ClientIP']) === 'None') return 0
  const field = 'spec.sessionAffinityConfig'
  const client = reader.json(reader.json(spec.sessionAffinityConfig, field).clientIP, `${field}.clientIP`)
  const seconds = reader.integer(client.timeoutSeconds, `${field}.clientIP.timeoutSeconds`, 1, 86400)
  return seconds ?? DEFAULT_AFFINITY_SECONDS
}

function readHealthCheckNodePort(reader: Reader, spec: Json, inUse: boolean): number {
  const field = 'spec.healthCheckNodePort'
  const port = reader.integer(spec.healthCheckNodePort, field, 0, 65535) ?? 0
  if (port === 0 || inUse) return port
  reader.problem(field, port, 'has no effect without type LoadBalancer and externalTrafficPolicy Local')
  return 0
}

/** An EndpointSlice as the proxy sees it; undefined where it is none of the proxy's business or is beyond use. */
export function translateEndpointSlice(
  object: unknown,
  nodeName: string,
  report: Report,
): EndpointSliceRecord | undefined {
  const opened = openReader('EndpointSlice', object, report)
  if (opened === undefined || !isJson(object)) return undefined
  const [reader, key, metadata] = opened
  const labels = reader.json(metadata.labels, 'metadata.labels')
  const family = object.addressType
  if (isExcluded(labels) || (family !== 'IPv4' && family !== 'IPv6')) return undefined
  const serviceName = reader.text(labels[NAME_LABEL], `metadata.labels[${NAME_LABEL}]`)
  if (serviceName === undefined || serviceName === '') {
    return reader.problem(`metadata.labels[${NAME_LABEL}]`, serviceName, 'is missing: the slice belongs to no Service')
  }
  if (!isName(serviceName)) return reader.problem(`metadata.labels[${NAME_LABEL}]`, serviceName, 'is not a name')
  const annotations = reader.json(metadata.annotations, 'metadata.annotations')
  const trigger = annotations[TRIGGER_ANNOTATION]
  const service =
    typeof metadata.namespace === 'string' && metadata.namespace !== ''
      ? flat(metadata.namespace, '/', serviceName)
      : serviceName
  return {
    key,
    service,
    family,
    ports: readEndpointPorts(reader, object.ports),
    endpoints: readEndpoints(reader, object.endpoints, family, nodeName),
    triggerTime: typeof trigger === 'string' ? Date.parse(trigger) || 0 : 0,
  }
}

function readEndpointPorts(reader: Reader, value: unknown): readonly EndpointPortRecord[] {
  const result: EndpointPortRecord[] = []
  const seen = new Set<string>()
  for (const [i, entry] of reader.list(value, 'ports').entries()) {
    const member = reader.json(entry, `ports[${i}]`)
    const name = reader.name(member.name, `ports[${i}].name`)
    const protocol = reader.protocol(member.protocol, `ports[${i}].protocol`)
    const port = reader.integer(member.port, `ports[${i}].port`, 0, 65535)
    // Without a number it stands for all ports, which a virtual server cannot have.
    if (name === undefined || protocol === undefined || !port) continue
    // Each would multiply the endpoints of one service port.
    const id = flat(name, '/', protocol)
    if (seen.has(id)) reader.problem(`ports[${i}].name`, name, 'repeats the name of an earlier port')
    else {
      seen.add(id)
      result.push({ name: intern(name), protocol, port })
    }
  }
  if (result.length === 0) return NONE
  // Most slices of a cluster have one of a few port lists.
  return endpointPorts.get(result.map((p) => `${p.name}:${p.protocol}:${p.port}`).join(), () => result)
}

function readEndpoints(reader: Reader, value: unknown, family: Family, nodeName: string): EndpointList {
  const result: EndpointRecord[] = []
  for (const [i, entry] of reader.list(value, 'endpoints').entries()) {
    const field = `endpoints[${i}]`
    const endpoint = reader.json(entry, field)
    // The API promises that all addresses of an endpoint are interchangeable; as kube-proxy, only the first is used.
    const first = reader.list(endpoint.addresses, `${field}.addresses`)[0]
    const address = reader.reachable(first, `${field}.addresses[0]`)
    if (address === undefined) continue
    if (familyOf(address) !== family) {
      reader.problem(`${field}.addresses[0]`, first, `is not of the slice's addressType ${family}`)
      continue
    }
    const conditions = reader.json(endpoint.conditions, `${field}.conditions`)
    const hints = reader.json(endpoint.hints, `${field}.hints`)
    const zones = reader.names(hints.forZones, `${field}.hints.forZones`)
    const nodes = reader.names(hints.forNodes, `${field}.hints.forNodes`)
    result.push({
      address,
      ready: reader.flag(conditions.ready, `${field}.conditions.ready`) ?? true,
      serving: reader.flag(conditions.serving, `${field}.conditions.serving`) ?? true,
      terminating: reader.flag(conditions.terminating, `${field}.conditions.terminating`) ?? false,
      local: endpoint.nodeName === nodeName,
      ...(zones === undefined ? {} : { zones }),
      ...(nodes === undefined ? {} : { nodes }),
    })
  }
  return EndpointList.of(result)
}

/** A Node as the proxy sees it. */
export function translateNode(object: unknown, report: Report): NodeRecord | undefined {
  const opened = openReader('Node', object, report)
  if (opened === undefined || !isJson(object)) return undefined
  const [reader, name, metadata] = opened
  const spec = reader.json(object.spec, 'spec')
  const status = reader.json(object.status, 'status')
  const internal: string[] = []
  const external: string[] = []
  for (const [i, value] of reader.list(status.addresses, 'status.addresses').entries()) {
    const entry = reader.json(value, `status.addresses[${i}]`)
    const list = entry.type === 'InternalIP' ? internal : entry.type === 'ExternalIP' ? external : undefined
    if (list === undefined) continue
    const address = reader.address(entry.address, `status.addresses[${i}].address`)
    if (address !== undefined) list.push(address)
  }
  const listed = reader.list(spec.podCIDRs, 'spec.podCIDRs')
  const podCIDRs: string[] = []
  for (const [i, value] of (listed.length > 0 || !spec.podCIDR ? listed : [spec.podCIDR]).entries()) {
    const range = reader.range(value, `spec.podCIDRs[${i}]`)
    if (range !== undefined) podCIDRs.push(range)
  }
  const taints = reader.list(spec.taints, 'spec.taints')
  const tainted = taints.some((taint) => isJson(taint) && taint.key === AUTOSCALER_TAINT)
  const labels = reader.json(metadata.labels, 'metadata.labels')
  return {
    name,
    addresses: orNone([...new Set([...internal, ...external])]),
    podCIDRs: orNone(podCIDRs),
    zone: intern(reader.name(labels[ZONE_LABEL], `metadata.labels[${ZONE_LABEL}]`) ?? ''),
    eligible: !tainted && (metadata.deletionTimestamp === undefined || metadata.deletionTimestamp === null),
  }
}

export function problemText(problem: ObjectProblem): string {
  const field = problem.field === '' ? '' : ` ${problem.field}`
  return `${problem.object}:${field} ${problem.reason} (${shownValue(problem.value)})`
}

/** The beginning of a value as JSON: it may be as large and as deep as an object can be. */
export function shownValue(value: unknown): string {
  let text: string
  try {
    text = JSON.stringify(typeof value === 'string' ? value.slice(0, 200) : value) ?? 'nothing'
  } catch {
    text = 'too deep to be shown'
  }
  return text.length > 120 ? `${text.slice(0, 120)}…` : text
}

/** So many problems of one version of an object are logged, and so many of all objects in a minute. */
const mostOfObject = 10
const mostOfAll = 200
const minute = 60_000

/**
 * Logs the problems of an object as errors, once for each version of it, however often that version is read. Whoever may
 * write an object must not be able to fill the log with it.
 */
export class ProblemLog {
  readonly #log: Log
  readonly #clock: Clock
  /** Versions with problems already logged, by kind and key. */
  readonly #logged = new Map<string, string>()
  #minuteBegan = Number.NEGATIVE_INFINITY
  #count = 0

  constructor(log: Log, clock: Clock = systemClock) {
    this.#log = log
    this.#clock = clock
  }

  /** The report function for one reading of one version of an object. */
  for(object: string, version: string): Report {
    if (this.#logged.get(object) === version) return () => {}
    let count = 0
    return (problem) => {
      if (this.#logged.size >= 10_000) this.#logged.clear()
      this.#logged.set(object, version)
      count++
      if (count > mostOfObject + 1 || !this.#mayLog()) return
      if (count > mostOfObject) this.#log.error(`${object}: its further problems are not logged`, { object })
      else this.#log.error(problemText(problem), { ...problem, value: shownValue(problem.value) })
    }
  }

  #mayLog(): boolean {
    const now = this.#clock.now()
    if (now - this.#minuteBegan >= minute) {
      const lost = this.#count - mostOfAll
      if (lost > 0) this.#log.warn('Problems of objects were not logged, for there were too many', { count: lost })
      this.#minuteBegan = now
      this.#count = 0
    }
    return ++this.#count <= mostOfAll
  }

  forget(object: string): void {
    this.#logged.delete(object)
  }
}
