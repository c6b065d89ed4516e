import { deviceName } from '../dummy/layer.ts'
import { allRoles, isOnDemand, setSpec } from '../ipset/catalogue.ts'
import type { Chain } from '../iptables/rules.ts'
import { canonicalRule } from '../iptables/text.ts'
import { destinationKey, sameServer, serverKey, type ObservedServer } from '../ipvs/ipvs.ts'
import { describeError } from '../lib/errors.ts'
import { cidrContains, isIPv6LinkLocal, type Cidr, type Family } from '../model/address.ts'
import type { VirtualServer } from '../model/virtual-server.ts'
import { isSameType, type Present, type PresentAddresses, type PresentServers, type PresentSets } from './present.ts'
import type { WantedServer, WantedSummary } from '../wanted/wanted.ts'

export type LayerName = 'ipset' | 'iptables' | 'ipvs' | 'dummy'

/** One thing of the kernel that is not as it should be. */
export interface Difference {
  readonly family: Family
  readonly layer: LayerName
  /** "virtual server", "destination", "weight", "set", "set entry", "chain", "rule", "address", "device", as drift has them. */
  readonly kind: string
  readonly object: string
  readonly state: 'missing' | 'foreign' | 'changed'
  /** Wanted and found, where that says more; otherwise "". */
  readonly detail: string
  /** Service ports that it is for; none for what belongs to the node, or to nobody. */
  readonly owners: readonly string[]
}

/** Layers in the order of writing. */
export const layerNames: readonly LayerName[] = ['ipset', 'iptables', 'ipvs', 'dummy']

export interface FamilyDifference {
  readonly family: Family
  readonly differences: readonly Difference[]
  /** Why a layer could not be read. */
  readonly unread: ReadonlyMap<LayerName, string>
}

type Found = Omit<Difference, 'family' | 'layer' | 'owners' | 'detail'> & Partial<Pick<Difference, 'detail' | 'owners'>>

/**
 * Where the kernel differs from what is wanted: pure. Counters are nothing, destinations at weight 0 that wait for their
 * last connections neither, nor rules of others in built-in chains, nor what `excludeCIDRs` leave to others.
 */
export function differencesOf(
  wanted: WantedSummary | undefined,
  present: Present,
  excludeCIDRs: readonly Cidr[],
): FamilyDifference {
  const { family } = present
  const differences: Difference[] = []
  const unread = new Map<LayerName, string>()
  const look = <T>(
    layer: LayerName,
    state: T | Error,
    compare: (state: T, want: WantedSummary) => Iterable<Found>,
  ): void => {
    if (state instanceof Error) {
      unread.set(layer, describeError(state))
      return
    }
    if (wanted === undefined) return
    for (const found of compare(state, wanted)) differences.push({ family, layer, detail: '', owners: [], ...found })
  }
  const excluded = (address: string): boolean => excludeCIDRs.some((cidr) => cidrContains(cidr, address))
  look('ipset', present.ipset, (state, want) => compareSets(want, state))
  look('iptables', present.iptables, (state, want) => compareRules(want, state))
  look('ipvs', present.ipvs, (state) => compareServers(state, excluded))
  look('dummy', present.dummy, (state, want) => compareAddresses(want, state, excluded))
  return { family, differences, unread }
}

function* compareSets(wanted: WantedSummary, { sets, temporary }: PresentSets): Generator<Found> {
  for (const role of allRoles) {
    const spec = setSpec(role, wanted.family)
    const count = wanted.sets.get(role)?.count ?? 0
    const present = sets.get(spec.name)
    const unneeded = isOnDemand(role) && count === 0
    if (present === undefined) {
      if (!unneeded) yield { kind: 'set', object: spec.name, state: 'missing', detail: `${count} entries wanted` }
      continue
    }
    if (unneeded) {
      yield { kind: 'set', object: spec.name, state: 'foreign' }
      continue
    }
    if (!isSameType(present.spec, spec)) {
      const detail = `wanted ${spec.type} family ${spec.family}, found ${present.spec.type} family ${present.spec.family}`
      yield { kind: 'set', object: spec.name, state: 'changed', detail }
      continue
    }
    if (present.closely === undefined) continue
    const { entries, wanted: owned } = present.closely
    const found = new Set(entries)
    for (const [entry, owners] of owned) {
      if (found.has(entry)) continue
      yield { kind: 'set entry', object: `${entry} of set ${spec.name}`, state: 'missing', owners }
    }
    for (const entry of found) {
      if (!owned.has(entry)) yield { kind: 'set entry', object: `${entry} of set ${spec.name}`, state: 'foreign' }
    }
  }
  for (const name of temporary) {
    yield { kind: 'set', object: name, state: 'foreign', detail: 'a larger set was being built in it' }
  }
}

