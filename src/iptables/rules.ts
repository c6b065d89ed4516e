import { cidrText, parseCidr } from '../model/address.ts'
import type { Family, Protocol } from '../model/address.ts'
import type { LocalDetector } from '../model/local-detector.ts'
import type { SetRole } from '../model/sets.ts'
import { quote } from './text.ts'

export type Table = 'nat' | 'filter'

export const tables: readonly Table[] = ['nat', 'filter']

export interface Drop {
  readonly address: string
  readonly protocol: Protocol
  readonly port: number
}

/** What stays the same as long as the proxy runs. */
export interface RuleSettings {
  readonly setName: (role: SetRole) => string
  readonly comment: (role: SetRole) => string
  readonly masqueradeBit: number
  readonly masqueradeAll: boolean
  readonly randomFully: boolean
}

export interface RuleFacts extends RuleSettings {
  readonly family: Family
  /** How a pod of this node is told; undefined: not at all. */
  readonly localDetector: LocalDetector | undefined
  /** Roles whose set has entries: the other sets get no rule where a rule would do nothing. */
  readonly nonEmpty: ReadonlySet<SetRole>
  readonly outFilterDrops: readonly Drop[]
}

export interface Chain {
  readonly table: Table
  readonly name: string
  /** What follows "-A NAME ", in the form `iptables-save` prints it. */
  readonly rules: readonly string[]
  /** The order of the rules means nothing. */
  readonly anyOrder: boolean
}

export interface Jump {
  readonly table: Table
  readonly from: string
  readonly to: string
  readonly rule: string
}

export interface ChainSet {
  readonly chains: readonly Chain[]
  /** In the order of insertion at position 1: of two in one chain the later one ends above. */
  readonly jumps: readonly Jump[]
}

const jumpTable: readonly (readonly [Table, string, string, string])[] = [
  ['nat', 'OUTPUT', 'KUBE-SERVICES', 'kubernetes service portals'],
  ['nat', 'PREROUTING', 'KUBE-SERVICES', 'kubernetes service portals'],
  ['nat', 'POSTROUTING', 'KUBE-POSTROUTING', 'kubernetes postrouting rules'],
  ['filter', 'FORWARD', 'KUBE-FORWARD', 'kubernetes forwarding rules'],
  ['filter', 'INPUT', 'KUBE-NODE-PORT', 'kubernetes health check rules'],
  ['filter', 'INPUT', 'KUBE-PROXY-FIREWALL', 'kube-proxy firewall rules'],
  ['filter', 'FORWARD', 'KUBE-PROXY-FIREWALL', 'kube-proxy firewall rules'],
  ['filter', 'INPUT', 'KUBE-IPVS-FILTER', 'kubernetes ipvs access filter'],
  ['filter', 'OUTPUT', 'KUBE-IPVS-OUT-FILTER', 'kubernetes ipvs access filter'],
]

function comment(text: string): string {
  return `-m comment --comment ${quote(text)}`
}

/** The jumps depend on nothing. */
export const jumps: readonly Jump[] = jumpTable.map(([table, from, to, words]) => ({
  table,
  from,
  to,
  rule: `${comment(words)} -j ${to}`,
}))

/** Every chain that is ours, by table. */
export const ownChains: Readonly<Record<Table, readonly string[]>> = {
  nat: ['KUBE-SERVICES', 'KUBE-POSTROUTING', 'KUBE-NODE-PORT', 'KUBE-LOAD-BALANCER', 'KUBE-MARK-MASQ'],
  filter: [
    'KUBE-FORWARD',
    'KUBE-NODE-PORT',
    'KUBE-PROXY-FIREWALL',
    'KUBE-SOURCE-RANGES-FIREWALL',
    'KUBE-IPVS-FILTER',
    'KUBE-IPVS-OUT-FILTER',
  ],
}

