/** Whoever wants an entry: "namespace/name:port" of a service port, or a fixed word for what belongs to the node. */
export type Owner = string

/** What one step of a layer did. */
export interface Outcome {
  readonly applied: number
  /** Entries the kernel turned down, by owner; they stay pending. */
  readonly refused: ReadonlyMap<Owner, Error>
  /** The layer itself failed: socket gone, restore rejected. */
  readonly broken?: Error
}

/** One thing of the kernel that was not as we had left it. */
export interface Drift {
  readonly layer: string
  /** What it is: "virtual server", "destination", "weight", "set", "set entry", "address", "device", "chain", "rule". */
  readonly kind: string
  readonly object: string
  /** "missing", "changed", "foreign" */
  readonly state: string
}

/** Things of one kind, as wanted and as known to be in the kernel. */
export interface Count {
  readonly kind: string
  readonly wanted: number
  readonly present: number
}

/** Whether what a look has found is put right now; where not, the layer goes on as if it had not found it. */
export type Judge = (drift: Drift) => boolean
export const repairAll: Judge = () => true

export interface Layer {
  readonly name: string
  /** Layers that must stand before this one may grow. */
  readonly needs: readonly string[]
  /**
   * Looks at the kernel; afterwards the pending work is the true difference. Answers what differs from what this
   * process had written and was told had succeeded; at the first call nothing. May run beside `add` and `remove`: what
   * they write meanwhile is left to the next look. A thrifty look may leave out what would take too much of a core. What
   * `judge` puts off is not among the answer, nor pending.
   */
  resync(thrifty?: boolean, judge?: Judge): Promise<readonly Drift[]>
  /** Makes what is wanted exist, leaving out entries whose every owner is held. */
  add(held: ReadonlySet<Owner>): Promise<Outcome>
  /** Takes away what is ours and unwanted. Absent is success. `failed`: the layers that failed in this pass. */
  remove(held: ReadonlySet<Owner>, failed?: ReadonlySet<string>): Promise<Outcome>
}
