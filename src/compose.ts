import { setSpec, setComment } from './ipset/catalogue.ts'
import type { Dummy } from './dummy/dummy.ts'
import { DummyLayer } from './dummy/layer.ts'
import type { Ipset } from './ipset/ipset.ts'
import { IpsetLayer } from './ipset/layer.ts'
import type { RuleGeneration } from './iptables/generation.ts'
import type { Iptables } from './iptables/iptables.ts'
import { IptablesLayer } from './iptables/layer.ts'
import type { RuleSettings } from './iptables/rules.ts'
import type { Ipvs } from './ipvs/ipvs.ts'
import { IpvsLayer } from './ipvs/layer.ts'
import { systemClock } from './lib/clock.ts'
import type { Log } from './lib/log.ts'
import type { FamilyFigures } from './metrics/figures.ts'
import { familyOf, type Cidr, type Family } from './model/address.ts'
import type { ClusterListener, NodeRecord } from './model/cluster.ts'
import type { LocalDetector } from './model/local-detector.ts'
import { readNodeAddresses } from './open.ts'
import type { ExternalRanges } from './proxier/external-addresses.ts'
import { Ledger } from './proxier/ledger.ts'
import { Proxier, type ProxierObserver, type ProxierOptions, type ProxierParts } from './proxier/proxier.ts'
import type { WantedSource } from './wanted/local.ts'

/** Settings of the data path, as the configuration gives them. Durations in milliseconds. */
export interface FamilySettings {
  readonly nodeName: string
  readonly scheduler: string
  readonly nodePortRanges: readonly Cidr[] | 'primary'
  readonly minSyncPeriod: number
  readonly syncPeriod: number
  readonly excludeCIDRs: readonly Cidr[]
  readonly masqueradeBit: number
  readonly masqueradeAll: boolean
  readonly localDetector: DetectorOf
  /** detectLocalMode NodeCIDR: nothing is written before the Node has a podCIDR. */
  readonly needsPodCIDR: boolean
  /** The node's IPs where the configuration names them. */
  readonly nodeIPs: readonly string[]
  readonly strictExternal: boolean
  readonly externalRanges: ExternalRanges
  /** Milliseconds; 0: as long as connections last. */
  readonly drainTimeout: number
}

/** The way to tell a pod of this node; undefined: there is none for the family. */
export type DetectorOf = (family: Family, podCIDRs: readonly string[]) => LocalDetector | undefined

/** What a joining node needs before all else: the API server's own Service, then names. */
const first: ReadonlySet<string> = new Set(['default/kubernetes', 'kube-system/kube-dns'])

/** What one family's rules depend on as long as the process runs. */
export function ruleSettings(family: Family, settings: FamilySettings, randomFully: boolean): RuleSettings {
  return {
    setName: (role) => setSpec(role, family).name,
    comment: setComment,
    masqueradeBit: settings.masqueradeBit,
    masqueradeAll: settings.masqueradeAll,
    randomFully,
  }
}

/** One family's part of the settings, as the proxier takes it. */
export function proxierOptions(family: Family, settings: FamilySettings, log: Log): ProxierOptions {
  return {
    family,
    nodeName: settings.nodeName,
    scheduler: settings.scheduler,
    nodePortRanges: settings.nodePortRanges,
    nodeIP: settings.nodeIPs.find((address) => familyOf(address) === family) ?? '',
    strictExternal: settings.strictExternal,
    externalRanges: settings.externalRanges,
    localDetector: (podCIDRs) => settings.localDetector(family, podCIDRs),
    needsPodCIDR: settings.needsPodCIDR,
    first,
    minSyncPeriod: settings.minSyncPeriod,
    syncPeriod: settings.syncPeriod,
    clock: systemClock,
    log,
  }
}

/** What a pass does beside the kernel's state. */
export type Effects = Pick<ProxierParts, 'flows' | 'serviceHealth'>

/** The kernel as the layers need it. */
export interface LayerPorts {
  readonly ipvs: Ipvs
  readonly ipset: Ipset
  readonly dummy: Dummy
  readonly generation?: RuleGeneration
}

/** One family's ledger, layers and the proxier over them. */
export interface FamilyStack {
  readonly proxier: Proxier
  readonly ledger: Ledger
  /** For commands. */
  readonly wanted: WantedSource
  /** For scrapes. */
  readonly figures: FamilyFigures
}

