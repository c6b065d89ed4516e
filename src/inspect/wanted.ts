import { dispatch, proxierOptions, ruleSettings, type FamilySettings } from '../compose.ts'
import { buildRules, type ChainSet } from '../iptables/rules.ts'
import type { KnownServer } from '../ipvs/ipvs.ts'
import { ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { Family } from '../model/address.ts'
import type { ClusterListener } from '../model/cluster.ts'
import type { LocalDetector } from '../model/local-detector.ts'
import type { SetRole } from '../model/sets.ts'
import type { OutFilterDrop } from '../proxier/contribution.ts'
import { Ledger } from '../proxier/ledger.ts'
import { Proxier, type PassReport } from '../proxier/proxier.ts'

/** What one family of this node should have in the kernel. */
export interface Wanted {
  readonly family: Family
  readonly servers: ReadonlyMap<string, KnownServer>
  readonly sets: ReadonlyMap<SetRole, ReadonlySet<string>>
  readonly rules: ChainSet
  readonly addresses: ReadonlySet<string>
  readonly owners: Pick<Ledger, 'serverOwners' | 'memberOwners' | 'addressOwners'>
  /** Service addresses that are addresses of the node's own, too, by the service port that has them. */
  readonly clashes: readonly { readonly owner: string; readonly address: string }[]
  /** Virtual servers that two service ports claim. */
  readonly conflicts: readonly { readonly server: string; readonly winner: string; readonly loser: string }[]
}

export interface WantedOptions {
  readonly family: Family
  readonly settings: FamilySettings
  /** Addresses of the family on the node's links but the dummy device. */
  readonly nodeAddresses: readonly string[]
  /** Whether iptables knows MASQUERADE --random-fully. */
  readonly randomFully: boolean
  readonly log: Log
}

/**
 * The daemon's own proxier, planner and ledger over sinks that gather instead of layers that write: what comes out is what
 * the daemon would write, without the cost of a kernel in memory.
 */
export class WantedFamily {
  readonly #options: WantedOptions
  readonly #servers = new Map<string, KnownServer>()
  readonly #sets = new Map<SetRole, Set<string>>()
  readonly #addresses = new Set<string>()
  readonly #clashes: { owner: string; address: string }[] = []
  readonly #conflicts = new Map<string, { server: string; winner: string; loser: string }>()
  readonly #ledger: Ledger
  readonly #proxier: Proxier
  readonly #passed = Promise.withResolvers<PassReport>()
  #rules: ChainSet = { chains: [], jumps: [] }

  constructor(options: WantedOptions) {
    this.#options = options
    const { family, settings, nodeAddresses, log } = options
    this.#ledger = new Ledger(
      {
        sets: {
          want: (role, entry) => void this.#set(role).add(entry),
          unwant: (role, entry) => void this.#set(role).delete(entry),
        },
        servers: {
          want: (key, want) => void this.#servers.set(key, want),
          unwant: (key) => void this.#servers.delete(key),
        },
        addresses: {
          want: (address) => void this.#addresses.add(address),
          unwant: (address) => void this.#addresses.delete(address),
        },
      },
      (conflict) => void this.#conflicts.set(`${conflict.server} ${conflict.loser}`, conflict),
    )
    this.#proxier = new Proxier(proxierOptions(family, settings, log), {
      ledger: this.#ledger,
      layers: [],
      rules: { want: (nonEmpty, drops, detector) => this.#wantRules(nonEmpty, drops, detector) },
      readNodeAddresses: () => Promise.resolve(nodeAddresses),
      observer: {
        queued: () => {},
        drift: () => {},
        clash: (_family, owner, address) => void this.#clashes.push({ owner, address }),
        passed: (report) => this.#passed.resolve(report),
      },
      flows: { touch: () => {}, run: () => Promise.resolve() },
      serviceHealth: { set: () => {}, setHosts: () => {}, apply: () => Promise.resolve() },
    })
  }

  get family(): Family {
    return this.#options.family
  }

  /** Hears of the cluster's objects as the daemon's proxier does. */
  get proxier(): Proxier {
    return this.#proxier
  }

  /** To be called when everything was told. Throws ProxyError OBJECT where the daemon would not write anything yet. */
  async wanted(): Promise<Wanted> {
    if (this.#proxier.lacksPodCIDR) {
      throw new ProxyError(
        'OBJECT',
        `the Node has no podCIDR of ${this.#options.family}: the daemon writes nothing yet`,
        {
          advice: 'detectLocalMode NodeCIDR needs one; look at spec.podCIDRs of the Node',
        },
      )
    }
    const stop = new AbortController()
    const running = this.#proxier.run(stop.signal)
    await this.#passed.promise
    stop.abort()
    await running
    return {
      family: this.#options.family,
      servers: this.#servers,
      sets: this.#sets,
      rules: this.#rules,
      addresses: this.#addresses,
      owners: this.#ledger,
      clashes: this.#clashes,
      conflicts: [...this.#conflicts.values()],
    }
  }

  #set(role: SetRole): Set<string> {
    let entries = this.#sets.get(role)
    if (entries === undefined) this.#sets.set(role, (entries = new Set()))
    return entries
  }

  /** The last ones said before the pass ends are those in force after it. */
  #wantRules(
    nonEmpty: ReadonlySet<SetRole>,
    outFilterDrops: readonly OutFilterDrop[],
    localDetector: LocalDetector | undefined,
  ): void {
    const { family, settings, randomFully } = this.#options
    const facts = { ...ruleSettings(family, settings, randomFully), family, nonEmpty, outFilterDrops, localDetector }
    this.#rules = buildRules(facts)
  }
}

/** Hands the cluster's objects to every family, as the daemon does. */
export function listenerOf(families: readonly WantedFamily[]): ClusterListener {
  const proxiers = new Map(families.map(({ family, proxier }) => [family, proxier]))
  return dispatch(proxiers, { service: () => {}, slice: () => {}, node: () => {} })
}
