import { buildStack, type Effects } from '../../../src/compose.ts'
import { loadConfig } from '../../../src/config/load.ts'
import { FakeDummy } from '../../../src/dummy/fake-dummy.ts'
import { localDetectorOf } from '../../../src/settings.ts'
import { explain } from '../../../src/explain/explain.ts'
import { snapshotState } from '../../../src/explain/snapshot.ts'
import { ProxierHealth } from '../../../src/health/healthz.ts'
import { HttpServer } from '../../../src/health/server.ts'
import { FakeIpset } from '../../../src/ipset/fake-ipset.ts'
import { FakeIptables } from '../../../src/iptables/fake-iptables.ts'
import { FakeIpvs } from '../../../src/ipvs/fake-ipvs.ts'
import { translateEndpointSlice, translateNode, translateService } from '../../../src/kube/translate.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog, type Log } from '../../../src/lib/log.ts'
import { metricsRoutes } from '../../../src/metrics-routes.ts'
import { createMetrics, startAtZero } from '../../../src/metrics/metrics.ts'
import { parseCidr, type Family } from '../../../src/model/address.ts'
import { noEvents } from '../../../src/model/events.ts'
import { serverKey, type ServerId } from '../../../src/model/virtual-server.ts'
import { observe } from '../../../src/observe.ts'
import { History, withHistory } from '../../../src/page/history.ts'
import { pageRoutes } from '../../../src/page/routes.ts'
import type { FamilySources, PageSources } from '../../../src/page/sources.ts'
import type { Ledger } from '../../../src/proxier/ledger.ts'
import type { Proxier } from '../../../src/proxier/proxier.ts'
import { ServiceTraffic } from '../../../src/service-traffic.ts'
import { clusterOf as clusterOfViews, pageSources } from '../../../src/web-page.ts'
import { usualSettings } from '../proxier/rig.ts'

const families = ['IPv4', 'IPv6'] as const
const addresses: Readonly<Record<Family, string>> = { IPv4: '192.168.60.1', IPv6: 'fd60::1' }

const settings = {
  ...usualSettings,
  localDetector: localDetectorOf('ClusterCIDR', [parseCidr('10.128.0.0/9')!, parseCidr('fd44::/16')!], '', ''),
}

type Json = Readonly<Record<string, unknown>>

/** The daemon's own code of both families over fakes of the kernel, and its metrics port with the page. */
export class Stand {
  readonly ipvs = new FakeIpvs()
  readonly ipset = new FakeIpset()
  readonly dummy = new FakeDummy()
  readonly iptables = new Map<Family, FakeIptables & { readonly randomFully: boolean }>()
  readonly proxiers = new Map<Family, Proxier>()
  readonly history: History
  readonly sources: PageSources
  /** What went wrong on the way of an answer. */
  readonly errors: string[] = []
  readonly server: HttpServer
  readonly #families = new Map<Family, FamilySources>()
  readonly #stop = new AbortController()
  #running: Promise<unknown> | undefined
  #wake: (() => void) | undefined
  #passes = 0

