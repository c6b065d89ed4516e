import { finish, joined, step } from '../lib/digest.ts'
import { addressBytes, addressText, canonicalAddress, familyOf, parseCidr, type Family } from '../model/address.ts'
import type { SetType } from '../model/sets.ts'
import {
  attributes,
  nested,
  net16,
  netIPv4,
  netIPv6,
  u32,
  u8,
  walk,
  Writer,
  type AttributesOf,
} from '../netlink/attributes.ts'
import type { SetSpec } from './ipset.ts'
import { PlainEntry, protocolNumbers } from './plain-entry.ts'

/** IPSET_ATTR_IPADDR_* of linux/netfilter/ipset/ip_set.h. */
export const addressAttributes = attributes('ipset address', { ipv4: [1, netIPv4], ipv6: [2, netIPv6] })

/** IPSET_ATTR_* of one entry (CADT and ADT parts) of linux/netfilter/ipset/ip_set.h. */
export const entryAttributes = attributes('ipset entry', {
  ip: [1, nested(addressAttributes)],
  cidr: [3, u8],
  port: [4, net16],
  proto: [7, u8],
  line: [9, u32],
  ip2: [20, nested(addressAttributes)],
  cidr2: [21, u8],
})
export type EntryAttributes = AttributesOf<typeof entryAttributes>

const protocolNames = new Map([...protocolNumbers].map(([name, number]) => [number, name]))

const partsByType: Readonly<Record<SetType, number>> = {
  'bitmap:port': 1,
  'hash:ip': 1,
  'hash:ip,port': 2,
  'hash:ip,port,ip': 3,
  'hash:ip,port,net': 3,
}

function parseAddress(text: string | undefined, family: Family): AttributesOf<typeof addressAttributes> | undefined {
  const address = text === undefined ? undefined : canonicalAddress(text)
  if (address === undefined || familyOf(address) !== family) return undefined
  return family === 'IPv4' ? { ipv4: addressBytes(address) } : { ipv6: addressBytes(address) }
}

function parsePort(text: string | undefined): number | undefined {
  return text !== undefined && /^[0-9]{1,5}$/.test(text) && Number(text) <= 65535 ? Number(text) : undefined
}

/** The attributes of an entry; undefined where the text is no entry of such a set. */
export function parseEntry(set: Pick<SetSpec, 'type' | 'family'>, text: string): EntryAttributes | undefined {
  const parts = text.split(',')
  if (parts.length !== partsByType[set.type]) return undefined
  if (set.type === 'bitmap:port') {
    const port = parsePort(text)
    return port === undefined ? undefined : { port }
  }
  const ip = parseAddress(parts[0], set.family)
  if (ip === undefined) return undefined
  if (set.type === 'hash:ip') return { ip }
  const [name = '', portText] = parts[1]!.split(':')
  const proto = protocolNumbers.get(name)
  const port = parsePort(portText)
  if (proto === undefined || port === undefined) return undefined
  if (set.type === 'hash:ip,port') return { ip, port, proto }
  if (set.type === 'hash:ip,port,ip') {
    const ip2 = parseAddress(parts[2], set.family)
    return ip2 === undefined ? undefined : { ip, port, proto, ip2 }
  }
  const whole = set.family === 'IPv4' ? 32 : 128
  const cidr = parseCidr(parts[2]!.includes('/') ? parts[2]! : `${parts[2]}/${whole}`)
  const ip2 = parseAddress(cidr?.address, set.family)
  return cidr === undefined || ip2 === undefined ? undefined : { ip, port, proto, ip2, cidr2: cidr.prefix }
}

function writtenAddress(value: AttributesOf<typeof addressAttributes> | undefined): string {
  const address = value?.ipv4 ?? value?.ipv6
  return address === undefined ? '' : addressText(address)
}

/** An entry as `ipset save` prints it: a whole-address prefix (/32, /128) is left out. */
export function entryText(type: SetType, entry: EntryAttributes): string {
  if (type === 'bitmap:port') return String(entry.port ?? 0)
  const ip = writtenAddress(entry.ip)
  if (type === 'hash:ip') return ip
  const proto = entry.proto ?? 0
  const port = `${ip},${protocolNames.get(proto) ?? proto}:${entry.port ?? 0}`
  if (type === 'hash:ip,port') return port
  const ip2 = writtenAddress(entry.ip2)
  const whole = ip2.includes(':') ? 128 : 32
  const prefix = type === 'hash:ip,port,net' && (entry.cidr2 ?? whole) !== whole ? `/${entry.cidr2}` : ''
  return `${port},${ip2}${prefix}`
}

/** The text under which the kernel lists an entry; undefined where the text is no entry of such a set. */
export function canonicalEntry(set: Pick<SetSpec, 'type' | 'family'>, text: string): string | undefined {
  const entry = parseEntry(set, text)
  return entry === undefined ? undefined : entryText(set.type, entry)
}

const plain = new PlainEntry()

