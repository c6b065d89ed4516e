import { describeError } from '../lib/errors.ts'
import type { FoundServer } from '../ipvs/ipvs.ts'
import type { Family } from '../model/address.ts'
import type { ServiceRecord } from '../model/cluster.ts'
import { serverKey, type VirtualServer } from '../model/virtual-server.ts'
import type { Owner } from '../reconcile/layer.ts'
import { ownersOf } from './listing.ts'
import type { PageSources } from './sources.ts'

/** So many virtual servers are asked for, for one answer: a node port has one at each of the node's addresses. */
export const mostServers = 512

/** What goes on at the virtual servers of a Service, read one by one. */
export interface LiveConnections {
  readonly active: number
  readonly inactive: number
  /** New connections in a second. */
  readonly rate: number
  /** Virtual servers that the Service wants and that do not stand. */
  readonly missing: number
}

/** Asks the kernel for virtual servers, so many at most, and notes what it could not tell. */
export class LiveServers {
  readonly #find: PageSources['findServer']
  #left = mostServers
  /** Why the kernel could not be asked; "": it could. */
  trouble = ''

  constructor(find: PageSources['findServer']) {
    this.#find = find
  }

  /** Whether all were asked for so far. */
  get isWhole(): boolean {
    return this.#left >= 0 && this.trouble === ''
  }

  /** The virtual server; 'absent' where it does not stand, 'unknown' where it was not asked for. */
  async find(server: VirtualServer): Promise<FoundServer | 'absent' | 'unknown'> {
    if (this.#left > 0) this.#left--
    else this.#left = -1
    if (this.#left < 0 || this.trouble !== '') return 'unknown'
    try {
      return (await this.#find(server)) ?? 'absent'
    } catch (error) {
      this.trouble = describeError(error)
      return 'unknown'
    }
  }
}

/** The virtual servers that a service port wants and has: of two owners that want one the ledger says who has it. */
export function* serversOf(families: PageSources['families'], family: Family, owner: Owner): Generator<VirtualServer> {
  const ledger = families.get(family)?.ledger
  for (const { server } of ledger?.contribution(owner)?.servers ?? []) {
    const [winner] = ledger!.serverOwners(serverKey(server))
    if (winner === owner) yield server
  }
}

/** Connections of a Service as they are now; undefined where not all could be asked for. */
export async function liveConnections(
  families: PageSources['families'],
  service: ServiceRecord,
  live: LiveServers,
): Promise<LiveConnections | undefined> {
  const sum = { active: 0, inactive: 0, rate: 0, missing: 0 }
  for (const [family, owner] of ownersOf(families, service)) {
    for (const server of serversOf(families, family, owner)) {
      const found = await live.find(server)
      if (found === 'unknown') return undefined
      if (found === 'absent') {
        sum.missing++
        continue
      }
      sum.rate += found.connectionsPerSecond
      for (const { activeConnections, inactiveConnections } of found.destinations) {
        sum.active += activeConnections
        sum.inactive += inactiveConnections
      }
    }
  }
  return sum
}
