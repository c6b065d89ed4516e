import type { Argv } from 'yargs'
import { nearest } from '../config/nearest.ts'
import { boolean, fields, type FieldSpec } from '../config/schema.ts'
import { ProxyError } from '../lib/errors.ts'
import { readArguments, type Grammar } from './arguments.ts'
import { commandNames, commands, isCommand, type Command, type CommandName, type OptionSpec } from './commands.ts'

export interface CommandLine {
  readonly operation: 'run' | 'init' | 'writeConfig' | 'cleanup' | 'version' | 'help' | 'command'
  /** Of operation 'command'. */
  readonly command: Command | undefined
  /** Text to print for 'help'. */
  readonly help: string
  readonly config: string | undefined
  readonly manifests: string | undefined
  readonly master: string | undefined
  /** File to write the effective configuration to. */
  readonly writeConfigTo: string | undefined
  /** Configuration flags by name without dashes, as given. */
  readonly flags: ReadonlyMap<string, string>
}

/** Flags that upstream's libraries bring along; they mean nothing here. */
const withoutMeaning = [
  'boot-id-file',
  'machine-id-file',
  'log-json-info-buffer-size',
  'log-json-split-stream',
  'log-text-info-buffer-size',
  'log-text-split-stream',
] as const

const operational = {
  config: 'file with a KubeProxyConfiguration',
  manifests: 'folder with Services, EndpointSlices and Nodes as YAML or JSON, instead of an API server',
  master: 'address of the API server, overrides the kubeconfig',
  'write-config-to': 'write the effective configuration to this file and end',
} as const

/** Switches are read as texts: yargs takes any word but "true" for false, and `--cleanup=1` must not start the daemon. */
const switches = {
  cleanup: 'remove what is ours from the kernel and end',
  'init-only': 'do what needs more rights than CAP_NET_ADMIN (sysctls, modules) and end',
  version: 'print the version and end',
  help: 'print this and end',
} as const

const ports = {
  'healthz-port': 'deprecated: 0 switches the health server off',
  'metrics-port': 'deprecated: 0 switches the metrics server off',
} as const

const configFlags = (Object.entries(fields) as [string, FieldSpec][]).flatMap(([path, { flag, kind, preset }]) =>
  flag === undefined ? [] : [{ flag, path, about: kind.name, preset }],
)

type Values = ReadonlyMap<string, readonly string[]>

/**
 * Reads the arguments after the program's name: the daemon's flags, or a command as the first word and its own. `_` serves
 * for `-` in flag names. Throws ProxyError CONFIG.
 */
export async function parseFlags(args: readonly string[]): Promise<CommandLine> {
  const [first] = args
  const name = isCommand(first) ? first : undefined
  const spelled = (name === undefined ? args : args.slice(1)).map((arg) =>
    arg.replace(/^--[a-zA-Z0-9_-]+/, (flag) => flag.replaceAll('_', '-')),
  )
  const grammar = grammarOf(name)
  const { values, words, unfinished } = readArguments(spelled, grammar)
  const [lacking] = unfinished
  if (lacking !== undefined) throw usage(`Not enough arguments following: ${lacking}`, name)
  const mistakes: string[] = []
  for (const flag of values.keys()) {
    if (grammar.flags.has(flag)) continue
    const near = nearest(flag, grammar.flags.keys())
    mistakes.push(`unknown flag --${flag}${near === undefined ? '' : `; did you mean --${near}?`}`)
  }
  const operation = name === undefined ? readOperation(values, mistakes) : readHelp(values, mistakes)
  const command = operation === 'command' ? readCommand(name!, words, values, mistakes) : undefined
  if (name === undefined) for (const word of words) mistakes.push(strayWord(word))
  if (mistakes.length > 0) throw usage(mistakes.join('; '), name)
  return {
    operation,
    command,
    help: operation === 'help' ? await helpText(name) : '',
    config: last(values, 'config') || undefined,
    manifests: last(values, 'manifests') || undefined,
    master: last(values, 'master') || undefined,
    writeConfigTo: last(values, 'write-config-to') || undefined,
    flags: readConfigFlags(values),
  }
}

