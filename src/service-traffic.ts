import { serverKey, type IpvsTraffic, type ServerId } from './ipvs/ipvs.ts'
import { describeError } from './lib/errors.ts'
import type { Log } from './lib/log.ts'
import type { Format } from './metrics/exposition.ts'
import { serviceLabels, serviceSeries } from './metrics/service-series.ts'
import { ServiceTable } from './metrics/service-table.ts'
import type { Family } from './model/address.ts'
import type { ConnectionsReading } from './page/sources.ts'
import { partsOf } from './proxier/cluster-state.ts'
import type { Ledger } from './proxier/ledger.ts'
import type { Owner } from './reconcile/layer.ts'

interface Reading {
  readonly table: ServiceTable
  /** When it ended, in milliseconds since the epoch. */
  readonly at: number
}

export interface ServiceTrafficOptions {
  readonly ipvs: IpvsTraffic
  /** Who wants which virtual server, by family. */
  readonly ledgers: ReadonlyMap<Family, Pick<Ledger, 'serverOwners' | 'contribution'>>
  /** Most service ports that get series; 0: none, and nothing is read. */
  readonly limit: number
  readonly log: Log
  /** Milliseconds for which what was read serves further scrapes. */
  readonly keepMs?: number
}

/**
 * What goes through the virtual servers of each service port, read from the kernel when a scrape asks for it. A reading
 * serves all scrapes of the next few seconds and is then let go of: nothing of it stays in memory between scrapes.
 */
export class ServiceTraffic {
  readonly #options: ServiceTrafficOptions
  #reading: Promise<Reading> | undefined

  constructor(options: ServiceTrafficOptions) {
    this.#options = options
  }

  /** The series as text, in pieces; none where the kernel could not be read: the other series are worth more. */
  async *series(format: Format): AsyncGenerator<string> {
    const { limit, log } = this.#options
    if (limit === 0) return
    let table: ServiceTable
    try {
      ;({ table } = await this.#read())
    } catch (error) {
      log.error('The traffic of Services could not be read for a scrape', { error: describeError(error) })
      return
    }
    yield* serviceSeries(table, limit, format)
  }

  /** Service ports with virtual servers that stand. */
  async table(): Promise<ServiceTable> {
    return (await this.#read()).table
  }

  /** Connections of the service ports, whatever the limit. Rejects where the kernel cannot be read. */
  async connections(): Promise<ConnectionsReading> {
    const { table, at } = await this.#read()
    return {
      at,
      of: (family, owner) => {
        const row = table.find(rowKey(family, owner))
        if (row === undefined) return undefined
        return { active: table.value(row, 'activeConnections'), inactive: table.value(row, 'inactiveConnections') }
      },
    }
  }

  #read(): Promise<Reading> {
    this.#reading ??= this.#readKernel()
    return this.#reading
  }

  async #readKernel(): Promise<Reading> {
    const { ipvs, keepMs = 5000 } = this.#options
    const table = new ServiceTable()
    try {
      await ipvs.traffic({
        begin: () => table.clear(),
        counted: (server, counters) => {
          const owner = this.#ownerOf(server)
          if (owner === undefined) return
          const row = table.row(rowKey(server.family, owner), () => this.#labels(server.family, owner))
          table.add(row, 'counted', 1)
          table.add(row, 'connections', counters.connections)
          table.add(row, 'incomingPackets', counters.incomingPackets)
          table.add(row, 'outgoingPackets', counters.outgoingPackets)
          table.add(row, 'incomingBytes', counters.incomingBytes)
          table.add(row, 'outgoingBytes', counters.outgoingBytes)
        },
        standing: (server, standing) => {
          const owner = this.#ownerOf(server)
          const row = owner === undefined ? undefined : table.find(rowKey(server.family, owner))
          if (row === undefined) return
          table.add(row, 'standing', 1)
          table.add(row, 'activeConnections', standing.activeConnections)
          table.add(row, 'inactiveConnections', standing.inactiveConnections)
          // Most virtual servers of a service port have the same destinations: their sum would say nothing.
          table.raise(row, 'ready', standing.ready)
          table.raise(row, 'draining', standing.draining)
        },
      })
    } catch (error) {
      this.#reading = undefined
      throw error
    }
    const timer = setTimeout(() => (this.#reading = undefined), keepMs)
    timer.unref()
    return { table, at: Date.now() }
  }

  #ownerOf(server: ServerId): Owner | undefined {
    const ledger = this.#options.ledgers.get(server.family)
    if (ledger === undefined) return undefined
    const [owner] = ledger.serverOwners(serverKey(server))
    return owner
  }

  #labels(family: Family, owner: Owner): string {
    const { namespace, service, port, protocol } = partsOf(owner)
    // A port without a name goes by its number: the first virtual server is that of the cluster IP.
    const number = this.#options.ledgers.get(family)?.contribution(owner)?.servers[0]?.server.port
    return serviceLabels({ namespace, service, port: port || String(number ?? ''), protocol, family })
  }
}

/** The families' service ports of one name are rows of their own. */
function rowKey(family: Family, owner: Owner): string {
  return family === 'IPv4' ? owner : ` ${owner}`
}
