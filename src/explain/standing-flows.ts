import { replyKey, type UdpFlow } from '../conntrack/flows.ts'
import { KernelFlows } from '../conntrack/kernel-flows.ts'
import { parseConnection, procLines, type IpvsConnection } from '../ipvs/connections.ts'
import { destinationKey, serverKey, type ObservedServer, type ServerId } from '../ipvs/ipvs.ts'

const connectionFile = '/proc/net/ip_vs_conn'

/** Lines of IPVS's table; none where the kernel has no IPVS. */
async function* connectionLines(): AsyncGenerator<string> {
  try {
    yield* procLines(connectionFile)
  } catch {
    // No IPVS, no connections.
  }
}

/** IPVS connections and affinities of a virtual server. */
async function connectionsOf(id: ServerId, lines: AsyncIterable<string>): Promise<readonly IpvsConnection[]> {
  const key = serverKey(id)
  const found: IpvsConnection[] = []
  for await (const line of lines) {
    const one = parseConnection(line)
    if (one !== undefined && serverKey(one) === key) found.push(one)
  }
  return found
}

/** The destination that client affinity has chosen: the kernel keeps it as a connection of client port 0. */
export async function pinnedDestination(
  id: ServerId,
  client: string,
  lines: AsyncIterable<string> = connectionLines(),
): Promise<string | undefined> {
  const template = (await connectionsOf(id, lines)).find((one) => one.client === client && one.clientPort === 0)
  return template && destinationKey({ address: template.destination, port: template.destinationPort })
}

/**
 * UDP flows that go past a virtual server's destinations: netfilter made them when another rule translated them, or when
 * there was no virtual server yet, and they last while datagrams come. `expires`: net.ipv4.vs.expire_nodest_conn, by
 * which IPVS itself ends those of destinations that are gone.
 */
export async function readStaleFlows(
  { server, destinations }: ObservedServer,
  expires: boolean,
  flows: Pick<KernelFlows, 'select' | 'close'> = new KernelFlows(),
  lines: AsyncIterable<string> = connectionLines(),
): Promise<readonly UdpFlow[]> {
  try {
    const serving = new Set(destinations.map(destinationKey))
    const found = await flows.select(
      server.family,
      (flow) =>
        flow.destinationPort === server.port && flow.destination === server.address && !serving.has(replyKey(flow)),
    )
    if (found.length === 0 || !expires) return found
    const keyOf = (client: string, port: number, by: string): string => `${client} ${port} ${by}`
    const balanced = new Set(
      (await connectionsOf(server, lines)).map(({ client, clientPort, destination, destinationPort }) =>
        keyOf(client, clientPort, destinationKey({ address: destination, port: destinationPort })),
      ),
    )
    return found.filter((flow) => !balanced.has(keyOf(flow.source, flow.sourcePort, replyKey(flow))))
  } finally {
    flows.close()
  }
}
