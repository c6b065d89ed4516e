import { readNodeAddresses } from '../open.ts'
import { ProxyError } from '../lib/errors.ts'
import { addressBytes } from '../model/address.ts'
import { destinationKey, serverKey, type ServerId } from '../model/virtual-server.ts'
import { podNames, readCluster, type PodNames } from './cluster.ts'
import { Best, parseConnection, procLines, type IpvsConnection } from '../ipvs/connections.ts'
import { withKernel } from './look.ts'
import { columns, counted, notesText, print, section } from './output.ts'
import type { Inspection } from './setup.ts'
import { dispatchTo, WantedFamily } from './wanted.ts'

const connectionFile = '/proc/net/ip_vs_conn'
const usualLimit = 100

export interface NamedConnection extends IpvsConnection {
  /** "namespace/name"; "" where no endpoint of the Service has the address any more. */
  readonly pod: string
}

export interface ConnsResult {
  /** "namespace/name" */
  readonly service: string
  /** Keys of its virtual servers. */
  readonly servers: readonly string[]
  readonly total: number
  readonly states: Readonly<Record<string, number>>
  readonly destinations: readonly { readonly destination: string; readonly pod: string; readonly connections: number }[]
  /** Sorted by virtual server, destination, client; no more than the limit. */
  readonly connections: readonly NamedConnection[]
  readonly notes: readonly string[]
}

/** What a Service is called on the command line. Throws ProxyError CONFIG. */
export function serviceKey(text: string): string {
  const parts = text.split('/')
  const isName = (part: string): boolean => /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(part)
  if (parts.length > 2 || !parts.every(isName)) {
    throw new ProxyError('CONFIG', `${JSON.stringify(text)} is not [NAMESPACE/]NAME of a Service`, {
      advice: 'see kube-ipvs-proxy conns --help',
    })
  }
  return parts.length === 2 ? text : `default/${text}`
}

/** Connections of a Service's virtual servers, out of the lines of ip_vs_conn. */
export async function gatherConnections(
  lines: AsyncIterable<string> | Iterable<string>,
  servers: readonly ServerId[],
  pods: PodNames,
  limit: number,
): Promise<Pick<ConnsResult, 'total' | 'states' | 'destinations' | 'connections'>> {
  const keys = new Set(servers.map(serverKey))
  const words = servers.map(wordsOf)
  const best = new Best<NamedConnection>(limit, byServer)
  const states = new Map<string, number>()
  const counts = new Map<string, { destination: string; pod: string; connections: number }>()
  for await (const line of lines) {
    // Most lines of a large table are of other Services: they are not taken apart.
    if (!words.some((text) => line.includes(text))) continue
    const one = parseConnection(line)
    if (one === undefined || !keys.has(serverKey(one))) continue
    const pod = pods.get(one.destination) ?? ''
    best.add({ ...one, pod })
    states.set(one.state, (states.get(one.state) ?? 0) + 1)
    const destination = destinationKey({ address: one.destination, port: one.destinationPort })
    const count = counts.get(destination) ?? { destination, pod, connections: 0 }
    count.connections++
    counts.set(destination, count)
  }
  const destinations = [...counts.values()].sort((a, b) => b.connections - a.connections)
  return { total: best.count, states: Object.fromEntries(states), destinations, connections: best.list }
}

/** A virtual server as the file writes it: "0A600001 0050", "fd00:0000:…:0001 0050". */
function wordsOf({ address, port }: ServerId): string {
  const hex = Buffer.from(addressBytes(address)).toString('hex')
  const number = port.toString(16).padStart(4, '0').toUpperCase()
  const text = hex.length === 8 ? hex.toUpperCase() : hex.match(/.{4}/g)!.join(':')
  return `${text} ${number}`
}

function byServer(a: NamedConnection, b: NamedConnection): number {
  return compare(orderOf(a), orderOf(b)) || a.clientPort - b.clientPort
}

