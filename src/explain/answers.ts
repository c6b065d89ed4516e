import type { Family, Protocol } from '../model/address.ts'

/**
 * What the client gets. "nothing": no answer, it waits in vain. "unreachable": an error other than "refused", at once.
 * "leaves": the packet goes on to another machine, which decides.
 */
export type Answer = 'answered' | 'refused' | 'unreachable' | 'nothing' | 'leaves' | 'unknown'

/** ICMP answers that end a connected UDP socket's wait too: `fatal` of icmp_err_convert and tab_unreach (Linux). */
const fatal = new Set([
  'icmp-port-unreachable',
  'icmp-proto-unreachable',
  'icmp-net-prohibited',
  'icmp-host-prohibited',
  'icmp-admin-prohibited',
  'icmp6-port-unreachable',
  'port-unreach',
  'icmp6-adm-prohibited',
  'adm-prohibited',
  'icmp6-policy-fail',
  'policy-fail',
  'icmp6-reject-route',
  'reject-route',
])

/** What a client gets out of a REJECT: the name of its ICMP answer, or tcp-reset. */
export function answerOfReject(how: string, protocol: Protocol): Answer {
  if (how === 'tcp-reset') return 'refused'
  // The kernel's SCTP does not take any of them for an end (RFC 4960, C.1).
  if (protocol === 'SCTP') return 'nothing'
  if (how.endsWith('port-unreachable') || how === 'port-unreach') return 'refused'
  return protocol === 'TCP' || fatal.has(how) ? 'unreachable' : 'nothing'
}

/** A failed look-up of a route, told to the client by ICMP where the node tells at all. */
export function answerOfRoute(errno: string, protocol: Protocol, isLocalClient: boolean): Answer {
  // SCTP goes on trying.
  if (isLocalClient) return protocol === 'SCTP' ? 'nothing' : 'unreachable'
  const told = errno === 'ENETUNREACH' || errno === 'EHOSTUNREACH' || errno === 'EACCES'
  if (!told) return 'nothing'
  return protocol === 'TCP' || (protocol === 'UDP' && errno === 'EACCES') ? 'unreachable' : 'nothing'
}

/** "net/ipv4/conf/all/rp_filter" */
export function configName(family: Family, link: string, name: string): string {
  return `net/${family === 'IPv4' ? 'ipv4' : 'ipv6'}/conf/${link}/${name}`
}
