import type { Family, Protocol } from '../model/address.ts'
import type { ServerId } from '../model/virtual-server.ts'

/** What netfilter knows of the packet's connection. */
export type ConnectionState = 'NEW' | 'ESTABLISHED' | 'RELATED' | 'INVALID' | 'UNTRACKED'

/** One packet as rules see it at one place of its way. */
export interface Packet {
  readonly family: Family
  readonly protocol: Protocol
  /** It is an ICMP error about a packet of that protocol. */
  readonly isError?: boolean
  readonly source: string
  readonly sourcePort: number
  readonly destination: string
  readonly destinationPort: number
  /** Whose port is the client's: any of the ephemeral ones, for which the number given stands. */
  readonly ephemeral: 'source' | 'destination'
  /** "" where it has none at this place. */
  readonly inLink: string
  readonly outLink: string
  /** It came in by a port of the bridge `inLink`, and iptables is told so. */
  readonly bridged: boolean
  readonly mark: number
  readonly connectionMark: number
  readonly state: ConnectionState
  /** Connection tracking has seen it, or was told not to: from then on no rule takes it away (xt_ct_target). */
  readonly isTracked: boolean
  readonly direction: 'ORIGINAL' | 'REPLY'
  /** What the client sent: the original direction of the connection. */
  readonly original: { readonly source: string; readonly destination: string; readonly destinationPort: number }
  /** A request that IPVS has translated: the virtual server that took it. */
  readonly server?: ServerId
  readonly sourceTranslated: boolean
}

/** The port that stands for a client's: of the kernel's usual ephemeral range and of no node port's. */
export const clientPort = 54321

/** The lowest port that a client is taken to use. */
export const lowestClientPort = 1024

/** "10.0.0.9 → 10.96.0.10:80/TCP" */
export function packetText(packet: Packet): string {
  const side = (address: string, port: number, isClient: boolean): string => {
    if (isClient) return address
    return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
  }
  const { source, sourcePort, destination, destinationPort, ephemeral, protocol } = packet
  const from = side(source, sourcePort, ephemeral === 'source')
  return `${from} → ${side(destination, destinationPort, ephemeral === 'destination')}/${protocol}`
}

/** Equal for packets that rules cannot tell apart. */
export function packetKey(packet: Packet): string {
  const { source, sourcePort, destination, destinationPort, mark, connectionMark, state, inLink, outLink } = packet
  return [
    source,
    sourcePort,
    destination,
    destinationPort,
    mark,
    connectionMark,
    state,
    inLink,
    outLink,
    packet.sourceTranslated,
  ].join(' ')
}
