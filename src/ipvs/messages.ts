import type { KernelError } from '../lib/errors.ts'
import { mappedPrefix, portAndWeight } from '../model/destination-list.ts'
import { addressBytes, addressText, familyOf, putAddress, type Family, type Protocol } from '../model/address.ts'
import {
  attributes,
  be16,
  bytes,
  count64,
  ipAddress,
  nested,
  text,
  u16,
  u32,
  Writer,
  type AttributesOf,
} from '../netlink/attributes.ts'
import type { Message, MessageList } from '../netlink/connection.ts'
import { errno, kernelError } from '../netlink/errno.ts'
import { genericHeaderLength, genericMessage, writeGenericHeader } from '../netlink/generic.ts'
import {
  destinationKey,
  type DestinationId,
  serverKey,
  type IpvsChange,
  type IpvsTimeouts,
  type KnownServer,
  type ObservedDestination,
  type ServerCounters,
  type ServerId,
  type VirtualServer,
} from './ipvs.ts'

/** Name of the generic netlink family, IPVS_GENL_NAME of linux/ip_vs.h. */
export const familyName = 'IPVS'

/** IPVS_CMD_* of linux/ip_vs.h. */
export const commands = {
  newServer: 1,
  setServer: 2,
  deleteServer: 3,
  getServer: 4,
  newDestination: 5,
  setDestination: 6,
  deleteDestination: 7,
  getDestination: 8,
  setConfig: 12,
  getConfig: 13,
} as const

/** IPVS_SVC_ATTR_* of linux/ip_vs.h. */
export const serverAttributes = attributes('ipvs service', {
  family: [1, u16],
  protocol: [2, u16],
  address: [3, ipAddress],
  port: [4, be16], // kept as it travels, unlike its neighbours
  firewallMark: [5, u32],
  scheduler: [6, text],
  flags: [7, bytes], // struct ip_vs_flags: value u32, mask u32
  timeout: [8, u32],
  netmask: [9, u32], // IPv4: mask in network order; IPv6: prefix length
})

/** IPVS_STATS_ATTR_* of linux/ip_vs.h, those that only grow. */
export const statisticsAttributes = attributes('ipvs statistics', {
  connections: [1, count64],
  incomingPackets: [2, count64],
  outgoingPackets: [3, count64],
  incomingBytes: [4, count64],
  outgoingBytes: [5, count64],
})

/** Of the same message as `serverAttributes`, the kernel's estimate of new connections in a second. */
const rateAttributes = attributes('ipvs command', {
  server: [
    1,
    nested(
      attributes('ipvs service', {
        statistics: [12, nested(attributes('ipvs statistics', { connectionsPerSecond: [6, count64] }))],
      }),
    ),
  ],
})

/** Of the same message as `serverAttributes`, what a reading of the counters needs. */
const countedAttributes = attributes('ipvs command', {
  server: [
    1,
    nested(
      attributes('ipvs service', {
        family: [1, u16],
        protocol: [2, u16],
        address: [3, ipAddress],
        port: [4, be16],
        statistics: [12, nested(statisticsAttributes)], // IPVS_SVC_ATTR_STATS64, since Linux 4.1
      }),
    ),
  ],
})

/** IPVS_DEST_ATTR_* of linux/ip_vs.h. */
export const destinationAttributes = attributes('ipvs destination', {
  address: [1, ipAddress],
  port: [2, be16],
  forwarding: [3, u32],
  weight: [4, u32],
  upperThreshold: [5, u32],
  lowerThreshold: [6, u32],
  activeConnections: [7, u32],
  inactiveConnections: [8, u32],
  family: [11, u16],
})

/** IPVS_CMD_ATTR_* of linux/ip_vs.h. */
export const commandAttributes = attributes('ipvs command', {
  server: [1, nested(serverAttributes)],
  destination: [2, nested(destinationAttributes)],
  timeoutTCP: [4, u32],
  timeoutTCPFin: [5, u32],
  timeoutUDP: [6, u32],
})

const families = { IPv4: 2, IPv6: 10 } as const
const protocols = { TCP: 6, UDP: 17, SCTP: 132 } as const
const protocolByNumber = new Map<number, Protocol>([
  [6, 'TCP'],
  [17, 'UDP'],
  [132, 'SCTP'],
])
/** IP_VS_SVC_F_HASHED: the kernel's own mark in dumps. */
const hashedFlag = 0x2
/** IP_VS_CONN_F_FWD_MASK. */
const forwardingMask = 0x7
const hostMask = { IPv4: 0xffffffff, IPv6: 128 } as const

