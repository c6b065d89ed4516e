import { ProxyError, type KernelError } from '../lib/errors.ts'
import { withHash } from '../lib/digest.ts'
import { PatientTurn } from '../lib/turn.ts'
import type { SetType } from '../model/sets.ts'
import {
  attributeFlags,
  attributes,
  nested,
  nestedList,
  net16,
  net32,
  text,
  u32,
  u8,
  walk,
  type Writer,
} from '../netlink/attributes.ts'
import type { Message } from '../netlink/connection.ts'
import { errno, kernelError } from '../netlink/errno.ts'
import { flags, type Received } from '../netlink/header.ts'
import { entryAttributes, entryType, hashOfAttributes, writeEntry, type EntryAttributes } from './entries.ts'
import type { ObservedSet, SetDigest, SetSpec } from './ipset.ts'

/** NFNL_SUBSYS_IPSET of linux/netfilter/nfnetlink.h. */
const subsystem = 6
/** struct nfgenmsg: family u8, version u8, resource be16. */
const headerLength = 4
/** IPSET_PROTOCOL_MIN: kernels of both protocols 6 and 7 take it, and nothing we need differs. */
const protocolVersion = 6

/** IPSET_CMD_* of linux/netfilter/ipset/ip_set.h. */
export const commands = {
  protocol: 1,
  create: 2,
  destroy: 3,
  swap: 6,
  list: 7,
  add: 9,
  remove: 10,
  type: 13,
} as const

/** IPSET_FLAG_LIST_SETNAME, IPSET_FLAG_LIST_HEADER. */
const listNamesFlag = 2
const listHeadersFlag = 4

const families = { IPv4: 2, IPv6: 10 } as const

/** Create-only IPSET_ATTR_*. */
export const createAttributes = attributes('ipset set', {
  port: [4, net16],
  portTo: [5, net16],
  hashsize: [18, net32],
  maxelem: [19, net32],
  elements: [24, net32], // told since Linux 4.10
  references: [25, net32],
})

const commandAttributeTypes = { data: 7, entries: 8 } as const

const head = {
  protocol: [1, u8],
  setName: [2, text],
  typeName: [3, text], // also the second name of a swap
  revision: [4, u8],
  family: [5, u8],
  flags: [6, net32],
} as const

/** IPSET_ATTR_* at command level of linux/netfilter/ipset/ip_set.h; DATA describes a set. */
export const commandAttributes = attributes('ipset command', {
  ...head,
  data: [commandAttributeTypes.data, nested(createAttributes)],
  entries: [commandAttributeTypes.entries, nestedList(entryType, nested(entryAttributes))],
  line: [9, u32],
  protocolMin: [10, u8],
})
type CommandAttributes = Parameters<typeof commandAttributes.write>[1]

/** The set alone, of a listing with its entries. */
const setAttributes = attributes('ipset command', {
  ...head,
  data: [commandAttributeTypes.data, nested(createAttributes)],
})

/**
 * Private errnos: enum ipset_errno of linux/netfilter/ipset/ip_set.h, and those of one type in ip_set_hash.h and
 * ip_set_bitmap.h beside it.
 */
export const ipsetErrno = {
  protocol: 4097,
  findType: 4098,
  maxSets: 4099,
  busy: 4100,
  existSetName2: 4101,
  typeMismatch: 4102,
  exist: 4103,
  invalidCIDR: 4104,
  hashFull: 4352,
} as const

const commonNames = [
  'IPSET_ERR_PRIVATE IPSET_ERR_PROTOCOL IPSET_ERR_FIND_TYPE IPSET_ERR_MAX_SETS IPSET_ERR_BUSY',
  'IPSET_ERR_EXIST_SETNAME2 IPSET_ERR_TYPE_MISMATCH IPSET_ERR_EXIST IPSET_ERR_INVALID_CIDR',
  'IPSET_ERR_INVALID_NETMASK IPSET_ERR_INVALID_FAMILY IPSET_ERR_TIMEOUT IPSET_ERR_REFERENCED',
  'IPSET_ERR_IPADDR_IPV4 IPSET_ERR_IPADDR_IPV6 IPSET_ERR_COUNTER IPSET_ERR_COMMENT',
  'IPSET_ERR_INVALID_MARKMASK IPSET_ERR_SKBINFO IPSET_ERR_BITMASK_NETMASK_EXCL',
].flatMap((line) => line.split(' '))
const hashNames = [
  'IPSET_ERR_HASH_FULL IPSET_ERR_HASH_ELEM IPSET_ERR_INVALID_PROTO IPSET_ERR_MISSING_PROTO',
  'IPSET_ERR_HASH_RANGE_UNSUPPORTED IPSET_ERR_HASH_RANGE',
].flatMap((line) => line.split(' '))
const bitmapNames = ['IPSET_ERR_BITMAP_RANGE', 'IPSET_ERR_BITMAP_RANGE_SIZE']

