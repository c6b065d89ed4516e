import { readdirSync, readFileSync } from 'node:fs'
import { addressBytes, familyOf } from '../model/address.ts'
import { attributes, bytes } from '../netlink/attributes.ts'
import { Connection } from '../netlink/connection.ts'
import { protocols } from '../netlink/header.ts'
import type { Told } from './kernel-state.ts'

/** RTM_GETNEIGH of linux/rtnetlink.h: one neighbour, since Linux 5.0. */
const getNeighbour = 30
/** struct ndmsg of linux/neighbour.h: family u8, 3 bytes of padding, interface s32, state u16, flags u8, type u8. */
const headerLength = 12
const families = { IPv4: 2, IPv6: 10 } as const

/** NDA_* of linux/neighbour.h. */
const neighbourAttributes = attributes('neighbour', { address: [1, bytes], hardwareAddress: [2, bytes] })

/** struct __fdb_entry of linux/if_bridge.h: hardware address, port number (low byte), is_local, age u32, high byte, padding. */
const entryLength = 16

/** Reads what a bridge says of itself below /sys/class/net; undefined where there is none. */
export interface BridgeFiles {
  ports(bridge: string): readonly string[] | undefined
  text(path: string): string
  bytes(path: string): Buffer
}

const files: BridgeFiles = {
  ports: (bridge) => {
    try {
      return readdirSync(`/sys/class/net/${bridge}/brif`)
    } catch {
      return undefined
    }
  },
  text: (path) => readFileSync(`/sys/class/net/${path}`, 'utf8').trim(),
  bytes: (path) => readFileSync(`/sys/class/net/${path}`),
}

/**
 * Whether a link gives a neighbour's packets back to itself: of a bridge, whether the port that it is behind has hairpin
 * mode; any other link does. `hardwareAddress` answers undefined of a neighbour that is not known.
 */
export async function sendsBack(
  link: string,
  hardwareAddress: () => Promise<Uint8Array | undefined>,
  read: BridgeFiles = files,
): Promise<Told> {
  const ports = read.ports(link)
  if (ports === undefined) return true
  const modes = new Map(ports.map((port) => [port, read.text(`${link}/brif/${port}/hairpin_mode`) === '1']))
  const all = [...modes.values()]
  if (all.every(Boolean) || !all.includes(true)) return all.every(Boolean)
  const mac = await hardwareAddress()
  const number = mac && portNumber(read.bytes(`${link}/brforward`), mac)
  const port = ports.find((one) => Number(read.text(`${link}/brif/${one}/port_no`)) === number)
  return port === undefined
    ? `some ports of bridge ${link} are in hairpin mode, and it is not known behind which the endpoint is`
    : modes.get(port)!
}

/** The port that a bridge has learned a hardware address at. */
export function portNumber(table: Buffer, mac: Uint8Array): number | undefined {
  for (let at = 0; at + entryLength <= table.length; at += entryLength) {
    if (table.subarray(at, at + 6).equals(mac)) return table[at + 6]! | (table[at + 12]! << 8)
  }
  return undefined
}

/** The hardware address of a neighbour; undefined where it is not known, or the kernel is too old to be asked for one. */
export async function neighbour(index: number, address: string): Promise<Uint8Array | undefined> {
  const connection = Connection.open(protocols.route)
  try {
    const reply = await connection.request({
      type: getNeighbour,
      write: (writer) => {
        const at = writer.reserve(headerLength)
        writer.buffer.fill(0, at, at + headerLength)
        writer.buffer[at] = families[familyOf(address)]
        writer.word32(at + 4, index)
        neighbourAttributes.write(writer, { address: addressBytes(address) })
      },
    })
    const [payload] = reply.payloads
    if (reply.errno !== 0 || payload === undefined) return undefined
    return neighbourAttributes.decode(payload, headerLength).hardwareAddress
  } finally {
    connection.close()
  }
}
