import { addressBytes, type Family, type Protocol } from '../model/address.ts'
import type { Connection } from '../netlink/connection.ts'
import { errno, kernelError } from '../netlink/errno.ts'
import { commands, conntrackMessage, decodeTracked, fourBytes, type TrackedConnection } from './messages.ts'

/** The original direction of a connection: from a client to what it believes to talk to. */
export interface Asked {
  readonly family: Family
  readonly protocol: Protocol
  readonly source: string
  readonly sourcePort: number
  readonly destination: string
  readonly destinationPort: number
}

const numbers: Readonly<Record<Protocol, number>> = { TCP: 6, UDP: 17, SCTP: 132 }

/** One entry of the table, looked up by the kernel; undefined where there is none. Throws ProxyError KERNEL. */
export async function findTracked(connection: Connection, asked: Asked): Promise<TrackedConnection | undefined> {
  const { family, protocol, source, sourcePort, destination, destinationPort } = asked
  const [from, to] = [addressBytes(source), addressBytes(destination)]
  const ip =
    family === 'IPv4'
      ? { ipv4Source: fourBytes(from), ipv4Destination: fourBytes(to) }
      : { ipv6Source: from, ipv6Destination: to }
  const original = { ip, protocol: { number: numbers[protocol], sourcePort, destinationPort } }
  const reply = await connection.request(conntrackMessage(commands.get, family, { original }))
  if (reply.errno === errno.ENOENT) return undefined
  if (reply.errno !== 0) {
    const advice = reply.errno === errno.EINVAL ? 'modprobe nf_conntrack_netlink' : undefined
    throw kernelError(reply.errno, 'find', `connection from ${source} to ${destination}`, advice)
  }
  const [payload] = reply.payloads
  return payload && decodeTracked(payload)
}