function identity(server: ServerId): Parameters<typeof serverAttributes.write>[1] {
  return {
    family: families[server.family],
    protocol: protocols[server.protocol],
    address: addressBytes(server.address),
    port: server.port,
  }
}

function flagBytes(value: number): Buffer {
  const buffer = Buffer.alloc(8)
  buffer.writeUInt32LE(value, 0)
  buffer.writeUInt32LE(0xffffffff, 4)
  return buffer
}

/** The messages that carry out changes; those of one server's destinations, one after another, share what names it. */
export function changeMessages(familyId: number, changes: readonly IpvsChange[]): Message[] {
  let last: ServerId | undefined
  let name: Uint8Array = new Uint8Array()
  return changes.map((change) => {
    if (!('destination' in change)) {
      return genericMessage(familyId, commands[change.kind], (writer) => writeServer(writer, change))
    }
    if (change.server !== last) {
      last = change.server
      name = commandAttributes.encode({ server: identity(last) })
    }
    const server = name
    return genericMessage(familyId, commands[change.kind], (writer) => {
      writer.raw(server)
      writeDestination(writer, change)
    })
  })
}

function writeServer(writer: Writer, change: Exclude<IpvsChange, DestinationChange>): void {
  const server = identity(change.server)
  if (change.kind === 'deleteServer') return commandAttributes.write(writer, { server })
  const { scheduler, flags, timeout, family } = change.server
  const full = { ...server, scheduler, flags: flagBytes(flags), timeout, netmask: hostMask[family] }
  commandAttributes.write(writer, { server: full })
}

/**
 * The messages that make virtual servers with their destinations, in order: of each server its own, then one for each
 * destination. A cold start makes a hundred thousand of them; nothing is kept for each.
 */
export function makeMessages(familyId: number, servers: readonly KnownServer[]): MessageList {
  return new MakeMessages(familyId, servers)
}

class MakeMessages implements MessageList, Message {
  readonly type: number
  readonly length: number
  readonly #servers: readonly KnownServer[]
  /** The server that was asked for last, its index and that of its first message. */
  #index = 0
  #first = 0
  /** The message of it that was asked for: 0 is its own, the others are its destinations'. */
  #part = 0
  /** A message of a destination of this server, whole but for address, port and weight. */
  readonly #template = new Writer(256)
  #templateFor: KnownServer | undefined
  #templateFamily: Family = 'IPv4'

  constructor(familyId: number, servers: readonly KnownServer[]) {
    this.type = familyId
    this.#servers = servers
    this.length = servers.reduce((sum, { destinations }) => sum + 1 + destinations.length, 0)
  }

  at(index: number): Message | undefined {
    if (index < 0 || index >= this.length) return undefined
    while (index < this.#first) this.#first -= 1 + this.#servers[--this.#index]!.destinations.length
    for (;;) {
      const next = this.#first + 1 + this.#servers[this.#index]!.destinations.length
      if (index < next) break
      this.#first = next
      this.#index++
    }
    this.#part = index - this.#first
    return this
  }

  write(writer: Writer): void {
    const one = this.#servers[this.#index]!
    if (this.#part === 0) {
      writeGenericHeader(writer, commands.newServer)
      writeServer(writer, { kind: 'newServer', server: one.server })
    } else this.#writeDestination(writer, one, this.#part - 1)
  }

  #writeDestination(writer: Writer, one: KnownServer, index: number): void {
    const { bytes, width } = one.destinations
    let at = index * (width + portAndWeight)
    const isIPv4 = width === 4 || bytes.startsWith(mappedPrefix, at)
    this.#fit(one, isIPv4 ? 'IPv4' : 'IPv6')
    const template = this.#template
    const start = writer.reserve(template.length)
    const { buffer } = writer
    buffer.set(template.buffer.subarray(0, template.length), start)
    const body = start + template.length - templates.IPv4.whole.length
    const port = at + width
    if (isIPv4) at = port - 4
    for (let to = body + offsets.address; at < port; at++) buffer[to++] = bytes.charCodeAt(at)
    buffer[body + offsets.port] = bytes.charCodeAt(port)
    buffer[body + offsets.port + 1] = bytes.charCodeAt(port + 1)
    // Packed with the highest byte first, while the kernel has it in the machine's order.
    for (let i = 0; i < 4; i++) buffer[body + offsets.weight + i] = bytes.charCodeAt(port + 5 - i)
  }

