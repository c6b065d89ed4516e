import { addressBytes, addressText, familyOf, type Protocol } from '../model/address.ts'
import { attributes, be16, bytes, u32, u8 } from '../netlink/attributes.ts'
import { Connection, type Message } from '../netlink/connection.ts'
import { errnoName } from '../netlink/errno.ts'
import { protocols } from '../netlink/header.ts'
import type { RouteAnswer, RouteQuery } from './kernel-state.ts'

/** RTM_GETROUTE of linux/rtnetlink.h. */
const getRoute = 26
/** struct rtmsg: family, destination and source length, tos, table, protocol, scope, type u8, flags u32. */
const headerLength = 12
/** RTM_F_FIB_MATCH: the entry that matched instead of the route made of it. */
const fibMatch = 0x2000
const families = { IPv4: 2, IPv6: 10 } as const
/** Those that the kernel takes in a query (rtm_getroute_parse_ip_proto); of any other it says EOPNOTSUPP. */
const protocolNumbers: Readonly<Partial<Record<Protocol, number>>> = { TCP: 6, UDP: 17 }

/** RTA_* of linux/rtnetlink.h. */
export const routeAttributes = attributes('route', {
  destination: [1, bytes],
  source: [2, bytes],
  inLink: [3, u32],
  outLink: [4, u32],
  gateway: [5, bytes],
  preferredSource: [7, bytes],
  mark: [16, u32],
  /** struct rtvia: family u16, address. */
  via: [18, bytes],
  protocol: [27, u8],
  sourcePort: [28, be16],
  destinationPort: [29, be16],
})

/** RTN_*. */
const types = [
  'unspec',
  'unicast',
  'local',
  'broadcast',
  'anycast',
  'multicast',
  'blackhole',
  'unreachable',
  'prohibit',
]

/** Routes as the kernel itself finds them: policy rules, every table, and the check of the source (rp_filter). */
export class Routes {
  readonly #connection: Connection
  readonly #names: ReadonlyMap<number, string>
  readonly #indices: ReadonlyMap<string, number>
  readonly #known = new Map<string, Promise<RouteAnswer>>()

  /** `links`: index and name. `connect` gives a connection of NETLINK_ROUTE. */
  constructor(
    links: Iterable<readonly [number, string]>,
    connect: () => Connection = () => Connection.open(protocols.route),
  ) {
    this.#connection = connect()
    this.#names = new Map(links)
    this.#indices = new Map([...this.#names].map(([index, name]) => [name, index]))
  }

  find(query: RouteQuery): Promise<RouteAnswer> {
    const key = Object.values({ source: '', inLink: '', ...query }).join(' ')
    let known = this.#known.get(key)
    if (known === undefined) {
      known = this.#find(query)
      this.#known.set(key, known)
    }
    return known
  }

  close(): void {
    this.#connection.close()
  }

  async #find(query: RouteQuery): Promise<RouteAnswer> {
    const inLink = query.inLink === undefined || query.inLink === '' ? undefined : this.#indices.get(query.inLink)
    const reply = await this.#connection.request(routeMessage(query, inLink, 0))
    const [payload] = reply.payloads
    if (reply.errno !== 0 || payload === undefined) return { kind: 'error', errno: errnoName(reply.errno) }
    const route = decodeRoute(payload)
    const type = types[route.type] ?? String(route.type)
    if (type === 'local') return { kind: 'local', link: await this.#owner(query.destination) }
    if (type !== 'unicast') return { kind: 'other', type }
    const { gateway, source } = route
    return {
      kind: 'unicast',
      link: this.#names.get(route.outLink) ?? '',
      ...(gateway === undefined ? {} : { gateway }),
      ...(source === undefined ? {} : { source }),
    }
  }

  /** The link whose address it is: the route made of the entry says lo. */
  async #owner(destination: string): Promise<string> {
    const query: RouteQuery = { destination, mark: 0, protocol: 'TCP', destinationPort: 0 }
    const reply = await this.#connection.request(routeMessage(query, undefined, fibMatch))
    const [payload] = reply.payloads
    if (reply.errno !== 0 || payload === undefined) return ''
    return this.#names.get(decodeRoute(payload).outLink) ?? ''
  }
}

export function routeMessage(query: RouteQuery, inLink: number | undefined, flags: number): Message {
  const { destination, source, mark, protocol, destinationPort } = query
  return {
    type: getRoute,
    write: (writer) => {
      const at = writer.reserve(headerLength)
      const whole = familyOf(destination) === 'IPv4' ? 32 : 128
      const number = protocolNumbers[protocol]
      writer.buffer.fill(0, at, at + headerLength)
      writer.buffer[at] = families[familyOf(destination)]
      writer.buffer[at + 1] = whole
      writer.buffer[at + 2] = source === undefined ? 0 : whole
      writer.word32(at + 8, flags)
      routeAttributes.write(writer, {
        destination: addressBytes(destination),
        ...(source === undefined ? {} : { source: addressBytes(source) }),
        ...(inLink === undefined ? {} : { inLink }),
        ...(mark === 0 ? {} : { mark }),
        ...(destinationPort === 0 || number === undefined ? {} : { protocol: number, destinationPort }),
      })
    },
  }
}

/** A payload after nlmsghdr. */
export function decodeRoute(payload: Buffer): { type: number; outLink: number; gateway?: string; source?: string } {
  const { outLink = 0, gateway, via, preferredSource } = routeAttributes.decode(payload, headerLength)
  const next = gateway ?? via?.subarray(2)
  return {
    type: payload[7] ?? 0,
    outLink,
    ...(next === undefined ? {} : { gateway: addressText(next) }),
    ...(preferredSource === undefined ? {} : { source: addressText(preferredSource) }),
  }
}
