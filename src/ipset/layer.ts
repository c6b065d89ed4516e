import { describeError, KernelError, ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { Thrift } from '../lib/thrift.ts'
import { mapInTurns, PatientTurn, Turn } from '../lib/turn.ts'
import type { Family } from '../model/address.ts'
import type { SetRole } from '../model/sets.ts'
import { asError, isHeld, Refusals } from '../reconcile/apply.ts'
import { DeltaSet, type DumpDifferences } from '../reconcile/delta-set.ts'
import {
  repairAll,
  type Count,
  type Drift,
  type Judge,
  type Layer,
  type Outcome,
  type Owner,
} from '../reconcile/layer.ts'
import { WriteGuard } from '../reconcile/write-guard.ts'
import { allRoles, isOnDemand, orderOfAdding, setSpec, temporaryName } from './catalogue.ts'
import { entryHash } from './entries.ts'
import type { Ipset, ObservedSet, SetDigest, SetSpec } from './ipset.ts'

export interface IpsetLayerOptions {
  readonly family: Family
  readonly ipset: Ipset
  readonly log: Log
  /** Who wants an entry. */
  readonly ownersOf: (role: SetRole, entry: string) => Iterable<Owner>
  /** Sizes of sets as they are made, for tests. */
  readonly sizes?: { readonly hashsize: number; readonly maxelem: number }
  /** For tests. */
  readonly thrift?: Thrift
}

/** A member costs the kernel about 100 bytes: a set of so many is a gigabyte and a half. */
const mostMembers = 2 ** 24

/** Entries of one call: many take long to be put into messages, and others shall have their turn. */
const entriesPerPart = 500

/** So many entries are read again in every look; more than that take no more than this share of a core. */
const fewEntries = 5000
const readingShare = 0.005

/** A set that grows gets room for a quarter more than it needs. */
const spare = 1.25

interface RoleState {
  /** As the kernel has it. */
  spec: SetSpec
  readonly entries: DeltaSet
  exists: boolean
  readonly guard: WriteGuard
}

/** The KUBE-* sets of one family. All but those on demand exist always, empty or not: rules name them. */
export class IpsetLayer implements Layer {
  readonly name = 'ipset'
  readonly needs: readonly string[] = []
  readonly #options: IpsetLayerOptions
  readonly #roles = new Map<SetRole, RoleState>()
  /** Roles with something pending, so that a pass costs nothing for the others. */
  readonly #touched = new Set<SetRole>(allRoles)
  #adopted = false
  readonly #thrift: Thrift

  constructor(options: IpsetLayerOptions) {
    this.#options = options
    this.#thrift = options.thrift ?? new Thrift(readingShare)
    for (const role of allRoles) {
      const spec = { ...setSpec(role, options.family), ...options.sizes }
      this.#roles.set(role, {
        spec,
        entries: new DeltaSet((entry) => entryHash(spec, entry)),
        exists: false,
        guard: new WriteGuard(),
      })
    }
  }

  want(role: SetRole, entry: string): void {
    this.#roles.get(role)!.entries.want(entry)
    this.#touched.add(role)
  }

  unwant(role: SetRole, entry: string): void {
    this.#roles.get(role)!.entries.unwant(entry)
    this.#touched.add(role)
  }

  async resync(thrifty = false, judge: Judge = repairAll): Promise<readonly Drift[]> {
    const isCheap = [...this.#roles.values()].reduce((sum, { entries }) => sum + entries.presentCount, 0) < fewEntries
    if (!thrifty || isCheap || this.#thrift.isDue) return this.#thrift.during(() => this.#compare(undefined, judge))
    return this.#compare(await this.#options.ipset.sizes(), judge)
  }

  /** `sizes`: a set that has as many entries as it should have is taken to have the right ones. */
  async #compare(sizes: ReadonlyMap<string, number | undefined> | undefined, judge: Judge): Promise<readonly Drift[]> {
    const drifts: Drift[] = []
    const report = (kind: string, object: string, state: string): void => {
      if (this.#adopted) drifts.push({ layer: this.name, kind, object, state })
    }
    if (!this.#adopted) await this.#destroyTemporary()
    const turn = new PatientTurn()
    for (const [role, state] of this.#roles) {
      if (turn.isOver) await turn.next()
      const { spec, entries } = state
      if (state.exists && sizes?.get(spec.name) === entries.presentCount) continue
      const read = await state.guard.quietly(() => this.#read(state))
      // Written by ourselves meanwhile: the next look judges it.
      if (read === undefined || !state.guard.isAt(read.mark)) continue
      const { found, mark } = read
      if (found !== undefined && !('entries' in found)) {
        noteSize(state, found.spec)
        continue
      }
      this.#touched.add(role)
      if (found === undefined) {
        if (state.exists) report('set', spec.name, 'missing')
        state.exists = false
        entries.observedNone()
        continue
      }
      if (!isSameType(found.spec, spec)) {
        report('set', spec.name, 'changed')
        this.#options.log.warn('A set of ours has another type, replacing it', {
          set: spec.name,
          found: `${found.spec.type} family ${found.spec.family}`,
          wanted: `${spec.type} family ${spec.family}`,
        })
        await state.guard
          .write(async () => {
            await this.#options.ipset.destroy(spec.name)
            state.exists = false
          })
          .catch((error: unknown) => {
            throw new ProxyError(
              'KERNEL',
              `set ${spec.name} has type ${found.spec.type}, ${spec.type} is needed, and it cannot be replaced`,
              { object: spec.name, advice: 'remove the rules that name it, or run kube-ipvs-proxy --cleanup' },
              error,
            )
          })
        state.exists = false
        entries.observedNone()
        continue
      }
      const all = await entries.differences(new Set(found.entries))
      if (!state.guard.isAt(mark)) continue
      const differences = state.exists && this.#adopted ? judged(spec.name, all, judge, drifts) : all
      state.exists = true
      noteSize(state, found.spec)
      entries.take(differences)
    }
    this.#adopted = true
    return drifts
  }

  async add(held: ReadonlySet<Owner>): Promise<Outcome> {
    const refusals = new Refusals()
    const turn = new Turn()
    let applied = 0
    let broken: Error | undefined
    for (const role of orderOfAdding) {
      if (!this.#touched.has(role)) continue
      const state = this.#roles.get(role)!
      const { entries } = state
      if (!state.exists && isOnDemand(role) && entries.wantedCount === 0) continue
      if (!state.exists) {
        try {
          await state.guard.write(async () => {
            await this.#options.ipset.create(state.spec)
            state.exists = true
          })
          applied++
        } catch (error) {
          // A rule may not name a missing set: the layers above must wait, the other sets need not.
          broken ??= asError(error)
          continue
        }
      }
      const additions = await mapInTurns(entries.additions(), (entry) =>
        isHeld(() => this.#options.ownersOf(role, entry), held) ? undefined : entry,
      )
      if (additions.length === 0) continue
      applied += await state.guard.write(async () => {
        const refused = await this.#put(state, additions)
        for (const entry of additions) {
          if (turn.isOver) await turn.next()
          if (!refused.has(entry)) entries.observed(entry)
        }
        for (const [entry, error] of refused) refusals.add(this.#options.ownersOf(role, entry), error)
        return additions.length - refused.size
      })
    }
    return { applied, refused: refusals.byOwner, ...(broken === undefined ? {} : { broken }) }
  }

  async remove(_held: ReadonlySet<Owner>): Promise<Outcome> {
    const refusals = new Refusals()
    let applied = 0
    for (const role of orderOfAdding.toReversed()) {
      if (!this.#touched.has(role)) continue
      const state = this.#roles.get(role)!
      const { spec, entries } = state
      const removals = [...entries.removals()]
      if (removals.length > 0) {
        applied += await state.guard.write(async () => {
          const refused = await this.#options.ipset.remove(spec, removals)
          for (const entry of removals) if (!refused.has(entry)) entries.gone(entry)
          for (const error of refused.values()) refusals.add([`set ${spec.name}`], error)
          return removals.length - refused.size
        })
      }
      const unneeded = isOnDemand(role) && entries.wantedCount === 0
      if (state.exists && unneeded && entries.pendingCount === 0) {
        applied += await state.guard.write(async () => {
          const destroyed = await this.#destroyed(spec.name)
          // Where the answer was lost nobody knows: the next look finds it, or does not.
          if (destroyed !== false) state.exists = false
          return destroyed ? 1 : 0
        })
      }
      if (entries.pendingCount === 0 && state.exists !== unneeded) this.#touched.delete(role)
    }
    return { applied, refused: refusals.byOwner }
  }

  *counts(): Iterable<Count> {
    const sets = { wanted: 0, present: 0 }
    const members = { wanted: 0, present: 0 }
    for (const [role, { entries, exists }] of this.#roles) {
      if (!isOnDemand(role) || entries.wantedCount > 0) sets.wanted++
      if (exists) sets.present++
      members.wanted += entries.wantedCount
      members.present += entries.presentCount
    }
    yield { kind: 'set', ...sets }
    yield { kind: 'set entry', ...members }
  }

  /** Count and sum of the entries that are wanted in each set that shall have any. */
  *wantedSums(): Iterable<readonly [SetRole, { readonly count: number; readonly sum: number }]> {
    for (const [role, { entries }] of this.#roles) {
      if (entries.wantedCount > 0) yield [role, { count: entries.wantedCount, sum: entries.wantedSum }]
    }
  }

  /** How full each set is. */
  *fill(): Iterable<{ readonly set: string; readonly members: number; readonly size: number }> {
    for (const { spec, entries, exists } of this.#roles.values()) {
      if (exists) yield { set: spec.name, members: entries.presentCount, size: capacityOf(spec) }
    }
  }

  /** The set as it stands, without entries where they are as known; undefined where there is none. */
  async #read({ spec, entries, exists }: RoleState): Promise<ObservedSet | SetDigest | undefined> {
    const { ipset } = this.#options
    if (!exists) return ipset.list(spec.name)
    const digest = await ipset.digest(spec.name)
    if (digest === undefined || (isSameType(digest.spec, spec) && digest.sum === entries.presentSum)) return digest
    return ipset.list(spec.name)
  }

  /** What a process left behind that was killed while it made a set larger. */
  async #destroyTemporary(): Promise<void> {
    const names = new Set(await this.#options.ipset.names())
    for (const { spec } of this.#roles.values()) {
      const name = temporaryName(spec.name)
      if (names.has(name)) await this.#options.ipset.destroy(name)
    }
  }

  /** Adds entries, in a larger set where this one has no room for them. */
  async #put(state: RoleState, additions: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    const { spec, entries } = state
    const need = entries.presentCount + additions.length
    if (need > capacityOf(spec) && spec.maxelem < mostMembers) {
      const refused = await this.#grow(state, additions, need)
      if (refused !== undefined) return refused
    }
    return this.#addInParts(state.spec, additions)
  }

  async #addInParts(spec: SetSpec, additions: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    const refused = new Map<string, KernelError>()
    for (let from = 0; from < additions.length; from += entriesPerPart) {
      const part = additions.slice(from, from + entriesPerPart)
      for (const [entry, error] of await this.#options.ipset.add(spec, part)) refused.set(entry, error)
    }
    return refused
  }

  /**
   * Builds a larger set beside this one, with all of its entries and the new ones, and swaps the two: whoever matches
   * sees the one or the other, whole. Answers what was refused; undefined where it could not be done and the set is as
   * it was.
   */
  async #grow(
    state: RoleState,
    additions: readonly string[],
    need: number,
  ): Promise<ReadonlyMap<string, KernelError> | undefined> {
    const { ipset, log } = this.#options
    const { spec, entries } = state
    const maxelem = Math.min(mostMembers, 2 ** Math.ceil(Math.log2(need * spare)))
    // The kernel doubles the table while it fills; with this many buckets it need not.
    const larger = { ...spec, name: temporaryName(spec.name), maxelem, hashsize: Math.max(spec.hashsize, maxelem / 4) }
    try {
      await ipset.destroy(larger.name)
      await ipset.create(larger)
      const lost = await this.#addInParts(larger, [...entries.presentKeys()])
      const [first] = lost.values()
      if (first !== undefined) throw first
      const refused = await this.#addInParts(larger, additions)
      await ipset.swap(spec.name, larger.name)
      state.spec = { ...spec, maxelem, hashsize: larger.hashsize }
      log.info('A set was full; a larger one has taken its place', {
        set: spec.name,
        members: need,
        size: maxelem,
        before: spec.maxelem,
      })
      await this.#destroyed(larger.name)
      return refused
    } catch (error) {
      log.error('A set is full and a larger one could not be made; what has no room waits', {
        set: spec.name,
        members: need,
        size: spec.maxelem,
        wanted: maxelem,
        error: describeError(error),
      })
      await this.#destroyed(larger.name)
      return undefined
    }
  }

  /** Whether a set is gone now; one that a rule names is not. Undefined where the kernel's answer was lost. */
  #destroyed(name: string): Promise<boolean | undefined> {
    return this.#options.ipset.destroy(name).then(
      () => true,
      (error: unknown) => (error instanceof KernelError ? false : undefined),
    )
  }

  /** Destroys the sets of the catalogue; the rules that name them must be gone. Absent is success. */
  async cleanup(): Promise<Error[]> {
    const errors: Error[] = []
    const names = new Set(await this.#options.ipset.names())
    const ours = [...this.#roles.values()].flatMap(({ spec }) => [spec.name, temporaryName(spec.name)])
    for (const name of ours) {
      if (!names.has(name)) continue
      try {
        await this.#options.ipset.destroy(name)
      } catch (error) {
        if (!(error instanceof KernelError && error.errnoName === 'ENOENT')) errors.push(asError(error))
      }
    }
    return errors
  }
}

/** Those of the differences that are taken over now; the drift that they are. */
function judged(set: string, { missing, foreign }: DumpDifferences, judge: Judge, drifts: Drift[]): DumpDifferences {
  const of = (entries: readonly string[], state: string): string[] =>
    entries.filter((entry) => {
      const drift = { layer: 'ipset', kind: 'set entry', object: `${entry} of set ${set}`, state }
      const isTaken = judge(drift)
      if (isTaken) drifts.push(drift)
      return isTaken
    })
  return { missing: of(missing, 'missing'), foreign: of(foreign, 'foreign') }
}

function capacityOf(spec: SetSpec): number {
  return spec.type === 'bitmap:port' ? 65536 : spec.maxelem
}

function isSameType(a: SetSpec, b: SetSpec): boolean {
  return a.type === b.type && (a.type === 'bitmap:port' || a.family === b.family)
}

/** Somebody may have made it anew with another size; a larger one is as good. */
function noteSize(state: RoleState, { hashsize, maxelem }: SetSpec): void {
  if (state.spec.type !== 'bitmap:port') state.spec = { ...state.spec, hashsize, maxelem }
}