  #fit(one: KnownServer, family: Family): void {
    if (this.#templateFor === one && this.#templateFamily === family) return
    this.#templateFor = one
    this.#templateFamily = family
    const template = this.#template
    template.length = 0
    writeGenericHeader(template, commands.newDestination)
    commandAttributes.write(template, { server: identity(one.server) })
    template.raw(templates[family].whole)
  }
}

type DestinationChange = Extract<IpvsChange, { readonly destination: DestinationId }>

function destinationTemplate(family: Family, whole: boolean): Uint8Array {
  const id = { address: new Uint8Array(16), port: 0, family: families[family] }
  const rest = whole ? { forwarding: 0, weight: 0, upperThreshold: 0, lowerThreshold: 0 } : {}
  return commandAttributes.encode({ destination: { ...id, ...rest } })
}

/** A cold start writes a hundred thousand destinations: their attributes are laid out once, and copied. */
const templates = {
  IPv4: { id: destinationTemplate('IPv4', false), whole: destinationTemplate('IPv4', true) },
  IPv6: { id: destinationTemplate('IPv6', false), whole: destinationTemplate('IPv6', true) },
} as const
/** Offsets in them: each attribute has a header of 4 bytes and a payload padded to 4. */
const offsets = { address: 8, port: 28, weight: 44 } as const

function writeDestination(writer: Writer, change: DestinationChange): void {
  const { address, port } = change.destination
  const whole = change.kind !== 'deleteDestination'
  const template = templates[familyOf(address)][whole ? 'whole' : 'id']
  const start = writer.reserve(template.length)
  const { buffer } = writer
  buffer.set(template, start)
  putAddress(buffer, start + offsets.address, address)
  buffer[start + offsets.port] = port >>> 8
  buffer[start + offsets.port + 1] = port
  // The kernel reads the weight as signed and answers ERANGE itself.
  if (whole) writer.word32(start + offsets.weight, change.destination.weight)
}

export function listServersMessage(familyId: number): Message {
  return genericMessage(familyId, commands.getServer)
}

/** One server; ESRCH where there is none. */
export function getServerMessage(familyId: number, server: ServerId): Message {
  return genericMessage(familyId, commands.getServer, (writer) =>
    commandAttributes.write(writer, { server: identity(server) }),
  )
}

export function listDestinationsMessage(familyId: number, server: ServerId): Message {
  return genericMessage(familyId, commands.getDestination, (writer) =>
    commandAttributes.write(writer, { server: identity(server) }),
  )
}

/** A virtual server of a firewall mark, or its destinations; ESRCH where there is none. */
export function markMessage(
  familyId: number,
  command: 'getServer' | 'getDestination',
  family: Family,
  mark: number,
): Message {
  return genericMessage(familyId, commands[command], (writer) =>
    commandAttributes.write(writer, { server: { family: families[family], firewallMark: mark } }),
  )
}

export function getTimeoutsMessage(familyId: number): Message {
  return genericMessage(familyId, commands.getConfig)
}

export function setTimeoutsMessage(familyId: number, timeouts: IpvsTimeouts): Message {
  return genericMessage(familyId, commands.setConfig, (writer) =>
    commandAttributes.write(writer, {
      timeoutTCP: timeouts.tcp,
      timeoutTCPFin: timeouts.tcpFin,
      timeoutUDP: timeouts.udp,
    }),
  )
}

function decodeAddress(padded: Uint8Array, family: Family): string {
  return addressText(family === 'IPv4' ? padded.subarray(0, 4) : padded)
}

function familyOfNumber(value: number | undefined): Family | undefined {
  return value === 2 ? 'IPv4' : value === 10 ? 'IPv6' : undefined
}

interface EncodedId {
  readonly family?: number | undefined
  readonly protocol?: number | undefined
  readonly address?: Uint8Array | undefined
  readonly port?: number | undefined
}

function decodeId(server: EncodedId | undefined): ServerId | undefined {
  const family = familyOfNumber(server?.family)
  const protocol = protocolByNumber.get(server?.protocol ?? 0)
  if (server?.address === undefined || server.port === undefined || !family || !protocol) return undefined
  return { family, protocol, address: decodeAddress(server.address, family), port: server.port }
}

