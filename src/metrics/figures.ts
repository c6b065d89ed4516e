import type { DestinationId, VirtualServer } from '../model/virtual-server.ts'

/** Things of one kind in one layer. */
export interface LayerCount {
  readonly layer: string
  readonly kind: string
  readonly wanted: number
  readonly present: number
}

export interface SetFill {
  readonly set: string
  readonly members: number
  /** So many it has room for. */
  readonly size: number
}

/** What a scrape asks of a family's stack; each answer is worked out when it is asked for. */
export interface FamilyFigures {
  counts(): Iterable<LayerCount>
  sets(): Iterable<SetFill>
  /** Destinations that wait at weight 0 for their connections to end. */
  readonly draining: number
  /** Milliseconds that the one of them has waited that has waited longest; 0 without any. */
  readonly longestDrain: number
  /** Each of them. */
  drainingDestinations(): Iterable<{ readonly server: VirtualServer; readonly destination: DestinationId }>
  /** Connections by the last look at the virtual servers; undefined before the first. */
  readonly connections: { readonly active: number; readonly inactive: number } | undefined
  /** When the last look at the whole kernel state ended, in milliseconds since the epoch, and how many it took. */
  readonly lastLook: { readonly endedAt: number; readonly took: number } | undefined
}

/** How the following of one resource of the API server goes. Times in milliseconds, by the clock. */
export interface ResourceFigures {
  /** "services" */
  readonly resource: string
  /** When the server last answered well or sent something; 0: never. */
  readonly lastContact: number
  /** Since when every attempt has failed; undefined: not failing. */
  readonly failingSince: number | undefined
}

/** What a scrape asks of the node; undefined where the kernel does not tell. */
export interface NodeFigures {
  readonly conntrackEntries?: number | undefined
  readonly conntrackLimit?: number | undefined
  readonly connectionTableBuckets?: number | undefined
  /** Log lines that nobody took. */
  readonly droppedLines?: number
}