/** Roles for which some rule exists only while the set has entries. */
export const conditionalRoles: readonly SetRole[] = [
  'loopBack',
  'clusterIP',
  'externalIP',
  'externalIPLocal',
  'loadBalancer',
  'loadBalancerLocal',
  'loadBalancerFirewall',
  'loadBalancerSourceIP',
  'loadBalancerSourceCIDR',
  'nodePortTCP',
  'nodePortLocalTCP',
  'nodePortUDP',
  'nodePortLocalUDP',
  'nodePortSCTP',
  'nodePortLocalSCTP',
  'externalNoLocal',
]

const protocolNumbers: Readonly<Record<Protocol, number>> = { TCP: 6, UDP: 17, SCTP: 132 }

function dropRule(family: Family, drop: Drop): string {
  const { address, port } = drop
  const source = `${address}/${family === 'IPv4' ? 32 : 128}`
  return `-s ${source} -m ipvs --vproto ${protocolNumbers[drop.protocol]} --vaddr ${address} --vport ${port} -j DROP`
}

/** The drop that a rule of KUBE-IPVS-OUT-FILTER says, or undefined where it is no such rule. */
export function parseDropRule(rule: string): Drop | undefined {
  const address = / --vaddr ([0-9a-fA-F.:]+)(?:\/(?:32|128))? /.exec(rule)?.[1]
  const port = / --vport (\d+) /.exec(rule)?.[1]
  const number = Number(/ --vproto (\d+) /.exec(rule)?.[1])
  const protocol = (['TCP', 'UDP', 'SCTP'] as const).find((name) => protocolNumbers[name] === number)
  if (address === undefined || port === undefined || protocol === undefined) return undefined
  return { address, protocol, port: Number(port) }
}

function notLocal(detector: LocalDetector): string {
  if (detector.kind === 'bridge') return `! -i ${detector.name}`
  if (detector.kind === 'prefix') return `! -i ${detector.name}+`
  const cidr = parseCidr(detector.cidr)
  return `! -s ${cidr === undefined ? detector.cidr : cidrText(cidr)}`
}

function chain(table: Table, name: string, rules: readonly string[], anyOrder = false): Chain {
  return { table, name, rules, anyOrder }
}

