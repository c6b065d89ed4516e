import { setSpec, setComment, allRoles } from '../../../src/ipset/catalogue.ts'
import { buildRules } from '../../../src/iptables/rules.ts'
import { parseSave, type SavedTable } from '../../../src/iptables/text.ts'
import type { ObservedServer } from '../../../src/ipvs/ipvs.ts'
import type { Cluster } from '../../../src/explain/cluster.ts'
import { portAt } from '../../../src/explain/cluster.ts'
import { explain, type Explanation, type ExplainRequest } from '../../../src/explain/explain.ts'
import { snapshotState, type Snapshot } from '../../../src/explain/snapshot.ts'
import { planWanted, type PlanSettings } from '../../../src/explain/wanted.ts'
import { anyExternal } from '../../../src/proxier/external-addresses.ts'
import type { Family } from '../../../src/model/address.ts'
import type { EndpointSliceRecord, NodeRecord, ServiceRecord } from '../../../src/model/cluster.ts'
import type { SetRole } from '../../../src/model/sets.ts'

/*
 * node1: eth0 192.168.60.1 (default route by 192.168.60.254), cni0 a bridge with 10.244.1.0/24;
 * node2 has 10.244.2.0/24. IPv6 alike: fd60::1, fd44:1::/64, fd44:2::/64.
 */

export const settings: PlanSettings = {
  nodeName: 'node1',
  scheduler: 'rr',
  nodePortRanges: [],
  nodeIPs: [],
  strictExternal: false,
  externalRanges: anyExternal,
  masqueradeBit: 14,
  masqueradeAll: false,
  localDetector: (family) => ({ kind: 'cidr', cidr: family === 'IPv4' ? '10.244.0.0/16' : 'fd44::/16' }),
}

export const node: NodeRecord = {
  name: 'node1',
  addresses: ['192.168.60.1', 'fd60::1'],
  podCIDRs: ['10.244.1.0/24', 'fd44:1::/64'],
  zone: 'zone-a',
  eligible: true,
}

const places = {
  IPv4: {
    addresses: [
      ['192.168.60.1', 'eth0'],
      ['10.244.1.1', 'cni0'],
      ['127.0.0.1', 'lo'],
    ],
    routes: [
      { to: '0.0.0.0/0', link: 'eth0', gateway: '192.168.60.254' },
      { to: '192.168.60.0/24', link: 'eth0' },
      { to: '10.244.1.0/24', link: 'cni0' },
      { to: '10.244.2.0/24', link: 'eth0', gateway: '192.168.60.2' },
    ],
  },
  IPv6: {
    addresses: [
      ['fd60::1', 'eth0'],
      ['fd44:1::1', 'cni0'],
      ['::1', 'lo'],
    ],
    routes: [
      { to: '::/0', link: 'eth0', gateway: 'fd60::fe' },
      { to: 'fd60::/64', link: 'eth0' },
      { to: 'fd44:1::/64', link: 'cni0' },
      { to: 'fd44:2::/64', link: 'eth0', gateway: 'fd60::2' },
    ],
  },
} as const

export const sysctls: ReadonlyMap<string, string> = new Map([
  ['net/ipv4/vs/conntrack', '1'],
  ['net/ipv4/ip_forward', '1'],
  ['net/ipv4/conf/eth0/forwarding', '1'],
  ['net/ipv4/conf/cni0/forwarding', '1'],
  ['net/ipv6/conf/all/forwarding', '1'],
  ['net/bridge/bridge-nf-call-iptables', '1'],
  ['net/bridge/bridge-nf-call-ip6tables', '1'],
])

export interface SetUp {
  readonly service: ServiceRecord
  readonly slices: readonly EndpointSliceRecord[]
  readonly settings: PlanSettings
  readonly family: Family
}

