import type { Facts } from './checks.ts'
import type { DaemonReport } from './daemon.ts'
import type { Inspection } from './setup.ts'

/** What the daemon says of itself: over its socket, or where nobody answers there, by its metrics and health servers. */
export async function reportOf({ daemon, config }: Pick<Inspection, 'daemon' | 'config'>): Promise<DaemonReport> {
  if (daemon instanceof Error) {
    const { askDaemon, readDaemon } = await import('./objects.ts')
    return readDaemon(await askDaemon(config), Date.now())
  }
  const { healthy, reason, families } = daemon.identity
  const age = (at: number): number => Math.max(0, Math.round((Date.now() - at) / 1000))
  const synced = families.filter(({ lastSync }) => lastSync > 0)
  return {
    answers: true,
    reason,
    healthy,
    lastSyncAge: Object.fromEntries(synced.map(({ family, lastSync }) => [family, age(lastSync)])),
    refused: Object.fromEntries(families.map(({ family, refused }) => [family, refused])),
  }
}

/** Who answers where the daemon should. */
export async function proxyOf({ daemon, config }: Pick<Inspection, 'daemon' | 'config'>): Promise<Facts['proxy']> {
  if (!(daemon instanceof Error)) return 'ours'
  const { askDaemon, proxyOfAnswers } = await import('./objects.ts')
  return proxyOfAnswers(await askDaemon(config))
}
