import type { KernelError } from '../lib/errors.ts'
import type { Family } from '../model/address.ts'
import { destinationKey } from '../model/virtual-server.ts'

/** One UDP entry of netfilter's connection table. Addresses are canonical texts. */
export interface UdpFlow {
  /** The original direction: from a client to what it believes to talk to. */
  readonly source: string
  readonly sourcePort: number
  readonly destination: string
  readonly destinationPort: number
  /** Who answers: the destination itself where nothing is translated, else an endpoint. */
  readonly replySource: string
  readonly replySourcePort: number
  /** Zone of the original direction; 0 is the default zone. */
  readonly zone: number
  /** The kernel's number of this very entry: a later one between the same addresses has another. */
  readonly id: number
}

/** What we need of the connection table, in our words. */
export interface Flows {
  /**
   * Goes once through all UDP entries of the family and answers those that are wanted, each once. `wanted` gets a
   * view that is good only during the call and whose texts are made when asked for: look at the port first.
   */
  select(family: Family, wanted: (flow: UdpFlow) => boolean): Promise<readonly UdpFlow[]>
  /** Removes exactly these entries; an absent one is success. Answers which the kernel would not remove, and why. */
  remove(flows: readonly UdpFlow[]): Promise<ReadonlyMap<UdpFlow, KernelError>>
  close(): void
}

/** "10.244.0.9:40000 to 10.96.0.10:53, answered by 10.244.1.5:5353" */
export function flowText(flow: UdpFlow): string {
  const source = destinationKey({ address: flow.source, port: flow.sourcePort })
  const destination = destinationKey({ address: flow.destination, port: flow.destinationPort })
  return `${source} to ${destination}, answered by ${replyKey(flow)}${flow.zone === 0 ? '' : `, zone ${flow.zone}`}`
}

/** Who answers, as "10.244.1.5:5353" or "[fd00::5]:5353". */
export function replyKey(flow: UdpFlow): string {
  return destinationKey({ address: flow.replySource, port: flow.replySourcePort })
}

/** Equal for two sights of one entry, as a dump may show it twice. */
export function flowKey(flow: UdpFlow): string {
  return `${flow.zone}/${flow.id}/${flow.source}/${flow.sourcePort}/${flow.destination}/${flow.destinationPort}`
}
