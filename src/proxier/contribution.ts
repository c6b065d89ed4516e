import type { Protocol } from '../model/address.ts'
import type { SetRole } from '../model/sets.ts'
import type { DestinationList } from '../model/destination-list.ts'
import type { VirtualServer } from '../model/virtual-server.ts'
import type { RefusedAddress } from './external-addresses.ts'

export interface ServerWant {
  readonly server: VirtualServer
  readonly destinations: DestinationList
  /** Its address is an external IP or a load balancer's: anybody who may write a Service may have claimed it. */
  readonly outside?: true
}

export interface SetMember {
  readonly role: SetRole
  /** Text as `ipset save` prints it. */
  readonly entry: string
}

/** Node-originated packets that carry the service address as source are dropped (KUBE-IPVS-OUT-FILTER). */
export interface OutFilterDrop {
  readonly address: string
  readonly protocol: Protocol
  readonly port: number
}

/** Where UDP flows of a service port come in, and the endpoints that they may go to. */
export interface FlowWant {
  readonly frontends: readonly FlowFrontend[]
  /** "address:port" of all that serve, whatever the policies. */
  readonly backends: readonly string[]
}

export interface FlowFrontend {
  /** "10.96.0.10:53"; ":30053" for a node port. */
  readonly name: string
  /** Key of a virtual server behind it. */
  readonly server: string
}

/** What one service port needs in the kernel. */
export interface Contribution {
  readonly servers: readonly ServerWant[]
  readonly members: readonly SetMember[]
  /** Addresses to be bound to the dummy device. */
  readonly addresses: readonly string[]
  readonly drops: readonly OutFilterDrop[]
  /** Policies that asked for local endpoints and found none although the Service has usable ones. */
  readonly noLocal: readonly ('internal' | 'external')[]
  /** Service addresses that are addresses of the node's own links, too. */
  readonly clashes: readonly string[]
  /** External addresses that the settings do not let it have; absent: none. */
  readonly refused?: readonly RefusedAddress[]
  /** UDP only. */
  readonly flows?: FlowWant
}
