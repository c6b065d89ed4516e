import { answerOfReject } from '../explain/answers.ts'
import { harmless, xmark, type Hit } from '../explain/chains.ts'
import { isOurs } from '../explain/ours.ts'
import { parseRule } from '../explain/rule.ts'
import type { End, Step } from '../explain/walk.ts'
import type { Protocol } from '../model/address.ts'
import { destinationKey, serverKey, type DestinationId, type ServerId } from '../model/virtual-server.ts'
import type { SeenPacket, TraceEvent } from './events.ts'
import type { Journey, Traversal } from './flows.ts'
import type { RuleBook } from './rule-book.ts'

/** What one packet's journey comes to. */
export interface Story {
  readonly direction: 'request' | 'reply'
  /** Up to IPVS, and from it on; all in the first where IPVS did not take it. */
  readonly before: readonly Step[]
  readonly after: readonly Step[]
  /** Hooks passed: "INPUT". */
  readonly hooks: readonly string[]
  /** A rule or policy that ended it. */
  readonly end?: End
  /** Where IPVS sent it; of a foreign DNAT not. */
  readonly destination?: DestinationId
  /** The packet where it was seen last, and at which checkpoint or chain. */
  readonly last: SeenPacket
  readonly lastPlace: string
  /** The last checkpoint of ours that it passed; "" where none. */
  readonly checkpoint: string
}

const hookOrder = ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING']
const legacyPriorities: Readonly<Record<string, number>> = { raw: -300, mangle: -150, filter: 0, security: 50 }

interface Place {
  readonly hook: string
  readonly priority: number
}

function placeOf({ variant, family, table, chain }: Traversal, book: RuleBook): Place {
  if (variant === 'nft') return book.base(family, table, chain) ?? { hook: chain, priority: 0 }
  const nat = chain === 'INPUT' || chain === 'POSTROUTING' ? 100 : -100
  return { hook: chain, priority: legacyPriorities[table] ?? nat }
}

/** Lines of the kernel log come late: their place is that of their hook and table. */
function inOrder(traversals: readonly Traversal[], book: RuleBook, target: ServerId): readonly Traversal[] {
  if (traversals.every(({ variant }) => variant === 'nft')) return traversals
  const isNode = traversals.some(({ chain, packet }) => chain === 'output_first' && isTarget(packet, target))
  const rank = (one: Traversal): number => {
    const { hook, priority } = placeOf(one, book)
    const translated = one.packet.protocol !== 'ICMP' && !isTarget(one.packet, target) ? 1 : 0
    const isLooped = one.packet.inLink === 'lo' && isNode ? 1 : 0
    return (
      (isNode || hook === 'OUTPUT' ? translated * 1e7 : 0) + isLooped * 1e6 + hookOrder.indexOf(hook) * 1e4 + priority
    )
  }
  return [...traversals].sort((a, b) => rank(a) - rank(b))
}

function isTarget({ destination, destinationPort }: SeenPacket, { address, port }: ServerId): boolean {
  return destination === address && destinationPort === port
}

/** ICMP and ICMPv6 errors by type and code, as numbers: RFC 792, RFC 1812, RFC 4443. */
const errors: Readonly<Record<string, string>> = {
  '3 0': 'network unreachable',
  '3 1': 'host unreachable',
  '3 3': 'port unreachable',
  '3 4': 'fragmentation needed',
  '3 9': 'network prohibited',
  '3 10': 'host prohibited',
  '3 13': 'administratively prohibited',
  '1 0': 'no route',
  '1 1': 'administratively prohibited',
  '1 3': 'address unreachable',
  '1 4': 'port unreachable',
}

/** "192.168.60.9:40000 → 10.96.0.1:80/TCP" */
export function seenText({ protocol, source, sourcePort, destination, destinationPort, flags }: SeenPacket): string {
  if (protocol === 'ICMP') return `ICMP ${errors[flags] ?? flags}, ${source} → ${destination}`
  const from = destinationKey({ address: source, port: sourcePort })
  return `${from} → ${destinationKey({ address: destination, port: destinationPort })}/${protocol}`
}

