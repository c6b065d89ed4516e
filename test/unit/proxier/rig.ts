import { buildStack, type Effects, type FamilySettings, type FamilyStack } from '../../../src/compose.ts'
import { FakeDummy } from '../../../src/dummy/fake-dummy.ts'
import { FakeIpset } from '../../../src/ipset/fake-ipset.ts'
import { FakeIptables } from '../../../src/iptables/fake-iptables.ts'
import { FakeIpvs } from '../../../src/ipvs/fake-ipvs.ts'
import { silentLog, type Log } from '../../../src/lib/log.ts'
import type { Family } from '../../../src/model/address.ts'
import { anyExternal } from '../../../src/proxier/external-addresses.ts'
import type { PassReport, Proxier, ProxierObserver } from '../../../src/proxier/proxier.ts'
import type { Drift } from '../../../src/reconcile/layer.ts'

export const usualSettings: FamilySettings = {
  nodeName: 'node1',
  scheduler: 'rr',
  nodePortRanges: [],
  minSyncPeriod: 0,
  syncPeriod: 3_600_000,
  excludeCIDRs: [],
  masqueradeBit: 14,
  masqueradeAll: false,
  localDetector: () => undefined,
  needsPodCIDR: false,
  nodeIPs: [],
  strictExternal: false,
  externalRanges: anyExternal,
  drainTimeout: 0,
}

/** The whole stack of one family over fakes of the kernel. */
export class Rig {
  readonly ipvs: FakeIpvs
  readonly ipset: FakeIpset
  readonly dummy: FakeDummy
  readonly iptables: FakeIptables & { readonly randomFully: boolean }
  readonly reports: PassReport[] = []
  readonly drifts: Drift[] = []
  /** What was left for now because it is changed again and again. */
  readonly heldBack: Drift[] = []
  /** Clashes, touched flows and health check servers, as told. */
  readonly told: string[] = []
  /** Warnings and errors as written. */
  readonly warnings: string[] = []
  readonly errors: string[] = []
  readonly proxier: Proxier
  readonly stack: FamilyStack
  healthHosts: readonly string[] | 'all' | undefined
  readonly #stop = new AbortController()
  #running: Promise<void> | undefined
  #wake: (() => void) | undefined

  /**
   * `before`: the stack whose kernel this one finds; otherwise a device eth0 has the addresses, of a /24 or /64.
   */
  constructor(
    change: Partial<FamilySettings> = {},
    before?: Rig,
    { family = 'IPv4', addresses = ['192.168.0.1'] }: { family?: Family; addresses?: readonly string[] } = {},
  ) {
    this.ipvs = before?.ipvs ?? new FakeIpvs()
    this.ipset = before?.ipset ?? new FakeIpset()
    this.dummy = before?.dummy ?? new FakeDummy()
    this.iptables = before?.iptables ?? Object.assign(new FakeIptables(), { randomFully: true })
    if (before === undefined) {
      const eth0 = this.dummy.addLink('eth0', '')
      for (const address of addresses) this.dummy.addAddress(eth0, address, address.includes(':') ? 64 : 24)
    }
    const observer: ProxierObserver & { restoreFailed(): void } = {
      queued: () => {},
      drift: (_family, drift) => void this.drifts.push(drift),
      began: () => {},
      heldBack: (_family, drift) => void this.heldBack.push(drift),
      clash: (_family, owner, address) => void this.told.push(`clash ${owner} ${address}`),
      refused: (_family, service, { address, reason }) =>
        void this.told.push(`refused ${service} ${address}: ${reason}`),
      passed: (report) => {
        this.reports.push(report)
        this.#wake?.()
      },
      restoreFailed: () => {},
    }
    const effects: Effects = {
      flows: {
        touch: (frontend, backends) =>
          void this.told.push(`flows ${frontend} ${backends ? [...backends].join() : 'gone'}`),
        run: () => Promise.resolve(),
      },
      serviceHealth: {
        set: (key, want) => {
          if (want) this.told.push(`health ${key} ${want.port} ${want.localEndpoints}`)
        },
        setHosts: (hosts) => void (this.healthHosts = hosts),
        apply: () => Promise.resolve(),
      },
    }
    const log: Log = {
      ...silentLog,
      warn: (message, fields) => void this.warnings.push(JSON.stringify({ message, ...fields })),
      error: (message, fields) => void this.errors.push(JSON.stringify({ message, ...fields })),
    }
    this.stack = buildStack(family, { ...usualSettings, ...change }, this, this.iptables, log, observer, effects)
    this.proxier = this.stack.proxier
  }

  start(): void {
    this.#running = this.proxier.run(this.#stop.signal)
  }

  /** The report of the next pass that ends. */
  async next(): Promise<PassReport> {
    const count = this.reports.length
    while (this.reports.length === count) await new Promise<void>((wake) => (this.#wake = wake))
    return this.reports[count]!
  }

  /** All that is asked of the kernel in order to change it, since the last call. */
  writes(): string[] {
    const calls = [...this.ipset.calls, ...this.ipvs.calls, ...this.dummy.calls]
    for (const fake of [this.ipset, this.ipvs, this.dummy]) fake.calls.length = 0
    const restores = this.iptables.restores.splice(0).length
    const reads = /^(list|names|links|addresses|protocol|timeouts)/
    return [...calls.filter((call) => !reads.test(call)), ...Array.from({ length: restores }, () => 'restore')]
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }
}
