import { withHash } from '../lib/digest.ts'
import { KernelError } from '../lib/errors.ts'
import { errno } from '../netlink/errno.ts'
import { canonicalEntry, entryHash } from './entries.ts'
import type { Ipset, ObservedSet, SetDigest, SetSpec } from './ipset.ts'
import { entryError, ipsetErrno, ipsetError, malformedEntryError } from './messages.ts'

interface FakeSet {
  spec: SetSpec
  entries: Set<string>
  references: number
}

/**
 * Says what goes wrong: called with the operation ("add", "create", …) and its object. For one entry a KernelError
 * answers that entry alone; any other error is thrown, as when the socket failed.
 */
export type Fault = (operation: string, object: string) => Error | undefined

/** An ipset in memory that refuses what the kernel refuses, with the same errno. */
export class FakeIpset implements Ipset {
  /** What was asked for, in order: "create KUBE-CLUSTER-IP", "add KUBE-CLUSTER-IP 10.96.0.1,tcp:80". */
  readonly calls: string[] = []
  fault: Fault | undefined
  readonly #sets = new Map<string, FakeSet>()

  async protocol(): Promise<number> {
    this.#calledOrThrow('protocol', '')
    return 7
  }

  async loadType({ type }: SetSpec): Promise<void> {
    this.#calledOrThrow('loadType', type)
  }

  async create(spec: SetSpec): Promise<void> {
    this.#calledOrThrow('create', spec.name)
    const present = this.#sets.get(spec.name)
    if (present !== undefined && !isSameSet(present.spec, spec)) {
      throw ipsetError(errno.EEXIST, 'create', `set ${spec.name}`, spec)
    }
    if (present === undefined) {
      const { name, type, family, hashsize, maxelem } = spec
      this.#sets.set(name, { spec: { name, type, family, hashsize, maxelem }, entries: new Set(), references: 0 })
    }
  }

  async add(set: SetSpec, entries: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return this.#each('add', set, entries, (present, entry) => {
      if (entry.endsWith('/0')) return ipsetErrno.invalidCIDR
      const isFull = present.spec.type !== 'bitmap:port' && present.entries.size >= present.spec.maxelem
      if (isFull && !present.entries.has(entry)) return ipsetErrno.hashFull
      present.entries.add(entry)
      return 0
    })
  }

  async remove(set: SetSpec, entries: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return this.#each('remove', set, entries, (present, entry) => {
      if (entry.endsWith('/0')) return ipsetErrno.invalidCIDR
      present.entries.delete(entry)
      return 0
    })
  }

  async list(name: string): Promise<ObservedSet | undefined> {
    this.#calledOrThrow('list', name)
    return this.#observe(name)
  }

  async digest(name: string): Promise<SetDigest | undefined> {
    this.#calledOrThrow('digest', name)
    const found = this.#observe(name)
    if (found === undefined) return undefined
    const { spec, entries } = found
    const sum = entries.reduce((total, entry) => withHash(total, entryHash(spec, entry)), 0)
    return { spec, sum, count: entries.length }
  }

  #observe(name: string): ObservedSet | undefined {
    const present = this.#sets.get(name)
    if (present === undefined) return undefined
    const isBitmap = present.spec.type === 'bitmap:port'
    const spec: SetSpec = isBitmap ? { ...present.spec, family: 'IPv4', hashsize: 0, maxelem: 0 } : present.spec
    return { spec, entries: [...present.entries], references: present.references }
  }

  async sizes(): Promise<ReadonlyMap<string, number>> {
    this.#calledOrThrow('sizes', '')
    return new Map([...this.#sets].map(([name, { entries }]) => [name, entries.size]))
  }

  async names(): Promise<readonly string[]> {
    this.#calledOrThrow('names', '')
    return [...this.#sets.keys()]
  }

  async swap(from: string, to: string): Promise<void> {
    const object = `${from} with ${to}`
    this.#calledOrThrow('swap', object)
    const a = this.#sets.get(from)
    const b = this.#sets.get(to)
    if (a === undefined) throw ipsetError(errno.ENOENT, 'swap', `set ${object}`)
    if (b === undefined) throw ipsetError(ipsetErrno.existSetName2, 'swap', `set ${object}`)
    const isBitmap = a.spec.type === 'bitmap:port'
    if (a.spec.type !== b.spec.type || (!isBitmap && a.spec.family !== b.spec.family)) {
      throw ipsetError(ipsetErrno.typeMismatch, 'swap', `set ${object}`)
    }
    // Contents and options change places; the names and who refers to them stay.
    ;[a.spec, b.spec] = [
      { ...b.spec, name: from },
      { ...a.spec, name: to },
    ]
    ;[a.entries, b.entries] = [b.entries, a.entries]
  }

  async destroy(name: string): Promise<void> {
    this.#calledOrThrow('destroy', name)
    const present = this.#sets.get(name)
    if (present === undefined) return
    if (present.references > 0) throw ipsetError(ipsetErrno.busy, 'destroy', `set ${name}`)
    this.#sets.delete(name)
  }

  close(): void {
    this.calls.push('close')
  }

  /** Lets so many rules name a set. */
  setReferences(name: string, references: number): void {
    const present = this.#sets.get(name)
    if (present === undefined) throw new Error(`no set ${name}`)
    present.references = references
  }

  /** As `ipset save` prints it (without bucketsize and initval), sets and entries in order of their text. */
  dump(): string {
    const lines: string[] = []
    for (const name of [...this.#sets.keys()].sort()) {
      const { spec, entries } = this.#sets.get(name)!
      const family = spec.family === 'IPv4' ? 'inet' : 'inet6'
      const options =
        spec.type === 'bitmap:port'
          ? 'range 0-65535'
          : `family ${family} hashsize ${spec.hashsize} maxelem ${spec.maxelem}`
      lines.push(`create ${name} ${spec.type} ${options}`)
      for (const entry of [...entries].sort()) lines.push(`add ${name} ${entry}`)
    }
    return lines.map((line) => `${line}\n`).join('')
  }

  #each(
    kind: 'add' | 'remove',
    set: SetSpec,
    entries: readonly string[],
    act: (present: FakeSet, entry: string) => number,
  ): ReadonlyMap<string, KernelError> {
    const operation = kind === 'add' ? 'add' : 'delete'
    const refused = new Map<string, KernelError>()
    for (const text of entries) {
      const error = this.#called(kind, `${set.name} ${text}`)
      if (error !== undefined && !(error instanceof KernelError)) throw error
      const entry = canonicalEntry(set, text)
      const present = this.#sets.get(set.name)
      if (error !== undefined) refused.set(text, error)
      else if (entry === undefined) refused.set(text, malformedEntryError(operation, text, set))
      else {
        const result = present === undefined ? errno.ENOENT : act(present, entry)
        if (result !== 0) refused.set(text, entryError(result, operation, text, set))
      }
    }
    return refused
  }

  #calledOrThrow(operation: string, object: string): void {
    const error = this.#called(operation, object)
    if (error !== undefined) throw error
  }

  #called(operation: string, object: string): Error | undefined {
    this.calls.push(object === '' ? operation : `${operation} ${object}`)
    return this.fault?.(operation, object)
  }
}

/** The types' same_set: what a repeated create compares. The size of the hash table is no part of it. */
function isSameSet(a: SetSpec, b: SetSpec): boolean {
  if (a.type !== b.type) return false
  return a.type === 'bitmap:port' || (a.family === b.family && a.maxelem === b.maxelem)
}
