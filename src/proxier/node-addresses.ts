import { cidrContains, isIPv6LinkLocal, isLoopback, type Cidr, type Family } from '../model/address.ts'

/**
 * Addresses of one family that node ports are served on, out of the node's own. No range of the family, or a zero
 * prefix, means all. Loopback never: IPVS cannot route from it.
 */
export function nodePortAddresses(addresses: Iterable<string>, ranges: readonly Cidr[], family: Family): string[] {
  const own = ranges.filter((range) => range.family === family)
  const all = own.length === 0 || own.some((range) => range.prefix === 0)
  return [...addresses]
    .filter((address) => !isLoopback(address) && !isIPv6LinkLocal(address))
    .filter((address) => all || own.some((range) => cidrContains(range, address)))
    .sort()
}
