import type { KernelError } from '../lib/errors.ts'
import type { Family } from '../model/address.ts'
import type { SetType } from '../model/sets.ts'

export interface SetSpec {
  /** At most 31 characters. */
  readonly name: string
  readonly type: SetType
  /** bitmap:port has none in the kernel; ours is kept for the proxier that owns it. */
  readonly family: Family
  /** Hash types only. */
  readonly hashsize: number
  readonly maxelem: number
}

export interface ObservedSet {
  readonly spec: SetSpec
  readonly entries: readonly string[]
  /** How many rules or sets name it. */
  readonly references: number
}

/** A set at a glance. */
export interface SetDigest {
  readonly spec: SetSpec
  /** Sum of the entries' hashes: see `entryHash`. */
  readonly sum: number
  readonly count: number
}

/**
 * What we need of the kernel's ipset, in our words. An entry is the text that `ipset save` prints: "10.96.0.1",
 * "10.96.0.1,tcp:443", "10.0.0.1,tcp:80,10.0.0.1", "10.0.0.1,tcp:80,10.1.0.0/16", "30080" (datapath: entry text by type).
 */
export interface Ipset {
  /** Protocol version the kernel speaks; throws KernelError where it has no ipset. */
  protocol(): Promise<number>
  /**
   * Has the kernel load what sets of the spec's type need: the process stands still meanwhile, so it is better done before
   * there is work to do. Throws KernelError where it has no such sets.
   */
  loadType(spec: SetSpec): Promise<void>
  /** An identical set is success; one of another type or with other options is EEXIST; of another family it may be success, too. */
  create(spec: SetSpec): Promise<void>
  /** Adds what is absent, in the order given. Answers which entries the kernel turned down, and why. */
  add(set: SetSpec, entries: readonly string[]): Promise<ReadonlyMap<string, KernelError>>
  /** Removes what is present; an absent entry is success. */
  remove(set: SetSpec, entries: readonly string[]): Promise<ReadonlyMap<string, KernelError>>
  /** One set with its entries; undefined where there is none of the name. */
  list(name: string): Promise<ObservedSet | undefined>
  /** One set without its entries; undefined where there is none of the name. */
  digest(name: string): Promise<SetDigest | undefined>
  /** How many entries each set of the namespace has, without reading them; undefined where the kernel does not say. */
  sizes(): Promise<ReadonlyMap<string, number | undefined>>
  /** Names of all sets of the namespace. */
  names(): Promise<readonly string[]>
  /** Exchanges the contents of two sets of the same type, at once. */
  swap(from: string, to: string): Promise<void>
  destroy(name: string): Promise<void>
  close(): void
}
