import type { UdpFlow } from '../conntrack/flows.ts'
import type { SetRoom } from '../ipset/membership.ts'
import type { ObservedServer } from '../ipvs/ipvs.ts'
import type { SavedTable } from '../iptables/text.ts'
import type { Family, Protocol } from '../model/address.ts'
import type { ServerId } from '../model/virtual-server.ts'
import type { Packet } from './packet.ts'

/** The tables of one variant of iptables; a node may have both, and packets then pass both. */
export interface RuleSet {
  /** "nft", "legacy"; "" where there is no choice; "nftables" of a chain that is none of iptables'. */
  readonly variant: string
  readonly tables: ReadonlyMap<string, SavedTable>
  /** How nftables itself names a chain that stands in `tables` under the name of its hook, and its rules. */
  readonly native?: NativeNames
}

export interface NativeNames {
  /** "inet firewalld" */
  readonly table: string
  readonly chain: string
  /** By chain and rule as they stand in `tables`. */
  readonly shown: ReadonlyMap<string, { readonly number: number; readonly rule: string }>
}

/** A base chain of nftables that no iptables table has, and whose rules could not be read. */
export interface ForeignChain {
  /** "inet firewalld filter_INPUT" */
  readonly name: string
  /** PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING */
  readonly hook: string
  readonly priority: number
  readonly policy: 'accept' | 'drop'
}

export interface LinkState {
  readonly name: string
  /** "dummy", "bridge", "veth", …; "" for plain devices. */
  readonly kind: string
}

export interface RouteQuery {
  readonly destination: string
  /** Of a packet that comes in; the kernel checks it (rp_filter). */
  readonly source?: string
  /** The link it comes in by; absent for a packet that the node sends. */
  readonly inLink?: string
  readonly mark: number
  readonly protocol: Protocol
  readonly destinationPort: number
}

export type RouteAnswer =
  | { readonly kind: 'local'; /** The link that has the address; "" where unknown. */ readonly link: string }
  | {
      readonly kind: 'unicast'
      readonly link: string
      readonly gateway?: string
      /** What the node's own packets get as source. */
      readonly source?: string
    }
  | { readonly kind: 'other'; readonly type: string }
  | { readonly kind: 'error'; readonly errno: string }

/** Whether something is so; a text says why it cannot be told. */
export type Told = boolean | string

/** What the walk asks of the kernel, for one family. Each answer is what the kernel has at the time of asking. */
export interface KernelState {
  readonly family: Family
  readonly ruleSets: readonly RuleSet[]
  readonly foreignChains: readonly ForeignChain[]
  readonly links: readonly LinkState[]
  /** The node's own: of the family, on other links than kube-ipvs0, without loopback and IPv6 link-local ones, in the kernel's order. */
  readonly nodeAddresses: readonly string[]
  /** What could not be read: one sentence each. */
  readonly findings: readonly string[]
  /** Whether a set has what a rule's `--match-set NAME DIRECTIONS` looks for in this packet. */
  inSet(name: string, directions: readonly string[], packet: Packet): Promise<Told>
  /** Whether a set has an entry, as `ipset save` prints it. */
  hasEntry(set: string, entry: string): Promise<Told>
  /** How full a set is; undefined where it cannot be told, or knows no bound. */
  setRoom(set: string): Promise<SetRoom | undefined>
  /** The virtual server, undefined where there is none; a text where it cannot be told. */
  server(id: ServerId): Promise<ObservedServer | undefined | string>
  /** The virtual server of a firewall mark, named as what it takes packets of. */
  serverOfMark(mark: number, id: ServerId): Promise<ObservedServer | undefined | string>
  /** Key of the destination that client affinity has chosen for a client. */
  pinned(id: ServerId, client: string): Promise<string | undefined>
  /** UDP flows to a virtual server that netfilter tracks and IPVS does not balance anew; a text where they cannot be read. */
  staleFlows(server: ObservedServer): Promise<readonly UdpFlow[] | string>
  route(query: RouteQuery): Promise<RouteAnswer>
  /** "net/ipv4/ip_forward"; undefined where there is none. */
  sysctl(name: string): string | undefined
  /** Whether a process of the node listens there. */
  listens(protocol: Protocol, address: string, port: number): Told
  /** Whether a link gives an address its own packets back: a bridge does by ports in hairpin mode only. */
  sendsBack(link: string, address: string): Promise<Told>
}
