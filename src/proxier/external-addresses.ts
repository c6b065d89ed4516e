import { cidrContains, cidrText, type Cidr } from '../model/address.ts'
import type { ServiceRecord } from '../model/cluster.ts'

/**
 * Which external IPs and load balancer addresses Services may have on this node. Whoever may write a Service may claim any:
 * a node's, the API server's, that of DNS.
 */
export interface ExternalRanges {
  /** Only addresses in these; none of them: any. */
  readonly allowed: readonly Cidr[]
  /** No address in these, allowed or not. */
  readonly denied: readonly Cidr[]
}

/** As kube-proxy. */
export const anyExternal: ExternalRanges = { allowed: [], denied: [] }

/** An address that is not served, and the setting that says so. */
export interface RefusedAddress {
  readonly address: string
  readonly reason: string
}

/** The Service with those of its external addresses that it may have, and the others. */
export function admit(
  service: ServiceRecord,
  ranges: ExternalRanges,
): { readonly service: ServiceRecord; readonly refused: readonly RefusedAddress[] } {
  if (ranges.allowed.length === 0 && ranges.denied.length === 0) return { service, refused: [] }
  const refused = new Map<string, RefusedAddress>()
  const mayHave = (address: string): boolean => {
    const reason = whyRefused(address, ranges)
    if (reason !== undefined) refused.set(address, { address, reason })
    return reason === undefined
  }
  const externalIPs = service.externalIPs.filter(mayHave)
  const loadBalancerIPs = service.loadBalancerIPs.filter(mayHave)
  if (refused.size === 0) return { service, refused: [] }
  return { service: { ...service, externalIPs, loadBalancerIPs }, refused: [...refused.values()] }
}

function whyRefused(address: string, { allowed, denied }: ExternalRanges): string | undefined {
  const denying = denied.find((range) => cidrContains(range, address))
  if (denying !== undefined) return `kubeIpvsProxy.deniedExternalCIDRs has ${cidrText(denying)}`
  if (allowed.length === 0 || allowed.some((range) => cidrContains(range, address))) return undefined
  return 'kubeIpvsProxy.allowedExternalCIDRs has no range of it'
}
