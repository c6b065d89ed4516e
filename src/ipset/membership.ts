import { addressBytes, familyOf, type Family, type Protocol } from '../model/address.ts'
import type { SetType } from '../model/sets.ts'
import { attributes, nested, net16, net32, text, u8 } from '../netlink/attributes.ts'
import { Connection, type Message } from '../netlink/connection.ts'
import { errno, errnoName } from '../netlink/errno.ts'
import { flags, protocols } from '../netlink/header.ts'
import { addressAttributes, entryAttributes, parseEntry } from './entries.ts'
import { decodeCommand, ipsetErrno, ipsetErrnoNames, roomOf } from './messages.ts'

/** IPSET_CMD_LIST, IPSET_CMD_TEST and IPSET_CMD_HEADER of linux/netfilter/ipset/ip_set.h. */
const commands = { list: 7, test: 11, header: 12 } as const
const subsystem = 6
const headerLength = 4
const protocolVersion = 6
const families = { IPv4: 2, IPv6: 10 } as const
const protocolNumbers: Readonly<Record<Protocol, number>> = { TCP: 6, UDP: 17, SCTP: 132 }

/** Entry attributes that foreign sets have beside those of our own. */
const elementAttributes = attributes('ipset entry', {
  ip: [1, nested(addressAttributes)],
  port: [4, net16],
  proto: [7, u8],
  mark: [10, net32],
  ip2: [20, nested(addressAttributes)],
  link: [23, text],
})
type Element = Parameters<typeof elementAttributes.write>[1]

/** IPSET_FLAG_LIST_HEADER: a set without its entries. */
const headerOnly = 4

const testAttributes = attributes('ipset test', {
  protocol: [1, u8],
  setName: [2, text],
  flags: [6, net32],
  data: [7, nested(elementAttributes)],
})
const testEntryAttributes = attributes('ipset test', {
  protocol: [1, u8],
  setName: [2, text],
  data: [7, nested(entryAttributes)],
})

/** What a set is asked about: one side of a packet for each of its dimensions. */
export interface Sought {
  readonly family: Family
  readonly protocol: Protocol
  readonly mark: number
  readonly sides: readonly { readonly address: string; readonly port: number; readonly link: string }[]
}

export interface SetRoom {
  readonly members: number
  readonly size: number
}

interface Header {
  /** "hash:ip,port"; not only types that we make. */
  readonly type: string
  /** Undefined: a set of no family. */
  readonly family: Family | undefined
}

/** Whether sets have an element, by asking the kernel: nothing is listed, and sets of any type can be asked. */
export class SetMembership {
  readonly #connection: Connection
  readonly #headers = new Map<string, Promise<Header | undefined>>()

  /** `connect` gives a connection of NETLINK_NETFILTER; its socket is opened at the first question. */
  constructor(connect: () => Connection = () => Connection.open(protocols.netfilter)) {
    this.#connection = connect()
  }

  /** As a rule's match of the set would find; a text says why it cannot be told. */
  async has(name: string, sought: Sought): Promise<boolean | string> {
    const header = await this.#header(name)
    if (header === undefined) return `there is no set ${name}`
    const element = elementOf(header.type, sought)
    if (typeof element === 'string') return `set ${name}: ${element}`
    // With fewer directions than the set has dimensions, or of another family, a rule never matches.
    if (element === undefined || (header.family !== undefined && header.family !== sought.family)) return false
    return this.#test(name, (writer) =>
      testAttributes.write(writer, { protocol: protocolVersion, setName: name, data: element }),
    )
  }

  /** Whether a set of one of our types has an entry, as `ipset save` prints it. */
  async hasEntry(name: string, entry: string): Promise<boolean | string> {
    const header = await this.#header(name)
    if (header === undefined) return false
    const family = header.family ?? 'IPv4'
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- another type has no entry of this form
    const data = parseEntry({ type: header.type as SetType, family }, entry)
    if (data === undefined) return `${entry} is no entry of a set of type ${header.type}`
    return this.#test(name, (writer) =>
      testEntryAttributes.write(writer, { protocol: protocolVersion, setName: name, data }),
    )
  }

  /** How many entries a hash set has and may have; undefined of other sets and of kernels that do not tell. */
  async room(name: string): Promise<SetRoom | undefined> {
    const value = { protocol: protocolVersion, setName: name, flags: headerOnly }
    const reply = await this.#connection.dump({
      ...ipsetMessage(commands.list, (writer) => testAttributes.write(writer, value)),
      flags: flags.dump,
    })
    const [payload] = reply.payloads
    return reply.errno === 0 && payload !== undefined ? roomOf(payload) : undefined
  }

  close(): void {
    this.#connection.close()
  }

  #header(name: string): Promise<Header | undefined> {
    let known = this.#headers.get(name)
    if (known === undefined) {
      known = this.#readHeader(name)
      this.#headers.set(name, known)
    }
    return known
  }

  async #readHeader(name: string): Promise<Header | undefined> {
    const message = ipsetMessage(commands.header, (writer) =>
      testAttributes.write(writer, { protocol: protocolVersion, setName: name }),
    )
    const reply = await this.#connection.request(message)
    const [payload] = reply.payloads
    if (reply.errno !== 0 || payload === undefined) return undefined
    const { typeName, family } = decodeCommand(payload)
    if (typeName === undefined) return undefined
    return { type: typeName, family: family === families.IPv4 ? 'IPv4' : family === families.IPv6 ? 'IPv6' : undefined }
  }

  async #test(name: string, write: Message['write']): Promise<boolean | string> {
    const reply = await this.#connection.request(ipsetMessage(commands.test, write))
    if (reply.errno === 0) return true
    // IPSET_ERR_EXIST is the answer "not in the set"; a bitmap answers so for what is outside its range, too.
    if (reply.errno === ipsetErrno.exist || reply.errno === ipsetErrno.hashFull) return false
    if (reply.errno === errno.ENOENT) return `there is no set ${name}`
    return `set ${name} cannot be asked: ${errnoName(reply.errno, ipsetErrnoNames)}`
  }
}

function ipsetMessage(command: number, write: Message['write']): Message {
  return {
    type: (subsystem << 8) | command,
    write: (writer) => {
      writer.word32(writer.reserve(headerLength), 0)
      write(writer)
    },
  }
}

/** The element a packet makes for a set of a type; undefined where it makes none, a text where we cannot make it. */
export function elementOf(type: string, sought: Sought): Element | string | undefined {
  const [method = '', features = ''] = type.split(':')
  if (method !== 'hash' && method !== 'bitmap') return `its type ${type} is not looked into`
  const dimensions = features.split(',')
  if (dimensions.length > sought.sides.length) return undefined
  let element: Element = {}
  for (const [index, dimension] of dimensions.entries()) {
    const { address, port, link } = sought.sides[index]!
    if (dimension === 'ip' || dimension === 'net') {
      const value = familyOf(address) === 'IPv4' ? { ipv4: addressBytes(address) } : { ipv6: addressBytes(address) }
      element = element.ip === undefined ? { ...element, ip: value } : { ...element, ip2: value }
    } else if (dimension === 'port') {
      element = { ...element, port, ...(method === 'hash' ? { proto: protocolNumbers[sought.protocol] } : {}) }
    } else if (dimension === 'mark') element = { ...element, mark: sought.mark }
    else if (dimension === 'iface') element = { ...element, link }
    else return `its type ${type} is not looked into`
  }
  return element
}
