import { existsSync } from 'node:fs'
import { setSpec, setComment } from './ipset/catalogue.ts'
import type { Dummy } from './dummy/dummy.ts'
import { KernelDummy } from './dummy/kernel-dummy.ts'
import { deviceName, DummyLayer } from './dummy/layer.ts'
import type { Ipset } from './ipset/ipset.ts'
import { KernelIpset } from './ipset/kernel-ipset.ts'
import { IpsetLayer } from './ipset/layer.ts'
import type { Iptables } from './iptables/iptables.ts'
import { IptablesLayer } from './iptables/layer.ts'
import { chooseVariant, IptablesTool } from './iptables/restore.ts'
import type { LocalDetector } from './iptables/rules.ts'
import type { Ipvs } from './ipvs/ipvs.ts'
import { KernelIpvs } from './ipvs/kernel-ipvs.ts'
import { IpvsLayer } from './ipvs/layer.ts'
import { systemClock } from './lib/clock.ts'
import { ProxyError } from './lib/errors.ts'
import type { Log } from './lib/log.ts'
import { isIPv6LinkLocal, isLoopback, type Cidr, type Family } from './model/address.ts'
import type { ClusterListener, NodeRecord } from './model/cluster.ts'
import { Ledger } from './proxier/ledger.ts'
import { Proxier, type ProxierObserver } from './proxier/proxier.ts'

/** The kernel by netlink: one connection each, shared by the families. */
export interface Kernel {
  readonly ipvs: Ipvs
  readonly ipset: Ipset
  readonly dummy: Dummy
  close(): void
}

export function openKernel(): Kernel {
  const ipvs = new KernelIpvs()
  const ipset = new KernelIpset()
  const dummy = new KernelDummy()
  return {
    ipvs,
    ipset,
    dummy,
    close: () => {
      for (const part of [ipvs, ipset, dummy]) part.close()
    },
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
  readonly localDetector: (family: Family) => LocalDetector | undefined
}

/** iptables of the families that this node can serve: IPv4 always, IPv6 where the kernel has it. */
export async function openIptables(log: Log): Promise<ReadonlyMap<Family, IptablesTool>> {
  const choice = await chooseVariant()
  const tools = new Map<Family, IptablesTool>([['IPv4', await IptablesTool.open('IPv4', choice)]])
  const primary = tools.get('IPv4')!
  log.v(1, 'iptables chosen', { variant: primary.variant, version: primary.version, reason: choice.reason })
  if (existsSync('/proc/net/if_inet6')) {
    try {
      const tool = await IptablesTool.open('IPv6', choice)
      await tool.save('nat')
      tools.set('IPv6', tool)
    } catch (error) {
      log.warn('ip6tables is not usable, IPv6 Services are left out', { error: String(error) })
    }
  }
  return tools
}

/** One family's stack: ledger, layers and the proxier over them. */
export function buildFamily(
  family: Family,
  settings: FamilySettings,
  kernel: Omit<Kernel, 'close'>,
  iptables: Iptables & { readonly randomFully: boolean },
  log: Log,
  observer: ProxierObserver & { restoreFailed(family: Family): void },
): Proxier {
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
    rules: {
      setName: (role) => setSpec(role, family).name,
      comment: setComment,
      masqueradeBit: settings.masqueradeBit,
      masqueradeAll: settings.masqueradeAll,
      localDetector: settings.localDetector(family),
      randomFully: iptables.randomFully,
    },
    onRestoreFailure: () => observer.restoreFailed(family),
  })
  const servers = new IpvsLayer({
    family,
    ipvs: kernel.ipvs,
    log,
    excludeCIDRs,
    ownersOf: (key) => ledger.serverOwners(key),
  })
  const addresses = new DummyLayer({
    family,
    dummy: kernel.dummy,
    log,
    excludeCIDRs,
    ownersOf: (address) => ledger.addressOwners(address),
    speaksForDevice: family === 'IPv4',
  })
  return new Proxier(
    {
      family,
      nodeName: settings.nodeName,
      scheduler: settings.scheduler,
      nodePortRanges: settings.nodePortRanges,
      minSyncPeriod: settings.minSyncPeriod,
      syncPeriod: settings.syncPeriod,
      clock: systemClock,
      log,
    },
    {
      ledger,
      layers: [sets, rules, servers, addresses],
      rules,
      readNodeAddresses: () => readNodeAddresses(kernel.dummy, family),
      observer,
    },
  )
}

/** Addresses of a family on all links but the dummy device, without loopback and IPv6 link-local ones. */
async function readNodeAddresses(dummy: Dummy, family: Family): Promise<string[]> {
  const device = (await dummy.links()).find(({ name }) => name === deviceName)?.index
  const addresses = await dummy.addresses()
  const own = addresses.filter(
    (one) =>
      one.family === family && one.linkIndex !== device && !isLoopback(one.address) && !isIPv6LinkLocal(one.address),
  )
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

/** The rules' way to tell a pod of this node, out of the settings for it; undefined: there is none for the family. */
export function localDetectorOf(
  mode: string,
  clusterCIDRs: readonly Cidr[],
  bridge: string,
  prefix: string,
): (family: Family) => LocalDetector | undefined {
  switch (mode) {
    case 'ClusterCIDR':
      return (family) => {
        const cidr = clusterCIDRs.find((one) => one.family === family)
        return cidr && { kind: 'cidr', cidr: `${cidr.address}/${cidr.prefix}` }
      }
    case 'BridgeInterface':
      return () => ({ kind: 'bridge', name: bridge })
    case 'InterfaceNamePrefix':
      return () => ({ kind: 'prefix', name: prefix })
    default:
      throw new ProxyError('CONFIG', `detectLocalMode: ${mode} is not in use yet`, {
        advice: 'use ClusterCIDR, BridgeInterface or InterfaceNamePrefix',
      })
  }
}
