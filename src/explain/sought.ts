import type { Sought } from '../ipset/membership.ts'
import type { Packet } from './packet.ts'

/** The sides of a packet that the directions of a rule's set match name: "src", "dst". */
export function soughtIn(packet: Packet, directions: readonly string[]): Sought {
  const { family, protocol, mark } = packet
  const sides = directions.map((direction) =>
    direction === 'src'
      ? { address: packet.source, port: packet.sourcePort, link: packet.inLink }
      : { address: packet.destination, port: packet.destinationPort, link: packet.outLink },
  )
  return { family, protocol, mark, sides }
}
