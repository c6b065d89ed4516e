import type { CommandLine } from './cli/flags.ts'
import type { ProxyConfig } from './config/schema.ts'
import type { ProxierHealth } from './health/healthz.ts'
import type { IptablesTool } from './iptables/restore.ts'
import { networkNamespace } from './lib/namespace.ts'
import { version } from './lib/version.ts'
import type { Metrics } from './metrics/metrics.ts'
import type { Family } from './model/address.ts'
import type { Proxier } from './proxier/proxier.ts'
import { nodeNameOf } from './settings.ts'
import type { DaemonIdentity } from './wanted/wire.ts'

/** Parts of the daemon that are asked. */
export interface IdentityParts {
  readonly line: Pick<CommandLine, 'manifests' | 'master'>
  readonly health: ProxierHealth
  readonly metrics: Metrics
  readonly iptables: ReadonlyMap<Family, IptablesTool>
  readonly config: ProxyConfig
  /** What keeps the source of objects from telling what is new, after ": "; "" where nothing does. */
  readonly trouble: () => string
  readonly proxiers: ReadonlyMap<Family, Proxier>
  readonly hasSynced: (family: Family) => boolean
}

/** What the daemon says of itself to the commands on its node. */
export async function identityOf(parts: IdentityParts): Promise<DaemonIdentity> {
  const { line, health, metrics, iptables, config, proxiers, hasSynced } = parts
  const { code, body } = health.healthz()
  const { reason = '' } = JSON.parse(body) as { reason?: string }
  const refused = new Map((await metrics.refusals.get()).values.map(({ labels, value }) => [labels.ip_family, value]))
  return {
    version,
    node: nodeNameOf(config),
    namespace: networkNamespace(),
    config,
    manifests: line.manifests,
    master: line.master,
    healthy: code === 200,
    reason,
    trouble: parts.trouble().replace(/^: /, ''),
    families: [...iptables].map(([family, { infix, variant, version: tool, randomFully }]) => ({
      family,
      tool: { infix, variant, version: tool, randomFully },
      synced: hasSynced(family),
      lastSync: health.lastUpdate(family),
      refused: refused.get(family) ?? 0,
      waiting: proxiers.get(family)?.waiting ?? 0,
    })),
  }
}
