import { dispatch, proxierOptions, ruleSettings, type Effects, type FamilySettings } from '../compose.ts'
import { buildRules, type RuleFacts } from '../iptables/rules.ts'
import { ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { Family } from '../model/address.ts'
import type { ClusterListener, NodeRecord } from '../model/cluster.ts'
import { Ledger } from '../proxier/ledger.ts'
import { Proxier, type PassReport, type ProxierObserver } from '../proxier/proxier.ts'
import { localWanted } from '../wanted/local.ts'
import type { Wanted } from '../wanted/wanted.ts'

export interface WantedOptions {
  readonly family: Family
  readonly settings: FamilySettings
  /** Addresses of the family on the node's links but the dummy device. */
  readonly readNodeAddresses: () => Promise<readonly string[]>
  readonly log: Log
}

/** For a proxier that only plans: nobody hears of what it finds but at the end of the pass, and nothing comes of it. */
export const unobserved: Omit<ProxierObserver, 'passed'> = {
  began: () => {},
  queued: () => {},
  drift: () => {},
  heldBack: () => {},
  clash: () => {},
  refused: () => {},
}
export const noEffects: Effects = {
  flows: { touch: () => {}, run: () => Promise.resolve() },
  serviceHealth: { set: () => {}, setHosts: () => {}, apply: () => Promise.resolve() },
}

/**
 * The daemon's own proxier, planner and ledger over no layers at all: what the ledger then has is what the daemon would
 * write, without the cost of a kernel in memory.
 */
export class WantedFamily {
  readonly #options: WantedOptions
  /** What is wanted in the end. */
  readonly ledger: Ledger
  readonly #proxier: Proxier
  readonly #passed = Promise.withResolvers<PassReport>()
  #wish: Pick<RuleFacts, 'nonEmpty' | 'outFilterDrops' | 'localDetector'> | undefined

  constructor(options: WantedOptions) {
    this.#options = options
    const { family, settings, readNodeAddresses, log } = options
    const nobody = { want: () => {}, unwant: () => {} }
    this.ledger = new Ledger({ sets: nobody, servers: nobody, addresses: nobody })
    this.#proxier = new Proxier(proxierOptions(family, settings, log), {
      ledger: this.ledger,
      layers: [],
      rules: {
        want: (nonEmpty, outFilterDrops, localDetector) => {
          // The last ones said before the pass ends are those in force after it.
          this.#wish = { nonEmpty, outFilterDrops, localDetector }
        },
      },
      readNodeAddresses,
      observer: { ...unobserved, passed: (report) => this.#passed.resolve(report) },
      ...noEffects,
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
    const rules = buildRules({ ...ruleSettings(family, settings, randomFully), family, ...this.#wish! })
    return localWanted({ family, ledger: this.ledger, rules: () => rules })
  }
}

/** Hands the cluster's objects to every family, as the daemon does. */
export function dispatchTo(
  proxiers: Iterable<readonly [Family, Proxier]>,
  onNode: (node: NodeRecord | undefined) => void = () => {},
): ClusterListener {
  return dispatch(new Map(proxiers), { service: () => {}, slice: () => {}, node: onNode })
}