/** All chains and jumps of one family. */
export function buildRules(facts: RuleFacts): ChainSet {
  const { family, setName, nonEmpty } = facts
  const mark = `0x${(2 ** facts.masqueradeBit).toString(16)}`
  const set = (role: SetRole, direction: string) => `-m set --match-set ${setName(role)} ${direction}`
  const noted = (role: SetRole, direction: string) => `${comment(facts.comment(role))} ${set(role, direction)}`
  const when = (role: SetRole, ...rules: string[]) => (nonEmpty.has(role) ? rules : [])

  const clusterIPMark = facts.masqueradeAll
    ? noted('clusterIP', 'dst,dst')
    : facts.localDetector
      ? `${notLocal(facts.localDetector)} ${noted('clusterIP', 'dst,dst')}`
      : // Without knowing pods, only what the node itself sends with a service address as source needs another.
        noted('clusterIP', 'src,dst')
  const fromOutsideOrHere = (role: SetRole) => [
    `${noted(role, 'dst,dst')} -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT`,
    `${noted(role, 'dst,dst')} -m addrtype --dst-type LOCAL -j ACCEPT`,
  ]
  const nodePort = (protocol: string, local: SetRole, all: SetRole, direction: string) => [
    ...when(local, `-p ${protocol} ${noted(local, direction)} -j RETURN`),
    ...when(all, `-p ${protocol} ${noted(all, direction)} -j KUBE-MARK-MASQ`),
  ]
  const refuse = `-j REJECT --reject-with ${family === 'IPv4' ? 'icmp' : 'icmp6'}-port-unreachable`
  const drops = new Set(facts.outFilterDrops.map((drop) => dropRule(family, drop)))

  return {
    jumps,
    chains: [
      chain('nat', 'KUBE-SERVICES', [
        `-s ${family === 'IPv4' ? '127.0.0.0/8' : '::1/128'} -j RETURN`,
        ...when('loadBalancer', `${noted('loadBalancer', 'dst,dst')} -j KUBE-LOAD-BALANCER`),
        ...when('clusterIP', `${clusterIPMark} -j KUBE-MARK-MASQ`),
        ...when(
          'externalIP',
          `${noted('externalIP', 'dst,dst')} -j KUBE-MARK-MASQ`,
          ...fromOutsideOrHere('externalIP'),
        ),
        ...when('externalIPLocal', ...fromOutsideOrHere('externalIPLocal')),
        '-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT',
        ...when('clusterIP', `${set('clusterIP', 'dst,dst')} -j ACCEPT`),
        ...when('loadBalancer', `${set('loadBalancer', 'dst,dst')} -j ACCEPT`),
      ]),
      chain('nat', 'KUBE-POSTROUTING', [
        ...when('loopBack', `${noted('loopBack', 'dst,dst,src')} -j MASQUERADE`),
        `-m mark ! --mark ${mark}/${mark} -j RETURN`,
        // Clears the mark, so that a packet that passes again is not masqueraded twice.
        `-j MARK --set-xmark ${mark}/0x0`,
        `${comment('kubernetes service traffic requiring SNAT')} -j MASQUERADE${facts.randomFully ? ' --random-fully' : ''}`,
      ]),
      chain('nat', 'KUBE-NODE-PORT', [
        ...nodePort('tcp', 'nodePortLocalTCP', 'nodePortTCP', 'dst'),
        ...nodePort('udp', 'nodePortLocalUDP', 'nodePortUDP', 'dst'),
        ...nodePort('sctp', 'nodePortLocalSCTP', 'nodePortSCTP', 'dst,dst'),
      ]),
      chain('nat', 'KUBE-LOAD-BALANCER', [
        ...when('loadBalancerLocal', `${noted('loadBalancerLocal', 'dst,dst')} -j RETURN`),
        '-j KUBE-MARK-MASQ',
      ]),
      chain('nat', 'KUBE-MARK-MASQ', [`-j MARK --set-xmark ${mark}/${mark}`]),
      chain('filter', 'KUBE-FORWARD', [
        `${comment('kubernetes forwarding rules')} -m mark --mark ${mark}/${mark} -j ACCEPT`,
        `${comment('kubernetes forwarding conntrack rule')} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`,
      ]),
      chain('filter', 'KUBE-NODE-PORT', [`${noted('healthCheckNodePort', 'dst')} -j ACCEPT`]),
      chain('filter', 'KUBE-PROXY-FIREWALL', [
        ...when('loadBalancerFirewall', `${noted('loadBalancerFirewall', 'dst,dst')} -j KUBE-SOURCE-RANGES-FIREWALL`),
      ]),
      chain('filter', 'KUBE-SOURCE-RANGES-FIREWALL', [
        ...when('loadBalancerSourceCIDR', `${noted('loadBalancerSourceCIDR', 'dst,dst,src')} -j RETURN`),
        ...when('loadBalancerSourceIP', `${noted('loadBalancerSourceIP', 'dst,dst,src')} -j RETURN`),
        '-j DROP',
      ]),
      chain('filter', 'KUBE-IPVS-FILTER', [
        ...(facts.localDetector
          ? when(
              'externalNoLocal',
              `${notLocal(facts.localDetector)} -m conntrack --ctstate NEW ${noted('externalNoLocal', 'dst,dst')} ${refuse}`,
            )
          : []),
        `${set('loadBalancer', 'dst,dst')} -j RETURN`,
        `${set('clusterIP', 'dst,dst')} -j RETURN`,
        `${set('externalIP', 'dst,dst')} -j RETURN`,
        `${set('externalIPLocal', 'dst,dst')} -j RETURN`,
        `${set('healthCheckNodePort', 'dst')} -j RETURN`,
        `-m conntrack --ctstate NEW ${set('ipvsIPs', 'dst')} ${refuse}`,
      ]),
      chain('filter', 'KUBE-IPVS-OUT-FILTER', [...drops].sort(), true),
    ],
  }
}
