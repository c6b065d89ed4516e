import type { KernelError } from '../lib/errors.ts'
import type { Family } from '../model/address.ts'
import { Connection, type DumpEnd } from '../netlink/connection.ts'
import { errno } from '../netlink/errno.ts'
import { protocols } from '../netlink/header.ts'
import { flowKey, type Flows, type UdpFlow } from './flows.ts'
import { copyFlow, decodeFlow, listError, listMessage, removeError, removeMessage } from './messages.ts'

/** A table that changes under every dump is taken as it was seen. */
const maxDumps = 3

/** The kernel's connection table by nfnetlink. The first question loads nf_conntrack_netlink. */
export class KernelFlows implements Flows {
  readonly #connection: Connection
  #canFilter = true

  /** `connect` gives a connection of NETLINK_NETFILTER. */
  constructor(connect: () => Connection = () => Connection.open(protocols.netfilter)) {
    this.#connection = connect()
  }

  async select(family: Family, wanted: (flow: UdpFlow) => boolean): Promise<readonly UdpFlow[]> {
    // By key: the entries of all interrupted dumps together. One that has gone meanwhile is removed without harm.
    const found = new Map<string, UdpFlow>()
    const take = (payload: Buffer): void => {
      const flow = decodeFlow(payload)
      if (flow !== undefined && wanted(flow)) found.set(flowKey(flow), copyFlow(flow))
    }
    for (let attempt = 0; attempt < maxDumps; attempt++) {
      const end = await this.#dump(family, take)
      if (end.interrupted) continue
      if (end.errno !== 0) throw listError(end.errno, family)
      break
    }
    return [...found.values()]
  }

  async remove(flows: readonly UdpFlow[]): Promise<ReadonlyMap<UdpFlow, KernelError>> {
    const results = await this.#connection.batch(flows.map(removeMessage))
    const refused = new Map<UdpFlow, KernelError>()
    for (const [index, flow] of flows.entries()) {
      const result = results[index] ?? 0
      if (result !== 0 && result !== errno.ENOENT) refused.set(flow, removeError(result, flow))
    }
    return refused
  }

  close(): void {
    this.#connection.close()
  }

  /** A kernel that refuses the filter, rather than ignoring it as old ones do, is not asked for it again. */
  async #dump(family: Family, take: (payload: Buffer) => void): Promise<DumpEnd> {
    const end = await this.#connection.stream(listMessage(family, this.#canFilter), take)
    if (!this.#canFilter || (end.errno !== errno.EOPNOTSUPP && end.errno !== errno.EINVAL)) return end
    const plain = await this.#connection.stream(listMessage(family, false), take)
    if (plain.errno === 0) this.#canFilter = false
    return plain
  }
}
