import { joined, step } from '../lib/digest.ts'
import { ProxyError, type KernelError } from '../lib/errors.ts'
import { addressBytes, addressText, familyOf, putAddress, type Family } from '../model/address.ts'
import { attributeHeaderLength, attributes, bytes, nested, text, u32, walk } from '../netlink/attributes.ts'
import type { Message } from '../netlink/connection.ts'
import { errno, kernelError } from '../netlink/errno.ts'
import { flags, type Received } from '../netlink/header.ts'
import type { InterfaceAddress, Link } from './dummy.ts'

/** RTM_* of linux/rtnetlink.h. */
export const messageTypes = {
  newLink: 16,
  deleteLink: 17,
  getLink: 18,
  newAddress: 20,
  deleteAddress: 21,
  getAddress: 22,
} as const

/** struct ifinfomsg of linux/rtnetlink.h: family u8, pad, type u16, index i32, flags u32, change u32. */
const linkHeaderLength = 16
/** struct ifaddrmsg of linux/if_addr.h: family u8, prefix u8, flags u8, scope u8, index u32. */
const addressHeaderLength = 8
/** RTEXT_FILTER_SKIP_STATS: counters nobody reads are most of a link's dump. */
const skipStatistics = 8
const families = { inet: 2, inet6: 10 } as const

/** IFLA_INFO_* of linux/if_link.h. */
export const linkInfoAttributes = attributes('link info', { kind: [1, text] })

/** IFLA_* of linux/if_link.h. */
export const linkAttributes = attributes('link', {
  name: [3, text],
  info: [18, nested(linkInfoAttributes)],
  extendedMask: [29, u32],
})

/** IFA_* of linux/if_addr.h. */
const addressTypes = { address: 1, local: 2 } as const
export const addressAttributes = attributes('address', {
  address: [addressTypes.address, bytes],
  local: [addressTypes.local, bytes],
})

type LinkAttributes = Parameters<typeof linkAttributes.write>[1]

function linkMessage(type: number, extra: number, value: LinkAttributes, index = 0): Message {
  return {
    type,
    flags: extra,
    write: (writer) => {
      const at = writer.reserve(linkHeaderLength)
      writer.buffer.fill(0, at, at + linkHeaderLength)
      writer.buffer.writeInt32LE(index, at + 4)
      linkAttributes.write(writer, value)
    },
  }
}

export function createDeviceMessage(name: string): Message {
  return linkMessage(messageTypes.newLink, flags.create | flags.exclusive, { name, info: { kind: 'dummy' } })
}

export function deleteDeviceMessage(name: string): Message {
  return linkMessage(messageTypes.deleteLink, 0, { name })
}

export function renameDeviceMessage(linkIndex: number, name: string): Message {
  return linkMessage(messageTypes.newLink, 0, { name }, linkIndex)
}

export function listLinksMessage(): Message {
  return linkMessage(messageTypes.getLink, 0, { extendedMask: skipStatistics })
}

/** An address of global scope, /32 or /128 unless it says otherwise. */
function addressMessage(type: number, extra: number, linkIndex: number, text: string): Message {
  return {
    type,
    flags: extra,
    write: (writer) => {
      const slash = text.indexOf('/')
      const address = slash < 0 ? text : text.slice(0, slash)
      const template = addressTemplates[familyOf(address)]
      const at = writer.reserve(template.length)
      const { buffer } = writer
      buffer.set(template, at)
      if (slash >= 0) buffer[at + 1] = Number(text.slice(slash + 1))
      writer.word32(at + 4, linkIndex)
      // Each attribute has a header of 4 bytes; an IPv4 address is there twice.
      const first = at + addressHeaderLength + attributeHeaderLength
      if (putAddress(buffer, first, address) === 4) putAddress(buffer, first + 4 + attributeHeaderLength, address)
    },
  }
}

function addressTemplate(family: Family): Buffer {
  const length = family === 'IPv4' ? 4 : 16
  const host = new Uint8Array(length)
  const header = Buffer.alloc(addressHeaderLength)
  header[0] = family === 'IPv4' ? families.inet : families.inet6
  header[1] = 8 * length
  return Buffer.concat([
    header,
    addressAttributes.encode(family === 'IPv4' ? { address: host, local: host } : { address: host }),
  ])
}

/** Whole addresses without index and bytes: a cold start binds tens of thousands of them. */
const addressTemplates: Readonly<Record<Family, Buffer>> = {
  IPv4: addressTemplate('IPv4'),
  IPv6: addressTemplate('IPv6'),
}

export function bindMessage(linkIndex: number, address: string): Message {
  return addressMessage(messageTypes.newAddress, flags.create | flags.exclusive, linkIndex, address)
}

export function unbindMessage(linkIndex: number, address: string): Message {
  return addressMessage(messageTypes.deleteAddress, 0, linkIndex, address)
}

