import type { Family } from '../model/address.ts'
import { attributes, be32, nested, text } from '../netlink/attributes.ts'
import { Connection } from '../netlink/connection.ts'
import { errno, kernelError } from '../netlink/errno.ts'
import { flags, protocols } from '../netlink/header.ts'
import type { ForeignChain } from './kernel-state.ts'

/** NFNL_SUBSYS_NFTABLES of linux/netfilter/nfnetlink.h and NFT_MSG_GETCHAIN of linux/netfilter/nf_tables.h. */
export const getChain = (10 << 8) | 4
/** Tables that `trace` makes while it runs; rules in them do nothing to packets but mark them to be told of. */
export const traceTablePrefix = 'kube-ipvs-proxy-trace'
/** struct nfgenmsg: family u8, version u8, resource be16. */
export const headerLength = 4

/** NFTA_HOOK_* and NFTA_CHAIN_* of linux/netfilter/nf_tables.h. */
const hookAttributes = attributes('nftables hook', { number: [1, be32], priority: [2, be32] })
export const chainAttributes = attributes('nftables chain', {
  table: [1, text],
  name: [3, text],
  hook: [4, nested(hookAttributes)],
  policy: [5, be32],
  uses: [6, be32],
})

export const hooks = ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING']
/** NFPROTO_*. */
export const nftFamilies = { inet: 1, IPv4: 2, IPv6: 10 } as const

/** Base chains of nftables that packets of a family pass and that are none of iptables'. */
export async function readForeignChains(
  family: Family,
  connection: Connection = Connection.open(protocols.netfilter),
): Promise<readonly ForeignChain[]> {
  try {
    const reply = await connection.dump({
      type: getChain,
      flags: flags.dump,
      write: (writer) => writer.word32(writer.reserve(headerLength), 0),
    })
    if (reply.errno === errno.EOPNOTSUPP || reply.errno === errno.EINVAL) return []
    if (reply.errno !== 0) throw kernelError(reply.errno, 'list', 'nftables chains')
    return reply.payloads.flatMap((payload) => decodeForeignChain(payload, family) ?? [])
  } finally {
    connection.close()
  }
}

/** A payload after nlmsghdr; undefined for what the family's packets do not pass, and for chains of iptables. */
export function decodeForeignChain(payload: Buffer, family: Family): ForeignChain | undefined {
  const number = payload[0]
  if (number !== nftFamilies.inet && number !== nftFamilies[family]) return undefined
  const { table = '', name = '', hook, policy = 1, uses = 0 } = chainAttributes.decode(payload, headerLength)
  const at = hooks[hook?.number ?? -1]
  if (at === undefined) return undefined
  const isIptables = number !== nftFamilies.inet && hooks.includes(name) && iptablesTables.has(table)
  if (table.startsWith(traceTablePrefix)) return undefined
  // Without rules only its policy counts.
  if (isIptables || (uses === 0 && policy === 1)) return undefined
  const kind = number === nftFamilies.inet ? 'inet' : family === 'IPv4' ? 'ip' : 'ip6'
  return {
    name: `${kind} ${table} ${name}`,
    hook: at,
    priority: (hook?.priority ?? 0) | 0,
    policy: policy === 0 ? 'drop' : 'accept',
  }
}

export const iptablesTables = new Set(['raw', 'mangle', 'nat', 'filter', 'security'])
