import { canonicalAddress, cidrContains, familyOf, parseCidr, addressBytes } from '../model/address.ts'
import type { KernelState, Told } from './kernel-state.ts'
import { lowestClientPort, type Packet } from './packet.ts'
import type { Option, Rule } from './rule.ts'

/**
 * Whether a rule's matches hold for a packet that opens a connection, or answers its opening. A match that says no
 * settles it, whatever cannot be told of the others. A text says what cannot be told.
 */
export async function matchRule(rule: Rule, packet: Packet, kernel: KernelState): Promise<Told> {
  let doubt: string | undefined
  for (const option of rule.options) {
    const told = await matchOption(option, packet, kernel)
    const is = typeof told === 'boolean' && option.negated ? !told : told
    if (is === false) return false
    if (typeof is === 'string') doubt ??= is
  }
  return doubt ?? true
}

type Matcher = (args: readonly string[], packet: Packet, kernel: KernelState) => Told | Promise<Told>

async function matchOption(option: Option, packet: Packet, kernel: KernelState): Promise<Told> {
  const { module, name, args } = option
  const matcher = matchers[`${moduleNames[module] ?? module} ${name}`] ?? wholeModules[module]
  if (matcher !== undefined) return matcher(args, packet, kernel)
  return `-m ${module} ${[name, ...args].join(' ')}`.trim()
}

/** Modules under several names. */
const moduleNames: Readonly<Record<string, string>> = {
  udp: 'tcp',
  sctp: 'tcp',
  udplite: 'tcp',
  dccp: 'tcp',
  state: 'conntrack',
}

const protocolNumbers: Readonly<Record<string, string>> = {
  tcp: '6',
  udp: '17',
  sctp: '132',
  icmp: '1',
  'ipv6-icmp': '58',
  all: '0',
}

function isProtocol(text: string, packet: Packet): boolean {
  const number = protocolNumbers[text] ?? text
  if (number === '0') return true
  if (packet.isError === true) return number === (packet.family === 'IPv4' ? '1' : '58')
  return number === protocolNumbers[packet.protocol.toLowerCase()]
}

const both = (a: Told, b: Told): Told => (a === true || b === true ? true : typeof a === 'string' ? a : b)

/** Of a list, which only rules of nftables have. */
function anyOf(list: string, test: (one: string) => Told): Told {
  return list.includes(',') ? list.split(',').map(test).reduce(both, false) : test(list)
}

/** "10.0.0.0/8", "10.0.0.1", "10.0.0.0/255.0.255.0"; of nftables "10.0.0.1-10.0.0.9". */
function inRange(text: string, address: string): Told {
  if (text.includes('-')) return inSpan(text, address)
  const [host = '', mask] = text.split('/')
  const canonical = canonicalAddress(host)
  if (canonical === undefined) return `address ${text}`
  const cidr = parseCidr(mask === undefined ? `${canonical}/${familyOf(canonical) === 'IPv4' ? 32 : 128}` : text)
  if (cidr !== undefined) return cidrContains(cidr, address)
  const bits = canonicalAddress(mask ?? '')
  if (bits === undefined) return `address ${text}`
  if (familyOf(bits) !== familyOf(address)) return false
  const [a, b, m] = [addressBytes(canonical), addressBytes(address), addressBytes(bits)]
  return m.every((byte, i) => (a[i]! & byte) === (b[i]! & byte))
}

function isLink(pattern: string, link: string): boolean {
  return pattern.endsWith('+') ? link.startsWith(pattern.slice(0, -1)) && link !== '' : pattern === link
}

/** "80", "1024:65535", "1024:". */
function portRange(text: string): readonly [number, number] {
  const [from = '', to] = text.split(':')
  return [Number(from || 0), Number(to === undefined ? from : to || 65535)]
}

