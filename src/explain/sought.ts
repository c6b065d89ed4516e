import type { Sought } from '../ipset/membership.ts'
import type { Packet } from './packet.ts'

/** The sides of a packet that the directions of a rule's set match name: "src", "dst". */
export function soughtIn(packet: Packet, directions: readonly string[]): Sought {
  const { family, protocol, mark, isError } = packet
  // What a set is asked of an ICMP packet is its type, which no entry of ours has: nor has any port 0.
  const portOf = (port: number): number => (isError === true ? 0 : port)
  const sides = directions.map((direction) =>
    direction === 'src'
      ? { address: packet.source, port: portOf(packet.sourcePort), link: packet.inLink }
      : { address: packet.destination, port: portOf(packet.destinationPort), link: packet.outLink },
  )
  return { family, protocol, mark, sides }
}
