import { existsSync } from 'node:fs'
import { setSpec, setComment } from './ipset/catalogue.ts'
import type { Flows } from './conntrack/flows.ts'
import { KernelFlows } from './conntrack/kernel-flows.ts'
import type { Dummy } from './dummy/dummy.ts'
import { KernelDummy } from './dummy/kernel-dummy.ts'
import { deviceName, DummyLayer } from './dummy/layer.ts'
import type { Ipset } from './ipset/ipset.ts'
import { KernelIpset } from './ipset/kernel-ipset.ts'
import { IpsetLayer } from './ipset/layer.ts'
import { RuleGeneration } from './iptables/generation.ts'
import type { Iptables } from './iptables/iptables.ts'
import { IptablesLayer } from './iptables/layer.ts'
import { chooseVariant, IptablesTool, theHost } from './iptables/restore.ts'
import type { RuleSettings } from './iptables/rules.ts'
import type { Ipvs, IpvsTraffic } from './ipvs/ipvs.ts'
import { KernelIpvs } from './ipvs/kernel-ipvs.ts'
import { IpvsLayer } from './ipvs/layer.ts'
import { systemClock } from './lib/clock.ts'
import type { Log } from './lib/log.ts'
import type { RunCommand } from './lib/process.ts'
import type { FamilyFigures } from './metrics/figures.ts'
import { cidrText, familyOf, isIPv6LinkLocal, isLoopback, parseCidr, type Cidr, type Family } from './model/address.ts'
import type { ClusterListener, NodeRecord } from './model/cluster.ts'
import type { LocalDetector } from './model/local-detector.ts'
import { Connection, type CallObserver, type Traffic } from './netlink/connection.ts'
import { errnoName } from './netlink/errno.ts'
import { protocols } from './netlink/header.ts'
import { Ledger } from './proxier/ledger.ts'
import { Proxier, type ProxierObserver, type ProxierOptions, type ProxierParts } from './proxier/proxier.ts'

/** The kernel by netlink: one connection each, shared by the families. */
export interface Kernel {
  readonly ipvs: Ipvs & IpvsTraffic
  readonly ipset: Ipset
  readonly dummy: Dummy
  readonly flows: Flows
  readonly generation: RuleGeneration
  close(): void
}

/** Hears what the kernel is asked for, by layer: netlink messages as they go out, calls once they are answered. */
export interface KernelWatch {
  /** Counted up. */
  readonly traffic: Map<string, Traffic>
  answered(layer: string, operation: string, milliseconds: number): void
  /** `error`: errno by name, or "failed". */
  refused(layer: string, operation: string, error: string): void
}

export function openKernel(watch?: KernelWatch): Kernel {
  const connect = (layer: string, protocol: number) => (): Connection => {
    const counts = { messages: 0, sends: 0 }
    watch?.traffic.set(layer, counts)
    return Connection.open(protocol, { traffic: counts, observer: watch && observerOf(layer, watch) })
  }
  const ipvs = new KernelIpvs(connect('ipvs', protocols.generic))
  const ipset = new KernelIpset(connect('ipset', protocols.netfilter))
  const dummy = new KernelDummy(connect('dummy', protocols.route))
  const flows = new KernelFlows(connect('conntrack', protocols.netfilter))
  const generation = new RuleGeneration(connect('iptables', protocols.netfilter))
  return {
    ipvs,
    ipset,
    dummy,
    flows,
    generation,
    close: () => {
      for (const part of [ipvs, ipset, dummy, flows, generation]) part.close()
    },
  }
}

function observerOf(layer: string, watch: KernelWatch): CallObserver {
  return {
    answered: (operation, milliseconds) => watch.answered(layer, operation, milliseconds),
    refused: (operation, errno) => watch.refused(layer, operation, errno === 'failed' ? errno : errnoName(errno)),
  }
}

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
  /** Milliseconds; 0: as long as connections last. */
  readonly drainTimeout: number
}

/** The way to tell a pod of this node; undefined: there is none for the family. */
export type DetectorOf = (family: Family, podCIDRs: readonly string[]) => LocalDetector | undefined

/** What a joining node needs before all else: the API server's own Service, then names. */
const first: ReadonlySet<string> = new Set(['default/kubernetes', 'kube-system/kube-dns'])

/** iptables of the families that this node can serve: IPv4 always, IPv6 where the kernel has it. */
export async function openIptables(log: Log, watch?: KernelWatch): Promise<ReadonlyMap<Family, IptablesTool>> {
  const choice = await chooseVariant()
  const host = watch === undefined ? theHost : { ...theHost, run: watched(theHost.run, watch) }
  const tools = new Map<Family, IptablesTool>([['IPv4', await IptablesTool.open('IPv4', choice, host)]])
  const primary = tools.get('IPv4')!
  log.v(1, 'iptables chosen', { variant: primary.variant, version: primary.version, reason: choice.reason })
  if (existsSync('/proc/net/if_inet6')) {
    try {
      const tool = await IptablesTool.open('IPv6', choice, host)
      await tool.save('nat')
      tools.set('IPv6', tool)
    } catch (error) {
      log.warn('ip6tables is not usable, IPv6 Services are left out', { error: String(error) })
    }
  }
  return tools
}

/** Runs of iptables-save and iptables-restore, told. */
function watched(run: RunCommand, watch: KernelWatch): RunCommand {
  return async (command, args, options) => {
    const operation = /-(save|restore)$/.exec(command)?.[1]
    if (operation === undefined) return run(command, args, options)
    const began = performance.now()
    let code: number | undefined
    try {
      const result = await run(command, args, options)
      code = result.code
      return result
    } finally {
      watch.answered('iptables', operation, performance.now() - began)
      if (code !== 0) watch.refused('iptables', operation, 'failed')
    }
  }
}

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
      log.warn('Two Services claim one virtual server; the first by name has it', { object: server, winner, loser }),
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
  return { proxier, ledger, figures: figuresOf(proxier, sets, rules, servers, addresses) }
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
    drainingDestinations: () => servers.draining(),
    get connections() {
      return servers.connections
    },
    get lastLook() {
      return proxier.lastLook
    },
  }
}

/** Addresses of a family on all links but the dummy device, without loopback and IPv6 link-local ones. */
export async function readNodeAddresses(dummy: Dummy, family: Family): Promise<string[]> {
  const device = (await dummy.links()).find(({ name }) => name === deviceName)?.index
  const addresses = await dummy.addresses({ family, isOn: (linkIndex) => linkIndex !== device })
  const own = addresses.filter(({ address }) => !isLoopback(address) && !isIPv6LinkLocal(address))
  return [...new Set(own.map(({ address }) => address))].sort()
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

/** The rules' way to tell a pod of this node, out of the settings for it. */
export function localDetectorOf(
  mode: string,
  clusterCIDRs: readonly Cidr[],
  bridge: string,
  prefix: string,
): DetectorOf {
  const ofFamily = (cidrs: readonly (Cidr | undefined)[], family: Family): LocalDetector | undefined => {
    const cidr = cidrs.find((one) => one?.family === family)
    return cidr && { kind: 'cidr', cidr: cidrText(cidr) }
  }
  switch (mode) {
    case 'BridgeInterface':
      return () => ({ kind: 'bridge', name: bridge })
    case 'InterfaceNamePrefix':
      return () => ({ kind: 'prefix', name: prefix })
    case 'NodeCIDR':
      return (family, podCIDRs) => ofFamily(podCIDRs.map(parseCidr), family)
    default:
      return (family) => ofFamily(clusterCIDRs, family)
  }
}
