import { portAt, type Cluster } from './explain/cluster.ts'
import type { PlanSettings } from './explain/wanted.ts'
import type { ProxierHealth } from './health/healthz.ts'
import type { Routes } from './health/server.ts'
import type { Ipvs } from './ipvs/ipvs.ts'
import { version } from './lib/version.ts'
import type { Family } from './model/address.ts'
import type { NodeRecord } from './model/cluster.ts'
import { History, withHistory } from './page/history.ts'
import { pageRoutes } from './page/routes.ts'
import type { FamilySources, PageSources } from './page/sources.ts'
import type { ProxierObserver, ProxierView } from './proxier/proxier.ts'
import type { ServiceTraffic } from './service-traffic.ts'

export interface PageParts {
  readonly settings: PlanSettings
  readonly families: ReadonlyMap<Family, FamilySources>
  readonly history: History
  readonly health: Pick<ProxierHealth, 'healthz'>
  readonly ipvs: Pick<Ipvs, 'find'>
  readonly traffic: Pick<ServiceTraffic, 'connections'>
}

/** The page of a session: it listens to the passes from the start, and answers once the parts are there. */
export class WebPage {
  readonly #history = new History()

  /** The observer, and the page's history beside it. */
  besides<T extends ProxierObserver>(observer: T): T {
    return withHistory(observer, this.#history)
  }

  routes(parts: Omit<PageParts, 'history'>): Routes {
    return pageRoutes(pageSources({ ...parts, history: this.#history }))
  }
}

/** What the page sees of a session's parts. */
export function pageSources({ settings, families, history, health, ipvs, traffic }: PageParts): PageSources {
  const cluster = clusterOf([...families.values()].map(({ view }) => view))
  return {
    nodeName: settings.nodeName,
    version,
    startedAt: performance.timeOrigin,
    families,
    history,
    trouble: () => {
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- our own answer
      const { reason = '' } = JSON.parse(health.healthz().body) as { readonly reason?: string }
      return reason
    },
    findServer: (server) => ipvs.find(server),
    connections: () => traffic.connections(),
    explain: async (request, signal) => {
      // The walk is loaded when it is first asked for: a daemon that nobody asks does not carry it.
      const { explainHere } = await import('./explain/run.ts')
      return explainHere(request, { cluster, settings }, signal)
    },
  }
}

/** The cluster's objects as the daemon has them: nothing is asked of the API server. Pods are not known by name. */
export function clusterOf(views: readonly (() => ProxierView)[]): Cluster {
  const node = (): NodeRecord | undefined => {
    for (const view of views) {
      const known = view().node
      if (known !== undefined) return known
    }
    return undefined
  }
  return {
    service: async (key) => {
      for (const view of views) {
        const service = view().service(key)
        if (service !== undefined) return service
      }
      return undefined
    },
    serviceAt: async (address, port, protocol) => {
      for (const view of views) {
        const state = view()
        const isNode = state.facts.nodeAddresses.has(address)
        for (const service of state.services()) {
          if (portAt(service, address, port, protocol, isNode) !== undefined) return service
        }
      }
      return undefined
    },
    slices: async (key) => views.flatMap((view) => view().slices(key)),
    node: async () => node(),
    podAddresses: async () => [],
  }
}
