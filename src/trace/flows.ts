import { traceTablePrefix } from '../explain/foreign-chains.ts'
import type { ServerId } from '../model/virtual-server.ts'
import type { SeenPacket, TraceEvent } from './events.ts'

/** One packet's passage through one base chain. */
export interface Traversal {
  readonly variant: 'nft' | 'legacy'
  readonly id: string
  readonly family: string
  readonly table: string
  /** The base chain. */
  readonly chain: string
  readonly packet: SeenPacket
  /** Rules that matched and what ended it, in order. */
  readonly events: TraceEvent[]
}

/** One packet of a flow on its way through the node. */
export interface Journey {
  readonly direction: 'request' | 'reply'
  readonly traversals: Traversal[]
}

/** A connection, or the datagrams of one client port, as far as it was followed. */
export interface Flow {
  readonly client: string
  readonly clientPort: number
  /** In the order in which they came. */
  readonly journeys: Journey[]
}

const builtin = new Set(['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING'])

const forwards = ({ source, sourcePort, destination, destinationPort }: SeenPacket): string =>
  `${source} ${sourcePort} ${destination} ${destinationPort}`
const backwards = ({ source, sourcePort, destination, destinationPort }: SeenPacket): string =>
  `${destination} ${destinationPort} ${source} ${sourcePort}`

/**
 * Gathers events into flows. A packet changes its addresses on the way, so each pair that a flow is seen with is learnt:
 * what IPVS has translated keeps its source, and what is masqueraded is known by the kernel's number of the packet. An answer
 * has one of these pairs turned round.
 */
export class Flows {
  readonly #target: ServerId
  readonly #table: string
  readonly #open = new Map<string, Traversal>()
  readonly #byClient = new Map<string, Flow>()
  readonly #byPair = new Map<string, Flow>()
  readonly #byId = new Map<string, Flow>()
  /** Events that belong to nothing: their beginning was lost, or somebody else follows packets. */
  stray = 0

  /** `table`: that of our own checkpoints. */
  constructor(target: ServerId, table: string) {
    this.#target = target
    this.#table = table
  }

  get list(): readonly Flow[] {
    return [...this.#byClient.values()]
  }

  /** Answers the flow that the event is of; undefined where it is of none. */
  take(event: TraceEvent): Flow | undefined {
    // Another trace has its own checkpoints.
    if (event.table !== this.#table && event.table.startsWith(traceTablePrefix)) return undefined
    if (event.kind === 'packet') return this.#begin(event, event.packet)
    const traversal = this.#open.get(event.id)
    if (traversal === undefined || traversal.table !== event.table) {
      this.stray++
      return undefined
    }
    traversal.events.push(event)
    const isOver = event.kind === 'policy' || (event.kind === 'rule' && event.verdict !== undefined && isFinal(event))
    if (isOver) this.#open.delete(event.id)
    return this.#byId.get(event.id)
  }

  #begin(event: TraceEvent, packet: SeenPacket): Flow | undefined {
    const { variant, id, family, table, chain } = event
    if (variant === 'legacy' && !this.#isNewLegacy(event)) return this.#byId.get(id)
    const flow = this.#flowOf(event, packet)
    if (flow === undefined) {
      this.stray++
      return undefined
    }
    const traversal: Traversal = { variant, id, family, table, chain, packet, events: [] }
    this.#open.set(id, traversal)
    this.#byId.set(id, flow)
    this.#journeyOf(flow, traversal).traversals.push(traversal)
    return flow
  }

  /** Every line of the log has the packet: only the first one of a base chain begins anything. */
  #isNewLegacy({ id, table, chain }: TraceEvent): boolean {
    const open = this.#open.get(id)
    if (!builtin.has(chain)) return false
    return open === undefined || open.table !== table || open.chain !== chain
  }

  #flowOf({ id, table, chain }: TraceEvent, packet: SeenPacket): Flow | undefined {
    const { address, port } = this.#target
    const { source, sourcePort, destination, destinationPort } = packet
    if (packet.protocol === 'ICMP') return this.#flowOfError(packet)
    const known =
      this.#byPair.get(forwards(packet)) ??
      this.#byPair.get(backwards(packet)) ??
      this.#byClient.get(`${source} ${sourcePort}`) ??
      this.#byClient.get(`${destination} ${destinationPort}`)
    // Only where packets are marked a flow begins: behind that the same may be masqueraded, and go to the target still.
    const isBeginning = table === this.#table && chain.endsWith('_first')
    const isAsked = destination === address && destinationPort === port
    const flow = known ?? (isBeginning && isAsked ? undefined : this.#byId.get(id))
    if (flow !== undefined) {
      this.#byPair.set(isRequest(flow, packet) ? forwards(packet) : backwards(packet), flow)
      return flow
    }
    if (!isAsked) return undefined
    const begun: Flow = { client: source, clientPort: sourcePort, journeys: [] }
    this.#byClient.set(`${source} ${sourcePort}`, begun)
    this.#byPair.set(forwards(packet), begun)
    return begun
  }

  /** An ICMP error names no port here: it is of the last flow that was sent to who tells it, and has had no answer. */
  #flowOfError({ source, destination }: SeenPacket): Flow | undefined {
    return this.list.findLast((flow) =>
      flow.journeys.some(({ traversals }) =>
        traversals.some(
          ({ packet }) =>
            (packet.destination === source && (packet.source === destination || flow.client === destination)) ||
            (source === this.#target.address && flow.client === destination),
        ),
      ),
    )
  }

  #journeyOf(flow: Flow, traversal: Traversal): Journey {
    const direction = isRequest(flow, traversal.packet) ? 'request' : 'reply'
    const last = flow.journeys.findLast((one) => one.direction === direction)
    if (last !== undefined && !this.#isFirst(flow, last, direction, traversal)) return last
    const journey: Journey = { direction, traversals: [] }
    flow.journeys.push(journey)
    return journey
  }

  /** Whether a packet's way begins here: a request where it is marked; an answer where it is, unless it was before. */
  #isFirst(flow: Flow, last: Journey, direction: Journey['direction'], { table, chain, packet }: Traversal): boolean {
    if (table !== this.#table) return false
    const before = last.traversals.at(-1)!
    if (direction === 'request') {
      const isAsked = packet.destination === this.#target.address && packet.destinationPort === this.#target.port
      return chain.endsWith('_first') && isAsked && packet.source === flow.client && !isLoop(before, chain)
    }
    return chain.endsWith('_tracked') && !(before.table === this.#table && before.chain.endsWith('_first'))
  }
}

/** A packet that the node sends to itself comes in again by lo. */
function isLoop({ chain }: Traversal, next: string): boolean {
  return next === 'prerouting_first' && chain === 'postrouting_last'
}

function isFinal(event: TraceEvent & { kind: 'rule' }): boolean {
  return (
    event.verdict === 'accept' || event.verdict === 'drop' || event.verdict === 'stolen' || event.verdict === 'queue'
  )
}

/** Whether a packet goes from the client; told by where it has been seen to go already. */
function isRequest(flow: Flow, packet: SeenPacket): boolean {
  if (packet.protocol === 'ICMP') return false
  if (packet.source === flow.client && packet.sourcePort === flow.clientPort) return true
  if (packet.destination === flow.client && packet.destinationPort === flow.clientPort) return false
  const requests = flow.journeys.flatMap(({ direction, traversals }) => (direction === 'request' ? traversals : []))
  // Masqueraded: it goes where the packet went before, and comes from there as an answer.
  return requests.some(
    (one) => one.packet.destination === packet.destination && one.packet.destinationPort === packet.destinationPort,
  )
}