  /** `now` is the history's clock; `explain` stands for the real one, which asks a snapshot of the fakes. */
  constructor({
    now = Date.now,
    explain: explainOtherwise,
    syncPeriod = 3_600_000,
    log: daemonLog = silentLog,
  }: { now?: () => number; explain?: PageSources['explain']; syncPeriod?: number; log?: Log } = {}) {
    this.history = new History({ now })
    const eth0 = this.dummy.addLink('eth0', '')
    for (const family of families) this.dummy.addAddress(eth0, addresses[family], family === 'IPv4' ? 24 : 64)
    const metrics = createMetrics()
    startAtZero(metrics, families)
    const health = new ProxierHealth(families, 60_000, true, systemClock, () => 'the kernel is being written')
    const observed = observe({ metrics, health, events: noEvents, log: daemonLog, syncPeriod, firstSync: () => {} })
    const observer = withHistory(observed, this.history)
    const effects: Effects = {
      flows: { touch: () => {}, run: () => Promise.resolve() },
      serviceHealth: { set: () => {}, setHosts: () => {}, apply: () => Promise.resolve() },
    }
    const told = {
      ...observer,
      passed: (report: Parameters<typeof observer.passed>[0]) => {
        observer.passed(report)
        this.#passes++
        this.#wake?.()
      },
    }
    const ledgers = new Map<Family, Ledger>()
    for (const family of families) {
      const iptables = Object.assign(new FakeIptables(), { randomFully: true })
      this.iptables.set(family, iptables)
      const stack = buildStack(family, { ...settings, syncPeriod }, this, iptables, daemonLog, told, effects)
      this.proxiers.set(family, stack.proxier)
      ledgers.set(family, stack.ledger)
      const { proxier, ledger, figures } = stack
      this.#families.set(family, { view: () => proxier.view, ledger, figures })
    }
    const traffic = new ServiceTraffic({ ipvs: this.ipvs, ledgers, limit: 500, log: silentLog })
    const sources = pageSources({
      settings,
      families: this.#families,
      history: this.history,
      health,
      ipvs: this.ipvs,
      traffic,
    })
    this.sources = { ...sources, explain: explainOtherwise ?? ((request) => this.#explain(request)) }
    const { config } = loadConfig({ flags: new Map() })
    const log = {
      ...silentLog,
      error: (message: string, fields?: object) => void this.errors.push(JSON.stringify({ message, ...fields })),
    }
    const routes = metricsRoutes(config, metrics, log, (format) => traffic.series(format), pageRoutes(this.sources))
    this.server = new HttpServer({ name: 'test', at: { host: '127.0.0.1', port: 0 }, hardFail: true, routes, log })
  }

  /** Objects as the API server would give them. */
  tell(objects: Iterable<Json>): void {
    for (const object of objects) {
      const { namespace = '', name = '' } = object.metadata as { namespace?: string; name?: string }
      const key = `${namespace}/${name}`
      for (const proxier of this.proxiers.values()) {
        if (object.kind === 'Service')
          proxier.serviceChanged(
            key,
            translateService(object, () => {}),
          )
        else if (object.kind === 'Node') proxier.nodeChanged(translateNode(object, () => {}))
        else
          proxier.sliceChanged(
            key,
            translateEndpointSlice(object, settings.nodeName, () => {}),
          )
      }
    }
  }

  /** Has the objects written into the fakes and the port opened; answers its address. */
  async start(): Promise<string> {
    for (const proxier of this.proxiers.values()) {
      proxier.synced('services')
      proxier.synced('endpointslices')
    }
    this.#running = Promise.all([...this.proxiers.values()].map((proxier) => proxier.run(this.#stop.signal)))
    await this.passes(families.length)
    await this.server.start()
    return `http://127.0.0.1:${this.server.port}`
  }

  /** Resolves when so many passes have ended since the start. */
  async passes(count: number): Promise<void> {
    while (this.#passes < count) await new Promise<void>((wake) => (this.#wake = wake))
  }

  get passCount(): number {
    return this.#passes
  }

  /** Lets connections stand on all destinations of a virtual server. */
  async connect(server: ServerId, active: number, inactive: number, rate = 0): Promise<void> {
    const found = await this.ipvs.find(server)
    if (found === undefined) throw new Error(`no virtual server ${serverKey(server)}`)
    for (const one of found.destinations) this.ipvs.setConnections(server, one, active, inactive)
    this.ipvs.setRate(server, rate)
  }

  /** As the daemon explains, on a kernel that is the fakes. */
  async #explain(request: Parameters<typeof explain>[0]): ReturnType<typeof explain> {
    const views = [...this.#families.values()].map(({ view }) => view)
    return explain(request, {
      cluster: clusterOfViews(views),
      settings,
      kernel: async (family) => {
        const names = await this.ipset.names()
        const listed = await Promise.all(names.map(async (name) => [name, (await this.ipset.list(name))!] as const))
        const device = (await this.dummy.links()).find(({ name }) => name === 'kube-ipvs0')!.index
        const bound = await this.dummy.addresses({ family, isOn: (index) => index === device })
        const [range, other] = family === 'IPv4' ? ['192.168.60.0/24', '0.0.0.0/0'] : ['fd60::/64', '::/0']
        const gateway = family === 'IPv4' ? '192.168.60.254' : 'fd60::fe'
        return snapshotState({
          family,
          ruleSets: [{ variant: 'nft', tables: this.iptables.get(family)!.tables }],
          sets: new Map(listed.map(([name, { spec, entries }]) => [name, { type: spec.type, entries }])),
          servers: (await this.ipvs.listAll()).filter(({ server }) => server.family === family),
          links: await this.dummy.links(),
          addresses: new Map([
            [addresses[family], 'eth0'],
            ...bound.map(({ address }) => [address, 'kube-ipvs0'] as const),
          ]),
          routes: [
            { to: range, link: 'eth0' },
            { to: other, link: 'eth0', gateway },
          ],
          sysctls: new Map([
            ['net/ipv4/vs/conntrack', '1'],
            ['net/ipv4/ip_forward', '1'],
            ['net/ipv4/conf/eth0/forwarding', '1'],
            ['net/ipv6/conf/all/forwarding', '1'],
          ]),
        })
      },
    })
  }

  async stop(): Promise<void> {
    this.server.close()
    this.#stop.abort()
    await this.#running
  }
}
