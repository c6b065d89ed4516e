import type { Protocol } from '../model/address.ts'
import type { SetRole } from '../model/sets.ts'
import type { Destination, VirtualServer } from '../model/virtual-server.ts'

export interface ServerWant {
  readonly server: VirtualServer
  readonly destinations: readonly Destination[]
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

/** What one service port needs in the kernel. */
export interface Contribution {
  readonly servers: readonly ServerWant[]
  readonly members: readonly SetMember[]
  /** Addresses to be bound to the dummy device. */
  readonly addresses: readonly string[]
  readonly drops: readonly OutFilterDrop[]
  /** Policies that asked for local endpoints and found none although the Service has usable ones. */
  readonly noLocal: readonly ('internal' | 'external')[]
}
