import type { SavedTable } from '../iptables/text.ts'
import type { Family } from '../model/address.ts'
import type { RunCommand } from '../lib/process.ts'
import type { ForeignChain, RuleSet } from './kernel-state.ts'

/** What `nft -j` writes: objects of one key each. */
type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json }
type Fields = { readonly [key: string]: Json }

interface NativeRule {
  readonly chain: string
  readonly handle: number
  readonly statements: readonly Fields[]
}

/** One table as nft knows it. */
interface NativeTable {
  readonly rules: readonly NativeRule[]
  /** Base chains of type nat. */
  readonly translating: ReadonlySet<string>
  readonly sets: ReadonlyMap<string, Json>
  /** By handle, as nft prints it. */
  readonly texts: ReadonlyMap<number, string>
}

/**
 * Reads the tables of chains that no iptables table has, and writes each chain as iptables would: what it cannot say so is
 * a match or target that cannot be told. Answers those that could not be read as they came.
 */
export async function readNativeChains(
  family: Family,
  chains: readonly ForeignChain[],
  run: RunCommand,
): Promise<{ readonly ruleSets: readonly RuleSet[]; readonly unread: readonly ForeignChain[] }> {
  const ruleSets: RuleSet[] = []
  const unread: ForeignChain[] = []
  const tables = new Map<string, Promise<NativeTable | undefined>>()
  for (const chain of chains) {
    const [kind = '', name = '', own = ''] = chain.name.split(' ')
    const key = `${kind} ${name}`
    if (!tables.has(key)) tables.set(key, readTable(kind, name, run))
    const table = await tables.get(key)
    if (table === undefined) unread.push(chain)
    else ruleSets.push(translateChain(family, chain, own, key, table))
  }
  return { ruleSets, unread }
}

async function readTable(kind: string, name: string, run: RunCommand): Promise<NativeTable | undefined> {
  try {
    const json = await run('nft', ['-j', 'list', 'table', kind, name])
    const plain = await run('nft', ['-a', 'list', 'table', kind, name])
    return json.code === 0 ? parseNativeTable(json.stdout, plain.stdout) : undefined
  } catch {
    // There is no nft, or it writes what we do not know.
    return undefined
  }
}

