import type { ObservedDestination, ObservedServer } from '../ipvs/ipvs.ts'
import { isLoopback } from '../model/address.ts'
import { destinationKey, serverKey, type ServerId } from '../model/virtual-server.ts'
import { answerOfReject, answerOfRoute, configName, type Answer } from './answers.ts'
import { merge, passChain, type Doubt, type Hit, type Passage } from './chains.ts'
import type { KernelState, RouteAnswer } from './kernel-state.ts'
import { clientPort, packetKey, packetText, type Packet } from './packet.ts'
import { followRefusal } from './refusal.ts'

/** Where a packet comes from. */
export interface Origin {
  readonly kind: 'pod' | 'outside' | 'node'
  /** "": the node's own packets, whose source the kernel chooses. */
  readonly address: string
  /** By which link it comes in; "" from the node itself. */
  readonly inLink: string
  /** The client is a pod of this node, or the node: answers of other nodes come by here. */
  readonly isOnNode: boolean
}

export interface WalkFacts {
  readonly origin: Origin
  /** Whether what an address belongs to runs on this node, by the route to it and what is known of the cluster. */
  readonly isOnNode: (address: string, route: RouteAnswer) => boolean
}

export interface Step {
  readonly direction: 'request' | 'reply'
  /** "nat PREROUTING", "routing", "IPVS at LOCAL_IN" */
  readonly place: string
  readonly text: string
  readonly hits: readonly Hit[]
}

/** Why a way ended where it did. */
export type EndCode =
  | 'answered'
  | 'local-socket'
  | 'nothing-listens'
  | 'rule'
  | 'untold-target'
  | 'untold-server'
  | 'no-route'
  | 'no-route-back'
  | 'source-rejected'
  | 'forwarding-off'
  | 'routed-on'
  | 'no-destination'
  | 'loopback-source'
  | 'destination-unreachable'
  | 'not-masquerading'
  | 'hairpin-not-masqueraded'
  | 'hairpin-off'
  | 'reply-goes-around'
  | 'bridge-netfilter-off'

export interface End {
  readonly code: EndCode
  readonly answer: Answer
  readonly direction: 'request' | 'reply'
  /** Where: "filter INPUT". */
  readonly place: string
  readonly text: string
  /** The rule or policy that decided. */
  readonly by?: Hit
  /** What a process of the node is told by the call itself, or a routing error. */
  readonly errno?: string
  /** Why a refusal does not come to the client. */
  readonly lost?: string
  /** Client address that the endpoint sees. */
  readonly seen?: string
}

export interface DestinationResult {
  readonly destination: ObservedDestination
  readonly ways: readonly Way[]
}

export interface Balanced {
  readonly server: ObservedServer
  readonly results: readonly DestinationResult[]
  /** The virtual server is one of this firewall mark, and of no address. */
  readonly mark?: number
  /** Key of the destination that client affinity has chosen before. */
  readonly pinned?: string
}

/** One way a packet can go; there is more than one only where something cannot be told. */
export interface Way {
  readonly packet: Packet
  readonly steps: readonly Step[]
  readonly doubts: readonly Doubt[]
  /** Hooks passed, "request INPUT". */
  readonly hooks: readonly string[]
  readonly end?: End
  /** IPVS took it: what becomes of it with each destination that may be chosen. */
  readonly balanced?: Balanced
  /** The client address that the endpoint gets to see. */
  readonly seen?: string
}

type Stage = (way: Way) => Promise<readonly Way[]>

/** So many destinations are walked to. */
export const mostDestinations = 64

const isOver = (way: Way): boolean => way.end !== undefined || way.balanced !== undefined

/** The ways of one packet through the node. */
export class Walk {
  readonly #kernel: KernelState
  readonly #facts: WalkFacts

  constructor(kernel: KernelState, facts: WalkFacts) {
    this.#kernel = kernel
    this.#facts = facts
  }

