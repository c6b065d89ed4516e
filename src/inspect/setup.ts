import type { CommandLine } from '../cli/flags.ts'
import type { Command } from '../cli/commands.ts'
import type { FamilySettings } from '../compose.ts'
import type { ProxyConfig } from '../config/schema.ts'
import { Client } from '../kube/client.ts'
import { loadAccess } from '../kube/kubeconfig.ts'
import { version } from '../lib/version.ts'
import { nodeNameOf, readConfig, settingsOf } from '../settings.ts'
import type { ObjectSource } from './cluster.ts'
import { withDaemonFlags } from './daemon-flags.ts'
import { Notes } from './notes.ts'

/** What every command starts from. */
export interface Inspection {
  readonly line: CommandLine
  readonly command: Command
  readonly config: ProxyConfig
  readonly settings: FamilySettings
  readonly nodeName: string
  /** What is worth saying beside the result. */
  readonly notes: Notes
  /** Opens the source of the cluster's objects. Throws ProxyError CONFIG. */
  readonly source: () => Promise<ObjectSource>
  close(): void
}

/** Reads the configuration as the daemon does. Throws ProxyError CONFIG that names every mistake. */
export async function openInspection(given: CommandLine): Promise<Inspection> {
  const line = await withDaemonFlags(given)
  const { config } = readConfig(line)
  const nodeName = nodeNameOf(config)
  let client: Client | undefined
  return {
    line,
    command: given.command!,
    config,
    settings: settingsOf(config, nodeName),
    nodeName,
    notes: new Notes(),
    source: async () => {
      if (line.manifests !== undefined) return { manifests: line.manifests }
      const access = await loadAccess({ kubeconfig: config['clientConnection.kubeconfig'], master: line.master })
      client ??= new Client({ access, version })
      return { client }
    },
    close: () => client?.close(),
  }
}
