import { isDeepStrictEqual } from 'node:util'
import { deviceName } from '../../../src/dummy/layer.ts'
import { allRoles, isOnDemand, setComment, setSpec } from '../../../src/ipset/catalogue.ts'
import { buildRules, jumps, type Chain } from '../../../src/iptables/rules.ts'
import { canonicalRule, parseSave } from '../../../src/iptables/text.ts'
import { destinationKey, serverFlags, serverKey, type ServerId } from '../../../src/ipvs/ipvs.ts'
import { isIPv6LinkLocal, isLoopback, parseCidr, type Cidr, type Family } from '../../../src/model/address.ts'
import type { NodeRecord } from '../../../src/model/cluster.ts'
import { DestinationList } from '../../../src/model/destination-list.ts'
import type { LocalDetector } from '../../../src/model/local-detector.ts'
import type { SetRole } from '../../../src/model/sets.ts'
import type { Contribution, OutFilterDrop, ServerWant } from '../../../src/proxier/contribution.ts'
import { mergeEndpoints } from '../../../src/proxier/endpoint-choice.ts'
import { anyExternal } from '../../../src/proxier/external-addresses.ts'
import { nodePortAddresses } from '../../../src/proxier/node-addresses.ts'
import { planPort, type NodeFacts } from '../../../src/proxier/planner.ts'
import type { StackSettings } from './events.ts'
import { nodeName, nodePortRanges, type Cluster } from './generator.ts'
import type { OwnerWant } from './guard.ts'
import type { Survivors } from './tamper.ts'

/** The kernel's state as the tools print it, both families. */
export interface Dump {
  /** `ipvsadm -Sn` */
  readonly servers: string
  /** `ipset save` */
  readonly sets: string
  /** `iptables-save`, `ip6tables-save`: tables nat and filter. */
  readonly rules: Readonly<Record<Family, string>>
  /** `ip -o addr` */
  readonly addresses: string
}

/** Comparable lines, sorted; each begins with what it belongs to. */
export type State = readonly string[]

const families: readonly Family[] = ['IPv4', 'IPv6']

/** What the campaign's settings are in the daemon's terms. */
export function ranges(settings: StackSettings): readonly Cidr[] | 'primary' {
  if (settings.nodePorts === 'primary') return 'primary'
  return settings.nodePorts === 'all' ? [] : nodePortRanges.map((text) => parseCidr(text)!)
}

export function detector(settings: StackSettings, family: Family): LocalDetector | undefined {
  if (settings.detector === 'none') return undefined
  if (settings.detector === 'bridge') return { kind: 'bridge', name: 'cni0' }
  return { kind: 'cidr', cidr: family === 'IPv4' ? '10.244.0.0/16' : 'fd00:10:244::/48' }
}

export interface PlanInput {
  readonly cluster: Cluster
  /** The last Node that the process at work was told; undefined: none. */
  readonly node: NodeRecord | undefined
  readonly settings: StackSettings
  /** Addresses of all links but the dummy device. */
  readonly nodeAddresses: readonly string[]
  readonly survivors: Survivors
  readonly randomFully: Readonly<Record<Family, boolean>>
}

interface FamilyPlan {
  /** By owner, in the order of names. */
  readonly contributions: readonly (readonly [string, Contribution])[]
  readonly servers: ReadonlyMap<string, ServerWant>
  readonly members: ReadonlyMap<SetRole, ReadonlySet<string>>
  readonly addresses: ReadonlySet<string>
  readonly drops: readonly OutFilterDrop[]
}

/** All ports of all objects planned at once, by owner in the order of names: the first one has a shared server. */
export function planFamily(input: PlanInput, family: Family): FamilyPlan {
  const facts = factsOf(input, family)
  const contributions: [string, Contribution][] = []
  const slicesOf = Map.groupBy(input.cluster.slices.values(), (slice) => slice.service)
  for (const service of input.cluster.services.values()) {
    const slices = (slicesOf.get(service.key) ?? []).filter((slice) => slice.family === family)
    for (const port of service.ports) {
      const owner = `${service.key}${port.name && `:${port.name}`}/${port.protocol}`
      contributions.push([owner, planPort(service, port, mergeEndpoints(slices, port), facts)])
    }
  }
  contributions.sort(([a], [b]) => (a < b ? -1 : 1))
  const servers = new Map<string, ServerWant>()
  const members = new Map<SetRole, Set<string>>()
  const addresses = new Set<string>()
  const drops: OutFilterDrop[] = []
  for (const [, contribution] of contributions) {
    const own = new Map(contribution.servers.map((want) => [serverKey(want.server), want]))
    for (const [key, want] of own) if (!servers.has(key)) servers.set(key, want)
    for (const { role, entry } of contribution.members) members.set(role, (members.get(role) ?? new Set()).add(entry))
    for (const address of contribution.addresses) addresses.add(address)
    drops.push(...contribution.drops)
  }
  return { contributions, servers, members, addresses, drops }
}