/** Addresses of a family, or of all. */
export function listAddressesMessage(family?: Family): Message {
  return {
    type: messageTypes.getAddress,
    write: (writer) => {
      const at = writer.reserve(addressHeaderLength)
      writer.buffer.fill(0, at, at + addressHeaderLength)
      if (family !== undefined) writer.buffer[at] = family === 'IPv4' ? families.inet : families.inet6
    },
  }
}

/** Index of the link that an address message is about; -1 where it is too short. */
export function addressLink(datagram: Buffer, start: number, end: number): number {
  return end - start < addressHeaderLength ? -1 : datagram.readUInt32LE(start + 4)
}

function refuseShort(payload: Buffer, length: number, path: string): void {
  if (payload.length < length) {
    throw new ProxyError('CODEC', `${path} at byte 0: ${payload.length} bytes instead of ${length}`, {
      path,
      offset: 0,
    })
  }
}

/** One link of a dump (payload after nlmsghdr). */
export function decodeLink(payload: Buffer): Link {
  refuseShort(payload, linkHeaderLength, 'ifinfomsg')
  const { name, info } = linkAttributes.decode(payload, linkHeaderLength)
  return { index: payload.readInt32LE(4), name: name ?? '', kind: info?.kind ?? '' }
}

/** One address of a dump (payload after nlmsghdr); undefined for families other than IP. */
export function decodeInterfaceAddress(payload: Buffer): InterfaceAddress | undefined {
  refuseShort(payload, addressHeaderLength, 'ifaddrmsg')
  const family = payload[0] === families.inet ? 'IPv4' : payload[0] === families.inet6 ? 'IPv6' : undefined
  // Where there is a peer, IFA_ADDRESS is the peer's and IFA_LOCAL ours.
  const { address, local } = addressAttributes.decode(payload, addressHeaderLength)
  const own = local ?? address
  if (family === undefined || own === undefined) return undefined
  if (own.length !== (family === 'IPv4' ? 4 : 16)) {
    throw new ProxyError('CODEC', `address: ${own.length} bytes for ${family}`, { path: 'address', offset: 0 })
  }
  return { linkIndex: payload.readUInt32LE(4), family, address: addressText(own), prefix: payload[1]! }
}

/** Hash of one address of a dump, by address and prefix. */
export function hashOfMessage({ datagram, start, end }: Received): number {
  let from = end
  let to = end
  walk(datagram, start + addressHeaderLength, end, addressAttributes.name, (type, first, last) => {
    if (type !== addressTypes.local && (type !== addressTypes.address || from < end)) return
    from = first
    to = last
  })
  return hashOfBytes(datagram, from, to, datagram[start + 1]!)
}

/** The hash that an address has in the kernel's dump; /32 or /128 unless it says otherwise. */
export function addressHash(text: string): number {
  const [address = '', prefix] = text.split('/')
  const host = addressBytes(address)
  return hashOfBytes(host, 0, host.length, prefix === undefined ? host.length * 8 : Number(prefix))
}

function hashOfBytes(bytes: Uint8Array, from: number, to: number, prefix: number): number {
  let hash = step(prefix, to - from)
  let other = hash
  for (let at = from; at < to; at++) {
    hash = step(hash, bytes[at]!)
    other = step(other + 1, bytes[at]!)
  }
  return joined(hash, other)
}

export function bindError(value: number, linkIndex: number, address: string): KernelError {
  const advice =
    value === errno.ENODEV
      ? 'the device is gone'
      : (value === errno.EACCES || value === errno.EOPNOTSUPP) && address.includes(':')
        ? 'IPv6 is disabled: look at net.ipv6.conf.all.disable_ipv6'
        : undefined
  return kernelError(value, 'add address', `${address} to link ${linkIndex}`, advice)
}

export function unbindError(value: number, linkIndex: number, address: string): KernelError {
  return kernelError(value, 'delete address', `${address} from link ${linkIndex}`)
}

export function createDeviceError(value: number, name: string): KernelError {
  const advice = value === errno.EOPNOTSUPP ? 'modprobe dummy' : undefined
  return kernelError(value, 'create', `dummy device ${name}`, advice)
}

export function deleteDeviceError(value: number, name: string): KernelError {
  return kernelError(value, 'delete', `dummy device ${name}`)
}

export function renameDeviceError(value: number, linkIndex: number, name: string): KernelError {
  const advice = value === errno.EBUSY ? 'the kernel renames only a device that is down: ip link set … down' : undefined
  return kernelError(value, 'rename', `link ${linkIndex} to ${name}`, advice)
}

/** An absent address, or a device that is gone with all of its addresses. */
export function isGone(value: number): boolean {
  return value === errno.EADDRNOTAVAIL || value === errno.ENODEV || value === errno.ENXIO
}
