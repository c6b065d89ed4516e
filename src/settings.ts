import { hostname, release } from 'node:os'
import type { DetectorOf, FamilySettings } from './compose.ts'
import type { ProxyConfig } from './config/schema.ts'
import type { KernelSettings } from './ipvs/kernel-settings.ts'
import { ProxyError } from './lib/errors.ts'
import { canonicalAddress, cidrText, familyOf, parseCidr, type Cidr, type Family } from './model/address.ts'
import type { LocalDetector } from './model/local-detector.ts'
import type { ConntrackConfig } from './node/conntrack-limits.ts'

/** The own node's name as kube-proxy derives it. */
export function nodeNameOf(config: ProxyConfig): string {
  return (config.hostnameOverride || hostname()).trim().toLowerCase()
}

const cidrsOf = (texts: readonly string[]): Cidr[] => texts.map((text) => parseCidr(text)!)

function clusterCIDRsOf(config: ProxyConfig): Cidr[] {
  return cidrsOf(config.clusterCIDR === '' ? [] : config.clusterCIDR.split(',').map((text) => text.trim()))
}

/** What the data path needs of the configuration. */
export function settingsOf(config: ProxyConfig, nodeName: string): FamilySettings {
  const nodePorts = config.nodePortAddresses
  const bind = canonicalAddress(config.bindAddress)
  return {
    nodeName,
    scheduler: config['ipvs.scheduler'],
    nodePortRanges: nodePorts[0] === 'primary' ? 'primary' : cidrsOf(nodePorts),
    minSyncPeriod: config['ipvs.minSyncPeriod'],
    syncPeriod: config['ipvs.syncPeriod'],
    excludeCIDRs: cidrsOf(config['ipvs.excludeCIDRs']),
    masqueradeBit: config['iptables.masqueradeBit'],
    masqueradeAll: config['iptables.masqueradeAll'],
    localDetector: localDetectorOf(
      config.detectLocalMode,
      clusterCIDRsOf(config),
      config['detectLocal.bridgeInterface'],
      config['detectLocal.interfaceNamePrefix'],
    ),
    needsPodCIDR: config.detectLocalMode === 'NodeCIDR',
    nodeIPs: bind === undefined || bind === '0.0.0.0' || bind === '::' ? [] : [bind],
    strictExternal: config['kubeIpvsProxy.strictExternalTrafficPolicy'],
    externalRanges: {
      allowed: cidrsOf(config['kubeIpvsProxy.allowedExternalCIDRs']),
      denied: cidrsOf(config['kubeIpvsProxy.deniedExternalCIDRs']),
    },
    drainTimeout: config['kubeIpvsProxy.drainTimeout'],
  }
}

/** What of connection tracking the daemon sets. */
export function conntrackConfigOf(config: ProxyConfig): ConntrackConfig {
  return {
    maxPerCore: config['conntrack.maxPerCore'],
    min: config['conntrack.min'],
    tcpEstablishedTimeout: config['conntrack.tcpEstablishedTimeout'],
    tcpCloseWaitTimeout: config['conntrack.tcpCloseWaitTimeout'],
    tcpBeLiberal: config['conntrack.tcpBeLiberal'],
    udpTimeout: config['conntrack.udpTimeout'],
    udpStreamTimeout: config['conntrack.udpStreamTimeout'],
  }
}

/** What decides the sysctls of IPVS mode. */
export function kernelSettingsOf(config: ProxyConfig): KernelSettings {
  return {
    strictARP: config['ipvs.strictARP'],
    release: release(),
    connReuseMode: config['kubeIpvsProxy.connReuseMode'],
  }
}

/**
 * What can be wrong only in view of the families that the node has. Throws ProxyError CONFIG where nothing would be
 * masqueraded rightly; answers what is to be said once.
 */
export function checkAgainstFamilies(config: ProxyConfig, families: readonly Family[]): readonly string[] {
  const notices: string[] = []
  const missing = (cidrs: readonly Cidr[]): Family[] =>
    families.filter((family) => !cidrs.some((cidr) => cidr.family === family))
  const cluster = clusterCIDRsOf(config)
  if (config.detectLocalMode === 'ClusterCIDR') {
    const without = missing(cluster)
    if (cluster.length > 0 && without.length === families.length) {
      throw new ProxyError('CONFIG', `clusterCIDR: ${config.clusterCIDR} has no range of ${families.join(' or ')}`, {
        advice: 'this node serves no other family: give the pods\u2019 range of that family',
      })
    }
    if (without.length > 0) {
      notices.push(
        `clusterCIDR has no range of ${without.join(', ')}: traffic from outside is not told from pods there`,
      )
    }
    if (config['kubeIpvsProxy.strictExternalTrafficPolicy'] && without.length > 0) {
      notices.push(`strictExternalTrafficPolicy has no effect for ${without.join(', ')}: pods cannot be told there`)
    }
  }
  const nodePorts = config.nodePortAddresses
  if (nodePorts.length === 0) {
    notices.push(
      'nodePortAddresses is not set: node ports are served on all addresses of the node; primary narrows them',
    )
  } else if (nodePorts[0] !== 'primary') {
    const without = missing(cidrsOf(nodePorts))
    if (without.length > 0) notices.push(`nodePortAddresses has no range of ${without.join(', ')}: all serve there`)
  }
  const bind = canonicalAddress(config.bindAddress)
  const primary = bind === undefined ? undefined : familyOf(bind)
  if (primary !== undefined && bind !== '0.0.0.0' && bind !== '::' && !families.includes(primary)) {
    throw new ProxyError('CONFIG', `bindAddress: ${bind} is of ${primary}, which this node does not have`, {
      advice: 'give an address of a family that the node has',
    })
  }
  return notices
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
