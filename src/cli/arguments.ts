import { parseArgs, type ParseArgsOptionsConfig } from 'node:util'

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
 * flags.
 */
export function readArguments(args: readonly string[], { flags, short }: Grammar): Arguments {
  const options: ParseArgsOptionsConfig = {}
  for (const [name, kind] of flags) {
    const letter = name.length === 1 ? name : Object.entries(short).find(([, long]) => long === name)?.[0]
    options[name] = {
      type: kind === 'value' ? 'string' : 'boolean',
      ...(letter === undefined ? {} : { short: letter }),
    }
  }
  const { tokens } = parseArgs({ args: [...args], options, strict: false, allowPositionals: true, tokens: true })
  const values = new Map<string, string[]>()
  const words: string[] = []
  const unfinished: string[] = []
  for (const token of tokens) {
    if (token.kind === 'positional') words.push(token.value)
    if (token.kind !== 'option') continue
    const { name, value } = token
    const all = values.get(name) ?? []
    values.set(name, all)
    if (flags.get(name) === 'value' && (value === undefined || (!token.inlineValue && isFlag(value)))) {
      unfinished.push(name)
    }
    // "-v=2": behind a letter the sign is part of the value for Node.
    all.push((token.rawName.startsWith('--') ? value : value?.replace(/^=/, '')) ?? '')
  }
  return { values, words, unfinished }
}

/** Whether what stands where a value should be is the next flag; a number below zero is none. */
function isFlag(word: string): boolean {
  return word.startsWith('-') && word !== '-' && !/^-\d/.test(word)
}