/** Flags of the daemon, or those that a command takes: its own and the daemon's. */
function grammarOf(name: CommandName | undefined): Grammar {
  const own: [string, OptionSpec][] = name === undefined ? [] : Object.entries(commands[name].options)
  const flags = new Map<string, 'value' | 'switch'>()
  for (const flag of [...Object.keys(operational), ...Object.keys(ports)]) flags.set(flag, 'value')
  for (const flag of [...Object.keys(switches), ...withoutMeaning]) flags.set(flag, 'switch')
  for (const { flag, preset } of configFlags) flags.set(flag, typeof preset === 'boolean' ? 'switch' : 'value')
  for (const [flag, { isSwitch }] of own) flags.set(flag, isSwitch ? 'switch' : 'value')
  return { flags, short: { h: 'help', ...(flags.has('output') ? { o: 'output' } : {}) } }
}

/** The library that lays it out is loaded only for this. */
async function helpText(name: CommandName | undefined): Promise<string> {
  const { default: yargs } = await import('yargs')
  const parser = name === undefined ? daemonHelp(yargs([])) : commandHelp(yargs([]), name)
  return parser.getHelp()
}

function named(parser: Argv): Argv {
  return parser.scriptName('kube-ipvs-proxy').version(false).help(false).exitProcess(false)
}

function daemonHelp(empty: Argv): Argv {
  const list = commandNames.map((name) => `  ${name.padEnd(15)} ${commands[name].short}`).join('\n')
  const parser = named(empty).usage(
    `$0 [flags]\n\nKeeps this node in step with Kubernetes Services by IPVS.\n\nCommands beside the daemon, each with a --help of its own:\n${list}`,
  )
  return withDaemonFlags(parser, false)
}

/** A command takes all flags of the daemon, so that it can be given the same; its help shows its own and the sources. */
function commandHelp(empty: Argv, name: CommandName): Argv {
  const { about, argument, options } = commands[name]
  const word = argument === undefined ? '' : ` ${argument.name}`
  const explained = argument === undefined ? '' : `\n\n${argument.name}: ${argument.about}`
  let parser = named(empty).usage(`$0 ${name}${word} [flags]\n\n${about}${explained}`)
  for (const [option, { about: describe, form, isSwitch }] of Object.entries(options)) {
    const detail =
      form === undefined ? describe : describe.includes(form.allowed) ? describe : `${describe} (${form.allowed})`
    const type = isSwitch ? 'boolean' : 'string'
    parser = parser.option(option, { type, requiresArg: !isSwitch, describe: detail })
  }
  if ('output' in options) parser = parser.alias('output', 'o')
  return withDaemonFlags(parser, true).epilogue(
    'The flags of the daemon are accepted, too, and mean the same. Without any of them, those of the daemon in this container are used.',
  )
}

/** Flags of the configuration that a command's help shows. */
const shownWithCommands: ReadonlySet<string> = new Set([
  'config',
  'manifests',
  'master',
  'kubeconfig',
  'hostname-override',
])

function withDaemonFlags(start: Argv, ofCommand: boolean): Argv {
  let parser = start
  const hidden = (name: string): { hidden?: boolean } =>
    ofCommand && !shownWithCommands.has(name) ? { hidden: true } : {}
  for (const [name, describe] of Object.entries(operational)) {
    parser = parser.option(name, { type: 'string', requiresArg: true, describe, ...hidden(name) })
  }
  for (const [name, describe] of Object.entries(switches)) {
    parser = parser.option(name, { type: 'string', describe, ...(name === 'help' ? {} : hidden(name)) })
  }
  parser = parser.alias('help', 'h')
  for (const { flag, path, about, preset } of configFlags) {
    const requiresArg = typeof preset !== 'boolean'
    parser = parser.option(flag, { type: 'string', requiresArg, describe: `${path}: ${about}`, ...hidden(flag) })
  }
  for (const [name, describe] of Object.entries(ports)) {
    parser = parser.option(name, { type: 'string', requiresArg: true, describe, ...hidden(name) })
  }
  for (const name of withoutMeaning) parser = parser.option(name, { type: 'string', hidden: true })
  return parser
}