  /** The first packet of a connection to `target`, all the way to its answer. */
  async request(target: ServerId): Promise<readonly Way[]> {
    const { origin } = this.#facts
    const bridged = this.#isBridged(origin.inLink)
    const packet: Packet = {
      family: target.family,
      protocol: target.protocol,
      source: origin.address,
      sourcePort: clientPort,
      destination: target.address,
      destinationPort: target.port,
      ephemeral: 'source',
      inLink: origin.inLink,
      outLink: '',
      bridged,
      mark: 0,
      connectionMark: 0,
      state: 'NEW',
      isTracked: false,
      direction: 'ORIGINAL',
      original: { source: origin.address, destination: target.address, destinationPort: target.port },
      sourceTranslated: false,
    }
    const start: Way = { packet, steps: [], doubts: [], hooks: [] }
    const isOwn = origin.kind === 'node'
    const ways = await (isOwn ? this.#fromNode(start) : this.#fromWire(start))
    return Promise.all(ways.map((way) => this.#withRefusals(way, isOwn)))
  }

  async #withRefusals(way: Way, isOwn: boolean): Promise<Way> {
    const { balanced } = way
    if (balanced === undefined) return followRefusal(this.#kernel, way, isOwn)
    const follow = async ({ destination, ways }: DestinationResult): Promise<DestinationResult> => ({
      destination,
      ways: await Promise.all(ways.map((one) => followRefusal(this.#kernel, one, isOwn))),
    })
    return { ...way, balanced: { ...balanced, results: await Promise.all(balanced.results.map(follow)) } }
  }

  /** In by a link: netfilter's PREROUTING, routing, INPUT, IPVS at LOCAL_IN. */
  #fromWire(way: Way): Promise<readonly Way[]> {
    return this.#through([way], [...this.#prerouting(), this.#nat('PREROUTING'), (one) => this.#routeIn(one)])
  }

  async #routeIn(way: Way): Promise<readonly Way[]> {
    const { packet } = way
    const { destination, source, inLink, mark, protocol, destinationPort } = packet
    const route = await this.#kernel.route({ destination, source, inLink, mark, protocol, destinationPort })
    if (route.kind === 'local') {
      const on = route.link === '' ? 'an address of this node' : `on ${route.link}`
      const here = withStep(way, 'routing', `${destination} is ${on}: in`)
      return this.#through([here], [...this.#input(), (one) => this.#ipvs(one, 'LOCAL_IN')])
    }
    if (route.kind === 'unicast') {
      const off = this.#forwardingOff(packet)
      if (off !== undefined) return [ended(way, off)]
      const via = route.gateway === undefined ? '' : ` via ${route.gateway}`
      const on = withStep(way, 'routing', `${destination} is no address of this node: on by ${route.link}${via}`)
      return this.#forward({ ...on, packet: { ...on.packet, outLink: route.link } })
    }
    return [this.#noRoute(way, route, 'no-route')]
  }

  #prerouting(): Stage[] {
    return [this.#table('raw', 'PREROUTING'), this.#table('mangle', 'PREROUTING')]
  }

  #input(): Stage[] {
    return [this.#table('mangle', 'INPUT'), this.#table('filter', 'INPUT'), this.#table('security', 'INPUT')]
  }

  #forwarding(): Stage[] {
    const forward = ['mangle', 'filter', 'security'].map((table) => this.#table(table, 'FORWARD'))
    return [...forward, this.#table('mangle', 'POSTROUTING')]
  }

  /** Before nat and IPVS. */
  #output(): Stage[] {
    return [this.#table('raw', 'OUTPUT'), this.#table('mangle', 'OUTPUT')]
  }

  /** After them. */
  #leaving(): Stage[] {
    return [this.#table('filter', 'OUTPUT'), this.#table('security', 'OUTPUT'), this.#table('mangle', 'POSTROUTING')]
  }

  async #forward(way: Way): Promise<readonly Way[]> {
    const link = way.packet.outLink
    return this.#through(
      [way],
      [
        ...this.#forwarding(),
        this.#nat('POSTROUTING'),
        this.#finish('routed-on', 'leaves', 'routing', `leaves by ${link} as ${packetText(way.packet)}`),
      ],
    )
  }

  /** Out of a process: routing, OUTPUT of raw, mangle and nat, IPVS at LOCAL_OUT, then OUTPUT of filter. */
  async #fromNode(way: Way): Promise<readonly Way[]> {
    const route = await this.#routeOut(way.packet)
    if (route.kind === 'error' || route.kind === 'other') return [this.#noRoute(way, route, 'no-route')]
    const { destination } = way.packet
    const source =
      way.packet.source || (route.kind === 'local' ? destination : (route.source ?? this.#facts.origin.address))
    const link = route.kind === 'local' ? 'lo' : route.link
    const on = route.kind === 'local' ? `an address of this node${at(route.link)}` : `by ${link}`
    const packet = { ...way.packet, source, outLink: link, original: { ...way.packet.original, source } }
    const out = withStep({ ...way, packet }, 'routing', `${destination} is ${on}; the packet's source is ${source}`)
    return this.#through(
      [out],
      [...this.#output(), this.#nat('OUTPUT'), (one) => this.#routeAgain(one), (one) => this.#ipvs(one, 'LOCAL_OUT')],
    )
  }

  /** After nat OUTPUT has changed where the packet goes. */
  async #routeAgain(way: Way): Promise<readonly Way[]> {
    const { packet } = way
    if (packet.destination === packet.original.destination) return [way]
    const route = await this.#routeOut(packet)
    if (route.kind === 'error' || route.kind === 'other') return [this.#noRoute(way, route, 'no-route')]
    return [{ ...way, packet: { ...packet, outLink: route.kind === 'local' ? 'lo' : route.link } }]
  }

  #routeOut({ destination, mark, protocol, destinationPort }: Packet): Promise<RouteAnswer> {
    return this.#kernel.route({ destination, mark, protocol, destinationPort })
  }

  /**
   * IPVS sees what is delivered here after filter INPUT (priority 99 of LOCAL_IN), and what the node sends after nat
   * OUTPUT and before filter OUTPUT (priority -98 of LOCAL_OUT): ip_vs_ops4 and ip_vs_ops6 of ip_vs_core.c.
   */
  async #ipvs(way: Way, hook: 'LOCAL_IN' | 'LOCAL_OUT'): Promise<readonly Way[]> {
    const { packet } = way
    const { family, protocol, destination, destinationPort } = packet
    const id: ServerId = { family, protocol, address: destination, port: destinationPort }
    const place = `IPVS at ${hook}`
    // A firewall mark is looked up first (ip_vs_service_find).
    const marked = packet.mark === 0 ? undefined : await this.#kernel.serverOfMark(packet.mark, id)
    const server = marked ?? (await this.#kernel.server(id))
    if (typeof server === 'string') {
      return [ended(way, { code: 'untold-server', answer: 'unknown', place, text: server })]
    }
    if (server === undefined) {
      const on = withStep(way, place, `no virtual server ${serverKey(id)}: passed on`)
      return hook === 'LOCAL_IN' ? this.#deliver(on) : this.#sendOn(on)
    }
    const pinned = marked === undefined ? await this.#pinned(server, packet.source) : undefined
    const chosen = pinned === undefined ? server.destinations.filter(({ weight }) => weight > 0) : [pinned]
    const { scheduler, timeout } = server.server
    const affinity = timeout > 0 ? `, client affinity ${timeout} s` : ''
    const name = marked === undefined ? serverKey(id) : `of firewall mark 0x${packet.mark.toString(16)}`
    const list = chosen.map((one) => `${destinationKey(one)} (weight ${one.weight})`).join(', ')
    if (chosen.length === 0) {
      const why = server.destinations.length === 0 ? 'has no destination' : 'has only destinations of weight 0'
      const text = `virtual server ${name} ${why}: refused with port unreachable`
      const how = family === 'IPv4' ? 'icmp-port-unreachable' : 'icmp6-port-unreachable'
      return [ended(way, { code: 'no-destination', answer: answerOfReject(how, protocol), place, text })]
    }
    const which = pinned === undefined ? 'one of ' : `${packet.source} is kept at `
    const text = `virtual server ${name}, ${scheduler}${affinity}: ${which}${list}${restingText(server)}`
    const on = withStep(way, place, text)
    const results: DestinationResult[] = []
    for (const destination of chosen.slice(0, mostDestinations)) {
      const start: Way = { ...on, steps: [], doubts: [] }
      results.push({ destination, ways: mergeWays(await this.#toDestination(start, id, destination, hook)) })
    }
    const balanced: Balanced = {
      server,
      results,
      ...(marked === undefined ? {} : { mark: packet.mark }),
      ...(pinned === undefined ? {} : { pinned: destinationKey(pinned) }),
    }
    return [{ ...on, balanced }]
  }

  /** The destination of the client's affinity, while it counts (ip_vs_check_template). */
  async #pinned({ server, destinations }: ObservedServer, client: string): Promise<ObservedDestination | undefined> {
    if (server.timeout === 0) return undefined
    const key = await this.#kernel.pinned(server, client)
    const found = destinations.find((one) => destinationKey(one) === key)
    const expires = this.#kernel.sysctl('net/ipv4/vs/expire_quiescent_template') === '1'
    return found !== undefined && (found.weight > 0 || !expires) ? found : undefined
  }

  async #toDestination(
    way: Way,
    server: ServerId,
    destination: ObservedDestination,
    hook: 'LOCAL_IN' | 'LOCAL_OUT',
  ): Promise<readonly Way[]> {
    const place = `IPVS at ${hook}`
    if (destination.forwarding !== 0) {
      const text = `${destinationKey(destination)} is not forwarded by masquerading but by method ${destination.forwarding}`
      return [ended(way, { code: 'not-masquerading', answer: 'unknown', place, text })]
    }
    const tracked = this.#kernel.sysctl('net/ipv4/vs/conntrack') === '1' && way.packet.state === 'NEW'
    const packet: Packet = {
      ...way.packet,
      destination: destination.address,
      destinationPort: destination.port,
      server,
      state: tracked ? 'NEW' : 'UNTRACKED',
      ...(hook === 'LOCAL_IN' ? {} : { inLink: '' }),
    }
    // IPVS asks for a route to the address alone.
    const route = await this.#routeOut({ ...packet, mark: 0 })
    const before: Way = { ...way, packet }
    if (route.kind === 'error' || route.kind === 'other') {
      const text = `no route to ${destination.address}: ${routeError(route)}`
      const answer = answerOfReject(
        packet.family === 'IPv4' ? 'icmp-host-unreachable' : 'icmp6-addr-unreachable',
        packet.protocol,
      )
      return [ended(before, { code: 'destination-unreachable', answer, place: 'routing', text })]
    }
    if (route.kind === 'local') {
      const here = withStep(before, 'routing', `${destination.address} is an address of this node${at(route.link)}`)
      return hook === 'LOCAL_IN' ? this.#deliver(here) : this.#sendOn({ ...here, packet: { ...packet, outLink: 'lo' } })
    }
    if (isLoopback(packet.source)) {
      const text = `IPVS lets nothing from ${packet.source} leave the node`
      return [ended(before, { code: 'loopback-source', answer: 'nothing', place, text })]
    }
    const via = route.gateway === undefined ? '' : ` via ${route.gateway}`
    const out = withStep(
      { ...before, packet: { ...packet, inLink: '', outLink: route.link } },
      'routing',
      `${destination.address} is reached by ${route.link}${via}`,
    )
    // nat OUTPUT is not asked: the connection's destination is settled since PREROUTING or the first OUTPUT.
    return this.#through(
      [out],
      [
        ...this.#output(),
        ...this.#leaving(),
        this.#sourceNat(route.source ?? ''),
        (one) => this.#reply(one, destination, route),
      ],
    )
  }

  /** A packet of the node that IPVS has not stolen goes on in OUTPUT: to another machine, or by lo to the node itself. */
  #sendOn(way: Way): Promise<readonly Way[]> {
    const { outLink, family, destination } = way.packet
    // lo has no address that MASQUERADE takes: IPv4 goes on to the first of another link (inet_select_addr), IPv6 takes
    // the destination itself (RFC 6724, rule 1).
    const own = family === 'IPv4' ? this.#kernel.nodeAddresses[0] : destination
    const out: Stage[] = [...this.#leaving(), this.#sourceNat(outLink === 'lo' ? (own ?? '') : '')]
    if (outLink !== 'lo') {
      const leave: Stage = (one) =>
        this.#finish('routed-on', 'leaves', 'routing', `leaves by ${outLink} as ${packetText(one.packet)}`)(one)
      return this.#through([way], [...out, leave])
    }
    const loop: Stage = async (one) => [{ ...one, packet: { ...one.packet, inLink: 'lo', outLink: '' } }]
    return this.#through([way], [...out, loop, ...this.#prerouting(), ...this.#input(), (one) => this.#deliver(one)])
  }

  /** To a socket of the node. */
  async #deliver(way: Way): Promise<readonly Way[]> {
    const { protocol, destination, destinationPort } = way.packet
    const where = destinationKey({ address: destination, port: destinationPort })
    const told = this.#kernel.listens(protocol, destination, destinationPort)
    const place = 'socket'
    if (typeof told === 'string') {
      const text = `it is not known whether a process listens on ${where}: ${told}`
      return [ended(way, { code: 'local-socket', answer: 'unknown', place, text })]
    }
    if (!told) {
      const text = `no process of this node listens on ${where}/${protocol}`
      return [ended(way, { code: 'nothing-listens', answer: 'refused', place, text })]
    }
    const on = withStep(way, place, `a process of this node listens on ${where}/${protocol}`)
    return this.#replyFromNode(on)
  }

  /** The answer of a process of the node: OUTPUT, in which IPVS gives it back its service address after mangle. */
  async #replyFromNode(way: Way): Promise<readonly Way[]> {
    const { packet } = way
    const { server } = packet
    const service: Stage = async (one) =>
      server === undefined
        ? [one]
        : [{ ...one, packet: { ...one.packet, source: server.address, sourcePort: server.port } }]
    const isOwn = this.#facts.origin.kind === 'node'
    const loop: Stage = async (one) => [{ ...one, packet: { ...one.packet, inLink: 'lo', outLink: '' } }]
    const code = server === undefined ? 'local-socket' : 'answered'
    const done = this.#finish(code, 'answered', 'socket', 'the client is answered', packet.source)
    const stages = [
      ...this.#output(),
      service,
      ...this.#leaving(),
      ...(isOwn ? [loop, ...this.#prerouting(), ...this.#input()] : []),
      done,
    ]
    const answer = turned(way, 'lo')
    if (isOwn) return this.#answer(answer, stages)
    const route = await this.#routeOut(answer.packet)
    if (route.kind !== 'unicast') return [this.#noRouteBack(answer, route)]
    return this.#answer({ ...answer, packet: { ...answer.packet, outLink: route.link } }, stages)
  }

  /**
   * The answer, first packet and later ones: of a connection over TCP that is not tracked the first is invalid to netfilter,
   * and the next begins one that it picks up (nf_conntrack_tcp_loose).
   */
  async #answer(start: Way, stages: readonly Stage[]): Promise<readonly Way[]> {
    const first = await this.#through([start], stages)
    const isLoose = this.#kernel.sysctl('net/netfilter/nf_conntrack_tcp_loose') !== '0'
    if (start.packet.state !== 'INVALID' || !isLoose) return first
    const isAnswered = ({ end }: Way): boolean => end?.code === 'answered' || end?.code === 'local-socket'
    if (!first.some(isAnswered)) return first
    const on = withStep(start, 'connected', 'the connection stands; what follows is of another state to netfilter')
    const later = await this.#through([{ ...on, packet: { ...on.packet, state: 'NEW' } }], stages)
    return later.every(isAnswered) ? first : [...first.filter((way) => !isAnswered(way)), ...later]
  }

  /** The answer of a destination that is no process of this node. */
  async #reply(
    way: Way,
    destination: ObservedDestination,
    route: RouteAnswer & { kind: 'unicast' },
  ): Promise<readonly Way[]> {
    const { packet } = way
    const client = packet.original.source
    const { origin } = this.#facts
    const place = 'reply'
    const fail = (code: EndCode, text: string): readonly Way[] => [
      ended(way, { code, answer: 'nothing', direction: 'reply', place, text, seen: packet.source }),
    ]
    if (packet.source === destination.address) {
      return fail('hairpin-not-masqueraded', `${client} is sent its own packet back, with its own address as source`)
    }
    const back = client === destination.address ? await this.#kernel.sendsBack(route.link, client) : true
    if (typeof back === 'string') {
      const text = `whether ${client} gets its own packets back: ${back}`
      return [ended(way, { code: 'untold-target', answer: 'unknown', direction: 'reply', place, text })]
    }
    if (!back) {
      return fail('hairpin-off', `bridge ${route.link} does not send ${client} a packet back by the port it came from`)
    }
    let bridged = false
    if (!packet.sourceTranslated) {
      const isThere = this.#facts.isOnNode(destination.address, route)
      const ownService = origin.kind === 'node' && (await this.#isServiceAddress(client))
      if (!isThere && (!origin.isOnNode || ownService)) {
        const text = `${destinationKey(destination)} is on another node and answers ${client} directly, not masqueraded: the client does not know that sender`
        return fail('reply-goes-around', text)
      }
      if (origin.kind !== 'node' && origin.inLink === route.link && route.gateway === undefined) {
        bridged = this.#isBridged(route.link)
        if (!bridged) {
          const text = `${destinationKey(destination)} answers ${client} within ${route.link}, where nothing translates it back`
          return fail('bridge-netfilter-off', text)
        }
      }
    }
    const answer = turned(way, '', bridged || this.#isBridged(route.link))
    const in_: Way = { ...answer, packet: { ...answer.packet, inLink: route.link } }
    const untranslate: Stage = async (one) => [{ ...one, packet: { ...one.packet, destination: client } }]
    const onward: Stage = bridged
      ? (one) => this.#replyForward({ ...one, packet: { ...one.packet, outLink: route.link } })
      : (one) => this.#routeReply(one)
    return this.#answer(in_, [...this.#prerouting(), untranslate, onward])
  }

  async #routeReply(way: Way): Promise<readonly Way[]> {
    const { destination, source, inLink, mark, protocol, destinationPort } = way.packet
    const route = await this.#kernel.route({ destination, source, inLink, mark, protocol, destinationPort })
    if (route.kind === 'local') {
      const done = this.#finish('answered', 'answered', 'IPVS at LOCAL_IN', 'the client is answered', this.#seen(way))
      return this.#through([way], [...this.#input(), done])
    }
    if (route.kind === 'unicast') {
      const off = this.#forwardingOff(way.packet)
      if (off !== undefined) return [ended(way, off)]
      return this.#replyForward({ ...way, packet: { ...way.packet, outLink: route.link } })
    }
    return [this.#noRouteBack(way, route)]
  }

  /** The answer finds no way to the client. */
  #noRouteBack(way: Way, route: RouteAnswer): Way {
    return ended(way, { ...this.#noRoute(way, route, 'no-route-back').end!, answer: 'nothing', direction: 'reply' })
  }

  /** IPVS gives an answer its service address back after filter FORWARD. */
  #replyForward(way: Way): Promise<readonly Way[]> {
    return this.#through(
      [way],
      [
        ...this.#forwarding(),
        this.#finish('answered', 'answered', 'IPVS at FORWARD', 'the client is answered', this.#seen(way)),
      ],
    )
  }

  /** The client address that the endpoint saw. */
  #seen(way: Way): string {
    return way.seen ?? way.packet.destination
  }

  async #isServiceAddress(address: string): Promise<boolean> {
    const route = await this.#kernel.route({ destination: address, mark: 0, protocol: 'TCP', destinationPort: 0 })
    return (
      route.kind === 'local' && this.#kernel.links.some(({ name, kind }) => name === route.link && kind === 'dummy')
    )
  }

  #isBridged(link: string): boolean {
    const isBridge = this.#kernel.links.some(({ name, kind }) => name === link && kind === 'bridge')
    const tables = this.#kernel.family === 'IPv4' ? 'iptables' : 'ip6tables'
    return isBridge && this.#kernel.sysctl(`net/bridge/bridge-nf-call-${tables}`) === '1'
  }

  /** IPv6 has routes whether it forwards or not, and drops in silence (ip6_forward); IPv4 then has none. */
  #forwardingOff({ family, destination }: Packet): Omit<End, 'direction'> | undefined {
    const name = configName(family, 'all', 'forwarding')
    if (family === 'IPv4' || this.#kernel.sysctl(name) !== '0') return undefined
    const text = `${destination} is no address of this node, and forwarding is off (${name})`
    return { code: 'forwarding-off', answer: 'nothing', place: 'routing', text }
  }

  #noRoute(way: Way, route: RouteAnswer, code: 'no-route' | 'no-route-back'): Way {
    const { packet } = way
    const { family, inLink, source, destination } = packet
    const isOwn = code === 'no-route' && this.#facts.origin.kind === 'node'
    const errno = route.kind === 'error' ? route.errno : ''
    const all = family === 'IPv4' ? inLink : 'all'
    const place = 'routing'
    if (
      inLink !== '' &&
      this.#kernel.sysctl(configName(family, all, 'forwarding')) === '0' &&
      errno !== 'EXDEV' &&
      errno !== 'EINVAL'
    ) {
      const text = `${destination} is no address of this node, and forwarding is off (${configName(family, all, 'forwarding')})`
      return ended(way, { code: 'forwarding-off', answer: 'nothing', place, text, errno })
    }
    if (errno === 'EXDEV' || (errno === 'EINVAL' && inLink !== '')) {
      const text = `the kernel does not take ${source} as a source on ${inLink} (${errno === 'EXDEV' ? 'rp_filter' : 'martian'})`
      return ended(way, { code: 'source-rejected', answer: 'nothing', place, text, errno })
    }
    const text = `no route to ${destination}: ${routeError(route)}`
    const answer = route.kind === 'other' ? 'unknown' : answerOfRoute(errno, packet.protocol, isOwn)
    return ended(way, { code, answer, place, text, errno })
  }

  /** nat is asked once for the destination, with the first packet of a tracked connection. */
  #nat(hook: string): Stage {
    const pass = this.#table('nat', hook)
    return async (way) => (way.packet.state === 'NEW' ? pass(way) : [way])
  }

