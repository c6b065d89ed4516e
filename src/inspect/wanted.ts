import { dispatch, proxierOptions, ruleSettings, type FamilySettings } from '../compose.ts'
import { buildRules, type ChainSet, type RuleFacts } from '../iptables/rules.ts'
import type { KnownServer } from '../ipvs/ipvs.ts'
import { ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { Family } from '../model/address.ts'
import type { ClusterListener, NodeRecord } from '../model/cluster.ts'
import type { SetRole } from '../model/sets.ts'
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
  readonly readNodeAddresses: () => Promise<readonly string[]>
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
  #wish: Pick<RuleFacts, 'nonEmpty' | 'outFilterDrops' | 'localDetector'> | undefined

  constructor(options: WantedOptions) {
    this.#options = options
    const { family, settings, readNodeAddresses, log } = options
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
      rules: {
        want: (nonEmpty, outFilterDrops, localDetector) => {
          // The last ones said before the pass ends are those in force after it.
          this.#wish = { nonEmpty, outFilterDrops, localDetector }
        },
      },
      readNodeAddresses,
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

  /**
   * To be called once, when everything was told. `randomFully`: whether iptables knows MASQUERADE --random-fully. Throws
   * ProxyError OBJECT where the daemon would not write anything yet, and what kept it from reading the node's addresses.
   */
  async wanted(randomFully: boolean): Promise<Wanted> {
    const { family, settings } = this.#options
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
    const { failures } = await this.#passed.promise
    stop.abort()
    await running
    const [failure] = failures
    if (failure !== undefined) throw failure.error
    return {
      family,
      servers: this.#servers,
      sets: this.#sets,
      rules: buildRules({ ...ruleSettings(family, settings, randomFully), family, ...this.#wish! }),
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
}

/** Hands the cluster's objects to every family, as the daemon does. */
export function dispatchTo(
  proxiers: Iterable<readonly [Family, Proxier]>,
  onNode: (node: NodeRecord | undefined) => void = () => {},
): ClusterListener {
  return dispatch(new Map(proxiers), { service: () => {}, slice: () => {}, node: onNode })
}