function orderOf(one: NamedConnection): string {
  return `${serverKey(one)} ${one.destination} ${one.destinationPort} ${one.state} ${one.client}`
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** IPVS connections of one Service; the pods' names are read freshly from its EndpointSlices. */
export async function runConns(inspection: Inspection): Promise<number> {
  const { command, notes } = inspection
  const service = serviceKey(command.argument)
  const limit = Number(command.options.get('limit') ?? usualLimit)
  const { servers, pods } = await withKernel((kernel) => serversOf(inspection, service, kernel))
  if (servers.length === 0) {
    throw new ProxyError('OBJECT', `Service ${service} has no virtual server on this node`, {
      object: `Service ${service}`,
      advice: 'it is not there, is headless or of type ExternalName, or belongs to another proxy',
    })
  }
  const found = await gatherConnections(connectionLines(), servers, pods, limit)
  print(command, { service, servers: servers.map(serverKey), ...found, notes: notes.lines }, connsText)
  return 0
}

async function* connectionLines(): AsyncGenerator<string> {
  try {
    yield* procLines(connectionFile)
  } catch (error) {
    throw new ProxyError('PREFLIGHT', `${connectionFile} cannot be read`, { advice: 'load it: modprobe ip_vs' }, error)
  }
}

async function serversOf(
  inspection: Inspection,
  service: string,
  kernel: Parameters<Parameters<typeof withKernel>[0]>[0],
): Promise<{ servers: readonly ServerId[]; pods: PodNames }> {
  const { settings, nodeName, notes: log } = inspection
  const families = (['IPv4', 'IPv6'] as const).map(
    (family) =>
      new WantedFamily({ family, settings, readNodeAddresses: () => readNodeAddresses(kernel.dummy, family), log }),
  )
  const pods = new Map<string, string>()
  await readCluster(
    {
      source: await inspection.source(),
      nodeName,
      log,
      only: service,
      onSlice: (slice) => {
        for (const [address, pod] of podNames(slice)) pods.set(address, pod)
      },
    },
    dispatchTo(families.map(({ family, proxier }) => [family, proxier])),
  )
  const servers: ServerId[] = []
  for (const one of families) {
    await one.wanted(true)
    for (const { server } of one.ledger.servers()) {
      const owners = one.ledger.serverOwners(serverKey(server))
      const own = [...owners].some((owner) => /^[^/]+\/[^/:]+/.exec(owner)?.[0] === service)
      if (own) servers.push(server)
    }
  }
  return { servers, pods }
}

export function connsText(result: ConnsResult): string {
  const { service, servers, total, states, destinations, connections, notes } = result
  const byState = Object.entries(states).map(([state, count]) => `${count} ${state}`)
  const summary = byState.length === 0 ? '' : `: ${byState.join(', ')}`
  const shown = total > connections.length ? `Connections, the first ${connections.length} of ${total}` : 'Connections'
  const rows = connections.map((one) => [
    serverKey(one),
    destinationKey({ address: one.client, port: one.clientPort }),
    destinationKey({ address: one.destination, port: one.destinationPort }),
    one.pod || '-',
    one.state,
    `${one.expires} s`,
  ])
  const perPod = destinations.map(({ destination, pod, connections }) => [destination, pod || '-', String(connections)])
  return [
    `Service ${service}: ${counted(servers.length, 'virtual server')}, ${counted(total, 'connection')}${summary}\n`,
    section(
      'Virtual servers',
      columns(
        servers.map((key) => [key]),
        '  ',
      ),
    ),
    total === 0 ? '' : section('Destinations', columns([['DESTINATION', 'POD', 'CONNECTIONS'], ...perPod], '  ')),
    total === 0
      ? ''
      : section(
          shown,
          columns([['VIRTUAL SERVER', 'CLIENT', 'DESTINATION', 'POD', 'STATE', 'EXPIRES'], ...rows], '  '),
        ),
    notesText(notes),
  ].join('')
}
