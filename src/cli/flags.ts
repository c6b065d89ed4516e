import yargs from 'yargs'
import { nearest } from '../config/nearest.ts'
import { boolean, fields, type FieldSpec } from '../config/schema.ts'
import { describeError, ProxyError } from '../lib/errors.ts'

export interface CommandLine {
  readonly operation: 'run' | 'init' | 'writeConfig' | 'cleanup' | 'version' | 'help'
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

const known = new Set<string>([
  ...Object.keys({ ...operational, ...switches, ...ports }),
  ...configFlags.map(({ flag }) => flag),
  ...withoutMeaning,
])

/** Reads the arguments after the program's name; `_` serves for `-` in flag names. Throws ProxyError CONFIG. */
export async function parseFlags(args: readonly string[]): Promise<CommandLine> {
  const spelled = args.map((arg) => arg.replace(/^--[a-zA-Z0-9_-]+/, (name) => name.replaceAll('_', '-')))
  let parser = yargs(spelled)
    .scriptName('kube-ipvs-proxy')
    .usage('$0 [flags]\n\nKeeps this node in step with Kubernetes Services by IPVS.')
    .parserConfiguration({
      'camel-case-expansion': false,
      'dot-notation': false,
      'boolean-negation': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
    })
    .version(false)
    .help(false)
    .exitProcess(false)
    .showHelpOnFail(false)
    .fail((message, error) => {
      throw usage(message ?? String(error))
    })
  for (const [name, describe] of Object.entries(operational)) {
    parser = parser.option(name, { type: 'string', requiresArg: true, describe })
  }
  for (const [name, describe] of Object.entries(switches)) parser = parser.option(name, { type: 'string', describe })
  parser = parser.alias('help', 'h')
  for (const { flag, path, about, preset } of configFlags) {
    const requiresArg = typeof preset !== 'boolean'
    parser = parser.option(flag, { type: 'string', requiresArg, describe: `${path}: ${about}` })
  }
  for (const [name, describe] of Object.entries(ports)) {
    parser = parser.option(name, { type: 'string', requiresArg: true, describe })
  }
  for (const name of withoutMeaning) parser = parser.option(name, { type: 'string', hidden: true })

  let values: Record<string, unknown>
  try {
    values = await parser.parse()
  } catch (error) {
    // yargs stumbles over flags with names of Object's own members.
    throw error instanceof ProxyError ? error : usage(`the flags cannot be read: ${describeError(error)}`)
  }
  const mistakes: string[] = []
  for (const name of Object.keys(values)) {
    if (known.has(name) || name === '_' || name === '$0' || name === 'h') continue
    const near = nearest(name, known)
    mistakes.push(`unknown flag --${name}${near === undefined ? '' : `; did you mean --${near}?`}`)
  }
  for (const word of values._ as unknown[]) mistakes.push(`unexpected argument "${String(word)}"`)
  const given = (name: string): string[] => [values[name] ?? []].flat() as string[]
  const last = (name: string): string | undefined => given(name).at(-1)
  const isOn = (name: keyof typeof switches): boolean => {
    const text = last(name)
    if (text === undefined) return false
    // Upstream prints more for "raw"; there is no more to print here.
    const result = name === 'version' && text === 'raw' ? { value: true } : boolean.read(boolean.fromText(text))
    if ('value' in result) return result.value
    mistakes.push(`--${name}: ${JSON.stringify(text)} must be ${result.allowed}`)
    return false
  }
  const writeConfigTo = last('write-config-to') || undefined
  const operation = isOn('help')
    ? 'help'
    : isOn('version')
      ? 'version'
      : writeConfigTo !== undefined
        ? 'writeConfig'
        : isOn('cleanup')
          ? 'cleanup'
          : isOn('init-only')
            ? 'init'
            : 'run'
  if (mistakes.length > 0) throw usage(mistakes.join('; '))

  const flags = new Map<string, string>()
  for (const { flag, preset } of configFlags) {
    const texts = given(flag)
    // Lists and maps add up, as upstream's; of other flags the last one counts.
    if (texts.length > 0) flags.set(flag, typeof preset === 'object' ? texts.join(',') : texts.at(-1)!)
  }
  for (const name of Object.keys(ports)) {
    const text = last(name)
    if (text !== undefined) flags.set(name, text)
  }
  return {
    operation,
    help: operation === 'help' ? await parser.getHelp() : '',
    config: last('config') || undefined,
    manifests: last('manifests') || undefined,
    master: last('master') || undefined,
    writeConfigTo,
    flags,
  }
}

function usage(message: string): ProxyError {
  return new ProxyError('CONFIG', message, { advice: 'see kube-ipvs-proxy --help' })
}