function given(values: Values, name: string): readonly string[] {
  return values.get(name) ?? []
}

function last(values: Values, name: string): string | undefined {
  return given(values, name).at(-1)
}

function isOn(values: Values, name: keyof typeof switches, mistakes: string[]): boolean {
  const text = last(values, name)
  if (text === undefined) return false
  // Upstream prints more for "raw"; there is no more to print here.
  const result = name === 'version' && text === 'raw' ? { value: true } : boolean.read(boolean.fromText(text))
  if ('value' in result) return result.value
  mistakes.push(`--${name}: ${JSON.stringify(text)} must be ${result.allowed}`)
  return false
}

function readOperation(values: Values, mistakes: string[]): CommandLine['operation'] {
  if (isOn(values, 'help', mistakes)) return 'help'
  if (isOn(values, 'version', mistakes)) return 'version'
  if (last(values, 'write-config-to')) return 'writeConfig'
  if (isOn(values, 'cleanup', mistakes)) return 'cleanup'
  return isOn(values, 'init-only', mistakes) ? 'init' : 'run'
}

/** A command is not mixed with what else the program does. */
function readHelp(values: Values, mistakes: string[]): 'help' | 'command' {
  for (const name of ['version', 'cleanup', 'init-only', 'write-config-to']) {
    if (last(values, name) !== undefined) mistakes.push(`--${name} does not go with a command`)
  }
  return isOn(values, 'help', mistakes) ? 'help' : 'command'
}

function readCommand(name: CommandName, words: readonly string[], values: Values, mistakes: string[]): Command {
  const { argument, options } = commands[name]
  const [word = '', ...more] = words
  if (argument !== undefined && word === '') mistakes.push(`${name} needs ${argument.name}: ${argument.about}`)
  if (word !== '' && argument?.words?.includes(word) === false) {
    mistakes.push(`${name}: "${word}" must be ${argument.words.join(' or ')}`)
  }
  const stray = argument === undefined ? words : more
  for (const one of stray) mistakes.push(`unexpected argument "${one}"`)
  const found = new Map<string, string>()
  for (const [option, { form, many, isSwitch }] of Object.entries(options)) {
    const texts = given(values, option)
    if (texts.length === 0) continue
    const text = many ? texts.join(',') : texts.at(-1)!
    if (isSwitch) {
      const result = boolean.read(text === '' || boolean.fromText(text))
      if (!('value' in result)) mistakes.push(`--${option}: ${JSON.stringify(text)} must be ${result.allowed}`)
      else if (result.value) found.set(option, 'true')
      continue
    }
    if (form !== undefined && !form.pattern.test(text)) {
      mistakes.push(`--${option}: ${JSON.stringify(text)} must be ${form.allowed}`)
    }
    found.set(option, text)
  }
  return { name, argument: word, output: found.get('output') === 'json' ? 'json' : 'text', options: found }
}

function strayWord(word: string): string {
  const near = isCommand(word) ? word : nearest(word, commandNames)
  if (near === undefined) return `unexpected argument "${word}"`
  return `unexpected argument "${word}"; ${word === near ? 'a command stands first' : `did you mean the command ${near}?`}`
}

function readConfigFlags(values: Values): ReadonlyMap<string, string> {
  const flags = new Map<string, string>()
  for (const { flag, preset } of configFlags) {
    const texts = given(values, flag)
    // Lists and maps add up, as upstream's; of other flags the last one counts.
    if (texts.length > 0) flags.set(flag, typeof preset === 'object' ? texts.join(',') : texts.at(-1)!)
  }
  for (const name of Object.keys(ports)) {
    const text = last(values, name)
    if (text !== undefined) flags.set(name, text)
  }
  return flags
}

function usage(message: string, command?: CommandName): ProxyError {
  const name = command === undefined ? '' : ` ${command}`
  return new ProxyError('CONFIG', message, { advice: `see kube-ipvs-proxy${name} --help` })
}