/** The proxier of a family's stack. */
export function buildFamily(...parts: Parameters<typeof buildStack>): Proxier {
  return buildStack(...parts).proxier
}

export function buildStack(
  family: Family,
  settings: FamilySettings,
  kernel: LayerPorts,
  iptables: Iptables & { readonly randomFully: boolean },
  log: Log,
  observer: ProxierObserver & { restoreFailed(family: Family): void },
  effects: Effects,
): FamilyStack {
  const excludeCIDRs = settings.excludeCIDRs.filter((cidr) => cidr.family === family)
  const ledger: Ledger = new Ledger(
    {
      sets: { want: (role, entry) => sets.want(role, entry), unwant: (role, entry) => sets.unwant(role, entry) },
      servers: { want: (key, want) => servers.want(key, want), unwant: (key) => servers.unwant(key) },
      addresses: { want: (address) => addresses.want(address), unwant: (address) => addresses.unwant(address) },
    },
    ({ server, winner, loser }) =>
      log.warn('Two Services claim one virtual server; the winner has it, the other waits', {
        object: server,
        winner,
        loser,
      }),
  )
  const sets = new IpsetLayer({
    family,
    ipset: kernel.ipset,
    log,
    ownersOf: (role, entry) => ledger.memberOwners(role, entry),
  })
  const rules = new IptablesLayer({
    family,
    iptables,
    log,
    rules: ruleSettings(family, settings, iptables.randomFully),
    onRestoreFailure: () => observer.restoreFailed(family),
    ...(iptables.variant === 'nft' && kernel.generation !== undefined
      ? { generation: () => kernel.generation!.read() }
      : {}),
  })
  const servers = new IpvsLayer({
    family,
    ipvs: kernel.ipvs,
    log,
    excludeCIDRs,
    ownersOf: (key) => ledger.serverOwners(key),
    drainTimeout: settings.drainTimeout,
    clock: systemClock,
  })
  const addresses = new DummyLayer({
    family,
    dummy: kernel.dummy,
    log,
    excludeCIDRs,
    ownersOf: (address) => ledger.addressOwners(address),
    speaksForDevice: family === 'IPv4',
  })
  const proxier = new Proxier(proxierOptions(family, settings, log), {
    ledger,
    layers: [sets, rules, servers, addresses],
    rules,
    readNodeAddresses: () => readNodeAddresses(kernel.dummy, family),
    observer,
    ...effects,
  })
  const wanted: WantedSource = {
    family,
    ledger,
    rules: () => rules.wanted,
    setSums: () => sets.wantedSums(),
    addressSum: () => addresses.wantedSum,
  }
  return { proxier, ledger, wanted, figures: figuresOf(proxier, sets, rules, servers, addresses) }
}

function figuresOf(
  proxier: Proxier,
  sets: IpsetLayer,
  rules: IptablesLayer,
  servers: IpvsLayer,
  addresses: DummyLayer,
): FamilyFigures {
  return {
    *counts() {
      for (const layer of [sets, rules, servers, addresses]) {
        for (const count of layer.counts()) yield { layer: layer.name, ...count }
      }
    },
    sets: () => sets.fill(),
    get draining() {
      return servers.drainingCount
    },
    get longestDrain() {
      return servers.longestDrain
    },
    drainingDestinations: () => servers.draining(),
    get connections() {
      return servers.connections
    },
    get lastLook() {
      return proxier.lastLook
    },
  }
}

/** Hands the cluster's objects to every family; a slice goes to the one of its address type. */
export function dispatch(
  proxiers: ReadonlyMap<Family, Proxier>,
  heard: { service(): void; slice(): void; node(node: NodeRecord | undefined): void },
): ClusterListener {
  return {
    serviceChanged: (key, service) => {
      heard.service()
      for (const proxier of proxiers.values()) proxier.serviceChanged(key, service)
    },
    sliceChanged: (key, slice) => {
      heard.slice()
      for (const proxier of proxiers.values()) proxier.sliceChanged(key, slice)
    },
    nodeChanged: (node) => {
      heard.node(node)
      for (const proxier of proxiers.values()) proxier.nodeChanged(node)
    },
    synced: (kind) => {
      if (kind === 'node') return
      for (const proxier of proxiers.values()) proxier.synced(kind)
    },
  }
}