function factsOf({ node, settings, nodeAddresses }: PlanInput, family: Family): NodeFacts {
  const ofFamily = (address: string): boolean => address.includes(':') === (family === 'IPv6')
  const own = [...new Set(nodeAddresses.filter(ofFamily))].filter((one) => !isLoopback(one) && !isIPv6LinkLocal(one))
  const nodeIP = node?.addresses.find(ofFamily) ?? ''
  const chosen = ranges(settings)
  return {
    family,
    nodeName,
    scheduler: settings.scheduler,
    strictExternal: settings.strictExternal,
    externalRanges: anyExternal,
    zone: node?.zone ?? '',
    nodeIP,
    nodeAddresses: new Set(own),
    nodePortAddresses:
      chosen === 'primary' ? own.filter((one) => one === nodeIP) : nodePortAddresses(own.sort(), chosen, family),
  }
}

const serviceOption = { TCP: '-t', UDP: '-u', SCTP: '--sctp-service' } as const

function serverName(server: ServerId): string {
  return `${serviceOption[server.protocol]} ${destinationKey(server)}`
}

/** A virtual server and its destinations as `ipvsadm -Sn` prints them. */
function serverLines({ server, destinations }: ServerWant): string[] {
  const persistent = (server.flags & serverFlags.persistent) === 0 ? '' : ` -p ${server.timeout}`
  const schedulerFlags = (server.flags & serverFlags.schedulerFlag2) === 0 ? '' : ` -b ${server.scheduler}-port`
  const name = serverName(server)
  return [
    `-A ${name} -s ${server.scheduler}${persistent}${schedulerFlags}`,
    ...[...destinations].map((one) => `-a ${name} -r ${destinationKey(one)} -m -w ${one.weight}`),
  ]
}

/** What the kernel must be like. */
export function expectedState(input: PlanInput): State {
  const lines: string[] = []
  for (const family of families) {
    const { servers, members, addresses, drops } = planFamily(input, family)
    for (const want of servers.values()) lines.push(...serverLines(want).map((line) => `ipvs ${line}`))
    for (const role of allRoles) {
      if (isOnDemand(role) && !members.has(role)) continue
      const { name, type } = setSpec(role, family)
      const options =
        type === 'bitmap:port' ? 'range 0-65535' : `family ${family === 'IPv4' ? 'inet' : 'inet6'} maxelem 65536`
      lines.push(`set create ${name} ${type} ${options}`)
      for (const entry of members.get(role) ?? []) lines.push(`set add ${name} ${entry}`)
    }
    for (const address of addresses) lines.push(`address ${address}/${family === 'IPv4' ? 32 : 128}`)
    lines.push(...ruleLines(input, family, new Set(members.keys()), drops))
    for (const rule of input.survivors.rules[family]) lines.push(`${family} builtin ${canonicalRule(rule)}`)
  }
  for (const { server, destinations } of input.survivors.servers.values()) {
    lines.push(...serverLines({ server, destinations: DestinationList.of(destinations) }).map((line) => `ipvs ${line}`))
  }
  for (const address of input.survivors.addresses) lines.push(`address ${address}/${address.includes(':') ? 128 : 32}`)
  return lines.sort()
}

function chainsOf(
  { settings, randomFully }: PlanInput,
  family: Family,
  nonEmpty: ReadonlySet<SetRole>,
  outFilterDrops: readonly OutFilterDrop[],
): readonly Chain[] {
  return buildRules({
    family,
    nonEmpty,
    outFilterDrops,
    setName: (role) => setSpec(role, family).name,
    comment: setComment,
    masqueradeBit: settings.masqueradeBit,
    masqueradeAll: settings.masqueradeAll,
    localDetector: detector(settings, family),
    randomFully: randomFully[family],
  }).chains
}

