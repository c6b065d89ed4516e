import type { SavedTable } from '../iptables/text.ts'
import type { KernelState, NativeNames } from './kernel-state.ts'
import { matchRule } from './match.ts'
import { isOurs } from './ours.ts'
import { packetKey, type Packet } from './packet.ts'
import { parseRule, type Target } from './rule.ts'

/** A rule that matched, or the policy of a built-in chain that decided. */
export interface Hit {
  /** "nft" or "legacy" where packets pass both; else "". */
  readonly variant: string
  readonly table: string
  readonly chain: string
  /** From 1; 0: the chain's policy. */
  readonly number: number
  /** As `iptables-save` prints it; of a policy, "policy DROP". */
  readonly rule: string
  readonly ours: boolean
  /** What it does: "ACCEPT", "mark 0x0 → 0x4000", "to KUBE-MARK-MASQ". */
  readonly effect: string
}

/** Something that cannot be told, and the side taken on this way. */
export interface Doubt {
  readonly hit: Hit
  /** What cannot be told. */
  readonly why: string
  readonly matched: boolean
}

export type Fate =
  | { readonly kind: 'accept' }
  | { readonly kind: 'drop'; readonly by: Hit }
  | { readonly kind: 'reject'; readonly by: Hit; readonly how: string }
  | { readonly kind: 'untold'; readonly by: Hit; readonly why: string }

/** One way through a chain. */
export interface Passage {
  readonly packet: Packet
  readonly hits: readonly Hit[]
  readonly doubts: readonly Doubt[]
  readonly fate: Fate
}

interface Branch {
  readonly packet: Packet
  readonly hits: readonly Hit[]
  readonly doubts: readonly Doubt[]
}

interface Context {
  readonly variant: string
  readonly hook: string
  /** Of a chain of nftables. */
  readonly native: NativeNames | undefined
  readonly table: string
  readonly chains: SavedTable
  readonly kernel: KernelState
  /** What MASQUERADE and REDIRECT put in. */
  readonly ownAddress: string
}

/** More ways than these are not followed. */
const mostBranches = 16
const deepest = 64

/** Takes a packet through one built-in chain of one table; both variants where the node has both. */
export async function passChain(
  kernel: KernelState,
  table: string,
  chain: string,
  packet: Packet,
  ownAddress = '',
): Promise<readonly Passage[]> {
  let passages: readonly Passage[] = [{ packet, hits: [], doubts: [], fate: { kind: 'accept' } }]
  const hasBoth = kernel.ruleSets.filter(({ native }) => native === undefined).length > 1
  for (const { variant, tables, native } of kernel.ruleSets) {
    const chains = tables.get(table)
    if (chains?.get(chain) === undefined) continue
    const shown = hasBoth || native !== undefined ? variant : ''
    const context = { variant: shown, table, chains, kernel, ownAddress, hook: chain, native }
    const next: Passage[] = []
    for (const passage of passages) {
      if (passage.fate.kind === 'accept') next.push(...(await passBuiltin(context, chain, passage)))
      else next.push(passage)
    }
    passages = merge(next, passageKey)
  }
  return passages
}

async function passBuiltin(context: Context, name: string, branch: Branch): Promise<Passage[]> {
  const { ended, through } = await walk(context, name, [branch], 0)
  const { policy } = context.chains.get(name)!
  const fate = (): Fate => {
    if (policy === 'ACCEPT' || policy === '-') return { kind: 'accept' }
    return { kind: 'drop', by: { ...named(context, name, 0, `policy ${policy}`), ours: false, effect: policy } }
  }
  return [...ended, ...through.map((one) => ({ ...one, fate: fate() }))]
}

/** Where a rule stands and how it reads, in the words of the tool that it was made with. */
function named({ variant, table, hook, native }: Context, chain: string, number: number, rule: string) {
  if (native === undefined) return { variant, table, chain, number, rule }
  const shown = native.shown.get(`${chain} ${rule}`)
  return { variant, table: native.table, chain: chain === hook ? native.chain : chain, number, rule, ...shown }
}