  /** nat POSTROUTING, and what it makes of the source. */
  #sourceNat(ownAddress: string): Stage {
    const pass = this.#table('nat', 'POSTROUTING', ownAddress)
    return async (way) => {
      const ways = way.packet.state === 'NEW' ? await pass(way) : [way]
      return ways.map((one) => (one.end === undefined ? sent(one, way.packet.source) : one))
    }
  }

  #table(table: string, hook: string, ownAddress = ''): Stage {
    return async (way) => {
      const passages = await passChain(this.#kernel, table, hook, way.packet, ownAddress)
      const direction = way.packet.direction === 'REPLY' ? 'reply' : 'request'
      const hooks = [...way.hooks, `${direction} ${hook}`]
      return passages.map((passage) => fromPassage({ ...way, hooks }, passage, `${table} ${hook}`, direction))
    }
  }

  #finish(code: EndCode, answer: Answer, place: string, text: string, seen?: string): Stage {
    return async (way) => [ended(way, { code, answer, place, text, ...(seen === undefined ? {} : { seen }) })]
  }

  async #through(start: readonly Way[], stages: readonly Stage[]): Promise<readonly Way[]> {
    let ways = start
    for (const stage of stages) {
      const next: Way[] = []
      for (const way of ways) next.push(...(isOver(way) ? [way] : await stage(way)))
      ways = mergeWays(next)
    }
    return ways
  }
}

