import { splitWords } from '../iptables/text.ts'

/** One option of a rule's match, "--dport 80" of module "tcp". */
export interface Option {
  /** "" for those that every rule has: -s, -d, -i, -o, -p, -f. */
  readonly module: string
  readonly name: string
  readonly negated: boolean
  readonly args: readonly string[]
}

export interface Target {
  readonly name: string
  /** -g: does not come back to the chain. */
  readonly goto: boolean
  readonly options: ReadonlyMap<string, readonly string[]>
}

export interface Rule {
  readonly text: string
  readonly options: readonly Option[]
  /** Undefined: the rule only counts. */
  readonly target: Target | undefined
}

const general: ReadonlyMap<string, string> = new Map([
  ['-s', '-s'],
  ['--source', '-s'],
  ['-d', '-d'],
  ['--destination', '-d'],
  ['-i', '-i'],
  ['--in-interface', '-i'],
  ['-o', '-o'],
  ['--out-interface', '-o'],
  ['-p', '-p'],
  ['--protocol', '-p'],
  ['-f', '-f'],
])

/** Options whose one word may look like another option. */
const freeText = new Set(['--comment', '--log-prefix', '--nflog-prefix', '--string', '--hex-string', '--bytecode'])

const parsed = new Map<string, Rule>()

/** A rule out of what `iptables-save` prints after "-A CHAIN ". */
export function parseRule(text: string): Rule {
  const known = parsed.get(text)
  if (known !== undefined) return known
  const rule = read(text)
  // The same few hundred texts are asked for with every packet; a bound all the same.
  if (parsed.size > 20_000) parsed.clear()
  parsed.set(text, rule)
  return rule
}

function read(text: string): Rule {
  const words = splitWords(text)
  const options: Option[] = []
  let module = ''
  let negated = false
  let at = 0
  const takeArgs = (name: string): string[] => {
    if (freeText.has(name)) return words.slice(at, ++at)
    const from = at
    while (at < words.length && !words[at]!.startsWith('-') && !(words[at] === '!' && words[at + 1]?.startsWith('-'))) {
      at++
    }
    return words.slice(from, at)
  }
  while (at < words.length) {
    const word = words[at++]!
    if (word === '!') {
      negated = true
      continue
    }
    if (word === '-m' || word === '--match') {
      module = words[at++] ?? ''
      // A module without any option matches by itself: "-m socket", "-m rpfilter".
      if (!(words[at] ?? '').startsWith('--') && words[at] !== '!') {
        options.push({ module, name: '', negated: false, args: [] })
      }
      continue
    }
    if (word === '-j' || word === '-g' || word === '--jump' || word === '--goto') {
      const name = words[at++] ?? ''
      const rest = new Map<string, readonly string[]>()
      while (at < words.length) {
        const option = words[at++]!
        rest.set(option, takeArgs(option))
      }
      return { text, options, target: { name, goto: word === '-g' || word === '--goto', options: rest } }
    }
    const short = general.get(word)
    options.push({ module: short === undefined ? module : '', name: short ?? word, negated, args: takeArgs(word) })
    negated = false
  }
  return { text, options, target: undefined }
}
