import { Turn } from '../lib/turn.ts'
import { heading, type Format } from './exposition.ts'
import type { Column, ServiceTable } from './service-table.ts'

interface Family {
  readonly name: string
  readonly type: 'counter' | 'gauge'
  readonly help: string
  /** The columns that it shows, with the labels that tell them apart. */
  readonly samples: readonly (readonly [column: Column, label: string])[]
  /** Whether it comes out of the list of destinations, not of the counters. */
  readonly ofDestinations?: true
}

const counter = (name: string, column: Column, help: string): Family => ({
  name: `kube_ipvs_service_${name}_total`,
  type: 'counter',
  help: `${help} through the virtual servers of a service port`,
  samples: [[column, '']],
})

const gauge = (name: string, help: string, ...samples: readonly (readonly [Column, string])[]): Family => ({
  name: `kube_ipvs_service_${name}`,
  type: 'gauge',
  help,
  samples,
  ofDestinations: true,
})

/** Series of single service ports; labels namespace, service, port, protocol, ip_family. */
export const serviceFamilies: readonly Family[] = [
  counter('connections', 'connections', 'Connections'),
  counter('incoming_packets', 'incomingPackets', 'Packets of clients'),
  counter('outgoing_packets', 'outgoingPackets', 'Packets to clients'),
  counter('incoming_bytes', 'incomingBytes', 'Bytes of clients'),
  counter('outgoing_bytes', 'outgoingBytes', 'Bytes to clients'),
  gauge('active_connections', 'Connections in an active state', ['activeConnections', '']),
  gauge('inactive_connections', 'Connections in any other state', ['inactiveConnections', '']),
  gauge(
    'destinations',
    'Destinations of the virtual server of a service port that has the most',
    ['ready', ',state="ready"'],
    ['draining', ',state="draining"'],
  ),
]

/** How many service ports have no series of their own for the limit's sake. */
export const leftOutFamily = {
  name: 'kube_ipvs_service_ports_left_out',
  type: 'gauge',
  help: 'Service ports without series of their own: those with the fewest connections, beyond serviceMetricsLimit',
} as const

/** So many lines are made up in one go. */
export const linesPerPiece = 250

/** The series of the busiest service ports as text, in pieces of a few lines, in turns with others. */
export async function* serviceSeries(
  table: ServiceTable,
  most: number,
  format: Format,
  turn: Turn = new Turn(1),
): AsyncGenerator<string> {
  const rows = table.busiest(most)
  await turn.next()
  for (const { name, type, help, samples, ofDestinations } of serviceFamilies) {
    let piece = heading(name, type, help, format)
    let lines = 0
    for (const row of rows) {
      // Where the list left out one of its virtual servers, what it says of the others is not the whole.
      if (ofDestinations && table.value(row, 'standing') < table.value(row, 'counted')) continue
      for (const [column, label] of samples) {
        piece += `${name}{${table.labels(row)}${label}} ${table.value(row, column)}\n`
        lines++
      }
      if (lines < linesPerPiece) continue
      yield piece
      piece = ''
      lines = 0
      if (turn.isOver) await turn.next()
    }
    if (piece !== '') yield piece
  }
  const { name, type, help } = leftOutFamily
  yield `${heading(name, type, help, format)}${name} ${table.size - rows.length}\n`
}

/** What tells a service port from others, as labels. */
export function serviceLabels(port: {
  readonly namespace: string
  readonly service: string
  readonly port: string
  readonly protocol: string
  readonly family: string
}): string {
  const { namespace, service, protocol, family } = port
  return (
    `namespace="${escaped(namespace)}",service="${escaped(service)}",port="${escaped(port.port)}",` +
    `protocol="${protocol}",ip_family="${family}"`
  )
}

function escaped(value: string): string {
  return /["\\\n]/.test(value) ? value.replaceAll(/["\\]/g, '\\$&').replaceAll('\n', '\\n') : value
}