/** Tells one packet's way in the words of `explain`. `table` is that of our own checkpoints. */
export function tell(journey: Journey, book: RuleBook, target: ServerId, table: string): Story {
  const { direction } = journey
  const traversals = inOrder(journey.traversals, book, target)
  const first = traversals[0]!.packet
  const steps: Step[] = []
  const hooks: string[] = []
  let split: number | undefined
  let destination: DestinationId | undefined
  let end: End | undefined
  let checkpoint = ''
  let lastPlace = ''
  let mark = 0
  let isNatted = false
  let previous: { hook: string; packet: SeenPacket } | undefined
  const step = (place: string, text: string, hits: readonly Hit[] = []): void => {
    steps.push({ direction, place, text, hits })
  }
  if (first.inLink !== '') step('in', `by ${first.inLink}: ${seenText(first)}`)
  else step('out', `of this node: ${seenText(first)}`)
  for (const traversal of traversals) {
    const { packet } = traversal
    const { hook } = placeOf(traversal, book)
    const isNew = previous === undefined || previous.hook !== hook || previous.packet.inLink !== packet.inLink
    const changed = previous !== undefined && isTarget(previous.packet, target) && !isTarget(packet, target)
    // To a process of the node it goes on within the hook; to others by OUTPUT from its beginning.
    const isByIpvs = changed && !isNatted && (hook === 'OUTPUT' || hook === previous!.hook)
    if (direction === 'request' && isByIpvs && destination === undefined) {
      const at = previous!.hook === 'OUTPUT' ? 'LOCAL_OUT' : 'LOCAL_IN'
      destination = { address: packet.destination, port: packet.destinationPort }
      step(`IPVS at ${at}`, `virtual server ${serverKey(target)} chose ${destinationKey(destination)}`)
      split = steps.length
    } else if (isNew && previous?.hook === 'PREROUTING' && (hook === 'INPUT' || hook === 'FORWARD')) {
      step('routing', hook === 'INPUT' ? 'to this node itself' : `on by ${packet.outLink}`)
    } else if (isNew && hook === 'PREROUTING' && previous !== undefined) step('in', `again, by ${packet.inLink}`)
    if (isNew) hooks.push(hook)
    const isOwn = traversal.variant === 'nft' && traversal.table === table
    if (isOwn) checkpoint = traversal.chain
    const isForeign = traversal.variant === 'nft' && !book.isIptables(traversal.family, traversal.table)
    const place = isForeign
      ? `nftables ${traversal.family} ${traversal.table} ${traversal.chain}`
      : `${traversal.table} ${hook}`
    lastPlace = isOwn ? hook : place
    if (!isOwn) {
      const told = passage(traversal, book, mark)
      mark = told.mark
      isNatted ||= told.hits.some(({ effect }) => /^(DNAT|REDIRECT)/.test(effect))
      if (told.hits.length > 0) step(place, '', told.hits)
      if (told.by !== undefined) end = ended(told.by, direction, place, packet)
    } else mark = markOf(traversal.events) ?? mark
    if (isOwn && end === undefined) {
      if (traversal.chain === 'postrouting_last') step('sent', sentText(packet, direction, traversals, target))
      if (traversal.chain === 'input_last')
        step('delivered', `to a process of this node: ${homeText(packet, direction, traversals, target)}`)
    }
    previous = { hook, packet }
  }
  const at = split ?? steps.length
  return {
    direction,
    before: steps.slice(0, at),
    after: steps.slice(at),
    hooks,
    ...(end === undefined ? {} : { end }),
    ...(destination === undefined ? {} : { destination }),
    last: traversals.at(-1)!.packet,
    lastPlace,
    checkpoint,
  }
}

function sentText(
  packet: SeenPacket,
  direction: Journey['direction'],
  traversals: readonly Traversal[],
  target: ServerId,
): string {
  const by = `by ${packet.outLink} as`
  if (direction === 'reply') return `${by} ${homeText(packet, direction, traversals, target)}`
  const first = traversals[0]!.packet
  const isMasqueraded = packet.source !== first.source || packet.sourcePort !== first.sourcePort
  const how = isMasqueraded ? `masqueraded, ${first.source} became ${packet.source}` : 'source kept'
  return `${by} ${seenText(packet)}: ${how}`
}

/** A packet where it leaves our sight; of an answer, whether it has the address that was asked. */
function homeText(
  packet: SeenPacket,
  direction: Journey['direction'],
  traversals: readonly Traversal[],
  target: ServerId,
): string {
  const isOwn = packet.source === target.address && packet.sourcePort === target.port
  const isBack = direction === 'reply' && isOwn && traversals[0]!.packet.source !== packet.source
  return `${seenText(packet)}${isBack ? ': IPVS gave it its service address back' : ''}`
}

