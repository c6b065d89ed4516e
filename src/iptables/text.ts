import { ProxyError } from '../lib/errors.ts'

export interface SavedChain {
  /** "ACCEPT", "DROP"; "-" for a chain that someone created. */
  readonly policy: string
  /** What follows "-A NAME ", in canonical quoting. */
  readonly rules: string[]
}

export type SavedTable = Map<string, SavedChain>

/** A word as `iptables-save` prints it: quoted only where it must be. */
export function quote(word: string): string {
  return /^[A-Za-z0-9_-]+$/.test(word) ? word : `"${word.replace(/["\\']/g, '\\$&')}"`
}

/** Words of a rule: blanks separate, double quotes hold together, a backslash within them takes the next as it is. */
export function splitWords(line: string): string[] {
  const words: string[] = []
  let word = ''
  let begun = false
  let quoted = false
  for (let i = 0; i < line.length; i++) {
    const c = line[i]!
    if (quoted && c === '\\' && i + 1 < line.length) word += line[++i]!
    else if (c === '"') {
      quoted = !quoted
      begun = true
    } else if (!quoted && (c === ' ' || c === '\t')) {
      if (begun) words.push(word)
      word = ''
      begun = false
    } else {
      word += c
      begun = true
    }
  }
  if (quoted) throw new ProxyError('CODEC', `open quote in rule: ${line}`, { object: line })
  if (begun) words.push(word)
  return words
}

/** Plain words need no quotes although iptables-save's own alphabet is narrower: "0x4000/0x4000", "!", "dst,dst". */
function canonicalWord(word: string): string {
  return /^[A-Za-z0-9_.,:/+!=-]+$/.test(word) ? word : quote(word)
}

/** The same text for the same rule, however blanks and quotes were set. */
export function canonicalRule(rule: string): string {
  return splitWords(rule).map(canonicalWord).join(' ')
}

/** The chain a rule leads to (-j or -g), or undefined. */
export function targetOf(rule: string): string | undefined {
  const words = splitWords(rule)
  const at = words.findIndex((word) => word === '-j' || word === '-g' || word === '--jump' || word === '--goto')
  return at < 0 ? undefined : words[at + 1]
}

/** Tables of an `iptables-save` output. Comments and counters are left out. */
export function parseSave(text: string): Map<string, SavedTable> {
  const saved = new Map<string, SavedTable>()
  let table: SavedTable | undefined
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.replace(/^\[\d+:\d+\] /, '').trim()
    const wrong = (what: string) =>
      new ProxyError('CODEC', `iptables-save output, line ${index + 1}: ${what}: ${line}`, { object: line })
    if (line === '' || line.startsWith('#')) continue
    if (line.startsWith('*')) {
      table = new Map()
      saved.set(line.slice(1), table)
      continue
    }
    if (line === 'COMMIT') {
      table = undefined
      continue
    }
    if (table === undefined) throw wrong('outside of any table')
    if (line.startsWith(':')) {
      const [name = '', policy = '-'] = line.slice(1).split(' ')
      table.set(name, { policy, rules: [] })
      continue
    }
    const [, name, rule] = /^-A (\S+) ?(.*)$/.exec(line) ?? []
    if (name === undefined || rule === undefined) throw wrong('neither chain nor rule')
    const chain = table.get(name)
    if (chain === undefined) throw wrong('a rule of an undeclared chain')
    chain.rules.push(canonicalRule(rule))
  }
  return saved
}

/** What one table gets in a restore. */
export interface TableInput {
  readonly table: string
  /** Chains to be created, or emptied where they exist. */
  readonly declare: readonly string[]
  /** Commands: "-A CHAIN …", "-I CHAIN 1 …", "-D CHAIN …", "-X CHAIN". */
  readonly commands: readonly string[]
}

/** Input of `iptables-restore --noflush`; "" where there is nothing to do. */
export function writeRestore(inputs: readonly TableInput[]): string {
  return inputs
    .filter((input) => input.declare.length > 0 || input.commands.length > 0)
    .map(({ table, declare, commands }) =>
      [`*${table}`, ...declare.map((name) => `:${name} - [0:0]`), ...commands, 'COMMIT', ''].join('\n'),
    )
    .join('')
}