/** What each owner wants, as the guard looks at it. */
export function plannedOwners(input: PlanInput): OwnerWant[] {
  return families.flatMap((family) => {
    const taken = new Set<string>()
    return planFamily(input, family).contributions.map(([, { members, servers, addresses }]) => {
      const own = [...new Set(servers.map(({ server }) => serverKey(server)))].filter((key) => !taken.has(key))
      for (const key of own) taken.add(key)
      const entries = members.map(({ role, entry }) => `${setSpec(role, family).name} ${entry}`)
      return { entries, servers: own, addresses }
    })
  })
}

/** "FAMILY TABLE CHAIN RULE" of every rule of ours that must be there. */
export function plannedRules(input: PlanInput): string[] {
  return families.flatMap((family) => {
    const { members, drops } = planFamily(input, family)
    return chainsOf(input, family, new Set(members.keys()), drops).flatMap(({ table, name, rules }) =>
      rules.map((rule) => `${family} ${canonicalRule(`${table} ${name} ${rule}`)}`),
    )
  })
}

function ruleLines(
  input: PlanInput,
  family: Family,
  nonEmpty: ReadonlySet<SetRole>,
  outFilterDrops: readonly OutFilterDrop[],
): string[] {
  return [
    ...chainsOf(input, family, nonEmpty, outFilterDrops).flatMap(({ table, name, rules }) =>
      chainLines(family, table, name, rules),
    ),
    ...jumps.map(({ table, from, rule }) => `${family} builtin ${canonicalRule(`${table} ${from} ${rule}`)}`),
  ]
}

/** Rules numbered by their place, but for the chain whose order means nothing. */
function chainLines(family: Family, table: string, name: string, rules: readonly string[]): string[] {
  const texts = rules.map(canonicalRule)
  if (name === 'KUBE-IPVS-OUT-FILTER') texts.sort()
  return [
    `${family} chain ${table} ${name}`,
    ...texts.map((rule, i) => `${family} rule ${table} ${name} ${String(i + 1).padStart(2, '0')} ${rule}`),
  ]
}

/** What the kernel is like. */
export function observedState(dump: Dump): State {
  const lines: string[] = []
  for (const line of linesOf(dump.servers)) lines.push(`ipvs ${line}`)
  for (const line of linesOf(dump.sets)) {
    // The size of a hash table is the kernel's own affair.
    if (/^\S+ KUBE-/.test(line)) lines.push(`set ${line.replace(/ (hashsize|bucketsize|initval) \S+/g, '')}`)
  }
  for (const { device, address, prefix } of parseAddresses(dump.addresses)) {
    if (device === deviceName && !isIPv6LinkLocal(address)) lines.push(`address ${address}/${prefix}`)
  }
  for (const family of families) {
    for (const [table, chains] of parseSave(dump.rules[family])) {
      if (table !== 'nat' && table !== 'filter') continue
      for (const [name, { rules }] of chains) {
        if (name.startsWith('KUBE-')) lines.push(...chainLines(family, table, name, rules))
        else lines.push(...rules.map((rule) => `${family} builtin ${canonicalRule(`${table} ${name} ${rule}`)}`))
      }
    }
  }
  return lines.sort()
}

/** Addresses of every link but the dummy device. */
export function nodeAddressesOf(dump: Dump): string[] {
  return parseAddresses(dump.addresses)
    .filter(({ device }) => device !== deviceName)
    .map(({ address }) => address)
}

function parseAddresses(text: string): { device: string; address: string; prefix: number }[] {
  return [...text.matchAll(/^\d+: +(\S+) +inet6? +([^/ ]+)\/(\d+)/gm)].map(([, device, address, prefix]) => ({
    device: device!,
    address: address!,
    prefix: Number(prefix),
  }))
}

function linesOf(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim().replace(/\s+/g, ' '))
    .filter((line) => line !== '')
}

/** "- line" for what is missing, "+ line" for what should not be there; empty where the states are the same. */
export function difference(expected: State, observed: State): string[] {
  if (isDeepStrictEqual(expected, observed)) return []
  const count = new Map<string, number>()
  for (const line of expected) count.set(line, (count.get(line) ?? 0) - 1)
  for (const line of observed) count.set(line, (count.get(line) ?? 0) + 1)
  return [...count].flatMap(([line, n]) => Array.from({ length: Math.abs(n) }, () => `${n < 0 ? '-' : '+'} ${line}`))
}