function ended(by: Hit, direction: Journey['direction'], place: string, packet: SeenPacket): End {
  const how = /^REJECT with (\S+)/.exec(by.effect)?.[1]
  const protocol: Protocol = packet.protocol === 'ICMP' ? 'UDP' : packet.protocol
  const answer = direction === 'reply' || how === undefined ? 'nothing' : answerOfReject(how, protocol)
  return { code: 'rule', answer, direction, place, text: '', by }
}

function markOf(events: readonly TraceEvent[]): number | undefined {
  return events.flatMap((event) => ('mark' in event && event.mark !== undefined ? [event.mark] : [])).at(-1)
}

/** The rules that matched in one base chain, and what dropped the packet. */
function passage(traversal: Traversal, book: RuleBook, before: number): { hits: Hit[]; by?: Hit; mark: number } {
  const hits: Hit[] = []
  let mark = before
  let by: Hit | undefined
  for (const event of traversal.events) {
    if (event.kind === 'end' || event.kind === 'policy') mark = event.mark ?? mark
    if (event.kind === 'policy') {
      const policy = event.policy ?? book.policy(event.variant, event.table, event.chain)?.toLowerCase()
      if (policy === 'drop') by = policyHit(event, book)
    }
    if (event.kind !== 'rule') continue
    const read = hitOf(event, book, mark)
    if (read === undefined) continue
    hits.push(read.hit)
    mark = read.mark
    if (read.isDrop) by = read.hit
  }
  if (by !== undefined && !hits.includes(by)) hits.push(by)
  return { hits, mark, ...(by === undefined ? {} : { by }) }
}

function shown(variant: string, book: RuleBook): string {
  return book.isMixed ? variant : ''
}

function policyHit({ variant, table, chain }: TraceEvent, book: RuleBook): Hit {
  return { variant: shown(variant, book), table, chain, number: 0, rule: 'policy DROP', ours: false, effect: 'DROP' }
}

function hitOf(
  event: TraceEvent & { kind: 'rule' },
  book: RuleBook,
  mark: number,
): { hit: Hit; mark: number; isDrop: boolean } | undefined {
  const { variant, family, table, chain, verdict } = event
  const { number = 0, handle = 0 } = event
  const known =
    variant === 'legacy'
      ? { number, text: book.text(variant, table, chain, number) }
      : book.byHandle(family, table, chain, handle)
  const saved = known?.text
  const base = { variant: shown(variant, book), table, chain, number: known?.number ?? handle }
  if (saved === undefined) {
    const rule = event.text || `a rule that has come or gone meanwhile, handle ${event.handle ?? '?'}`
    const plain = rule.replace(/ ?counter packets \d+ bytes \d+ ?/, ' ').trim()
    const isSilent = verdict === 'continue' && !/\bmark set\b/.test(rule)
    if (isSilent) return undefined
    const effect = event.to === undefined ? (verdict ?? '').toUpperCase() : `to ${event.to}`
    return { hit: { ...base, rule: plain, ours: false, effect }, mark, isDrop: verdict === 'drop' }
  }
  const { target } = parseRule(saved)
  if (target === undefined || harmless.has(target.name)) return undefined
  const option = (name: string): string => target.options.get(name)?.[0] ?? ''
  let effect = target.name
  let after = mark
  if (book.isChain(variant, table, target.name)) effect = `to ${target.name}`
  else if (target.name === 'MARK') {
    after = xmark(option('--set-xmark') || option('--set-mark') || '0/0', mark)
    effect = `mark 0x${mark.toString(16)} → 0x${after.toString(16)}`
  } else if (target.name === 'REJECT') effect = `REJECT with ${option('--reject-with') || 'icmp-port-unreachable'}`
  else if (target.name === 'DNAT') effect = `DNAT to ${option('--to-destination')}`
  else if (target.name === 'REDIRECT') effect = `REDIRECT to port ${option('--to-ports')}`
  else if (target.name === 'SNAT') effect = `SNAT to ${option('--to-source')}`
  else if (target.name === 'NOTRACK' || target.options.has('--notrack')) effect = 'not tracked'
  const hit: Hit = { ...base, rule: saved, ours: isOurs(table, chain, saved), effect }
  const isDrop = verdict === 'drop' || (verdict === undefined && (target.name === 'DROP' || target.name === 'REJECT'))
  return { hit, mark: after, isDrop }
}