/** A client's port is any: it is in a range that has all of them and in none that has none. */
function matchPorts(ranges: readonly string[], packet: Packet, side: 'source' | 'destination'): Told {
  const port = side === 'source' ? packet.sourcePort : packet.destinationPort
  const isIn = ranges.map(portRange)
  if (packet.ephemeral !== side) return isIn.some(([from, to]) => port >= from && port <= to)
  if (isIn.some(([from, to]) => from <= lowestClientPort && to >= 65535)) return true
  if (isIn.every(([, to]) => to < lowestClientPort)) return false
  return `the client's port (${ranges.join(',')})`
}

/** "0x4000/0x4000": value and mask. */
function matchMark(text: string, mark: number): boolean {
  const [value = '0', mask = '0xffffffff'] = text.split('/')
  return (mark & Number(mask)) >>> 0 === Number(value) >>> 0
}

/** RTN_* by the names that addrtype uses. */
async function addressType(address: string, packet: Packet, kernel: KernelState): Promise<string> {
  if (address === '0.0.0.0' || address === '::') return 'UNSPEC'
  const route = await kernel.route({
    destination: address,
    mark: 0,
    protocol: packet.protocol,
    destinationPort: packet.destinationPort,
  })
  if (route.kind === 'local') return 'LOCAL'
  if (route.kind === 'other') return route.type.toUpperCase()
  // The table of local addresses alone is asked: what it does not have is unicast, with a route or without.
  return 'UNICAST'
}

const matchAddressType =
  (side: 'source' | 'destination'): Matcher =>
  async ([types = ''], packet, kernel) =>
    types.split(',').includes(await addressType(packet[side], packet, kernel))

function states(packet: Packet): readonly string[] {
  return packet.sourceTranslated ? [packet.state, 'SNAT'] : [packet.state]
}

async function reversePath([option = '']: readonly string[], packet: Packet, kernel: KernelState): Promise<Told> {
  if (option !== '') return `-m rpfilter ${option}`
  const query = { destination: packet.source, mark: 0, protocol: packet.protocol, destinationPort: packet.sourcePort }
  const route = await kernel.route(query)
  return route.kind === 'unicast' && route.link === packet.inLink
}

