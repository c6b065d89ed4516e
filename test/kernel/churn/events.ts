import type { EndpointSliceRecord, NodeRecord, ServiceRecord } from '../../../src/model/cluster.ts'

/** What of the daemon's settings the campaign varies; a change takes a restart. */
export interface StackSettings {
  readonly scheduler: string
  /** Addresses of node ports: all, the node's IP, or those within the campaign's ranges. */
  readonly nodePorts: 'all' | 'primary' | 'ranges'
  readonly masqueradeAll: boolean
  readonly masqueradeBit: number
  readonly strictExternal: boolean
  readonly detector: 'none' | 'cidr' | 'bridge'
}

/** What others do to the kernel's state behind the daemon's back. */
export type Tampering =
  | 'delete server'
  | 'edit server'
  | 'foreign server'
  | 'excluded server'
  | 'clear servers'
  | 'delete destination'
  | 'foreign destination'
  | 'change weight'
  | 'remove entries'
  | 'foreign entry'
  | 'flush set'
  | 'destroy set'
  | 'flush chain'
  | 'delete chain'
  | 'delete rule'
  | 'foreign rule in own chain'
  | 'foreign rule'
  | 'delete jump'
  | 'double jump'
  | 'delete device'
  | 'remove address'
  | 'foreign address'
  | 'excluded address'
  | 'wide address'

export type ChurnEvent =
  | { readonly kind: 'service'; readonly key: string; readonly service: ServiceRecord | undefined }
  | { readonly kind: 'slice'; readonly key: string; readonly slice: EndpointSliceRecord | undefined }
  | { readonly kind: 'node'; readonly node: NodeRecord | undefined }
  | { readonly kind: 'address'; readonly device: string; readonly address: string; readonly present: boolean }
  /** The seed decides which server, set, chain or address it hits. */
  | { readonly kind: 'tamper'; readonly what: Tampering; readonly seed: number }
  | { readonly kind: 'pause'; readonly milliseconds: number }
  /** From the so many-th call on nothing gets through to the kernel any more, until the restart. */
  | { readonly kind: 'die'; readonly afterCalls: number }
  /** A new process in the place of the old one: it knows the kernel and the objects of this time, nothing else. */
  | {
      readonly kind: 'restart'
      readonly settings: StackSettings
      /** Seed of the order in which the objects are told. */
      readonly seed: number
      /** What happens while no process runs. */
      readonly meanwhile: readonly ChurnEvent[]
    }

/** Probabilities of faults, each of one call into the kernel. */
export interface FaultPlan {
  readonly seed: number
  /** A call that reads throws. */
  readonly unread: number
  /** A call that writes throws, and nothing was done. */
  readonly gone: number
  /** The call throws after a part of its work, or all of it, was done. */
  readonly torn: number
  /** Some of the entries of a call are refused, the others done. */
  readonly refused: number
  /** Everything is done, but some of the entries are answered with an error. */
  readonly denied: number
  /** Only these ports fail; all where absent. */
  readonly ports?: readonly FaultyPort[]
}

export type FaultyPort = 'ipvs' | 'ipset' | 'dummy' | 'iptables'

export interface Round {
  readonly number: number
  readonly faults: FaultPlan
  readonly events: readonly ChurnEvent[]
}

/** One line an event. */
export function describeEvent(event: ChurnEvent): string {
  return JSON.stringify(event, (_key, value: unknown) => (value === undefined ? null : value))
}
