import { isDeepStrictEqual } from 'node:util'
import { ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { Family } from '../model/address.ts'
import type { LocalDetector } from '../model/local-detector.ts'
import type { SetRole } from '../model/sets.ts'
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
import type { Iptables } from './iptables.ts'
import { isOfIptablesMode } from './leftovers.ts'
import { buildRules, conditionalRoles, jumps, ownChains, parseDropRule, tables } from './rules.ts'
import type { Chain, ChainSet, Drop, Jump, RuleSettings, Table } from './rules.ts'
import { canonicalRule, parseSave, targetOf, writeRestore } from './text.ts'
import type { SavedTable, TableInput } from './text.ts'

export interface IptablesLayerOptions {
  readonly family: Family
  readonly iptables: Iptables
  readonly log: Log
  readonly rules: RuleSettings
  readonly onRestoreFailure?: () => void
  /** A number that each change of any rule raises; undefined where the kernel has none. */
  readonly generation?: () => Promise<number | undefined>
}

/** What the rules depend on from pass to pass. */
interface Wish {
  readonly nonEmpty: ReadonlySet<SetRole>
  readonly drops: readonly Drop[]
  readonly localDetector: LocalDetector | undefined
}

type Kernel = Map<Table, SavedTable>

const noOwners: ReadonlyMap<Owner, Error> = new Map()
const nothing: Wish = { nonEmpty: new Set(), drops: [], localDetector: undefined }

const dropKey = (drop: Drop): string => `${drop.address} ${drop.protocol} ${drop.port}`
const chainKey = (chain: { readonly table: Table; readonly name: string }): string => `${chain.table} ${chain.name}`
const jumpKey = (jump: Jump): string => `${jump.table} ${jump.from} ${jump.to}`

/** What either is for; the second one's way to tell pods. */
function both(a: Wish, b: Wish): Wish {
  const drops = new Map([...a.drops, ...b.drops].map((drop) => [dropKey(drop), drop]))
  return { nonEmpty: a.nonEmpty.union(b.nonEmpty), drops: [...drops.values()], localDetector: b.localDetector }
}

function common(a: Wish, b: Wish): Wish {
  const keys = new Set(b.drops.map(dropKey))
  const drops = a.drops.filter((drop) => keys.has(dropKey(drop)))
  return { nonEmpty: a.nonEmpty.intersection(b.nonEmpty), drops, localDetector: a.localDetector }
}

function sameWish(a: Wish, b: Wish): boolean {
  return (
    a.nonEmpty.size === b.nonEmpty.size &&
    a.nonEmpty.isSubsetOf(b.nonEmpty) &&
    (a.drops === b.drops || isDeepStrictEqual(a.drops.map(dropKey).sort(), b.drops.map(dropKey).sort())) &&
    isDeepStrictEqual(a.localDetector, b.localDetector)
  )
}

/**
 * Chains and jumps of one family. It writes only chains that are not as they should be, in one restore; rules of other
 * software are never touched. Rules appear before what needs them and disappear after what they served is gone.
 */
export class IptablesLayer implements Layer {
  readonly name = 'iptables'
  readonly needs: readonly string[] = ['ipset']

  readonly #options: IptablesLayerOptions
  readonly #log: Log
  /** Rules that the kernel's side prints otherwise than we write them: ours → theirs. */
  readonly #printed = new Map<string, string>()
  #wish: Wish = nothing
  /** What the rules in the kernel are made for; undefined before the first look. */
  #inForce: Wish | undefined
  /** Both tables as last read or written; undefined: unknown. */
  #kernel: Kernel | undefined
  /** Chains and jumps that stood after our last success, by key. */
  readonly #stoodChains = new Map<string, Chain>()
  readonly #stoodJumps = new Map<string, Jump>()
  readonly #guard = new WriteGuard()
  /** The kernel's rule generation that both tables were read at, where it counts them and nothing was written since. */
  #readAt: number | undefined
  /** The rules in force are those of the wish. */
  #settled = false

  constructor(options: IptablesLayerOptions) {
    this.#options = options
    this.#log = options.log
  }

  /** Roles whose sets shall have entries, what to drop from the node itself, and how its pods are told. */
  want(nonEmpty: ReadonlySet<SetRole>, outFilterDrops: readonly Drop[], localDetector?: LocalDetector): void {
    const wish = { nonEmpty, drops: outFilterDrops, localDetector }
    this.#settled &&= sameWish(this.#wish, wish)
    this.#wish = wish
  }

  /** The rules that are wanted. */
  get wanted(): ChainSet {
    return this.#rules(this.#wish)
  }

  /** Chains by their names alone: what they hold is compared by looks, not here. */
  *counts(): Iterable<Count> {
    const chains = { wanted: 0, present: 0 }
    for (const table of tables) {
      chains.wanted += ownChains[table].length
      for (const name of ownChains[table]) if (this.#kernel?.get(table)?.has(name)) chains.present++
    }
    yield { kind: 'chain', ...chains }
  }

  async resync(_thrifty = false, judge: Judge = repairAll): Promise<readonly Drift[]> {
    const generation = await this.#options.generation?.()
    // Nobody has written any rule since.
    if (generation !== undefined && generation === this.#readAt && this.#kernel !== undefined) return []
    // What was read during a restore may be half of one.
    const read = await this.#guard.quietly(() => this.#readTables())
    if (read === undefined || !this.#guard.isAt(read.mark)) return []
    const kernel = read.found
    this.#kernel = kernel
    this.#inForce ??= this.#adopt(kernel)
    this.#readAt = generation
    this.#settled = false
    const drift: Drift[] = []
    for (const chain of this.#stoodChains.values()) {
      const saved = kernel.get(chain.table)?.get(chain.name)
      if (saved && this.#same(chain, saved.rules)) continue
      const object = `chain ${chain.name} of table ${chain.table}`
      const one = { layer: this.name, kind: 'chain', object, state: saved ? 'changed' : 'missing' }
      if (judge(one)) drift.push(one)
      else this.#leave(kernel, chain.table, chain.name, chain.rules.map(canonicalRule))
    }
    for (const jump of this.#stoodJumps.values()) {
      const count = this.#count(kernel, jump)
      if (count === 1) continue
      const object = `jump from ${jump.table} ${jump.from} to ${jump.to}`
      const one = { layer: this.name, kind: 'rule', object, state: count === 0 ? 'missing' : 'changed' }
      if (judge(one)) {
        drift.push(one)
        continue
      }
      const others =
        kernel
          .get(jump.table)
          ?.get(jump.from)
          ?.rules.filter((rule) => !this.#equal(jump.rule, rule)) ?? []
      this.#leave(kernel, jump.table, jump.from, [canonicalRule(jump.rule), ...others])
    }
    return drift
  }

  /** Takes a chain to be of these rules, though it is not; the next look must read it again. */
  #leave(kernel: Kernel, table: Table, name: string, rules: readonly string[]): void {
    const saved = new Map(kernel.get(table))
    saved.set(name, { policy: saved.get(name)?.policy ?? '-', rules: [...rules] })
    kernel.set(table, saved)
    this.#readAt = undefined
  }

  async add(): Promise<Outcome> {
    if (this.#settled) return { applied: 0, refused: noOwners }
    try {
      const kernel = await this.#read()
      const goal = both(this.#inForce ?? nothing, this.#wish)
      const { chains: all, jumps: wanted } = this.#rules(goal)
      const chains = all.filter((chain) => !this.#isServing(kernel, chain))
      const missing = chains.filter((chain) => !this.#stands(kernel, chain))
      const applied = await this.#write(kernel, missing, wanted)
      this.#inForce = goal
      this.#remember({ chains, jumps: wanted })
      return { applied, refused: noOwners }
    } catch (error) {
      return this.#failed(error)
    }
  }

  async remove(held: ReadonlySet<Owner>, failed: ReadonlySet<string> = new Set()): Promise<Outcome> {
    if (this.#settled) return { applied: 0, refused: noOwners }
    try {
      const taken = failed.size > 0 ? 0 : await this.#takeOver()
      // What a held owner gave up still serves, and it is not known here which rules it needs.
      if (held.size > 0) return { applied: taken, refused: noOwners }
      const kernel = await this.#read()
      const before = this.#inForce ?? nothing
      // Only what is both in force and wanted: growth is add's, for which this layer's foundations must stand.
      const goal = common(before, this.#wish)
      const old = new Map(this.#rules(before).chains.map((chain) => [chainKey(chain), chain.rules.join('\n')]))
      const set = this.#rules(goal)
      const chains = set.chains.filter(
        (chain) => old.get(chainKey(chain)) !== chain.rules.join('\n') && !this.#stands(kernel, chain),
      )
      const applied = await this.#write(kernel, chains, [])
      this.#inForce = goal
      for (const chain of chains) this.#stoodChains.set(chainKey(chain), chain)
      this.#settled = failed.size === 0 && sameWish(goal, this.#wish)
      return { applied: taken + applied, refused: noOwners }
    } catch (error) {
      return this.#failed(error)
    }
  }

  /**
   * Whether a chain that both modes have is iptables mode's still: it leads to the chains of Services, which serve until
   * virtual servers and addresses stand. Once it has been ours, such rules in it are drift like any other.
   */
  #isServing(kernel: Kernel, chain: Chain): boolean {
    if (this.#stoodChains.has(chainKey(chain))) return false
    const rules = kernel.get(chain.table)?.get(chain.name)?.rules ?? []
    return rules.some((rule) => isOfIptablesMode(targetOf(rule)))
  }

  /** Puts our rules into chains that iptables mode serves by. All that serves instead has to stand. */
  async #takeOver(): Promise<number> {
    const kernel = await this.#read()
    const chains = this.#rules(this.#inForce ?? nothing).chains.filter((chain) => this.#isServing(kernel, chain))
    const applied = await this.#write(kernel, chains, [])
    for (const chain of chains) this.#stoodChains.set(chainKey(chain), chain)
    return applied
  }

  /**
   * Takes our jumps and chains out of both tables. A chain that a foreign rule leads to is emptied but stays, for that
   * rule would dangle. Answers the chains that stay.
   */
  async cleanup(): Promise<readonly string[]> {
    this.#kernel = undefined
    const kernel = await this.#read()
    const kept: string[] = []
    const inputs: TableInput[] = []
    for (const table of tables) {
      const saved = kernel.get(table)
      if (!saved) continue
      const declare = ownChains[table].filter((name) => saved.has(name))
      const mine = new Set(declare)
      const commands: string[] = []
      const foreign = new Set<string>()
      for (const [name, chain] of saved) {
        if (mine.has(name)) continue
        for (const rule of chain.rules) {
          const jump = jumps.find((one) => one.table === table && one.from === name && this.#equal(one.rule, rule))
          const target = targetOf(rule)
          if (jump) commands.push(`-D ${name} ${jump.rule}`)
          else if (target !== undefined && mine.has(target)) foreign.add(target)
        }
      }
      for (const name of declare) {
        if (foreign.has(name)) kept.push(`${table} ${name}`)
        else commands.push(`-X ${name}`)
      }
      inputs.push({ table, declare, commands })
    }
    const input = writeRestore(inputs)
    if (kept.length > 0) this.#log.warn('chains stay because foreign rules lead to them', { chains: kept })
    this.#forget()
    if (input !== '') await this.#options.iptables.restore(input)
    return kept
  }

  #rules(wish: Wish): ChainSet {
    const { family, rules } = this.#options
    const { nonEmpty, drops, localDetector } = wish
    return buildRules({ ...rules, family, nonEmpty, outFilterDrops: drops, localDetector })
  }

  async #read(): Promise<Kernel> {
    if (this.#kernel) return this.#kernel
    const kernel = await this.#readTables()
    this.#inForce ??= this.#adopt(kernel)
    this.#kernel = kernel
    return kernel
  }

  async #readTables(): Promise<Kernel> {
    const kernel: Kernel = new Map()
    await Promise.all(tables.map(async (table) => kernel.set(table, await this.#readTable(table))))
    return kernel
  }

  async #readTable(table: Table): Promise<SavedTable> {
    // The nft variant prints nothing of a table that does not exist yet.
    return parseSave(await this.#options.iptables.save(table)).get(table) ?? new Map()
  }

  /** What the rules found at the first look are made for: what they serve may still stand. */
  #adopt(kernel: Kernel): Wish {
    const holds = (chain: Chain, rule: string) =>
      kernel
        .get(chain.table)
        ?.get(chain.name)
        ?.rules.some((found) => this.#equal(rule, found)) ?? false
    const always = new Set(this.#rules(nothing).chains.flatMap((chain) => chain.rules.map((r) => chainKey(chain) + r)))
    const nonEmpty = conditionalRoles.filter((role) =>
      this.#rules({ ...this.#wish, nonEmpty: new Set([role]), drops: [] }).chains.some((chain) =>
        chain.rules.some((rule) => !always.has(chainKey(chain) + rule) && holds(chain, rule)),
      ),
    )
    const out = kernel.get('filter')?.get('KUBE-IPVS-OUT-FILTER')?.rules ?? []
    const drops = out.map(parseDropRule).filter((drop) => drop !== undefined)
    return { nonEmpty: new Set(nonEmpty), drops, localDetector: this.#wish.localDetector }
  }

  #equal(ours: string, found: string): boolean {
    const text = canonicalRule(ours)
    return text === found || this.#printed.get(text) === found
  }

  #same(chain: Chain, found: readonly string[]): boolean {
    if (chain.rules.length !== found.length) return false
    if (!chain.anyOrder) return chain.rules.every((rule, i) => this.#equal(rule, found[i]!))
    const left = new Set(found)
    for (const rule of chain.rules) {
      const text = canonicalRule(rule)
      if (!left.delete(text) && !left.delete(this.#printed.get(text) ?? text)) return false
    }
    return left.size === 0
  }

  #stands(kernel: Kernel, chain: Chain): boolean {
    const saved = kernel.get(chain.table)?.get(chain.name)
    return saved !== undefined && this.#same(chain, saved.rules)
  }

  #count(kernel: Kernel, jump: Jump): number {
    const rules = kernel.get(jump.table)?.get(jump.from)?.rules ?? []
    return rules.filter((rule) => this.#equal(jump.rule, rule)).length
  }

  /** One restore with these chains in full and each of these jumps exactly once. Answers how many things it changed. */
  async #write(kernel: Kernel, chains: readonly Chain[], wanted: readonly Jump[]): Promise<number> {
    const counted = wanted.map((jump) => ({ jump, count: this.#count(kernel, jump) })).filter((one) => one.count !== 1)
    const changed = chains.length + counted.length
    if (changed === 0) return 0
    const inputs = tables.map((table): TableInput => {
      const mine = chains.filter((chain) => chain.table === table)
      return {
        table,
        declare: mine.map((chain) => chain.name),
        commands: [
          ...mine.flatMap((chain) => chain.rules.map((rule) => `-A ${chain.name} ${rule}`)),
          ...counted
            .filter(({ jump }) => jump.table === table)
            .flatMap(({ jump, count }) =>
              count === 0
                ? [`-I ${jump.from} 1 ${jump.rule}`]
                : Array.from({ length: count - 1 }, () => `-D ${jump.from} ${jump.rule}`),
            ),
        ],
      }
    })
    // Until it has succeeded nobody knows what stands: the tables are committed one after the other.
    this.#kernel = undefined
    this.#readAt = undefined
    this.#settled = false
    for (const chain of chains) this.#stoodChains.delete(chainKey(chain))
    for (const { jump } of counted) this.#stoodJumps.delete(jumpKey(jump))
    await this.#guard.write(async () => {
      try {
        await this.#options.iptables.restore(writeRestore(inputs))
      } catch (error) {
        this.#options.onRestoreFailure?.()
        throw error
      }
      const now: Kernel = new Map(kernel)
      const touched = new Set([...chains, ...counted.map(({ jump }) => jump)].map((one) => one.table))
      for (const table of touched) now.set(table, await this.#readTable(table))
      const inserted = counted.map(({ jump }) => jump)
      this.#learn(now, chains, inserted)
      this.#kernel = now
    })
    this.#log.v(2, 'iptables rules written', { chains: chains.map(chainKey), jumps: counted.length })
    return changed
  }

  /** Just after a write: what is printed otherwise than written is the same rule, or every pass would write it again. */
  #learn(kernel: Kernel, chains: readonly Chain[], inserted: readonly Jump[]): void {
    const learn = (ours: string, found: string | undefined) => {
      const text = canonicalRule(ours)
      if (found === undefined || this.#equal(ours, found) || targetOf(ours) !== targetOf(found)) return
      this.#log.v(2, 'iptables prints a rule otherwise than it was written', { written: text, printed: found })
      this.#printed.set(text, found)
    }
    for (const chain of chains) {
      const found = kernel.get(chain.table)?.get(chain.name)?.rules
      if (found?.length === chain.rules.length && !this.#same(chain, found))
        for (const [i, rule] of chain.rules.entries()) learn(rule, found[i])
    }
    for (const jump of inserted) {
      if (this.#count(kernel, jump) > 0) continue
      const rules = kernel.get(jump.table)?.get(jump.from)?.rules ?? []
      learn(
        jump.rule,
        rules.find((rule) => targetOf(rule) === jump.to),
      )
    }
  }

  #remember(set: ChainSet): void {
    for (const chain of set.chains) this.#stoodChains.set(chainKey(chain), chain)
    for (const jump of set.jumps) this.#stoodJumps.set(jumpKey(jump), jump)
  }

  #forget(): void {
    this.#kernel = undefined
    this.#readAt = undefined
    this.#settled = false
    this.#inForce = undefined
    this.#stoodChains.clear()
    this.#stoodJumps.clear()
  }

  #failed(error: unknown): Outcome {
    const broken = error instanceof Error ? error : new ProxyError('COMMAND', String(error))
    return { applied: 0, refused: noOwners, broken }
  }
}
