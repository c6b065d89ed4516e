import { setComment, setSpec } from '../ipset/catalogue.ts'
import { buildRules } from '../iptables/rules.ts'
import { canonicalRule } from '../iptables/text.ts'
import { familyOf, type Cidr, type Family } from '../model/address.ts'
import type { EndpointSliceRecord, NodeRecord, ServicePortRecord, ServiceRecord } from '../model/cluster.ts'
import type { LocalDetector } from '../model/local-detector.ts'
import { destinationKey, serverKey, type ServerId } from '../model/virtual-server.ts'
import type { Contribution } from '../proxier/contribution.ts'
import { mergeEndpoints, type PortEndpoint } from '../proxier/endpoint-choice.ts'
import type { ExternalRanges } from '../proxier/external-addresses.ts'
import { nodePortAddresses } from '../proxier/node-addresses.ts'
import { planPort, type NodeFacts } from '../proxier/planner.ts'
import type { KernelState } from './kernel-state.ts'

/** What plans depend on besides objects and addresses; `FamilySettings` has it all. */
export interface PlanSettings {
  readonly nodeName: string
  readonly scheduler: string
  readonly nodePortRanges: readonly Cidr[] | 'primary'
  readonly nodeIPs: readonly string[]
  readonly strictExternal: boolean
  readonly externalRanges: ExternalRanges
  readonly masqueradeBit: number
  readonly masqueradeAll: boolean
  readonly localDetector: (family: Family, podCIDRs: readonly string[]) => LocalDetector | undefined
}

/** What a service port wants in the kernel, and of whom. */
export interface Wanted {
  readonly service: ServiceRecord
  readonly port: ServicePortRecord
  readonly endpoints: readonly PortEndpoint[]
  readonly facts: NodeFacts
  readonly plan: Contribution
}

export type DifferenceCode =
  | 'address-missing'
  | 'virtual-server-missing'
  | 'virtual-server-differs'
  | 'destination-missing'
  | 'destination-weight'
  | 'destination-not-wanted'
  | 'set-entry-missing'
  | 'set-full'
  | 'rule-missing'

/** Something that the kernel has otherwise than the plan says. */
export interface Difference {
  readonly code: DifferenceCode
  /** "set KUBE-CLUSTER-IP", "10.244.1.2:8080" */
  readonly object: string
  readonly text: string
}

/** Plans one service port as the proxier does. */
export function planWanted(
  service: ServiceRecord,
  port: ServicePortRecord,
  slices: readonly EndpointSliceRecord[],
  node: NodeRecord | undefined,
  kernel: Pick<KernelState, 'family' | 'nodeAddresses'>,
  settings: PlanSettings,
): Wanted {
  const { family, nodeAddresses } = kernel
  const isOfFamily = (address: string): boolean => familyOf(address) === family
  const nodeIP = settings.nodeIPs.find(isOfFamily) ?? node?.addresses.find(isOfFamily) ?? ''
  const facts: NodeFacts = {
    family,
    nodeName: settings.nodeName,
    zone: node?.zone ?? '',
    scheduler: settings.scheduler,
    strictExternal: settings.strictExternal && settings.localDetector(family, node?.podCIDRs ?? []) !== undefined,
    externalRanges: settings.externalRanges,
    nodeAddresses: new Set(nodeAddresses),
    nodeIP,
    nodePortAddresses:
      settings.nodePortRanges === 'primary'
        ? nodeAddresses.filter((address) => address === nodeIP)
        : nodePortAddresses(nodeAddresses, settings.nodePortRanges, family),
  }
  const endpoints = mergeEndpoints(
    slices.filter((slice) => slice.family === family),
    port,
  )
  return { service, port, endpoints, facts, plan: planPort(service, port, endpoints, facts) }
}

/** Where the kernel differs from what a service port wants at one of its addresses; the most telling first. */
export async function compareWanted(
  wanted: Wanted,
  target: ServerId,
  kernel: KernelState,
  settings: PlanSettings,
  podCIDRs: readonly string[],
): Promise<readonly Difference[]> {
  return [
    ...(await compareAddress(wanted, target, kernel)),
    ...(await compareServer(wanted, target, kernel)),
    ...(await compareSets(wanted, target, kernel)),
    ...compareRules(wanted, kernel, settings, podCIDRs),
  ]
}

async function compareAddress({ plan }: Wanted, target: ServerId, kernel: KernelState): Promise<Difference[]> {
  const { address, protocol } = target
  if (!plan.addresses.includes(address)) return []
  const route = await kernel.route({ destination: address, mark: 0, protocol, destinationPort: 0 })
  if (route.kind === 'local') return []
  return [
    { code: 'address-missing', object: address, text: `${address} is on no link of this node, kube-ipvs0 included` },
  ]
}

