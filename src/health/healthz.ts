import type { Clock } from '../lib/clock.ts'
import type { Family } from '../model/address.ts'

/** Answer of /healthz or /livez: status code and JSON body as upstream has them, and a reason where unhealthy. */
export interface HealthAnswer {
  readonly code: 200 | 503
  readonly body: string
}

interface FamilyState {
  queuedAt: number | undefined
  updatedAt: number | undefined
}

const zeroTime = '0001-01-01T00:00:00Z'

/**
 * Whether the proxier keeps up. A family is healthy when nothing waits for a sync, or not for longer than the limit; and,
 * other than upstream, not before its first sync.
 */
export class ProxierHealth {
  readonly #clock: Clock
  #limit: number
  readonly #families = new Map<Family, FamilyState>()
  #waitingFor: () => string
  #eligible: boolean

  /**
   * `limit`: milliseconds, 2 × syncPeriod. `eligible`: whether a load balancer may use the node before its object is
   * known. `waitingFor` says in words what the first sync waits for.
   */
  constructor(families: Iterable<Family>, limit: number, eligible: boolean, clock: Clock, waitingFor: () => string) {
    this.#clock = clock
    this.#limit = limit
    this.#eligible = eligible
    this.#waitingFor = waitingFor
    for (const family of families) this.#families.set(family, { queuedAt: undefined, updatedAt: undefined })
  }

  /** From here on another limit counts, and another source is waited for. */
  follow(limit: number, waitingFor: () => string): void {
    this.#limit = limit
    this.#waitingFor = waitingFor
  }

  /** Whether every family keeps up: what a Service's own health check asks, whatever the node's state. */
  get keepsUp(): boolean {
    return this.livez().code === 200
  }

  queued(family: Family): void {
    this.#families.get(family)!.queuedAt ??= this.#clock.now()
  }

  updated(family: Family): void {
    this.#families.set(family, { queuedAt: undefined, updatedAt: this.#clock.now() })
  }

  /** When the family was last in sync, in milliseconds since the epoch; 0 before the first time. */
  lastUpdate(family: Family): number {
    return this.#families.get(family)?.updatedAt ?? 0
  }

  setEligible(eligible: boolean): void {
    this.#eligible = eligible
  }

  healthz(): HealthAnswer {
    return this.#answer(true)
  }

  livez(): HealthAnswer {
    return this.#answer(false)
  }

  #answer(withNode: boolean): HealthAnswer {
    const now = this.#clock.now()
    const status: Record<string, { lastUpdated: string; healthy: boolean }> = {}
    let healthy = true
    let newest = 0
    let reason = ''
    for (const [family, { queuedAt, updatedAt }] of this.#families) {
      const late = queuedAt !== undefined && now - queuedAt >= this.#limit
      // A process that waits for the API server is alive: only the load balancer must stay away.
      const well = !late && (updatedAt !== undefined || !withNode)
      if (!well) {
        healthy = false
        reason ||=
          updatedAt === undefined ? `first sync not done: ${this.#waitingFor()}` : `${family}: a sync is overdue`
      }
      newest = Math.max(newest, updatedAt ?? 0)
      status[family] = { lastUpdated: updatedAt === undefined ? zeroTime : time(updatedAt), healthy: well }
    }
    const ok = healthy && (!withNode || this.#eligible)
    if (healthy && !ok) reason = 'the node is being deleted, or its object is not known'
    const body = {
      lastUpdated: ok ? time(now) : newest === 0 ? zeroTime : time(newest),
      currentTime: time(now),
      ...(withNode ? { nodeEligible: this.#eligible } : {}),
      healthy,
      status,
      ...(ok ? {} : { reason }),
    }
    return { code: ok ? 200 : 503, body: JSON.stringify(body) }
  }
}

function time(milliseconds: number): string {
  return new Date(milliseconds).toISOString()
}