async function walk(
  context: Context,
  name: string,
  start: readonly Branch[],
  depth: number,
): Promise<{ ended: Passage[]; through: Branch[] }> {
  const ended: Passage[] = []
  const through: Branch[] = []
  let live: readonly Branch[] = start
  const rules = depth > deepest ? [] : (context.chains.get(name)?.rules ?? [])
  for (const [index, text] of rules.entries()) {
    if (live.length === 0) break
    const next: Branch[] = []
    for (const branch of live) {
      const taken = await step(context, name, index + 1, text, branch, depth)
      next.push(...taken.next)
      ended.push(...taken.ended)
      through.push(...taken.through)
    }
    live = merge(next, (one) => packetKey(one.packet)).slice(0, mostBranches)
  }
  return { ended: merge(ended, passageKey), through: merge([...through, ...live], (one) => packetKey(one.packet)) }
}

interface Taken {
  readonly next: readonly Branch[]
  readonly ended: readonly Passage[]
  readonly through: readonly Branch[]
}

async function step(
  context: Context,
  chain: string,
  number: number,
  text: string,
  branch: Branch,
  depth: number,
): Promise<Taken> {
  const { target, ...rule } = parseRule(text)
  if (target === undefined || harmless.has(target.name)) return { next: [branch], ended: [], through: [] }
  const told = await matchRule({ ...rule, target }, branch.packet, context.kernel)
  if (told === false) return { next: [branch], ended: [], through: [] }
  const hit = (effect: string): Hit => ({
    ...named(context, chain, number, text),
    ours: context.native === undefined && isOurs(context.table, chain, text),
    effect,
  })
  if (told === true) return apply(context, target, branch, hit, depth)
  const doubt = (matched: boolean): Branch => ({
    ...branch,
    doubts: [...branch.doubts, { hit: hit(target.name), why: told, matched }],
  })
  const taken = await apply(context, target, doubt(true), hit, depth)
  return { ...taken, next: [doubt(false), ...taken.next] }
}

/** Targets that change nothing that counts here. */
export const harmless = new Set(
  'LOG NFLOG ULOG TRACE AUDIT TCPMSS TCPOPTSTRIP TOS DSCP ECN CHECKSUM CLASSIFY TEE SET RATEEST HMARK TTL HL IDLETIMER LED SECMARK CONNSECMARK'.split(
    ' ',
  ),
)

async function apply(
  context: Context,
  target: Target,
  before: Branch,
  hit: (effect: string) => Hit,
  depth: number,
): Promise<Taken> {
  const { packet } = before
  const went = (effect: string, after: Packet = packet): Branch & { hit: Hit } => {
    const one = hit(effect)
    return { ...before, packet: after, hits: [...before.hits, one], hit: one }
  }
  const end = (effect: string, fate: (by: Hit) => Fate, after: Packet = packet): Taken => {
    const { hit: by, ...branch } = went(effect, after)
    return { next: [], ended: [{ ...branch, fate: fate(by) }], through: [] }
  }
  const goOn = (effect: string, after: Packet): Taken => {
    const { hit: _, ...branch } = went(effect, after)
    return { next: [branch], ended: [], through: [] }
  }
  const translate = (effect: string, after: Packet): Taken => end(effect, () => ({ kind: 'accept' }), after)
  const { name, options } = target
  switch (name) {
    case 'ACCEPT':
      return end(name, () => ({ kind: 'accept' }))
    case 'DROP':
      return end(name, (by) => ({ kind: 'drop', by }))
    case 'REJECT': {
      const how = options.get('--reject-with')?.[0] ?? 'icmp-port-unreachable'
      return end(`REJECT with ${how}`, (by) => ({ kind: 'reject', by, how }))
    }
    case 'RETURN': {
      const { hit: _, ...branch } = went(name)
      return { next: [], ended: [], through: [branch] }
    }
    case 'MARK':
      return mark(packet, options, goOn)
    case 'CONNMARK':
      return connectionMark(packet, options, goOn)
    case 'NOTRACK':
    case 'CT':
      if (name === 'CT' && !options.has('--notrack')) return goOn('CT', packet)
      if (packet.isTracked) return goOn(`${name}, of no effect: tracked already`, packet)
      return goOn('not tracked', { ...packet, state: 'UNTRACKED' })
    case 'MASQUERADE':
      return translate(name, { ...packet, source: context.ownAddress || packet.source, sourceTranslated: true })
    case 'SNAT': {
      const to = endpointOf(options.get('--to-source')?.[0] ?? '')
      return translate(`SNAT to ${to.address}`, {
        ...packet,
        source: to.address || packet.source,
        sourceTranslated: true,
      })
    }
    case 'DNAT': {
      const { address, port } = endpointOf(options.get('--to-destination')?.[0] ?? '')
      return translate(`DNAT to ${options.get('--to-destination')?.[0] ?? ''}`, {
        ...packet,
        destination: address || packet.destination,
        destinationPort: port || packet.destinationPort,
      })
    }
    case 'REDIRECT': {
      const port = Number.parseInt(options.get('--to-ports')?.[0] ?? '', 10) || packet.destinationPort
      const destination = context.ownAddress || packet.destination
      return translate(`REDIRECT to port ${port}`, { ...packet, destination, destinationPort: port })
    }
  }
  if (!context.chains.has(name)) {
    return end(name, (by) => ({ kind: 'untold', by, why: `what target ${name} does with the packet` }))
  }
  const { hit: _, ...branch } = went(`to ${name}`)
  const { ended, through } = await walk(context, name, [branch], depth + 1)
  return target.goto ? { next: [], ended, through } : { next: through, ended, through: [] }
}

