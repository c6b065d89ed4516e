import { KernelError } from '../lib/errors.ts'
import { familyOf, type Family } from '../model/address.ts'
import { flowText, type Flows, type UdpFlow } from './flows.ts'

/**
 * Says what goes wrong: called with "select" and the family, or "remove" and the flow's text. For one flow a KernelError
 * answers that flow alone; any other error is thrown, as when the socket failed.
 */
export type Fault = (operation: string, object: string) => Error | undefined

/** Addresses and ports of an entry to be made. */
export type NewFlow = Omit<UdpFlow, 'id' | 'zone'> & {
  readonly zone?: number
  readonly protocol?: 'UDP' | 'TCP' | 'SCTP'
}

interface Entry {
  readonly protocol: string
  readonly flow: UdpFlow
}

/** A connection table in memory. */
export class FakeFlows implements Flows {
  /** What was asked for, in order: "select IPv4", "remove 10.244.0.9:40000 to 10.96.0.10:53, answered by …". */
  readonly calls: string[] = []
  fault: Fault | undefined
  readonly #entries = new Map<string, Entry>()
  #lastId = 0

  /** Makes an entry, in the place of one between the same addresses; as the kernel does it for a datagram. */
  add({ protocol = 'UDP', zone = 0, ...rest }: NewFlow): void {
    const flow = { ...rest, zone, id: ++this.#lastId }
    this.#entries.set(place(protocol, flow), { protocol, flow })
  }

  async select(family: Family, wanted: (flow: UdpFlow) => boolean): Promise<readonly UdpFlow[]> {
    this.calls.push(`select ${family}`)
    const error = this.fault?.('select', family)
    if (error !== undefined) throw error
    const found: UdpFlow[] = []
    for (const { protocol, flow } of this.#entries.values()) {
      if (protocol === 'UDP' && familyOf(flow.source) === family && wanted(flow)) found.push({ ...flow })
    }
    return found
  }

  async remove(flows: readonly UdpFlow[]): Promise<ReadonlyMap<UdpFlow, KernelError>> {
    const refused = new Map<UdpFlow, KernelError>()
    for (const flow of flows) {
      const text = flowText(flow)
      this.calls.push(`remove ${text}`)
      const error = this.fault?.('remove', text)
      if (error instanceof KernelError) refused.set(flow, error)
      else if (error !== undefined) throw error
      else if (this.#entries.get(place('UDP', flow))?.flow.id === flow.id) this.#entries.delete(place('UDP', flow))
    }
    return refused
  }

  close(): void {
    this.calls.push('close')
  }

  /** All entries: "UDP 10.244.0.9:40000 to 10.96.0.10:53, answered by 10.244.1.5:5353", in order of their text. */
  dump(): string[] {
    return [...this.#entries.values()].map(({ protocol, flow }) => `${protocol} ${flowText(flow)}`).sort()
  }
}

/** What there can be one entry of. */
function place(protocol: string, flow: UdpFlow): string {
  return [protocol, flow.zone, flow.source, flow.sourcePort, flow.destination, flow.destinationPort].join(' ')
}
