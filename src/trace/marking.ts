import { traceTablePrefix } from '../explain/foreign-chains.ts'
import type { Protocol } from '../model/address.ts'
import type { ServerId } from '../model/virtual-server.ts'
import type { EchoTarget } from './echo.ts'

/** Which packets are followed. */
export interface Marking {
  readonly target: ServerId
  /** Packets from this address alone. */
  readonly source?: string
  /** Packets that come in by one of these links alone. */
  readonly inLinks?: readonly string[]
  /** What comes in by links, what processes of the node send. */
  readonly comesIn: boolean
  readonly isSent: boolean
  /** So many flows at most: the kernel marks no further one. */
  readonly flows: number
  /** Those that open a connection and their answers, or all of a connection. */
  readonly packets: 'opening' | 'all'
}

/** Requests marked each second at most; each is told of by some dozens of events. */
export const requestsPerSecond = 20
/**
 * Answers likewise. There are as many as requests, but where clients use their ports again at once: then answers of later
 * connections must not take the place of those that are waited for.
 */
const answersPerSecond = 200

const nftFamilies = { IPv4: 'ip', IPv6: 'ip6' } as const

/**
 * Chains of our table. Those without rules are there to be told of: a packet that is followed tells each chain that it
 * passes, with its addresses at that place. IPVS is at 98 and 99 of LOCAL_IN, 99 of FORWARD, -98 of LOCAL_OUT; nat at -100
 * and 100; connection tracking at -200.
 */
export const checkpoints = {
  prerouting_first: ['prerouting', -350],
  prerouting_tracked: ['prerouting', -199],
  input_before_ipvs: ['input', 97],
  input_last: ['input', 150],
  forward_last: ['forward', 150],
  output_first: ['output', -350],
  output_tracked: ['output', -199],
  output_last: ['output', 150],
  postrouting_last: ['postrouting', 150],
} as const
export type Checkpoint = keyof typeof checkpoints

/** A table's name, "kube-ipvs-proxy-trace-4711-2a"; `unique` tells runs apart. */
export function tableName(unique: string): string {
  return `${traceTablePrefix}-${unique}`
}

/** "ip kube-ipvs-proxy-trace-4711-2a" */
export function tableOf({ target }: Marking, name: string): string {
  return `${nftFamilies[target.family]} ${name}`
}

/**
 * The commands of nft that make the table, without what marks. With the flag "owner" (Linux 5.12) the kernel removes it
 * with the socket that made it, however its process ends.
 */
export function tableCommands(marking: Marking, name: string, owned: boolean): string[] {
  const table = tableOf(marking, name)
  const address = marking.target.family === 'IPv4' ? 'ipv4_addr' : 'ipv6_addr'
  return [
    `add table ${table}${owned ? ' { flags owner; }' : ''}`,
    `add set ${table} flows { type ${address} . inet_service; size ${marking.flows}; flags dynamic; }`,
    ...Object.entries(checkpoints).map(
      ([chain, [hook, priority]]) =>
        `add chain ${table} ${chain} { type filter hook ${hook} priority ${priority}; policy accept; }`,
    ),
  ]
}

/** What a packet that opens a connection has; of UDP every datagram might. */
const opens: Readonly<Record<Protocol, string>> = {
  TCP: ' tcp flags & (syn | ack | rst | fin) == syn',
  // The type of the first chunk: INIT.
  SCTP: ' @th,96,8 1',
  UDP: '',
}
const answersOpening: Readonly<Record<Protocol, string>> = {
  TCP: ' tcp flags & (syn | rst) != 0x0',
  // INIT ACK, ABORT.
  SCTP: ' @th,96,8 { 2, 6 }',
  UDP: '',
}

/**
 * The commands that mark. The order within a rule matters: what exceeds the rate is not followed, and where the set of flows
 * is full no further one gets in. An answer is known by its flow: connection tracking has the addresses that were asked. `echo`: datagrams of our own are followed, too.
 */
export function markCommands(marking: Marking, name: string, echo?: EchoTarget): string[] {
  const { target, source, inLinks, packets } = marking
  const table = tableOf(marking, name)
  const ip = nftFamilies[target.family]
  const l4 = target.protocol.toLowerCase()
  const from = source === undefined ? '' : ` ${ip} saddr ${source}`
  const links = inLinks === undefined ? '' : ` iifname { ${inLinks.map((link) => `"${link}"`).join(', ')} }`
  const opening = packets === 'opening' ? opens[target.protocol] : ''
  const ofTarget = `${ip} daddr ${target.address}${from} ${l4} dport ${target.port}${opening}`
  const limit = (rate: number): string => `limit rate ${rate}/second burst ${rate} packets`
  const asked = `ct original ${ip} daddr ${target.address}`
  const tracked = `ct direction reply ${asked}`
  const answer = `meta l4proto ${l4} ${tracked} ct original proto-dst ${target.port} ct original ${ip} saddr . ct original proto-src @flows${packets === 'opening' ? answersOpening[target.protocol] : ''}`
  const error = `meta l4proto ${target.family === 'IPv4' ? 'icmp' : 'ipv6-icmp'} ct state related ${asked}`
  const follow = 'meta nftrace set 1'
  const request = `${limit(requestsPerSecond)} add @flows { ${ip} saddr . ${l4} sport } ${follow}`
  return [
    ...['prerouting_tracked', 'output_tracked'].flatMap((chain) => [
      `add rule ${table} ${chain} ${answer} ${limit(answersPerSecond)} ${follow}`,
      `add rule ${table} ${chain} ${error} ${limit(requestsPerSecond)} ${follow}`,
    ]),
    ...(marking.comesIn ? [`add rule ${table} prerouting_first${links} ${ofTarget} ${request}`] : []),
    ...(marking.isSent ? [`add rule ${table} output_first ${ofTarget} ${request}`] : []),
    ...(echo === undefined
      ? []
      : [
          `add rule ${table} output_first ${ip} saddr ${echo.address} ${ip} daddr ${echo.address} udp dport ${echo.port} ${follow}`,
        ]),
  ]
}
