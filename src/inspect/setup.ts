import type { Command } from '../cli/commands.ts'
import type { CommandLine } from '../cli/flags.ts'
import type { FamilySettings } from '../compose.ts'
import { defaultSocket, type ProxyConfig } from '../config/schema.ts'
import type { Client } from '../kube/client.ts'
import { describeError } from '../lib/errors.ts'
import { networkNamespace } from '../lib/namespace.ts'
import { version } from '../lib/version.ts'
import { nodeNameOf, settingsOf } from '../settings.ts'
import { askDaemonAt, type DaemonTold } from './ask.ts'
import type { ObjectSource } from './cluster.ts'
import { withDaemonFlags } from './daemon-flags.ts'
import type { MigrationSettings } from './migration-settings.ts'
import { Notes } from './notes.ts'
import { isWholeLook, takeCopyFor, type ProcCopy } from './proc-copy.ts'

/** The daemon of this node as far as it can be asked, or why not. */
export type DaemonAnswer = (DaemonTold & { readonly path: string }) | Error

/** What every command starts from. */
export interface Inspection {
  readonly command: Command
  readonly config: ProxyConfig
  readonly settings: FamilySettings
  readonly nodeName: string
  /** What is worth saying beside the result. */
  readonly notes: Notes
  readonly daemon: DaemonAnswer
  /** What is to be taken over; of `migrate` alone. */
  readonly migration: MigrationSettings | undefined
  /** Where `source` looks, in words. */
  readonly sourceName: string
  /** Opens the source of the cluster's objects. Throws ProxyError CONFIG. */
  readonly source: () => Promise<ObjectSource>
  /** The copy of /proc/net/ip_vs that is being made; none for commands that do not read it whole. */
  readonly copy: ProcCopy | undefined
  close(): void
}

/** Reads the configuration as the daemon does, or has the daemon say it. Throws ProxyError CONFIG that names every mistake. */
export async function openInspection(given: CommandLine): Promise<Inspection> {
  const command = given.command!
  const copy = takeCopyFor(command.name)
  const { line, config, daemon, migration } =
    command.name === 'migrate' ? await settleMigration(given) : await settle(given, isWholeLook(command.name))
  const nodeName = nodeNameOf(config)
  const { manifests, master } = line
  let client: Client | undefined
  return {
    command,
    config,
    settings: settingsOf(config, nodeName),
    nodeName,
    notes: new Notes(),
    daemon,
    migration,
    sourceName: manifests === undefined ? 'the API server' : manifests,
    source: async () => {
      if (manifests !== undefined) return { manifests }
      const { Client, loadAccess } = await import('./objects.ts')
      const access = await loadAccess({ kubeconfig: config['clientConnection.kubeconfig'], master })
      client ??= new Client({ access, version })
      return { client }
    },
    copy,
    close: () => client?.close(),
  }
}

interface Settled {
  readonly line: Pick<CommandLine, 'manifests' | 'master'>
  readonly config: ProxyConfig
  readonly daemon: DaemonAnswer
  readonly migration?: MigrationSettings
}

/** Settings that the daemon will have here; what is wrong with them is told with the rest. */
async function settleMigration(line: CommandLine): Promise<Settled> {
  const { settingsToMigrate } = await import('./migration-settings.ts')
  const migration = await settingsToMigrate(line)
  return { line, config: migration.config, daemon: new Error('it is not asked before a migration'), migration }
}

/** Without any flag, whatever the daemon of this node says; with some, the daemon only where it has the same settings. */
async function settle(given: CommandLine, isWhole: boolean): Promise<Settled> {
  const isOwnView = given.command!.options.has('from-api')
  const ownPath = given.flags.get('status-socket')
  const isBare = given.config === undefined && given.manifests === undefined && given.master === undefined
  const flags = [...given.flags.keys()].filter((name) => name !== 'status-socket')
  if (isBare && flags.length === 0) {
    const daemon = await ask(ownPath ?? defaultSocket, isWhole)
    if (!(daemon instanceof Error)) {
      const { config, manifests, master } = daemon.identity
      return { line: { manifests, master }, config, daemon: isOwnView ? notAsked : daemon }
    }
    const line = await withDaemonFlags(given)
    const config = await readConfigOf(line)
    const path = config['kubeIpvsProxy.statusSocket']
    // The daemon in this container may have been given another place.
    const other = path === '' || path === (ownPath ?? defaultSocket) ? daemon : await askAlike(line, config, isWhole)
    return { line, config, daemon: isOwnView ? notAsked : other }
  }
  const config = await readConfigOf(given)
  return { line: given, config, daemon: isOwnView ? notAsked : await askAlike(given, config, isWhole) }
}

const notAsked = new Error('it is not asked, with --from-api')

async function readConfigOf(line: CommandLine): Promise<ProxyConfig> {
  const { readConfig } = await import('./objects.ts')
  return readConfig(line).config
}

/** The daemon of this node and namespace, of this version. */
async function ask(path: string, isWhole: boolean): Promise<DaemonAnswer> {
  if (path === '') return new Error('its socket is switched off')
  try {
    const told = await askDaemonAt(path, isWhole)
    const { identity } = told
    if (identity.version !== version) return new Error(`the daemon at ${path} is of version ${identity.version}`)
    if (identity.namespace !== networkNamespace()) {
      return new Error(`the daemon at ${path} is in another network namespace`)
    }
    return { ...told, path }
  } catch (error) {
    return new Error(`the daemon does not answer at ${path} (${describeError(error)})`)
  }
}

/** Those that change nothing of what is wanted. */
const ofNoAccount: ReadonlySet<string> = new Set(['logging.verbosity', 'kubeIpvsProxy.statusSocket'])

async function askAlike(line: Settled['line'], config: ProxyConfig, isWhole: boolean): Promise<DaemonAnswer> {
  const daemon = await ask(config['kubeIpvsProxy.statusSocket'], isWhole)
  if (daemon instanceof Error) return daemon
  const { identity } = daemon
  const theirs = new Map<string, unknown>(Object.entries(identity.config))
  const differing = Object.entries(config)
    .filter(([name, value]) => !ofNoAccount.has(name) && JSON.stringify(value) !== JSON.stringify(theirs.get(name)))
    .map(([name]) => name)
  if (identity.manifests !== line.manifests) differing.push('--manifests')
  if (identity.master !== line.master) differing.push('--master')
  if (differing.length === 0) return daemon
  return new Error(`the daemon has other settings: ${differing.join(', ')}`)
}
