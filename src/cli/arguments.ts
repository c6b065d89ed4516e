/** What flags there are. */
export interface Grammar {
  /** By name without dashes: one with a value, or one that may stand alone and has its value behind "=". */
  readonly flags: ReadonlyMap<string, 'value' | 'switch'>
  /** Names of one letter that stand for others. */
  readonly short: Readonly<Record<string, string>>
}

export interface Arguments {
  /** Values by flag, in their order; "" for a switch that stands alone. Flags that nobody knows are among them. */
  readonly values: ReadonlyMap<string, readonly string[]>
  readonly words: readonly string[]
  /** Flags that want a value and have none. */
  readonly unfinished: readonly string[]
}

/**
 * Arguments as kube-proxy's library (pflag) takes them: --flag=value, --flag value, -f value, "--" before words that are no
 * flags. Every command begins here, so that nothing is loaded for it.
 */
export function readArguments(args: readonly string[], { flags, short }: Grammar): Arguments {
  const values = new Map<string, string[]>()
  const words: string[] = []
  const unfinished: string[] = []
  const rest = [...args]
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === '--') {
      words.push(...rest.splice(0))
      break
    }
    const [, given, value] = /^--?([^=-][^=]*)(?:=(.*))?$/s.exec(arg) ?? []
    if (given === undefined) {
      words.push(arg)
      continue
    }
    const name = Object.hasOwn(short, given) ? short[given]! : given
    const all = values.get(name) ?? []
    values.set(name, all)
    if (value !== undefined) all.push(value)
    else if (flags.get(name) === 'switch' || !isValue(rest[0])) {
      if (flags.get(name) === 'value') unfinished.push(name)
      all.push('')
    } else all.push(rest.shift()!)
  }
  return { values, words, unfinished }
}

/** A number below zero is none of the flags. */
function isValue(word: string | undefined): boolean {
  return word !== undefined && (!word.startsWith('-') || word === '-' || /^-\d/.test(word))
}
