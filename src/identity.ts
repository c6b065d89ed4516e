import { networkNamespace } from './lib/namespace.ts'
import { version } from './lib/version.ts'
import type { Family } from './model/address.ts'
import type { Proxier } from './proxier/proxier.ts'
import type { Prepared, Shared } from './session.ts'
import { nodeNameOf } from './settings.ts'
import type { DaemonIdentity } from './wanted/wire.ts'

export interface SessionState {
  readonly proxiers: ReadonlyMap<Family, Proxier>
  readonly hasSynced: (family: Family) => boolean
}

/** What the daemon says of itself to the commands on its node. */
export async function identityOf(
  { line, health, metrics, iptables }: Pick<Shared, 'line' | 'health' | 'metrics' | 'iptables'>,
  { config, source }: Pick<Prepared, 'config' | 'source'>,
  { proxiers, hasSynced }: SessionState,
): Promise<DaemonIdentity> {
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
    trouble: source.trouble().replace(/^: /, ''),
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
