import { KernelError, ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { Family } from '../model/address.ts'
import type { SetRole } from '../model/sets.ts'
import { asError, isHeld, Refusals } from '../reconcile/apply.ts'
import { DeltaTable } from '../reconcile/delta-table.ts'
import type { Drift, Layer, Outcome, Owner } from '../reconcile/layer.ts'
import { allRoles, isOnDemand, setSpec } from './catalogue.ts'
import type { Ipset, SetSpec } from './ipset.ts'

export interface IpsetLayerOptions {
  readonly family: Family
  readonly ipset: Ipset
  readonly log: Log
  /** Who wants an entry. */
  readonly ownersOf: (role: SetRole, entry: string) => Iterable<Owner>
}

interface RoleState {
  readonly spec: SetSpec
  readonly entries: DeltaTable<string, true>
  exists: boolean
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

  constructor(options: IpsetLayerOptions) {
    this.#options = options
    for (const role of allRoles) {
      this.#roles.set(role, { spec: setSpec(role, options.family), entries: new DeltaTable(), exists: false })
    }
  }

  want(role: SetRole, entry: string): void {
    this.#roles.get(role)!.entries.want(entry, true)
    this.#touched.add(role)
  }

  unwant(role: SetRole, entry: string): void {
    this.#roles.get(role)!.entries.unwant(entry)
    this.#touched.add(role)
  }

  async resync(): Promise<readonly Drift[]> {
    const drifts: Drift[] = []
    const report = (kind: string, object: string, state: string): void => {
      if (this.#adopted) drifts.push({ layer: this.name, kind, object, state })
    }
    for (const [role, state] of this.#roles) {
      this.#touched.add(role)
      const { spec, entries } = state
      const found = await this.#options.ipset.list(spec.name)
      if (found === undefined) {
        if (state.exists) report('set', spec.name, 'missing')
        state.exists = false
        entries.observedAll(new Map())
        continue
      }
      if (found.spec.type !== spec.type || (spec.type !== 'bitmap:port' && found.spec.family !== spec.family)) {
        report('set', spec.name, 'changed')
        this.#options.log.warn('A set of ours has another type, replacing it', {
          set: spec.name,
          found: `${found.spec.type} family ${found.spec.family}`,
          wanted: `${spec.type} family ${spec.family}`,
        })
        await this.#options.ipset.destroy(spec.name).catch((error: unknown) => {
          throw new ProxyError(
            'KERNEL',
            `set ${spec.name} has type ${found.spec.type}, ${spec.type} is needed, and it cannot be replaced`,
            { object: spec.name, advice: 'remove the rules that name it, or run kube-ipvs-proxy --cleanup' },
            error,
          )
        })
        state.exists = false
        entries.observedAll(new Map())
        continue
      }
      const now = new Map(found.entries.map((entry) => [entry, true as const]))
      if (state.exists) {
        for (const entry of entries.actualKeys()) {
          if (!now.has(entry)) report('set entry', `${entry} of set ${spec.name}`, 'missing')
        }
        for (const entry of now.keys()) {
          if (entries.actual(entry) === undefined) report('set entry', `${entry} of set ${spec.name}`, 'foreign')
        }
      }
      state.exists = true
      entries.observedAll(now)
    }
    this.#adopted = true
    return drifts
  }

  async add(held: ReadonlySet<Owner>): Promise<Outcome> {
    const refusals = new Refusals()
    let applied = 0
    let broken: Error | undefined
    for (const role of this.#touched) {
      const { spec, entries } = this.#roles.get(role)!
      const state = this.#roles.get(role)!
      if (!state.exists && isOnDemand(role) && entries.wantedCount === 0) continue
      if (!state.exists) {
        try {
          await this.#options.ipset.create(spec)
          state.exists = true
          applied++
        } catch (error) {
          // A rule may not name a missing set: the layers above must wait, the other sets need not.
          broken ??= asError(error)
          continue
        }
      }
      const additions: string[] = []
      for (const [entry] of entries.additions()) {
        if (!isHeld(this.#options.ownersOf(role, entry), held)) additions.push(entry)
      }
      if (additions.length === 0) continue
      const refused = await this.#options.ipset.add(spec, additions)
      for (const entry of additions) {
        const error = refused.get(entry)
        if (error === undefined) {
          entries.observed(entry, true)
          applied++
        } else refusals.add(this.#options.ownersOf(role, entry), error)
      }
    }
    return { applied, refused: refusals.byOwner, ...(broken === undefined ? {} : { broken }) }
  }

  async remove(_held: ReadonlySet<Owner>): Promise<Outcome> {
    const refusals = new Refusals()
    let applied = 0
    for (const role of this.#touched) {
      const { spec, entries } = this.#roles.get(role)!
      const removals = [...entries.removals()]
      if (removals.length > 0) {
        const refused = await this.#options.ipset.remove(spec, removals)
        for (const entry of removals) {
          const error = refused.get(entry)
          if (error === undefined) {
            entries.gone(entry)
            applied++
          } else refusals.add([`set ${spec.name}`], error)
        }
      }
      const state = this.#roles.get(role)!
      if (state.exists && isOnDemand(role) && entries.wantedCount === 0 && entries.pendingCount === 0) {
        // While a rule still names it, it stays; so it is tried again.
        const destroyed = await this.#options.ipset.destroy(spec.name).then(
          () => true,
          () => false,
        )
        if (!destroyed) continue
        state.exists = false
        applied++
      }
      const settled = state.exists || (isOnDemand(role) && entries.wantedCount === 0)
      if (entries.pendingCount === 0 && settled) this.#touched.delete(role)
    }
    return { applied, refused: refusals.byOwner }
  }

  /** Destroys the sets of the catalogue; the rules that name them must be gone. Absent is success. */
  async cleanup(): Promise<Error[]> {
    const errors: Error[] = []
    const names = new Set(await this.#options.ipset.names())
    for (const { spec } of this.#roles.values()) {
      if (!names.has(spec.name)) continue
      try {
        await this.#options.ipset.destroy(spec.name)
      } catch (error) {
        if (!(error instanceof KernelError && error.errnoName === 'ENOENT')) errors.push(asError(error))
      }
    }
    return errors
  }
}