/** Destinations that get no new connections. */
function restingText({ destinations }: ObservedServer): string {
  const resting = destinations.filter(({ weight }) => weight <= 0)
  if (resting.length === 0) return ''
  const list = resting.map((one) => {
    const { activeConnections, inactiveConnections } = one
    return `${destinationKey(one)} (${activeConnections} active and ${inactiveConnections} inactive connections)`
  })
  return `; weight 0, draining: ${list.join(', ')}`
}

/** What leaves the node, or goes by lo. */
function sent(way: Way, source: string): Way {
  const how = way.packet.sourceTranslated ? `masqueraded, ${source} became ${way.packet.source}` : 'source kept'
  return { ...withStep(way, 'sent', `${packetText(way.packet)}: ${how}`), seen: way.packet.source }
}

function at(link: string): string {
  return link === '' ? '' : ` (${link})`
}

function routeError(route: RouteAnswer): string {
  if (route.kind === 'other') return `its type is ${route.type}`
  return route.kind === 'error' ? route.errno : ''
}

function withStep(way: Way, place: string, text: string): Way {
  const direction = way.packet.direction === 'REPLY' ? 'reply' : 'request'
  return { ...way, steps: [...way.steps, { direction, place, text, hits: [] }] }
}

function ended(way: Way, end: Omit<End, 'direction'> & Partial<Pick<End, 'direction'>>): Way {
  const direction = way.packet.direction === 'REPLY' ? 'reply' : 'request'
  return { ...withStep(way, end.place, end.text), end: { direction, ...end } }
}