/** The state of a node on which everything stands as wanted. */
export function inSync({ service, slices, settings: given, family }: SetUp): Snapshot {
  const { addresses, routes } = places[family]
  const bare: Snapshot = {
    family,
    ruleSets: [],
    sets: new Map(),
    servers: [],
    links: [
      { name: 'lo', kind: '' },
      { name: 'eth0', kind: '' },
      { name: 'cni0', kind: 'bridge' },
      { name: 'kube-ipvs0', kind: 'dummy' },
    ],
    addresses: new Map(addresses),
    routes,
    sysctls,
  }
  const plans = service.ports.map((port) => planWanted(service, port, slices, node, snapshotState(bare), given).plan)
  const members = plans.flatMap((plan) => plan.members)
  const sets = new Map<string, { type: string; entries: string[] }>()
  for (const role of allRoles) {
    const { name, type } = setSpec(role, family)
    sets.set(name, { type, entries: members.filter((one) => one.role === role).map(({ entry }) => entry) })
  }
  const rules = buildRules({
    family,
    setName: (role) => setSpec(role, family).name,
    comment: setComment,
    masqueradeBit: given.masqueradeBit,
    masqueradeAll: given.masqueradeAll,
    randomFully: true,
    localDetector: given.localDetector(family, node.podCIDRs),
    nonEmpty: new Set<SetRole>(members.map(({ role }) => role)),
    outFilterDrops: plans.flatMap((plan) => plan.drops),
  })
  const tables = new Map<string, SavedTable>()
  for (const [table, chains] of builtins) {
    tables.set(table, new Map(chains.map((name) => [name, { policy: 'ACCEPT', rules: [] }])))
  }
  for (const { table, name, rules: texts } of rules.chains) {
    tables.get(table)!.set(name, { policy: '-', rules: [...texts] })
  }
  // Each is put first.
  for (const { table, from, rule } of rules.jumps) tables.get(table)!.get(from)!.rules.unshift(rule)
  const text = [...tables].map(([name, chains]) => saveText(name, chains)).join('')
  return {
    ...bare,
    sets,
    ruleSets: [{ variant: 'nft', tables: parseSave(text) }],
    addresses: new Map([
      ...addresses,
      ...plans.flatMap((plan) => plan.addresses.map((one) => [one, 'kube-ipvs0'] as const)),
    ]),
    servers: plans.flatMap((plan) =>
      plan.servers.map(({ server, destinations }): ObservedServer => ({
        server,
        destinations: [...destinations].map((one) => ({
          ...one,
          forwarding: 0,
          activeConnections: 0,
          inactiveConnections: 0,
        })),
      })),
    ),
  }
}

const builtins = [
  ['raw', ['PREROUTING', 'OUTPUT']],
  ['mangle', ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING']],
  ['nat', ['PREROUTING', 'INPUT', 'OUTPUT', 'POSTROUTING']],
  ['filter', ['INPUT', 'FORWARD', 'OUTPUT']],
] as const

function saveText(name: string, chains: SavedTable): string {
  const heads = [...chains].map(([chain, { policy }]) => `:${chain} ${policy} [0:0]`)
  const rules = [...chains].flatMap(([chain, { rules: texts }]) => texts.map((rule) => `-A ${chain} ${rule}`))
  return [`*${name}`, ...heads, ...rules, 'COMMIT', ''].join('\n')
}

/** Puts rules into a chain: first, or last with `last`. */
export function withRules(
  snapshot: Snapshot,
  table: string,
  chain: string,
  rules: readonly string[],
  { last = false, policy }: { last?: boolean; policy?: string } = {},
): Snapshot {
  return changeTables(snapshot, table, (chains) => {
    const old = chains.get(chain)
    const before = old?.rules ?? []
    const texts = last ? [...before, ...rules] : [...rules, ...before]
    chains.set(chain, { policy: policy ?? old?.policy ?? '-', rules: texts })
  })
}

/** Takes rules away by what is in their text. */
export function withoutRules(snapshot: Snapshot, table: string, chain: string, part: string): Snapshot {
  return changeTables(snapshot, table, (chains) => {
    const { policy, rules } = chains.get(chain)!
    chains.set(chain, { policy, rules: rules.filter((rule) => !rule.includes(part)) })
  })
}

function changeTables(snapshot: Snapshot, table: string, change: (chains: SavedTable) => void): Snapshot {
  const ruleSets = snapshot.ruleSets.map(({ variant, tables }) => {
    const chains: SavedTable = new Map(tables.get(table))
    change(chains)
    return { variant, tables: new Map([...tables, [table, chains]]) }
  })
  return { ...snapshot, ruleSets }
}

export function withoutEntries(snapshot: Snapshot, role: SetRole): Snapshot {
  const { name, type } = setSpec(role, snapshot.family)
  return { ...snapshot, sets: new Map([...snapshot.sets, [name, { type, entries: [] }]]) }
}

export function withSysctl(snapshot: Snapshot, name: string, value: string): Snapshot {
  return { ...snapshot, sysctls: new Map([...snapshot.sysctls, [name, value]]) }
}

export function withoutAddress(snapshot: Snapshot, address: string): Snapshot {
  return { ...snapshot, addresses: new Map([...snapshot.addresses].filter(([one]) => one !== address)) }
}

export function clusterOf({ service, slices }: Pick<SetUp, 'service' | 'slices'>): Cluster {
  return {
    service: async (key) => (key === service.key ? service : undefined),
    serviceAt: async (address, port, protocol) =>
      portAt(service, address, port, protocol, node.addresses.includes(address)) && service,
    slices: async () => slices,
    node: async () => node,
    podAddresses: async (key) => (key === 'default/a1' ? ['10.244.1.2', 'fd44:1::2'] : []),
  }
}

/** Explains over a snapshot; `blind`: without the cluster's objects. */
export function explainOn(
  snapshot: Snapshot,
  setUp: SetUp,
  request: ExplainRequest,
  blind = false,
): Promise<Explanation> {
  const kernel = async (): Promise<ReturnType<typeof snapshotState>> => snapshotState(snapshot)
  return explain(request, blind ? { kernel } : { kernel, cluster: clusterOf(setUp), settings: setUp.settings })
}