function numbered(from: number, names: readonly string[]): [number, string][] {
  return names.map((name, index) => [from + index, name])
}

/**
 * Names of ipset's own errnos where the set is not known. From 4352 on they differ by type: those of hashes stand here, for
 * a bitmap refuses only what is out of its range, and ours hold every port.
 */
export const ipsetErrnoNames: ReadonlyMap<number, string> = new Map([
  ...numbered(4096, commonNames),
  ...numbered(4352, hashNames),
])
const bitmapErrnoNames = new Map([...numbered(4096, commonNames), ...numbered(4352, bitmapNames)])

/** The kernel's refusal of something about a set, with advice where the reason is known. */
export function ipsetError(value: number, operation: string, object: string, set?: SetSpec): KernelError {
  const names = set?.type === 'bitmap:port' ? bitmapErrnoNames : ipsetErrnoNames
  return kernelError(value, operation, object, adviceFor(value, operation, set), names)
}

function adviceFor(value: number, operation: string, set: SetSpec | undefined): string | undefined {
  if (value === ipsetErrno.findType && set !== undefined) return `modprobe ip_set_${moduleName(set.type)}`
  if (value === ipsetErrno.busy) return 'rules or other sets still name it'
  if (value === errno.EEXIST && operation === 'create') return 'a set of this name has another type or other options'
  if (value === ipsetErrno.hashFull && set !== undefined && set.type !== 'bitmap:port') {
    return `the set holds its maximum of ${set.maxelem} entries`
  }
  return undefined
}

function moduleName(type: SetType): string {
  return type.replace(':', '_').replaceAll(',', '')
}

/** The refusal of one entry. */
export function entryError(value: number, operation: 'add' | 'delete', entry: string, set: SetSpec): KernelError {
  return ipsetError(value, `${operation} entry`, `${entry} of set ${set.name}`, set)
}

/** A text that is no entry of such a set; it does not even reach the kernel. */
export function malformedEntryError(operation: 'add' | 'delete', entry: string, set: SetSpec): KernelError {
  const advice = `not an entry of a set of type ${set.type}, ${set.family}`
  return kernelError(errno.EINVAL, `${operation} entry`, `${entry} of set ${set.name}`, advice)
}

function ipsetMessage(command: number, family: number, value: CommandAttributes, extra = 0): Message {
  return {
    type: (subsystem << 8) | command,
    flags: extra,
    write: (writer) => {
      writeHeader(writer, family)
      commandAttributes.write(writer, { protocol: protocolVersion, ...value })
    },
  }
}

function writeHeader(writer: Writer, family: number): void {
  const at = writer.reserve(headerLength)
  writer.word32(at, family)
}

function setFamily(set: SetSpec): number {
  return set.type === 'bitmap:port' ? 0 : families[set.family]
}

export function protocolMessage(): Message {
  return ipsetMessage(commands.protocol, 0, {})
}

/** Which revisions of a type the kernel knows; loads its module. */
export function typeMessage(set: SetSpec): Message {
  const family = setFamily(set)
  return ipsetMessage(commands.type, family, { typeName: set.type, family })
}

/** Without NLM_F_EXCL: an identical set is success. */
export function createMessage(set: SetSpec, revision: number): Message {
  const family = setFamily(set)
  const { hashsize, maxelem } = set
  const data = set.type === 'bitmap:port' ? { port: 0, portTo: 65535 } : { hashsize, maxelem }
  const value = { setName: set.name, typeName: set.type, revision, family, data }
  return ipsetMessage(commands.create, family, value, flags.create)
}

export function destroyMessage(name: string): Message {
  return ipsetMessage(commands.destroy, 0, { setName: name })
}

export function swapMessage(from: string, to: string): Message {
  return ipsetMessage(commands.swap, 0, { setName: from, typeName: to })
}

export function listMessage(name: string): Message {
  return ipsetMessage(commands.list, 0, { setName: name })
}

export function namesMessage(): Message {
  return ipsetMessage(commands.list, 0, { flags: listNamesFlag })
}

/** All sets without their entries. */
export function headersMessage(): Message {
  return ipsetMessage(commands.list, 0, { flags: listHeadersFlag })
}

/**
 * Adds or removes many entries. Lines count from 1: the kernel stops at the first bad entry and repeats the request
 * with that entry's line at command level, where 0 means that it did not come to the entries. The texts have to be
 * entries of the set.
 */