type GoOn = (effect: string, after: Packet) => Taken

/** "0x4000/0x4000": clears the mask's bits, then toggles the value's. */
export function xmark(text: string, before: number): number {
  const [value = '0', mask = '0xffffffff'] = text.split('/')
  return ((before & ~Number(mask)) ^ Number(value)) >>> 0
}

const hex = (value: number): string => `0x${value.toString(16)}`

function mark(packet: Packet, options: Target['options'], goOn: GoOn): Taken {
  const after = xmark(options.get('--set-xmark')?.[0] ?? options.get('--set-mark')?.[0] ?? '0/0', packet.mark)
  return goOn(`mark ${hex(packet.mark)} → ${hex(after)}`, { ...packet, mark: after })
}

function connectionMark(packet: Packet, options: Target['options'], goOn: GoOn): Taken {
  const bits = (name: string): number => Number(options.get(name)?.[0] ?? 0xffffffff)
  if (options.has('--restore-mark')) {
    const [from, to] = [bits('--nfmask') && bits('--ctmask'), bits('--nfmask')]
    const after = ((packet.mark & ~to) ^ (packet.connectionMark & from)) >>> 0
    return goOn(`mark ${hex(packet.mark)} → ${hex(after)}`, { ...packet, mark: after })
  }
  if (options.has('--save-mark')) {
    const after = ((packet.connectionMark & ~bits('--ctmask')) ^ (packet.mark & bits('--nfmask'))) >>> 0
    return goOn(`connection mark → ${hex(after)}`, { ...packet, connectionMark: after })
  }
  const after = xmark(options.get('--set-xmark')?.[0] ?? '0/0', packet.connectionMark)
  return goOn(`connection mark → ${hex(after)}`, { ...packet, connectionMark: after })
}

/** "10.0.0.1:80", "10.0.0.1-10.0.0.9", "[fd00::1]:80", ":80"; the first of a range. */
function endpointOf(text: string): { address: string; port: number } {
  const [, six, four, port] = /^(?:\[([^\]-]+)[^\]]*\]|([^:\]-]*)[^:]*)?(?::(\d+).*)?$/.exec(text) ?? []
  if (six === undefined && four === undefined && text.includes(':')) return { address: text.split('-')[0]!, port: 0 }
  return { address: six ?? four ?? '', port: Number(port ?? 0) }
}

function fateKey(fate: Fate): string {
  return fate.kind === 'accept'
    ? fate.kind
    : `${fate.kind} ${fate.by.variant} ${fate.by.table} ${fate.by.chain} ${fate.by.number}`
}

function passageKey(one: Passage): string {
  return `${fateKey(one.fate)} ${packetKey(one.packet)}`
}

interface Doubtful {
  readonly doubts: readonly Doubt[]
}

/** Of ways that come out alike one is kept; what both sides of a doubt lead to is not in doubt. */
export function merge<T extends Doubtful>(ways: readonly T[], keyOf: (way: T) => string): T[] {
  const byKey = new Map<string, T>()
  for (const way of ways) {
    const key = keyOf(way)
    const first = byKey.get(key)
    byKey.set(key, first === undefined ? way : { ...first, doubts: common(first.doubts, way.doubts) })
  }
  return [...byKey.values()]
}

function common(a: readonly Doubt[], b: readonly Doubt[]): Doubt[] {
  const same = (x: Doubt, y: Doubt): boolean =>
    x.matched === y.matched &&
    x.hit.chain === y.hit.chain &&
    x.hit.number === y.hit.number &&
    x.hit.table === y.hit.table
  return a.filter((one) => b.some((other) => same(one, other)))
}
