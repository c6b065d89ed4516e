import yargs from 'yargs'
import { fields, type FieldSpec } from '../config/schema.ts'
import { ProxyError } from '../lib/errors.ts'

export interface CommandLine {
  readonly operation: 'run' | 'cleanup' | 'version' | 'help'
  /** Text to print for 'help'. */
  readonly help: string
  readonly config: string | undefined
  readonly manifests: string | undefined
  readonly master: string | undefined
  /** Configuration flags by name without dashes, as given. */
  readonly flags: ReadonlyMap<string, string>
}

/** Flags of upstream's that are known, and that this daemon cannot serve. */
const notInUse = ['init-only', 'write-config-to', 'healthz-port', 'metrics-port'] as const

const configFlags = (Object.entries(fields) as [string, FieldSpec][]).flatMap(([path, { flag, kind }]) =>
  flag === undefined ? [] : [{ flag, path, about: kind.name }],
)

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
      'duplicate-arguments-array': false,
    })
    .version(false)
    .help(false)
    .exitProcess(false)
    .strict()
    .showHelpOnFail(false)
    .fail((message, error) => {
      throw usage(message ?? String(error))
    })
    .option('config', { type: 'string', requiresArg: true, describe: 'file with a KubeProxyConfiguration' })
    .option('manifests', {
      type: 'string',
      requiresArg: true,
      describe: 'folder with Services, EndpointSlices and Nodes as YAML or JSON, instead of an API server',
    })
    .option('master', {
      type: 'string',
      requiresArg: true,
      describe: 'address of the API server, overrides the kubeconfig',
    })
    .option('cleanup', { type: 'boolean', describe: 'remove what is ours from the kernel and end' })
    .option('version', { type: 'boolean', describe: 'print the version and end' })
    .option('help', { type: 'boolean', alias: 'h', describe: 'print this and end' })
  for (const { flag, path, about } of configFlags) {
    parser = parser.option(flag, { type: 'string', describe: `${path}: ${about}` })
  }
  for (const name of notInUse) parser = parser.option(name, { type: 'string', hidden: true })
  const values = (await parser.parse()) as Record<string, unknown>
  const unused = notInUse.find((name) => values[name] !== undefined)
  if (unused !== undefined) throw usage(`--${unused} is not in use yet`)
  const positional = values._ as unknown[]
  if (positional.length > 0) throw usage(`unexpected argument "${String(positional[0])}"`)
  const flags = new Map<string, string>()
  for (const { flag } of configFlags) {
    const value = values[flag]
    if (typeof value === 'string') flags.set(flag, value)
  }
  const text = (name: string): string | undefined => values[name] as string | undefined
  const operation = values.help ? 'help' : values.version ? 'version' : values.cleanup ? 'cleanup' : 'run'
  return {
    operation,
    help: operation === 'help' ? await parser.getHelp() : '',
    config: text('config'),
    manifests: text('manifests'),
    master: text('master'),
    flags,
  }
}

function usage(message: string): ProxyError {
  return new ProxyError('CONFIG', message, { advice: 'see kube-ipvs-proxy --help' })
}
