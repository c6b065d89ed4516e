import { buildFamily, dispatch, type Effects, type FamilySettings } from '../../../src/compose.ts'
import { describeError } from '../../../src/lib/errors.ts'
import type { Fields, Log } from '../../../src/lib/log.ts'
import { parseCidr, type Family } from '../../../src/model/address.ts'
import type { ClusterListener } from '../../../src/model/cluster.ts'
import { anyExternal } from '../../../src/proxier/external-addresses.ts'
import type { PassReport, Proxier } from '../../../src/proxier/proxier.ts'
import type { Drift } from '../../../src/reconcile/layer.ts'
import type { StackSettings } from './events.ts'
import { excludedRanges, nodeName } from './generator.ts'
import { detector, ranges } from './plan.ts'
import type { Ports } from './tamper.ts'

export interface StackOptions {
  readonly settings: StackSettings
  /** Milliseconds between two passes that read the kernel back. */
  readonly syncPeriod: number
  readonly ports: ReadonlyMap<Family, Ports>
  /** Where the daemon's warnings and errors go. */
  readonly say: (line: string) => void
}

export type Told =
  | { readonly family: Family; readonly drift: Drift; readonly report?: never }
  | { readonly family: Family; readonly report: PassReport; readonly drift?: never }

/** The daemon's whole stack of both families, without its process: what run.ts builds, over ports of ours. */
export class Stack {
  readonly listener: ClusterListener
  /** What was told to the observer, in order: the drift that a pass found comes before its report. */
  readonly history: Told[] = []
  readonly #stop = new AbortController()
  readonly #proxiers: ReadonlyMap<Family, Proxier>
  #running: Promise<unknown> = Promise.resolve()
  failure: unknown

  constructor({ settings, syncPeriod, ports, say }: StackOptions) {
    const familySettings: FamilySettings = {
      nodeName,
      scheduler: settings.scheduler,
      nodePortRanges: ranges(settings),
      minSyncPeriod: 0,
      syncPeriod,
      excludeCIDRs: Object.values(excludedRanges).map((text) => parseCidr(text)!),
      masqueradeBit: settings.masqueradeBit,
      masqueradeAll: settings.masqueradeAll,
      localDetector: (family) => detector(settings, family),
      needsPodCIDR: false,
      nodeIPs: [],
      strictExternal: settings.strictExternal,
      externalRanges: anyExternal,
      drainTimeout: 0,
    }
    const observer = {
      queued: () => {},
      drift: (family: Family, drift: Drift) => void this.history.push({ family, drift }),
      passed: (report: PassReport) => void this.history.push({ family: report.family, report }),
      began: () => {},
      heldBack: () => {},
      clash: () => {},
      refused: () => {},
      restoreFailed: () => {},
    }
    const noEffects: Effects = {
      flows: { touch: () => {}, run: () => Promise.resolve() },
      serviceHealth: { set: () => {}, setHosts: () => {}, apply: () => Promise.resolve() },
    }
    this.#proxiers = new Map(
      [...ports].map(([family, own]) => [
        family,
        buildFamily(family, familySettings, own, own.iptables.get(family)!, collectingLog(say), observer, noEffects),
      ]),
    )
    this.listener = dispatch(this.#proxiers, { service: () => {}, slice: () => {}, node: () => {} })
  }

  /** As the daemon's address monitor tells of the node's own addresses. */
  addressesChanged(): void {
    for (const proxier of this.#proxiers.values()) proxier.addressesChanged()
  }

  start(): void {
    const { signal } = this.#stop
    this.#running = Promise.all([...this.#proxiers.values()].map((proxier) => proxier.run(signal))).catch(
      (error: unknown) => {
        this.failure = error
      },
    )
  }

  /** Ends it as SIGTERM does: the pass at work comes to its end. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }
}

export function describeReport(report: PassReport): string {
  const failures = report.failures.map(({ layer, error }) => `${layer}: ${describeError(error)}`)
  const refused = [...report.refused].map(([owner, error]) => `${owner}: ${describeError(error)}`)
  const { family, reason, planned, written } = report
  const layers = [...written].map(([layer, count]) => `${layer} ${count}`)
  const words = [
    `${family} ${reason} planned ${planned} written ${layers.join(' ') || 'nothing'}`,
    ...failures,
    ...refused,
  ]
  return words.join('; ')
}

function collectingLog(say: (line: string) => void): Log {
  const line = (level: string) => (message: string, fields?: Fields) =>
    say(`${level} ${message} ${JSON.stringify(fields ?? {})}`)
  const log: Log = {
    error: line('error'),
    warn: line('warn'),
    info: () => {},
    v: () => {},
    isOn: () => false,
    child: () => log,
    setVerbosity: () => {},
  }
  return log
}
