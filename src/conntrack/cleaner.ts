import { familyOf, type Family } from '../model/address.ts'
import type { Log } from '../lib/log.ts'
import { Queue } from '../lib/turn.ts'
import { flowText, replyKey, type Flows, type UdpFlow } from './flows.ts'

export interface FlowCleanerOptions {
  readonly family: Family
  readonly flows: Flows
  readonly log: Log
  /** Whether a canonical address is one of this node's: only there does a node port stand for a service. */
  readonly isNodeAddress: (address: string) => boolean
}

export interface CleaningReport {
  /** Flows that are gone now. */
  readonly removed: number
  /** Why not all that was to be done is done; it stays pending. For the caller to log. */
  readonly failed?: Error
}

/** Who may answer for a frontend; undefined where it serves no more and nobody may. */
type Backends = ReadonlySet<string> | undefined

interface Touch {
  /** Canonical; empty for a node port. */
  readonly address: string
  readonly port: number
  readonly backends: Backends
}

/** What was touched of one port. */
interface Port {
  readonly addresses: Map<string, Touch>
  node: Touch | undefined
}

/**
 * Clears UDP flows that netfilter keeps sending to an endpoint that serves no more, or past the service. A client that
 * goes on sending from one port keeps such an entry alive for ever; without it, its next datagram is balanced anew.
 * TCP and SCTP end by themselves. IPVS's own connection table is not looked at: expire_nodest_conn clears that.
 */
export class FlowCleaner {
  readonly #options: FlowCleanerOptions
  readonly #pending = new Map<string, Touch>()
  readonly #queue = new Queue()

  constructor(options: FlowCleanerOptions) {
    this.#options = options
  }

  /** Frontends that wait for a run that succeeds. */
  get pending(): number {
    return this.#pending.size
  }

  /**
   * The endpoints of a UDP service port changed. `frontend` is "10.96.0.10:53", "[fd00::10]:53", or ":30053" for a node
   * port; `backends` has all its serving endpoints as "10.244.1.5:5353". Stale is a flow to the frontend that anybody
   * else answers, the frontend itself included: such an entry was made before there was anything to translate it.
   *
   * Without `backends` (the service port is gone) every flow to the frontend is stale. With none in it nothing is, as
   * for kube-proxy: who was answered goes on being answered, and an endpoint that comes touches the frontend again.
   * A later touch takes the place of an earlier one.
   */
  touch(frontend: string, backends: ReadonlySet<string> | undefined): void {
    if (backends?.size === 0) this.#pending.delete(frontend)
    else this.#pending.set(frontend, { ...parseFrontend(frontend, this.#options.family), backends })
  }

  /** Goes once through the table, whatever the number of touches; with nothing pending, not at all. Never throws. */
  run(): Promise<CleaningReport> {
    return this.#queue.run(() => this.#clean())
  }

  async #clean(): Promise<CleaningReport> {
    if (this.#pending.size === 0) return { removed: 0 }
    const touches = new Map(this.#pending)
    const { flows, family, log } = this.#options
    let removed = 0
    try {
      const stale = await flows.select(family, this.#staleness(touches.values()))
      if (stale.length > 0) {
        const refused = await flows.remove(stale)
        removed = stale.length - refused.size
        this.#tell(stale, refused, touches.size)
        const [first] = refused.values()
        if (first !== undefined) return { removed, failed: first }
      } else log.v(2, 'No stale UDP flows', { family, frontends: touches.size })
    } catch (error) {
      return { removed, failed: error instanceof Error ? error : new Error(String(error)) }
    }
    // What was touched meanwhile was not looked for.
    for (const [frontend, touch] of touches) {
      if (this.#pending.get(frontend) === touch) this.#pending.delete(frontend)
    }
    return { removed }
  }

  /** Most flows have a port that nobody touched: that is seen before any text is made of them. */
  #staleness(touches: Iterable<Touch>): (flow: UdpFlow) => boolean {
    const ports = new Map<number, Port>()
    for (const touch of touches) {
      let port = ports.get(touch.port)
      if (port === undefined) ports.set(touch.port, (port = { addresses: new Map(), node: undefined }))
      if (touch.address === '') port.node = touch
      else port.addresses.set(touch.address, touch)
    }
    return (flow) => {
      const port = ports.get(flow.destinationPort)
      if (port === undefined) return false
      const { destination } = flow
      const touch = port.addresses.get(destination) ?? this.#nodePort(port, destination)
      return touch !== undefined && touch.backends?.has(replyKey(flow)) !== true
    }
  }

  #nodePort(port: Port, destination: string): Touch | undefined {
    return port.node !== undefined && this.#options.isNodeAddress(destination) ? port.node : undefined
  }

  #tell(stale: readonly UdpFlow[], refused: ReadonlyMap<UdpFlow, Error>, frontends: number): void {
    const { family, log } = this.#options
    log.v(1, 'Stale UDP flows removed', { family, removed: stale.length - refused.size, frontends })
    for (const flow of stale)
      if (!refused.has(flow)) log.v(4, 'Stale UDP flow removed', { family, flow: flowText(flow) })
  }
}

function parseFrontend(text: string, family: Family): { address: string; port: number } {
  const [, ipv6, ipv4, port] = /^(?:\[([0-9a-f:.]+)\]|([0-9.]*)):([0-9]+)$/.exec(text) ?? []
  const address = ipv6 ?? ipv4
  if (address === undefined || (address !== '' && familyOf(address) !== family)) {
    throw new Error(`"${text}" is no frontend of ${family}`)
  }
  return { address, port: Number(port) }
}
