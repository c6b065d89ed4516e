import type { Explanation, ExplainRequest } from '../explain/explain.ts'
import type { FoundServer } from '../ipvs/ipvs.ts'
import type { FamilyFigures } from '../metrics/figures.ts'
import type { Family } from '../model/address.ts'
import type { ServerId } from '../model/virtual-server.ts'
import type { Ledger } from '../proxier/ledger.ts'
import type { ProxierView } from '../proxier/proxier.ts'
import type { Owner } from '../reconcile/layer.ts'
import type { History } from './history.ts'

/** What the page may see: it asks, nothing is told to it but the history, and it can change nothing. */
export interface PageSources {
  readonly nodeName: string
  readonly version: string
  /** Milliseconds since the epoch. */
  readonly startedAt: number
  readonly families: ReadonlyMap<Family, FamilySources>
  readonly history: History
  /** A sentence where the node does not keep up; "" where it does. */
  readonly trouble: () => string
  /** One virtual server as the kernel has it now. */
  readonly findServer: (server: ServerId) => Promise<FoundServer | undefined>
  /** Connections of all service ports. */
  readonly connections: () => Promise<ConnectionsReading>
  readonly explain: (request: ExplainRequest, signal: AbortSignal) => Promise<Explanation>
}

export interface FamilySources {
  readonly view: () => ProxierView
  readonly ledger: Pick<Ledger, 'contribution' | 'serverOwners'>
  readonly figures: FamilyFigures
}

/** One reading of the kernel, which serves for a few seconds. */
export interface ConnectionsReading {
  /** Milliseconds since the epoch. */
  readonly at: number
  /** Undefined: the kernel has no virtual server of it. */
  of(family: Family, owner: Owner): { readonly active: number; readonly inactive: number } | undefined
}
