import type { ChainSet } from '../iptables/rules.ts'
import type { KnownServer } from '../ipvs/ipvs.ts'
import type { ServerSums } from '../ipvs/server-digest.ts'
import type { Family } from '../model/address.ts'
import type { SetRole } from '../model/sets.ts'

/** How many, and the sum of their hashes: `entryHash`, `addressHash`. */
export interface Sum {
  readonly count: number
  readonly sum: number
}

/** What one family of this node should have in the kernel, at a glance. */
export interface WantedSummary {
  readonly family: Family
  readonly servers: ServerSums
  /** Of sets that shall have entries. */
  readonly sets: ReadonlyMap<SetRole, Sum>
  readonly rules: ChainSet
  readonly addresses: Sum
  /** Service addresses that are addresses of the node's own, too, by the service port that has them. */
  readonly clashes: readonly { readonly owner: string; readonly address: string }[]
  /** External addresses that the settings refuse, by the service port that asks for them, and the setting. */
  readonly refused: readonly { readonly owner: string; readonly address: string; readonly reason: string }[]
  /** Virtual servers that two service ports claim. */
  readonly conflicts: readonly { readonly server: string; readonly winner: string; readonly loser: string }[]
}

/** A virtual server, and the service ports that want it. */
export interface WantedServer extends KnownServer {
  readonly owners: readonly string[]
}

/** Entries of a set, or addresses, each with the service ports that want it. */
export type OwnedEntries = ReadonlyMap<string, readonly string[]>

/** What one family of this node should have in the kernel: sums at once, the rest where it is asked for. */
export interface Wanted extends WantedSummary {
  /** Those of some buckets (`bucketOfServer`), by key. */
  serversIn(buckets: ReadonlySet<number>): Promise<ReadonlyMap<string, WantedServer>>
  entriesOf(role: SetRole): Promise<OwnedEntries>
  allAddresses(): Promise<OwnedEntries>
}