const yes: Matcher = () => true
const matchers: Readonly<Record<string, Matcher>> = {
  ' -s': ([text = ''], { source }) => anyOf(text, (one) => inRange(one, source)),
  ' -d': ([text = ''], { destination }) => anyOf(text, (one) => inRange(one, destination)),
  ' -i': ([name = ''], { inLink }) => anyOf(name, (one) => isLink(one, inLink)),
  ' -o': ([name = ''], { outLink }) => anyOf(name, (one) => isLink(one, outLink)),
  ' -p': ([name = ''], packet) => anyOf(name, (one) => isProtocol(one, packet)),
  ' -f': () => false,
  'tcp ': yes,
  'tcp --dport': ([ports = ''], packet) => matchPorts([ports], packet, 'destination'),
  'tcp --sport': ([ports = ''], packet) => matchPorts([ports], packet, 'source'),
  'tcp --tcp-flags': ([mask = '', set = ''], packet) => {
    const has = packet.direction === 'REPLY' ? ['SYN', 'ACK'] : ['SYN']
    const all = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG']
    const flags = (text: string): string[] => (text === 'ALL' ? all : text === 'NONE' ? [] : text.split(','))
    return flags(mask).every((flag) => has.includes(flag) === flags(set).includes(flag))
  },
  'tcp --syn': (_, packet) => packet.protocol === 'TCP' && packet.direction === 'ORIGINAL',
  'multiport --dports': ([list = ''], packet) => matchPorts(list.split(','), packet, 'destination'),
  'multiport --sports': ([list = ''], packet) => matchPorts(list.split(','), packet, 'source'),
  'multiport --ports': ([list = ''], packet) =>
    both(matchPorts(list.split(','), packet, 'destination'), matchPorts(list.split(','), packet, 'source')),
  'set --match-set': ([name = '', directions = ''], packet, kernel) =>
    kernel.inSet(name, directions.split(','), packet),
  'addrtype --dst-type': matchAddressType('destination'),
  'addrtype --src-type': matchAddressType('source'),
  'mark --mark': ([text = ''], { mark }) => matchMark(text, mark),
  'connmark --mark': ([text = ''], { connectionMark }) => matchMark(text, connectionMark),
  'conntrack --ctstate': ([list = ''], packet) => states(packet).some((state) => list.split(',').includes(state)),
  'conntrack --state': ([list = ''], packet) => list.split(',').includes(packet.state),
  'conntrack --ctproto': ([name = ''], packet) => isProtocol(name, packet),
  'conntrack --ctorigsrc': ([text = ''], packet) => tracked(packet) && inRange(text, packet.original.source),
  'conntrack --ctorigdst': ([text = ''], packet) => tracked(packet) && inRange(text, packet.original.destination),
  'conntrack --ctorigdstport': ([ports = ''], packet) => {
    const [from, to] = portRange(ports)
    return tracked(packet) && packet.original.destinationPort >= from && packet.original.destinationPort <= to
  },
  'conntrack --ctdir': ([direction = ''], packet) => tracked(packet) && direction === packet.direction,
  'comment --comment': yes,
  'physdev --physdev-is-in': (_, { bridged }) => bridged,
  'physdev --physdev-is-bridged': (_, { bridged, outLink, inLink }) => bridged && outLink === inLink,
  'physdev --physdev-is-out': (_, { bridged, outLink, inLink }) => bridged && outLink === inLink,
  'physdev --physdev-in': ([name = ''], { bridged }) => (bridged ? `-m physdev --physdev-in ${name}` : false),
  'ipvs --ipvs': (_, { server }) => server !== undefined,
  'ipvs --vproto': ([name = ''], packet) => packet.server !== undefined && isProtocol(name, packet),
  'ipvs --vaddr': ([text = ''], { server }) => server !== undefined && inRange(text, server.address),
  'ipvs --vport': ([port = ''], { server }) => server !== undefined && Number(port) === server.port,
  'ipvs --vdir': ([direction = ''], packet) => packet.server !== undefined && direction === packet.direction,
  'iprange --src-range': ([range = ''], { source }) => inSpan(range, source),
  'iprange --dst-range': ([range = ''], { destination }) => inSpan(range, destination),
  'pkttype --pkt-type': ([type = '']) => type === 'unicast',
  'rpfilter ': reversePath,
  'rpfilter --invert': async (args, packet, kernel) => {
    const told = await reversePath(args, packet, kernel)
    return typeof told === 'string' ? told : !told
  },
}

/** Modules whose every option is settled alike. */
const wholeModules: Readonly<Record<string, Matcher>> = {
  icmp: matchIcmp,
  icmp6: matchIcmp,
  nfacct: yes,
  statistic: ([...args]) => `-m statistic ${args.join(' ')}: by chance`.replace('  ', ' '),
  limit: () => '-m limit: up to a rate',
  hashlimit: () => '-m hashlimit: up to a rate',
}

function tracked({ state }: Packet): boolean {
  return state === 'NEW' || state === 'ESTABLISHED' || state === 'RELATED'
}

/** "any", "3", "3/3": an error that tells of an unreachable destination is of type 3, of ICMPv6 type 1. */
function matchIcmp([type = 'any']: readonly string[], { isError, family }: Packet): Told {
  if (isError !== true) return false
  if (type === 'any') return true
  const [number, code] = type.split('/')
  if (number !== (family === 'IPv4' ? '3' : '1')) return false
  return code === undefined ? true : `the code of an ICMP error (${type})`
}

/** "10.0.0.1-10.0.0.9" */
function inSpan(range: string, address: string): Told {
  const [from, to] = range.split('-').map((text) => canonicalAddress(text))
  if (from === undefined || to === undefined) return `range ${range}`
  const [low, high, at] = [from, to, address].map((text) => Buffer.from(addressBytes(text)))
  return at!.length === low!.length && Buffer.compare(low!, at!) <= 0 && Buffer.compare(at!, high!) <= 0
}
