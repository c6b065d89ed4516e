import { timeOfDay, type Clock } from '../lib/clock.ts'
import type { Family } from '../model/address.ts'

/** Answer of /healthz or /livez: status code and JSON body as upstream has them, and a reason where unhealthy. */
export interface HealthAnswer {
  readonly code: 200 | 503
  readonly body: string
}

/** Work of a family that has begun and not ended. */
export interface WorkUnderWay {
  readonly family: Family
  readonly work: 'pass' | 'look'
  /** By the clock. */
  readonly since: number
}

interface FamilyState {
  queuedAt: number | undefined
  updatedAt: number | undefined
}

/**
 * Milliseconds after which work is taken for stuck, whatever the sync period: all that it waits for has a time-out of
 * seconds, and the largest cluster takes minutes.
 */
const stuckAfter = 5 * 60_000

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
  #underWay: () => Iterable<WorkUnderWay> = () => []
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

  /** From here on another limit counts, another source is waited for, and other work is watched. */
  follow(limit: number, waitingFor: () => string, underWay: () => Iterable<WorkUnderWay> = () => []): void {
    this.#limit = limit
    this.#waitingFor = waitingFor
    this.#underWay = underWay
  }

  /** Work that has been under way for too long. */
  stuck(): WorkUnderWay | undefined {
    const latest = this.#clock.now() - stuckAfter
    for (const one of this.#underWay()) if (one.since <= latest) return one
    return undefined
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
    const at = this.#families.get(family)?.updatedAt
    return at === undefined ? 0 : timeOfDay(at)
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
    const stuck = this.stuck()
    for (const [family, { queuedAt, updatedAt }] of this.#families) {
      const late = queuedAt !== undefined && now - queuedAt >= this.#limit
      // A process that waits for the API server is alive: only the load balancer must stay away.
      const well = !late && stuck?.family !== family && (updatedAt !== undefined || !withNode)
      if (!well) {
        healthy = false
        if (stuck?.family === family) {
          reason ||= `${family}: a ${stuck.work} has not ended for ${Math.round((now - stuck.since) / 1000)} s`
        }
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
  return new Date(timeOfDay(milliseconds)).toISOString()
}