function* compareRules(wanted: WantedSummary, kernel: Exclude<Present['iptables'], Error>): Generator<Found> {
  for (const chain of wanted.rules.chains) {
    const object = `chain ${chain.name} of table ${chain.table}`
    const saved = kernel.get(chain.table)?.get(chain.name)
    if (saved === undefined) yield { kind: 'chain', object, state: 'missing' }
    else {
      const detail = ruleDifference(chain, saved.rules)
      if (detail !== undefined) yield { kind: 'chain', object, state: 'changed', detail }
    }
  }
  for (const jump of wanted.rules.jumps) {
    const rules = kernel.get(jump.table)?.get(jump.from)?.rules ?? []
    const text = printed(jump.rule)
    const count = rules.filter((rule) => printed(rule) === text).length
    if (count === 1) continue
    const object = `jump from ${jump.table} ${jump.from} to ${jump.to}`
    if (count === 0) yield { kind: 'rule', object, state: 'missing' }
    else yield { kind: 'rule', object, state: 'changed', detail: `there ${count} times` }
  }
}

/** Older tools print a whole address of -m ipvs with its prefix. */
function printed(rule: string): string {
  return canonicalRule(rule).replace(/(--vaddr [0-9a-fA-F.:]+)\/(?:32|128)(?= )/, '$1')
}

function ruleDifference(chain: Chain, found: readonly string[]): string | undefined {
  const [want, is] = [chain.rules, found].map((rules) => rules.map(printed))
  if (chain.anyOrder) for (const rules of [want!, is!]) rules.sort()
  if (want!.length === is!.length && want!.every((rule, i) => rule === is![i])) return undefined
  const parts = [
    ...want!.filter((rule) => !is!.includes(rule)).map((rule) => `lacks "${rule}"`),
    ...is!.filter((rule) => !want!.includes(rule)).map((rule) => `has "${rule}"`),
  ]
  return parts.length === 0 ? 'the same rules in another order or number' : parts.join('; ')
}

function* compareServers(
  { observed, wanted }: PresentServers,
  excluded: (address: string) => boolean,
): Generator<Found> {
  const standing = new Set(observed.map(({ server }) => serverKey(server)))
  for (const [key, { owners }] of wanted) {
    if (!standing.has(key)) yield { kind: 'virtual server', object: key, state: 'missing', owners }
  }
  for (const one of observed) {
    const key = serverKey(one.server)
    const want = wanted.get(key)
    if (want !== undefined) yield* compareServer(want, one)
    else if (!excluded(one.server.address)) {
      const detail = `${one.destinations.length} destinations`
      yield { kind: 'virtual server', object: key, state: 'foreign', detail }
    }
  }
}

function* compareServer(want: WantedServer, found: ObservedServer): Generator<Found> {
  const { owners } = want
  const key = serverKey(want.server)
  if (!sameServer(want.server, found.server)) {
    const detail = `wanted ${serverText(want.server)}, found ${serverText(found.server)}`
    yield { kind: 'virtual server', object: key, state: 'changed', detail, owners }
  }
  const there = new Map(found.destinations.map((one) => [destinationKey(one), one]))
  const object = (name: string): string => `${name} of virtual server ${key}`
  for (const { address, port, weight } of want.destinations) {
    const name = destinationKey({ address, port })
    const one = there.get(name)
    there.delete(name)
    if (one === undefined) yield { kind: 'destination', object: object(name), state: 'missing', owners }
    else if (one.forwarding !== 0) {
      yield { kind: 'destination', object: object(name), state: 'changed', detail: 'does not masquerade', owners }
    } else if (one.weight !== weight) {
      const detail = `wanted ${weight}, found ${one.weight}`
      yield { kind: 'weight', object: object(name), state: 'changed', detail, owners }
    }
  }
  for (const [name, { weight }] of there) {
    // It drains; one of UDP does not, that is removed at once.
    if (weight === 0 && want.server.protocol !== 'UDP') continue
    yield { kind: 'destination', object: object(name), state: 'foreign', detail: `weight ${weight}`, owners }
  }
}

function serverText({ scheduler, timeout, flags }: VirtualServer): string {
  const persistence = timeout === 0 ? '' : ` persistent ${timeout} s`
  return `${scheduler}${persistence} flags 0x${flags.toString(16)}`
}

function* compareAddresses(
  wanted: WantedSummary,
  { device, closely }: PresentAddresses,
  excluded: (address: string) => boolean,
): Generator<Found> {
  if (device === undefined) {
    // The families share it: one of them speaks for both.
    if (wanted.family === 'IPv4') yield { kind: 'device', object: deviceName, state: 'missing' }
  } else if (device.kind !== 'dummy') {
    const detail = `wanted a dummy device, found ${device.kind || 'one of no kind'}`
    if (wanted.family === 'IPv4') yield { kind: 'device', object: deviceName, state: 'changed', detail }
  }
  if (closely === undefined) return
  const { addresses, wanted: owned } = closely
  const whole = wanted.family === 'IPv4' ? 32 : 128
  const found = new Set<string>()
  for (const { address, prefix } of addresses) {
    const isWanted = owned.has(address)
    if (isWanted && prefix === whole) {
      found.add(address)
      continue
    }
    if (isIPv6LinkLocal(address) || (!isWanted && excluded(address))) continue
    const text = prefix === whole ? address : `${address}/${prefix}`
    yield { kind: 'address', object: `${text} on ${deviceName}`, state: 'foreign' }
  }
  for (const [address, owners] of owned) {
    if (found.has(address)) continue
    yield { kind: 'address', object: `${address} on ${deviceName}`, state: 'missing', owners }
  }
}