/** Whether the text is an entry of such a set. */
export function isEntry(set: Pick<SetSpec, 'type' | 'family'>, text: string): boolean {
  return plain.read(set, text) || parseEntry(set, text) !== undefined
}

/** IPSET_ATTR_DATA: one entry in the list of a message. */
export const entryType = 7
const itemAttributes = attributes('ipset entries', { item: [entryType, nested(entryAttributes)] })

function entryTemplate(type: SetType): Uint8Array {
  const ip = { ipv4: new Uint8Array(4) }
  const portAndProtocol = type === 'hash:ip' ? {} : { port: 0, proto: 0 }
  const second = type === 'hash:ip,port,ip' ? { ip2: ip } : {}
  return itemAttributes.encode({ item: { ip, ...portAndProtocol, line: 0, ...second } })
}

/** Plain entries are laid out once for each type, and copied. */
const templates: ReadonlyMap<SetType, Uint8Array> = new Map(
  (['hash:ip', 'hash:ip,port', 'hash:ip,port,ip'] as const).map((type) => [type, entryTemplate(type)]),
)
/** Offsets in them: attributes have a header of 4 bytes, an address has two. The line is the second of `hash:ip`. */
const offsets = { ip: 12, port: 20, protocol: 28, line: 36, ip2: 48, lineOfIp: 20 } as const

/** Writes an entry and its line into a message's list; the text has to be an entry of the set. */
export function writeEntry(writer: Writer, set: Pick<SetSpec, 'type' | 'family'>, text: string, line: number): void {
  if (!plain.read(set, text)) return itemAttributes.write(writer, { item: { ...parseEntry(set, text), line } })
  const template = templates.get(set.type)!
  const start = writer.reserve(template.length)
  const { buffer } = writer
  buffer.set(template, start)
  putWord(buffer, start + offsets.ip, plain.ip)
  if (set.type === 'hash:ip') return writer.word32(start + offsets.lineOfIp, line)
  buffer[start + offsets.port] = plain.port >>> 8
  buffer[start + offsets.port + 1] = plain.port
  buffer[start + offsets.protocol] = plain.protocol
  writer.word32(start + offsets.line, line)
  if (set.type === 'hash:ip,port,ip') putWord(buffer, start + offsets.ip2, plain.ip2)
}

function putWord(buffer: Buffer, at: number, value: number): void {
  buffer[at] = value >>> 24
  buffer[at + 1] = value >>> 16
  buffer[at + 2] = value >>> 8
  buffer[at + 3] = value
}

let first = 0
let second = 0

/** The kernel has each type's attributes in an order of its own: they are added up. */
function addAttribute(type: number, start: number, end: number, buffer: Buffer): void {
  // Of an address, the attribute inside: its length tells the family.
  const isAddress = type === entryAttributeTypes.ip || type === entryAttributeTypes.ip2
  let hash = step(type, end - start)
  for (let at = isAddress ? start + 4 : start; at < end; at++) hash = step(hash, buffer[at]!)
  addUp(hash)
}
const entryAttributeTypes = { ip: 1, port: 4, protocol: 7, ip2: 20 } as const

/** The same of a number of so many bytes in an attribute of this length. */
function addNumber(type: number, length: number, bytes: number, value: number): void {
  let hash = step(type, length)
  for (let shift = 8 * (bytes - 1); shift >= 0; shift -= 8) hash = step(hash, (value >>> shift) & 255)
  addUp(hash)
}

function addUp(hash: number): void {
  first = (first + finish(hash, 0x27d4eb2f)) | 0
  second = (second + finish(hash, 0x165667b1)) | 0
}

/** Hash of an entry as it is in a message: of all of its attributes, those included that we do not know. */
export function hashOfAttributes(buffer: Buffer, start: number, end: number): number {
  first = 0
  second = 0
  walk(buffer, start, end, entryAttributes.name, addAttribute)
  return joined(first, second)
}

const scratch = new Writer(128)

/** The hash that an entry has in the kernel's listing; 0 where the text is no entry of such a set. */
export function entryHash(set: Pick<SetSpec, 'type' | 'family'>, text: string): number {
  if (plain.read(set, text)) return hashOfPlain(set.type)
  const entry = parseEntry(set, text)
  if (entry === undefined) return 0
  scratch.length = 0
  entryAttributes.write(scratch, entry)
  return hashOfAttributes(scratch.buffer, 0, scratch.length)
}

function hashOfPlain(type: SetType): number {
  first = 0
  second = 0
  addNumber(entryAttributeTypes.ip, 8, 4, plain.ip)
  if (type === 'hash:ip') return joined(first, second)
  addNumber(entryAttributeTypes.port, 2, 2, plain.port)
  addNumber(entryAttributeTypes.protocol, 1, 1, plain.protocol)
  if (type === 'hash:ip,port,ip') addNumber(entryAttributeTypes.ip2, 8, 4, plain.ip2)
  return joined(first, second)
}
