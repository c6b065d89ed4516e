import { isLoopback } from '../model/address.ts'
import { passChain, type Hit } from './chains.ts'
import type { KernelState } from './kernel-state.ts'
import type { Packet } from './packet.ts'
import type { Way } from './walk.ts'

const outwards = ['raw OUTPUT', 'mangle OUTPUT', 'filter OUTPUT', 'security OUTPUT', 'mangle POSTROUTING']
const inwards = ['raw PREROUTING', 'mangle PREROUTING', 'mangle INPUT', 'filter INPUT', 'security INPUT']

/**
 * A way that ends in a refusal, with what becomes of the refusal: an ICMP error or a reset is a packet of the node, which
 * rules for its own packets may drop. What a process of the node is told by the call itself is no packet.
 */
export async function followRefusal(kernel: KernelState, way: Way, isOwn: boolean): Promise<Way> {
  const { end } = way
  if (end === undefined || end.direction === 'reply') return way
  if (end.answer !== 'refused' && end.answer !== 'unreachable') return way
  if (end.errno !== undefined && way.packet.inLink === '') return way
  const client = way.packet.original.source
  const stuck = await resetStuckOn(kernel, way)
  if (stuck !== undefined) {
    const lost = `the kernel looks for a way back to ${client} on ${stuck} alone, where there is none (tcp_v6_send_response)`
    return { ...way, end: { ...end, answer: 'nothing', lost } }
  }
  const query = { destination: client, mark: 0, protocol: way.packet.protocol, destinationPort: 0 }
  const route = await kernel.route(query)
  if (!isOwn && route.kind !== 'unicast') {
    return { ...way, end: { ...end, answer: 'nothing', lost: `the refusal finds no route to ${client}` } }
  }
  const link = route.kind === 'unicast' && !isOwn ? route.link : 'lo'
  const source = route.kind === 'unicast' ? (route.source ?? '') : client
  let packet = refusalOf(way, { link, source })
  const loops = isOwn ? inwards.map((place) => ({ place, isIn: true })) : []
  for (const { place, isIn } of [...outwards.map((one) => ({ place: one, isIn: false })), ...loops]) {
    if (isIn) packet = { ...packet, inLink: 'lo', outLink: '' }
    const [table = '', hook = ''] = place.split(' ')
    if (table !== 'raw') packet = { ...packet, isTracked: true }
    const passages = await passChain(kernel, table, hook, packet)
    const stopped = passages.flatMap(({ fate }) => (fate.kind === 'accept' ? [] : [fate]))
    const [first] = stopped
    if (first === undefined) {
      packet = passages[0]?.packet ?? packet
      continue
    }
    const isSure = stopped.length === passages.length && stopped.every(({ kind }) => kind !== 'untold')
    return { ...way, end: { ...end, answer: isSure ? 'nothing' : 'unknown', lost: lostText(first.by) } }
  }
  return way
}

/**
 * A reset for ::1 is sent by the link of the address that was asked, for ::1 needs one (rt6_need_strict): only lo reaches
 * it. Undefined where that is no matter.
 */
async function resetStuckOn(kernel: KernelState, { packet, end }: Way): Promise<string | undefined> {
  const { family, protocol, original, destination, destinationPort } = packet
  if (family === 'IPv4' || protocol !== 'TCP' || end!.code !== 'nothing-listens' || !isLoopback(original.source)) return
  const route = await kernel.route({ destination, mark: 0, protocol, destinationPort })
  return route.kind === 'local' && route.link !== 'lo' && route.link !== '' ? route.link : undefined
}

function lostText({ table, chain, number, rule }: Hit): string {
  const where = number === 0 ? `the policy of ${table} ${chain}` : `rule ${number} of ${table} ${chain} (${rule})`
  return `the refusal itself is stopped by ${where}`
}

/** The packet that tells: of the connection whose first packet was refused, netfilter says. */
function refusalOf({ packet, end }: Way, { link, source }: { link: string; source: string }): Packet {
  const isReset =
    end!.by?.effect.endsWith('tcp-reset') ?? (end!.code === 'nothing-listens' && packet.protocol === 'TCP')
  const isRejected = end!.by !== undefined
  const isTracked = packet.state === 'NEW'
  const { server: _, ...rest } = packet
  return {
    ...rest,
    // Who is asked for an address of the node tells in its name.
    source: end!.place.includes('INPUT') || end!.place.includes('LOCAL_IN') || isReset ? packet.destination : source,
    sourcePort: packet.destinationPort,
    destination: packet.original.source,
    destinationPort: packet.sourcePort,
    ephemeral: 'destination',
    inLink: '',
    outLink: link,
    bridged: false,
    mark: 0,
    isError: !isReset,
    isTracked: isReset && isRejected,
    state: isTracked ? (isReset && !isRejected ? 'ESTABLISHED' : 'RELATED') : 'INVALID',
    direction: 'REPLY',
  }
}