export function parseNativeTable(json: string, plain: string): NativeTable {
  const parsed: unknown = JSON.parse(json)
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- libnftables-json(5)
  const { nftables } = parsed as { nftables: readonly Readonly<Record<string, Fields>>[] }
  const rules: NativeRule[] = []
  const sets = new Map<string, Json>()
  const translating = new Set<string>()
  for (const { rule, set, chain } of nftables) {
    if (chain?.type === 'nat') translating.add(textOf(chain.name))
    if (set !== undefined) sets.set(textOf(set.name), { set: set.elem ?? [] })
    if (rule === undefined) continue
    const statements = Array.isArray(rule.expr) ? rule.expr.filter(isFields) : []
    rules.push({ chain: textOf(rule.chain), handle: Number(rule.handle), statements })
  }
  const lines = [...plain.matchAll(/^\s*(.*\S) # handle (\d+)$/gm)]
  return { rules, translating, sets, texts: new Map(lines.map(([, text, handle]) => [Number(handle), text!])) }
}

/** "" of what is no text. */
function textOf(value: Json | undefined): string {
  return typeof value === 'string' || typeof value === 'number' ? `${value}` : ''
}

function isFields(value: Json | undefined): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The iptables table at whose place in the hook a chain of that priority is passed (enum nf_ip_hook_priorities). */
export function tableOf({ hook, priority }: Pick<ForeignChain, 'hook' | 'priority'>): string {
  if (hook === 'POSTROUTING') return 'mangle'
  if (hook === 'PREROUTING') return priority < -225 ? 'raw' : 'mangle'
  // IPVS is between them, at -98.
  if (hook === 'OUTPUT') return priority < -225 ? 'raw' : priority < -98 ? 'mangle' : 'filter'
  return priority < -75 ? 'mangle' : priority <= 25 ? 'filter' : 'security'
}

function translateChain(
  family: Family,
  chain: ForeignChain,
  own: string,
  table: string,
  { rules, translating, sets, texts }: NativeTable,
): RuleSet {
  const chains: SavedTable = new Map()
  const shown = new Map<string, { number: number; rule: string }>()
  const nameOf = (name: string): string => (name === own ? chain.hook : name)
  chains.set(chain.hook, { policy: chain.policy === 'drop' ? 'DROP' : 'ACCEPT', rules: [] })
  for (const { chain: name } of rules)
    if (name !== own) chains.set(name, chains.get(name) ?? { policy: '-', rules: [] })
  const counts = new Map<string, number>()
  for (const { chain: name, handle, statements } of rules) {
    const number = (counts.get(name) ?? 0) + 1
    counts.set(name, number)
    for (const text of translateRule(statements, family, sets)) {
      chains.get(nameOf(name))!.rules.push(text)
      const key = `${nameOf(name)} ${text}`
      if (!shown.has(key)) shown.set(key, { number, rule: texts.get(handle) ?? text })
    }
  }
  return {
    variant: 'nftables',
    tables: new Map([[translating.has(own) ? 'nat' : tableOf(chain), chains]]),
    native: { table, chain: own, shown },
  }
}

/** A rule as rules of iptables, one for each thing that it does; none where packets of the family never match. */
export function translateRule(
  statements: readonly Fields[],
  family: Family,
  sets: ReadonlyMap<string, Json> = new Map(),
): readonly string[] {
  let matches: readonly string[] = []
  const found: string[] = []
  const does = (target: string, also: readonly string[] = []): void => {
    found.push([...matches, ...also, target].join(' '))
  }
  for (const statement of statements) {
    const [name, value] = firstOf(statement)
    if (name === 'match' && isFields(value)) {
      const words = translateMatch(value.left ?? null, textOf(value.op), value.right ?? null, family, sets)
      if (words === 'never') return found
      matches = words === '' ? matches : [...matches, words]
    } else if (name === 'vmap' && isFields(value)) {
      for (const [key, verdict] of pairsOf(value.data ?? null, sets) ?? [[null, null] as const]) {
        const words = key === null ? unknownMatch('vmap') : translateMatch(value.key ?? null, '==', key, family, sets)
        const target = isFields(verdict) ? targetOf(...firstOf(verdict), family) : '-j NFT-vmap'
        if (words !== 'never') does(target ?? '-j NFT-vmap', words === '' ? [] : [words])
      }
    } else if (doubtful.has(name)) matches = [...matches, unknownMatch(name)]
    else if (!passive.has(name)) does(targetOf(name, value, family) ?? `-j NFT-${name}`)
  }
  return found
}

/** Statements that let a packet pass now and then. */
const doubtful = new Set(['limit', 'quota', 'ct count', 'connlimit', 'xt'])
/** Statements that change nothing that counts here. */
const passive = new Set(['counter', 'log', 'set', 'dup', 'flow', 'comment', 'meter', 'ct helper', 'ct timeout', 'last'])

function firstOf(fields: Fields): readonly [string, Json] {
  return Object.entries(fields)[0] ?? ['', null]
}

const unknownMatch = (name: string): string => `-m nftables --${name.replaceAll(' ', '-')}`

/** Names of icmpx, icmp and icmpv6 in each family's own. */
const rejects: Readonly<Record<string, Readonly<Record<Family, string>>>> = {
  'port-unreachable': { IPv4: 'icmp-port-unreachable', IPv6: 'icmp6-port-unreachable' },
  'admin-prohibited': { IPv4: 'icmp-admin-prohibited', IPv6: 'icmp6-adm-prohibited' },
  'no-route': { IPv4: 'icmp-net-unreachable', IPv6: 'icmp6-no-route' },
  'host-unreachable': { IPv4: 'icmp-host-unreachable', IPv6: 'icmp6-addr-unreachable' },
}

function targetOf(name: string, value: Json, family: Family): string | undefined {
  switch (name) {
    case 'accept':
    case 'drop':
    case 'return':
      return `-j ${name.toUpperCase()}`
    case 'jump':
    case 'goto':
      return isFields(value) ? `${name === 'goto' ? '-g' : '-j'} ${textOf(value.target)}` : undefined
    case 'masquerade':
      return '-j MASQUERADE'
    case 'dnat':
    case 'snat': {
      const { addr, port } = isFields(value) ? value : {}
      if (typeof addr !== 'string' || (port !== undefined && typeof port !== 'number')) return undefined
      const host = addr.includes(':') && port !== undefined ? `[${addr}]` : addr
      const to = name === 'dnat' ? 'destination' : 'source'
      return `-j ${name.toUpperCase()} --to-${to} ${host}${port === undefined ? '' : `:${port}`}`
    }
    case 'notrack':
      return '-j NOTRACK'
    case 'reject': {
      const { type = 'icmpx', expr = 'port-unreachable' } = isFields(value) ? value : {}
      if (type === 'tcp reset') return '-j REJECT --reject-with tcp-reset'
      const prefix = family === 'IPv4' ? 'icmp' : 'icmp6'
      return `-j REJECT --reject-with ${rejects[textOf(expr)]?.[family] ?? `${prefix}-${textOf(expr)}`}`
    }
    case 'mangle': {
      const { key = null, value: to = null } = isFields(value) ? value : {}
      const isMark = isFields(key) && isFields(key.meta ?? null) && (key.meta as Fields).key === 'mark'
      return isMark && typeof to === 'number' ? `-j MARK --set-xmark ${to}/0xffffffff` : undefined
    }
    default:
      return undefined
  }
}

type Sets = ReadonlyMap<string, Json>

function elementsOf(value: Json, sets: Sets): readonly Json[] | undefined {
  if (typeof value === 'string' && value.startsWith('@')) return elementsOf(sets.get(value.slice(1)) ?? null, sets)
  if (Array.isArray(value)) return value as readonly Json[]
  return isFields(value) && Array.isArray(value.set) ? (value.set as readonly Json[]) : undefined
}

function pairsOf(data: Json, sets: Sets): (readonly [Json, Json])[] | undefined {
  return elementsOf(data, sets)?.flatMap((pair) => (Array.isArray(pair) ? [[pair[0] as Json, pair[1] as Json]] : []))
}

/** Values of a match's right side, in iptables' writing; undefined where it cannot be written so. */
function valuesOf(right: Json, sets: Sets): readonly string[] | undefined {
  const elements = elementsOf(right, sets)
  if (elements !== undefined) {
    const all = elements.map((one) => valuesOf(one, sets))
    return all.every((one) => one !== undefined) ? all.flat() : undefined
  }
  if (typeof right === 'string' && right.startsWith('@')) return undefined
  if (typeof right === 'string' || typeof right === 'number') return [textOf(right)]
  if (!isFields(right)) return undefined
  const { prefix, range, elem } = right
  if (isFields(prefix)) return [`${textOf(prefix.addr)}/${textOf(prefix.len)}`]
  if (Array.isArray(range)) return [range.map(String).join(typeof range[0] === 'number' ? ':' : '-')]
  return isFields(elem) ? valuesOf(elem.val ?? null, sets) : undefined
}

const states: ReadonlySet<string> = new Set(['new', 'established', 'related', 'invalid', 'untracked'])

/** "" where it always holds, "never" where packets of the family cannot. */
function translateMatch(left: Json, op: string, right: Json, family: Family, sets: Sets): string {
  const [name, fields] = isFields(left) ? firstOf(left) : ['', null]
  if (name === '&') return translateMarked(fields, op, right)
  const own = family === 'IPv4' ? 'ip' : 'ip6'
  const protocol = isFields(fields) ? fields.protocol : undefined
  if ((protocol === 'ip' || protocol === 'ip6') && protocol !== own) return 'never'
  const values = valuesOf(right, sets)
  const unknown = unknownMatch(name || 'match')
  if (!isFields(fields) || values === undefined || !['==', '!=', 'in'].includes(op)) return unknown
  const negated = op === '!=' ? '! ' : ''
  if (name === 'fib') {
    const side = [fields.flags ?? null].flat().map(textOf).join()
    const option = side === 'daddr' ? '--dst-type' : side === 'saddr' ? '--src-type' : undefined
    if (fields.result !== 'type' || option === undefined) return unknown
    return `-m addrtype ${negated}${option} ${values.join(',').toUpperCase()}`
  }
  const list = values.join(',')
  const field = textOf(fields.field ?? fields.key ?? '')
  if (name === 'payload' && (field === 'dport' || field === 'sport')) {
    const of = protocol === 'th' ? '' : `-p ${textOf(protocol)} `
    return `${of}-m multiport ${negated}--${field}s ${list}`
  }
  if (name === 'payload' && protocol === own) {
    if (field === 'saddr' || field === 'daddr') return `${negated}-${field[0]} ${list}`
    return field === 'protocol' || field === 'nexthdr' ? `${negated}-p ${list}` : unknown
  }
  switch (`${name} ${field}`) {
    case 'meta l4proto':
      return `${negated}-p ${list}`
    case 'meta nfproto':
      return values.some((one) => one.toLowerCase() === family.toLowerCase()) === (negated === '') ? '' : 'never'
    case 'meta iifname':
    case 'meta iif':
    case 'meta oifname':
    case 'meta oif':
      return `${negated}-${field[0]} ${list.replaceAll('*', '+')}`
    case 'meta mark':
      return values.length === 1 ? `-m mark ${negated}--mark ${list}` : unknown
    case 'ct state':
      return values.every((one) => states.has(one)) ? `-m conntrack ${negated}--ctstate ${list.toUpperCase()}` : unknown
    default:
      return unknown
  }
}

/** "meta mark & 0x4000 == 0x4000" */
function translateMarked(sides: Json, op: string, right: Json): string {
  const [left, mask] = Array.isArray(sides) ? (sides as readonly Json[]) : []
  const [name, fields] = isFields(left) ? firstOf(left) : ['', null]
  const isMark = name === 'meta' && isFields(fields) && fields.key === 'mark'
  if (!isMark || typeof mask !== 'number' || typeof right !== 'number' || !['==', '!='].includes(op)) {
    return unknownMatch('bits')
  }
  return `-m mark ${op === '!=' ? '! ' : ''}--mark ${right}/${mask}`
}