function fromPassage(way: Way, passage: Passage, place: string, direction: 'request' | 'reply'): Way {
  const { hits, packet, fate } = passage
  const decided = fate.kind === 'accept' || hits.includes(fate.by) ? hits : [...hits, fate.by]
  const steps = decided.length === 0 ? way.steps : [...way.steps, { direction, place, text: '', hits: decided }]
  // Connection tracking comes right after the first of the tables.
  const tracked = { ...packet, isTracked: packet.isTracked || place.startsWith('raw ') }
  const next: Way = { ...way, packet: tracked, steps, doubts: [...way.doubts, ...passage.doubts] }
  if (fate.kind === 'accept') return next
  const { by } = fate
  if (fate.kind === 'untold') {
    return { ...next, end: { code: 'untold-target', answer: 'unknown', direction, place, text: fate.why, by } }
  }
  // Whoever sends a datagram is told that it is dropped on its way out, unless IPVS has taken it over.
  const isTold = fate.kind === 'drop' && direction === 'request' && packet.protocol === 'UDP'
  if (isTold && packet.inLink === '' && packet.server === undefined) {
    return { ...next, end: { code: 'rule', answer: 'unreachable', direction, place, text: '', by, errno: 'EPERM' } }
  }
  const answer = fate.kind === 'drop' || direction === 'reply' ? 'nothing' : answerOfReject(fate.how, packet.protocol)
  return { ...next, end: { code: 'rule', answer, direction, place, text: '', by } }
}

/** The answer's packet, by the request as the destination got it. */
function turned(way: Way, outLink: string, bridged = false): Way {
  const { packet } = way
  const state = packet.state === 'NEW' ? 'ESTABLISHED' : packet.protocol === 'UDP' ? 'NEW' : 'INVALID'
  const { server: _, ...rest } = packet
  return {
    ...way,
    packet: {
      ...rest,
      source: packet.destination,
      sourcePort: packet.destinationPort,
      destination: packet.source,
      destinationPort: packet.sourcePort,
      ephemeral: 'destination',
      inLink: '',
      outLink,
      bridged,
      mark: 0,
      state,
      isTracked: false,
      direction: 'REPLY',
    },
  }
}

function mergeWays(ways: readonly Way[]): Way[] {
  return merge(ways, (way) => {
    const { end } = way
    const by = end?.by === undefined ? '' : `${end.by.variant} ${end.by.table} ${end.by.chain} ${end.by.number}`
    return `${packetKey(way.packet)} ${end?.code ?? ''} ${end?.direction ?? ''} ${by} ${way.balanced === undefined ? '' : 'balanced'}`
  })
}