async function compareServer({ plan }: Wanted, target: ServerId, kernel: KernelState): Promise<Difference[]> {
  const key = serverKey(target)
  const want = plan.servers.find(({ server }) => serverKey(server) === key)
  if (want === undefined) return []
  const found = await kernel.server(target)
  if (typeof found === 'string') return []
  if (found === undefined) {
    return [{ code: 'virtual-server-missing', object: key, text: `there is no virtual server ${key}` }]
  }
  const differences: Difference[] = []
  const { scheduler, flags, timeout } = found.server
  if (scheduler !== want.server.scheduler || flags !== want.server.flags || timeout !== want.server.timeout) {
    const text = `virtual server ${key} has scheduler ${scheduler}, flags ${flags}, timeout ${timeout}; wanted: ${want.server.scheduler}, ${want.server.flags}, ${want.server.timeout}`
    differences.push({ code: 'virtual-server-differs', object: key, text })
  }
  const standing = new Map(found.destinations.map((one) => [destinationKey(one), one]))
  for (const one of want.destinations) {
    const object = destinationKey(one)
    const former = standing.get(object)
    standing.delete(object)
    if (former === undefined) {
      differences.push({
        code: 'destination-missing',
        object,
        text: `virtual server ${key} lacks destination ${object}`,
      })
    } else if (former.weight !== one.weight) {
      const text = `destination ${object} has weight ${former.weight} instead of ${one.weight}`
      differences.push({ code: 'destination-weight', object, text })
    }
  }
  for (const [object, { weight }] of standing) {
    if (weight === 0) continue
    const text = `destination ${object} of weight ${weight} is none that the Service wants here`
    differences.push({ code: 'destination-not-wanted', object, text })
  }
  return differences
}

/** Entries that a packet to the target, or a destination of it, is looked up by. */
async function compareSets({ plan, facts }: Wanted, target: ServerId, kernel: KernelState): Promise<Difference[]> {
  const concerns = ({ role, entry }: Contribution['members'][number]): boolean =>
    role === 'loopBack' ||
    entry === target.address ||
    entry === String(target.port) ||
    entry.startsWith(`${target.address},`)
  const differences: Difference[] = []
  for (const { role, entry } of plan.members.filter(concerns)) {
    const { name } = setSpec(role, facts.family)
    if ((await kernel.hasEntry(name, entry)) !== false) continue
    const room = await kernel.setRoom(name)
    const isFull = room !== undefined && room.members >= room.size
    const why = isFull ? `, and is full: ${room.members} entries of ${room.size} at most` : ''
    const code = isFull ? 'set-full' : 'set-entry-missing'
    differences.push({ code, object: `set ${name}`, text: `set ${name} lacks the entry ${entry}${why}` })
  }
  return differences
}

/** Rules that hold whatever other Services there are. Not compared: --random-fully, which depends on the tool. */
function compareRules(
  { plan, facts }: Wanted,
  kernel: KernelState,
  settings: PlanSettings,
  podCIDRs: readonly string[],
): Difference[] {
  const { chains, jumps } = buildRules({
    family: facts.family,
    setName: (role) => setSpec(role, facts.family).name,
    comment: setComment,
    masqueradeBit: settings.masqueradeBit,
    masqueradeAll: settings.masqueradeAll,
    randomFully: false,
    localDetector: settings.localDetector(facts.family, podCIDRs),
    nonEmpty: new Set(plan.members.map(({ role }) => role)),
    outFilterDrops: plan.drops,
  })
  const plain = (rule: string): string => canonicalRule(rule).replace(' --random-fully', '')
  const standing = (table: string, chain: string): Set<string> =>
    new Set(kernel.ruleSets.flatMap(({ tables }) => tables.get(table)?.get(chain)?.rules ?? []).map(plain))
  const differences: Difference[] = []
  const lack = (table: string, chain: string, rule: string): void => {
    const text = `chain ${chain} of table ${table} lacks the rule ${rule}`
    differences.push({ code: 'rule-missing', object: `${table} ${chain}`, text })
  }
  for (const { table, from, rule } of jumps) if (!standing(table, from).has(plain(rule))) lack(table, from, rule)
  for (const { table, name, rules } of chains) {
    const there = standing(table, name)
    for (const rule of rules) if (!there.has(plain(rule))) lack(table, name, rule)
  }
  return differences
}
