import { ProxyError, type KernelError } from '../lib/errors.ts'
import { addressBytes, addressText, type Family } from '../model/address.ts'
import { attributes, be16, be32, ipAddress, nested, u32, u8, type AttributesOf } from '../netlink/attributes.ts'
import type { Message } from '../netlink/connection.ts'
import { errno, kernelError } from '../netlink/errno.ts'
import { flowText, type UdpFlow } from './flows.ts'

/** NFNL_SUBSYS_CTNETLINK of linux/netfilter/nfnetlink.h. */
const subsystem = 1
/** struct nfgenmsg: family u8, version u8, resource be16. */
const headerLength = 4

/** IPCTNL_MSG_CT_* of linux/netfilter/nfnetlink_conntrack.h. */
export const commands = { new: 0, get: 1, remove: 2 } as const

const families = { IPv4: 2, IPv6: 10 } as const

/** IPPROTO_UDP. */
const udp = 17

/** CTA_FILTER_F_CTA_PROTO_NUM: not exported, but the number libnetfilter_conntrack sends (net/netfilter/nf_internals.h). */
const filterByProtocol = 1 << 3

/** CTA_IP_* of linux/netfilter/nfnetlink_conntrack.h; an IPv4 address as a number, for there are many. */
const ipAttributes = attributes('conntrack addresses', {
  ipv4Source: [1, be32],
  ipv4Destination: [2, be32],
  ipv6Source: [3, ipAddress],
  ipv6Destination: [4, ipAddress],
})

/** CTA_PROTO_*, those of a protocol with ports. */
const protocolAttributes = attributes('conntrack protocol', {
  number: [1, u8],
  sourcePort: [2, be16],
  destinationPort: [3, be16],
})

/** CTA_TUPLE_*. */
const tupleAttributes = attributes('conntrack tuple', {
  ip: [1, nested(ipAttributes)],
  protocol: [2, nested(protocolAttributes)],
  /** Only where the zone counts for this direction alone. */
  zone: [3, be16],
})

/** CTA_FILTER_*: which parts of a tuple a dump has to match, since Linux 5.8. In the machine's order. */
const filterAttributes = attributes('conntrack filter', { originalFlags: [1, u32] })

/** CTA_* of linux/netfilter/nfnetlink_conntrack.h, those that we write or read. */
export const entryAttributes = attributes('conntrack entry', {
  original: [1, nested(tupleAttributes)],
  reply: [2, nested(tupleAttributes)],
  id: [12, be32],
  zone: [18, be16],
  filter: [25, nested(filterAttributes)],
})
/** The same with what a dump of very many does without. */
const trackedAttributes = attributes('conntrack entry', {
  reply: [2, nested(tupleAttributes)],
  status: [3, be32],
  timeout: [7, be32],
  mark: [8, be32],
})
type EntryAttributes = AttributesOf<typeof entryAttributes>
type IpAttributes = AttributesOf<typeof ipAttributes>

/** A message about one entry, or about all. */
export function conntrackMessage(command: number, family: Family, value: EntryAttributes): Message {
  return {
    type: (subsystem << 8) | command,
    write: (writer) => {
      const at = writer.reserve(headerLength)
      writer.buffer.writeUInt32LE(0, at)
      writer.buffer[at] = families[family]
      entryAttributes.write(writer, value)
    },
  }
}

/**
 * Dumps a family's entries; all kernels look at the family. With `udpOnly` the kernel leaves out other protocols too,
 * if it knows how: before 5.8 it ignores the wish.
 */
export function listMessage(family: Family, udpOnly: boolean): Message {
  const wish = { original: { protocol: { number: udp } }, filter: { originalFlags: filterByProtocol } }
  return conntrackMessage(commands.get, family, udpOnly ? wish : {})
}

/**
 * Removes one entry. Never without the tuple: such a message empties the whole table. The id keeps the kernel from
 * removing what else the tuple finds, such as a newer entry or another's reply direction.
 */
export function removeMessage(flow: UdpFlow): Message {
  const source = addressBytes(flow.source)
  const destination = addressBytes(flow.destination)
  const family = source.length === 4 ? 'IPv4' : 'IPv6'
  const ip =
    family === 'IPv4'
      ? { ipv4Source: fourBytes(source), ipv4Destination: fourBytes(destination) }
      : { ipv6Source: source, ipv6Destination: destination }
  const protocol = { number: udp, sourcePort: flow.sourcePort, destinationPort: flow.destinationPort }
  const zone = flow.zone === 0 ? {} : { zone: flow.zone }
  return conntrackMessage(commands.remove, family, { original: { ip, protocol }, id: flow.id, ...zone })
}

/** An IPv4 address as a number. */
export function fourBytes(address: Uint8Array): number {
  return Buffer.from(address.buffer, address.byteOffset, 4).readUInt32BE(0)
}

