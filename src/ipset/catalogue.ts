import type { Family } from '../model/address.ts'
import type { SetRole, SetType } from '../model/sets.ts'
import type { SetSpec } from './ipset.ts'

interface Entry {
  /** The IPv4 name; IPv6's is derived from it. */
  readonly name: string
  readonly type: SetType
  /** The comment of iptables rules that match the set. */
  readonly comment: string
  /** There only while it has members. */
  readonly onDemand?: true
}

/** kube-proxy's sets: names, types and comments are what other tools and people look for. */
const catalogue: Readonly<Record<SetRole, Entry>> = {
  loopBack: {
    name: 'KUBE-LOOP-BACK',
    type: 'hash:ip,port,ip',
    comment: 'Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose',
  },
  clusterIP: {
    name: 'KUBE-CLUSTER-IP',
    type: 'hash:ip,port',
    comment: 'Kubernetes service cluster ip + port for masquerade purpose',
  },
  externalIP: {
    name: 'KUBE-EXTERNAL-IP',
    type: 'hash:ip,port',
    comment: 'Kubernetes service external ip + port for masquerade and filter purpose',
  },
  externalIPLocal: {
    name: 'KUBE-EXTERNAL-IP-LOCAL',
    type: 'hash:ip,port',
    comment: 'Kubernetes service external ip + port with externalTrafficPolicy=local',
  },
  loadBalancer: {
    name: 'KUBE-LOAD-BALANCER',
    type: 'hash:ip,port',
    comment: 'Kubernetes service lb portal',
  },
  loadBalancerLocal: {
    name: 'KUBE-LOAD-BALANCER-LOCAL',
    type: 'hash:ip,port',
    comment: 'Kubernetes service load balancer ip + port with externalTrafficPolicy=local',
  },
  loadBalancerFirewall: {
    name: 'KUBE-LOAD-BALANCER-FW',
    type: 'hash:ip,port',
    comment: 'Kubernetes service load balancer ip + port for load balancer with sourceRange',
  },
  loadBalancerSourceIP: {
    name: 'KUBE-LOAD-BALANCER-SOURCE-IP',
    type: 'hash:ip,port,ip',
    comment: 'Kubernetes service load balancer ip + port + source IP for packet filter purpose',
  },
  loadBalancerSourceCIDR: {
    name: 'KUBE-LOAD-BALANCER-SOURCE-CIDR',
    type: 'hash:ip,port,net',
    comment: 'Kubernetes service load balancer ip + port + source cidr for packet filter purpose',
  },
  nodePortTCP: {
    name: 'KUBE-NODE-PORT-TCP',
    type: 'bitmap:port',
    comment: 'Kubernetes nodeport TCP port for masquerade purpose',
  },
  nodePortLocalTCP: {
    name: 'KUBE-NODE-PORT-LOCAL-TCP',
    type: 'bitmap:port',
    comment: 'Kubernetes nodeport TCP port with externalTrafficPolicy=local',
  },
  nodePortUDP: {
    name: 'KUBE-NODE-PORT-UDP',
    type: 'bitmap:port',
    comment: 'Kubernetes nodeport UDP port for masquerade purpose',
  },
  nodePortLocalUDP: {
    name: 'KUBE-NODE-PORT-LOCAL-UDP',
    type: 'bitmap:port',
    comment: 'Kubernetes nodeport UDP port with externalTrafficPolicy=local',
  },
  nodePortSCTP: {
    name: 'KUBE-NODE-PORT-SCTP-HASH',
    type: 'hash:ip,port',
    comment: "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'",
  },
  nodePortLocalSCTP: {
    name: 'KUBE-NODE-PORT-LOCAL-SCTP-HASH',
    type: 'hash:ip,port',
    comment: "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'",
  },
  healthCheckNodePort: {
    name: 'KUBE-HEALTH-CHECK-NODE-PORT',
    type: 'bitmap:port',
    comment: 'Kubernetes health check node port',
  },
  ipvsIPs: {
    name: 'KUBE-IPVS-IPS',
    type: 'hash:ip',
    comment: 'Addresses on the ipvs interface',
  },
  // Ours alone, for strictExternalTrafficPolicy.
  externalNoLocal: {
    name: 'KUBE-EXTERNAL-NO-LOCAL',
    type: 'hash:ip,port',
    comment: 'Kubernetes service external ip + port with externalTrafficPolicy=local and no local endpoint',
    onDemand: true,
  },
}

/** IPSET_MAXNAMELEN of linux/netfilter/ipset/ip_set.h, without the NUL. */
const maxNameLength = 31

// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a Record has no other keys than its type's
export const allRoles = Object.keys(catalogue) as readonly SetRole[]

/**
 * In this order entries are added, in the other they are removed, so that no packet meets a rule whose exception is not
 * there yet: whom a source range admits before the firewall that drops all others; what returns without a mark before
 * what is marked for masquerading; what a service address accepts before the address itself, to which all else is
 * refused.
 */
export const orderOfAdding: readonly SetRole[] = [
  'loopBack',
  'loadBalancerSourceCIDR',
  'loadBalancerSourceIP',
  'loadBalancerFirewall',
  'loadBalancerLocal',
  'nodePortLocalTCP',
  'nodePortLocalUDP',
  'nodePortLocalSCTP',
  'nodePortTCP',
  'nodePortUDP',
  'nodePortSCTP',
  'clusterIP',
  'externalIP',
  'externalIPLocal',
  'loadBalancer',
  'healthCheckNodePort',
  'externalNoLocal',
  'ipvsIPs',
]

/** kube-proxy's sizes: sets that need no more are as it leaves them. */
export const usualSizes = { hashsize: 1024, maxelem: 65536 } as const

/** The set of a role, as it is created while it needs no more room. */
export function setSpec(role: SetRole, family: Family): SetSpec {
  const { name, type } = catalogue[role]
  const familyName = family === 'IPv4' ? name : name.replace(/^KUBE-/, 'KUBE-6-').slice(0, maxNameLength)
  return { name: familyName, type, family, ...usualSizes }
}

/** The set in which a larger one is built, to be swapped in. */
export function temporaryName(name: string): string {
  return `${name.slice(0, maxNameLength - temporarySuffix.length)}${temporarySuffix}`
}

const temporarySuffix = '-TMP'

/** Whether a set is there only while it has members. */
export function isOnDemand(role: SetRole): boolean {
  return catalogue[role].onDemand === true
}

/** The comment of rules that match the set, unquoted. */
export function setComment(role: SetRole): string {
  return catalogue[role].comment
}
