import { conditionalRoles } from '../../../src/iptables/rules.ts'
import type { RuleSettings } from '../../../src/iptables/rules.ts'
import type { Family } from '../../../src/model/address.ts'
import type { LocalDetector } from '../../../src/model/local-detector.ts'
import type { SetRole } from '../../../src/model/sets.ts'

/** Names and comments of the sets as kube-proxy has them: [name without "KUBE-", comment without "Kubernetes "]. */
const sets: Readonly<Record<SetRole, readonly [string, string]>> = {
  loopBack: ['LOOP-BACK', 'endpoints dst ip:port, source ip for solving hairpin purpose'],
  clusterIP: ['CLUSTER-IP', 'service cluster ip + port for masquerade purpose'],
  externalIP: ['EXTERNAL-IP', 'service external ip + port for masquerade and filter purpose'],
  externalIPLocal: ['EXTERNAL-IP-LOCAL', 'service external ip + port with externalTrafficPolicy=local'],
  loadBalancer: ['LOAD-BALANCER', 'service lb portal'],
  loadBalancerLocal: ['LOAD-BALANCER-LOCAL', 'service load balancer ip + port with externalTrafficPolicy=local'],
  loadBalancerFirewall: ['LOAD-BALANCER-FW', 'service load balancer ip + port for load balancer with sourceRange'],
  loadBalancerSourceIP: [
    'LOAD-BALANCER-SOURCE-IP',
    'service load balancer ip + port + source IP for packet filter purpose',
  ],
  loadBalancerSourceCIDR: [
    'LOAD-BALANCER-SOURCE-CIDR',
    'service load balancer ip + port + source cidr for packet filter purpose',
  ],
  nodePortTCP: ['NODE-PORT-TCP', 'nodeport TCP port for masquerade purpose'],
  nodePortLocalTCP: ['NODE-PORT-LOCAL-TCP', 'nodeport TCP port with externalTrafficPolicy=local'],
  nodePortUDP: ['NODE-PORT-UDP', 'nodeport UDP port for masquerade purpose'],
  nodePortLocalUDP: ['NODE-PORT-LOCAL-UDP', 'nodeport UDP port with externalTrafficPolicy=local'],
  nodePortSCTP: ['NODE-PORT-SCTP-HASH', "nodeport SCTP port for masquerade purpose with type 'hash ip:port'"],
  nodePortLocalSCTP: [
    'NODE-PORT-LOCAL-SCTP-HASH',
    "nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'",
  ],
  healthCheckNodePort: ['HEALTH-CHECK-NODE-PORT', 'health check node port'],
  ipvsIPs: ['IPVS-IPS', 'addresses'],
  externalNoLocal: [
    'EXTERNAL-NO-LOCAL',
    'service external ip + port with externalTrafficPolicy=local and no local endpoint',
  ],
}

export const roles: readonly SetRole[] = [...conditionalRoles, 'healthCheckNodePort', 'ipvsIPs']

export function setName(family: Family, role: SetRole): string {
  return `KUBE-${family === 'IPv6' ? '6-' : ''}${sets[role][0]}`.slice(0, 31)
}

/** As `ipset create` wants it. */
export function setType(role: SetRole): string {
  if (role === 'ipvsIPs') return 'hash:ip'
  if (role === 'loopBack' || role === 'loadBalancerSourceIP') return 'hash:ip,port,ip'
  if (role === 'loadBalancerSourceCIDR') return 'hash:ip,port,net'
  if (role === 'healthCheckNodePort') return 'bitmap:port'
  return role.startsWith('nodePort') && !role.endsWith('SCTP') ? 'bitmap:port' : 'hash:ip,port'
}

/** Pods of this node, as the golden dumps have them. */
export function pods(family: Family): LocalDetector {
  return { kind: 'cidr', cidr: family === 'IPv4' ? '10.160.0.0/11' : 'fd00:10:160::/48' }
}

export function settings(family: Family, changes: Partial<RuleSettings> = {}): RuleSettings {
  return {
    setName: (role) => setName(family, role),
    comment: (role) => `Kubernetes ${sets[role][1]}`,
    masqueradeBit: 14,
    masqueradeAll: false,
    randomFully: true,
    ...changes,
  }
}