export function changeEntriesMessage(kind: 'add' | 'remove', set: SetSpec, entries: readonly string[]): Message {
  const head = ipsetMessage(commands[kind], setFamily(set), { setName: set.name })
  return {
    ...head,
    write: (writer) => {
      head.write(writer)
      const list = writer.beginAttribute(commandAttributeTypes.entries | attributeFlags.nested)
      for (const [index, entry] of entries.entries()) writeEntry(writer, set, entry, index + 1)
      writer.endAttribute(list)
      lineAttributes.write(writer, { line: 0 })
    },
  }
}
const lineAttributes = attributes('ipset command', { line: [9, u32] })

/** Entries per message: below 64 kB, the limit of an attribute's length. */
export function entriesPerMessage(set: SetSpec): number {
  return set.family === 'IPv6' ? 750 : 1000
}

/** Entries and room of the set in a listing; undefined where it does not say. */
export function roomOf(payload: Buffer): { members: number; size: number } | undefined {
  const { elements, maxelem } = setAttributes.decode(payload, headerLength).data ?? {}
  return elements === undefined || maxelem === undefined ? undefined : { members: elements, size: maxelem }
}

/** Decodes a payload after nlmsghdr. */
export function decodeCommand(payload: Buffer): CommandAttributes {
  if (payload.length < headerLength) {
    throw new ProxyError('CODEC', `nfgenmsg at byte 0: ${payload.length} bytes instead of ${headerLength}`, {
      path: 'nfgenmsg',
      offset: 0,
    })
  }
  return commandAttributes.decode(payload, headerLength)
}

/** The bad entry's line in the request that an error repeats; 0 where there is none. */
export function failedLine(echo: Buffer): number {
  return echo.length < headerLength ? 0 : (commandAttributesHead.decode(echo, headerLength).line ?? 0)
}
/** Only the top: a thousand entries need not be decoded to find one line. */
const commandAttributesHead = attributes('ipset command', { ...head, line: [9, u32] })

/** One set out of the payloads of its listing; `toText` prints an entry. */
export async function decodeSet(
  payloads: readonly Buffer[],
  toText: (type: SetType, entry: EntryAttributes) => string,
): Promise<ObservedSet | undefined> {
  const turn = new PatientTurn(1)
  const entries: string[] = []
  let header: CommandAttributes | undefined
  for (const payload of payloads) {
    if (turn.isOver) await turn.next()
    const part = decodeCommand(payload)
    // Comes with the first part (ip_set_dump_do).
    if (part.typeName !== undefined) header ??= part
    const type = setType(header?.typeName)
    if (type !== undefined) for (const entry of part.entries ?? []) entries.push(toText(type, entry))
  }
  const spec = specOf(header)
  return spec && { spec, entries, references: header?.data?.references ?? 0 }
}

function specOf(header: CommandAttributes | undefined): SetSpec | undefined {
  if (header?.setName === undefined || header.typeName === undefined) return undefined
  return {
    name: header.setName,
    // A foreign set may have a type that we never make: its name is passed on, its entries are not ours to read.
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- see above
    type: header.typeName as SetType,
    family: header.family === families.IPv6 ? 'IPv6' : 'IPv4',
    hashsize: header.data?.hashsize ?? 0,
    maxelem: header.data?.maxelem ?? 0,
  }
}

/** Adds up a set's listing, message by message, without a copy of anything in it. */
export class SetSurvey {
  #spec: SetSpec | undefined
  #sum = 0
  #count = 0

  take({ datagram, start, end }: Received): void {
    this.#spec ??= specOf(setAttributes.decode(datagram, start + headerLength, end))
    walk(datagram, start + headerLength, end, 'ipset command', this.#takePart)
  }

  get digest(): SetDigest | undefined {
    return this.#spec && { spec: this.#spec, sum: this.#sum, count: this.#count }
  }

  readonly #takePart = (type: number, start: number, end: number, datagram: Buffer): void => {
    if (type === commandAttributeTypes.entries) walk(datagram, start, end, 'ipset entries', this.#takeEntry)
  }

  readonly #takeEntry = (_type: number, start: number, end: number, datagram: Buffer): void => {
    this.#sum = withHash(this.#sum, hashOfAttributes(datagram, start, end))
    this.#count++
  }
}

/** One of the types that we make. */
function setType(name: string | undefined): SetType | undefined {
  for (const type of knownRevisions.keys()) if (type === name) return type
  return undefined
}

/** The newest revision of each type whose options we know; a kernel may have less. */
export const knownRevisions: ReadonlyMap<SetType, number> = new Map([
  ['hash:ip', 5],
  ['hash:ip,port', 6],
  ['hash:ip,port,ip', 6],
  ['hash:ip,port,net', 8],
  ['bitmap:port', 3],
])