/** One service of a dump (payload after nlmsghdr); undefined for firewall marks and what we never make. */
export function decodeServer(payload: Buffer): VirtualServer | undefined {
  const { server } = commandAttributes.decode(payload, genericHeaderLength)
  const id = decodeId(server)
  if (server === undefined || id === undefined) return undefined
  return { ...id, ...decodeRest(server) }
}

/** How the service of an answer balances, whatever it is known by. */
export function decodeBalancing(payload: Buffer): Omit<VirtualServer, keyof ServerId> {
  return decodeRest(commandAttributes.decode(payload, genericHeaderLength).server ?? {})
}

function decodeRest(server: AttributesOf<typeof serverAttributes>): Omit<VirtualServer, keyof ServerId> {
  const flags = server.flags === undefined || server.flags.length < 4 ? 0 : Buffer.from(server.flags).readUInt32LE(0)
  return { scheduler: server.scheduler ?? '', flags: flags & ~hashedFlag, timeout: server.timeout ?? 0 }
}

/** New connections in a second of one service (payload after nlmsghdr); 0 where the kernel does not estimate. */
export function decodeRate(payload: Buffer): number {
  return rateAttributes.decode(payload, genericHeaderLength).server?.statistics?.connectionsPerSecond ?? 0
}

/** The counters of one service of a dump, at these offsets of the datagram; undefined as `decodeServer`. */
export function decodeCounters(
  datagram: Buffer,
  start: number,
  end: number,
): { readonly id: ServerId; readonly counters: ServerCounters } | undefined {
  const { server } = countedAttributes.decode(datagram, start + genericHeaderLength, end)
  const id = decodeId(server)
  if (id === undefined) return undefined
  const {
    connections = 0,
    incomingPackets = 0,
    outgoingPackets = 0,
    incomingBytes = 0,
    outgoingBytes = 0,
  } = server?.statistics ?? {}
  return { id, counters: { connections, incomingPackets, outgoingPackets, incomingBytes, outgoingBytes } }
}

/** One destination of a dump (payload after nlmsghdr). */
export function decodeDestination(payload: Buffer, serverFamily: Family): ObservedDestination | undefined {
  const { destination } = commandAttributes.decode(payload, genericHeaderLength)
  if (destination?.address === undefined || destination.port === undefined) return undefined
  return {
    address: decodeAddress(destination.address, familyOfNumber(destination.family) ?? serverFamily),
    port: destination.port,
    weight: (destination.weight ?? 0) | 0,
    forwarding: (destination.forwarding ?? 0) & forwardingMask,
    activeConnections: destination.activeConnections ?? 0,
    inactiveConnections: destination.inactiveConnections ?? 0,
  }
}

export function decodeTimeouts(payload: Buffer): IpvsTimeouts {
  const config = commandAttributes.decode(payload, genericHeaderLength)
  return { tcp: config.timeoutTCP ?? 0, tcpFin: config.timeoutTCPFin ?? 0, udp: config.timeoutUDP ?? 0 }
}

const operations = {
  newServer: 'add',
  setServer: 'update',
  deleteServer: 'delete',
  newDestination: 'add destination',
  setDestination: 'update destination',
  deleteDestination: 'delete destination',
} as const

/** The object of a change: "virtual server 10.96.0.1:80/TCP", "10.0.0.1:8080 of virtual server 10.96.0.1:80/TCP". */
export function changeObject(change: IpvsChange): string {
  const server = `virtual server ${serverKey(change.server)}`
  return 'destination' in change ? `${destinationKey(change.destination)} of ${server}` : server
}

/** The kernel's refusal of a change, with advice where the reason is known. */
export function changeError(change: IpvsChange, value: number): KernelError {
  let advice: string | undefined
  if ((change.kind === 'newServer' || change.kind === 'setServer') && value === errno.ENOENT) {
    advice = `unknown scheduler "${change.server.scheduler}": modprobe ip_vs_${change.server.scheduler}`
  } else if (change.kind === 'newServer' && value === errno.EPROTONOSUPPORT) {
    advice = `the kernel's IPVS was built without ${change.server.protocol}`
  } else if (change.kind === 'newDestination' && value === errno.EINVAL) {
    advice = 'not a unicast address, or the network namespace has no address at all'
  }
  return kernelError(value, operations[change.kind], changeObject(change), advice)
}