/** An entry as it came: texts are made when asked for, which for most of a large table is never. */
class ObservedFlow implements UdpFlow {
  readonly #entry: EntryAttributes
  readonly #original: IpAttributes
  readonly #reply: IpAttributes
  readonly sourcePort: number
  readonly destinationPort: number
  readonly replySourcePort: number

  constructor(entry: EntryAttributes) {
    const { original, reply } = entry
    this.#entry = entry
    this.#original = original?.ip ?? incomplete('original.ip')
    this.#reply = reply?.ip ?? incomplete('reply.ip')
    this.sourcePort = original?.protocol?.sourcePort ?? incomplete('original.protocol.sourcePort')
    this.destinationPort = original?.protocol?.destinationPort ?? incomplete('original.protocol.destinationPort')
    this.replySourcePort = reply?.protocol?.sourcePort ?? incomplete('reply.protocol.sourcePort')
  }

  get source(): string {
    return writtenAddress(this.#original.ipv4Source, this.#original.ipv6Source, 'original.ip.source')
  }

  get destination(): string {
    return writtenAddress(this.#original.ipv4Destination, this.#original.ipv6Destination, 'original.ip.destination')
  }

  get replySource(): string {
    return writtenAddress(this.#reply.ipv4Source, this.#reply.ipv6Source, 'reply.ip.source')
  }

  get zone(): number {
    return this.#entry.zone ?? this.#entry.original?.zone ?? 0
  }

  get id(): number {
    return this.#entry.id ?? incomplete('id')
  }
}

function incomplete(path: string): never {
  throw new ProxyError('CODEC', `conntrack entry: ${path} is missing`, { path, offset: 0 })
}

function writtenAddress(ipv4: number | undefined, ipv6: Uint8Array | undefined, path: string): string {
  if (ipv4 !== undefined) return `${ipv4 >>> 24}.${(ipv4 >>> 16) & 255}.${(ipv4 >>> 8) & 255}.${ipv4 & 255}`
  return ipv6 === undefined ? incomplete(path) : addressText(ipv6)
}

/** The UDP entry in a payload after nlmsghdr, as a view of it; undefined where it is one of another protocol. */
export function decodeFlow(payload: Buffer): UdpFlow | undefined {
  if (payload.length < headerLength) {
    throw new ProxyError('CODEC', `nfgenmsg at byte 0: ${payload.length} bytes instead of ${headerLength}`, {
      path: 'nfgenmsg',
      offset: 0,
    })
  }
  const entry = entryAttributes.decode(payload, headerLength)
  return entry.original?.protocol?.number === udp ? new ObservedFlow(entry) : undefined
}

/** IPS_SEEN_REPLY of linux/netfilter/nf_conntrack_common.h. */
const seenReply = 1 << 1

/** What connection tracking has of one connection. */
export interface TrackedConnection {
  /** Who answers, and whom. */
  readonly replySource: string
  readonly replySourcePort: number
  readonly replyDestination: string
  readonly replyDestinationPort: number
  /** IPS_SEEN_REPLY. */
  readonly isAnswered: boolean
  readonly mark: number
  /** Seconds until it is forgotten. */
  readonly expires: number
}

/** An entry of any protocol with ports, in a payload after nlmsghdr. */
export function decodeTracked(payload: Buffer): TrackedConnection {
  const { reply, status = 0, mark = 0, timeout = 0 } = trackedAttributes.decode(payload, headerLength)
  const ip = reply?.ip ?? incomplete('reply.ip')
  return {
    replySource: writtenAddress(ip.ipv4Source, ip.ipv6Source, 'reply.ip.source'),
    replySourcePort: reply?.protocol?.sourcePort ?? incomplete('reply.protocol.sourcePort'),
    replyDestination: writtenAddress(ip.ipv4Destination, ip.ipv6Destination, 'reply.ip.destination'),
    replyDestinationPort: reply?.protocol?.destinationPort ?? incomplete('reply.protocol.destinationPort'),
    isAnswered: (status & seenReply) !== 0,
    mark,
    expires: timeout,
  }
}

/** A flow of its own, free of the buffer it was read from. */
export function copyFlow(flow: UdpFlow): UdpFlow {
  const { source, sourcePort, destination, destinationPort, replySource, replySourcePort, zone, id } = flow
  return { source, sourcePort, destination, destinationPort, replySource, replySourcePort, zone, id }
}

/** The refusal of the dump. An unknown subsystem is EINVAL. */
export function listError(value: number, family: Family): KernelError {
  const advice = value === errno.EINVAL ? 'modprobe nf_conntrack_netlink' : undefined
  return kernelError(value, 'list', `UDP flows of ${family}`, advice)
}

/** The refusal to remove one flow. */
export function removeError(value: number, flow: UdpFlow): KernelError {
  const advice =
    value === errno.EBUSY ? 'it is offloaded to a flow table, and this kernel lets it end by itself' : undefined
  return kernelError(value, 'delete', `UDP flow from ${flowText(flow)}`, advice)
}
