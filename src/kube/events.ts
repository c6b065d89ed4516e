import { randomBytes } from 'node:crypto'
import { systemClock, timeOfDay, type Clock } from '../lib/clock.ts'
import { describeError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { EventFacts, Events } from '../model/events.ts'
import type { Client } from './client.ts'

export interface ApiEventsOptions {
  readonly client: Pick<Client, 'send'>
  readonly nodeName: string
  readonly log: Log
  readonly clock?: Clock
  /** Ends waiting for answers and retries. */
  readonly signal: AbortSignal
}

/** An Event object that stands, so that repeats are counted on it. */
interface Series {
  readonly path: string
  readonly startedAt: number
  count: number
  patchedAt: number
}

/** One request, tried a few times. */
interface Work {
  readonly method: 'POST' | 'PATCH'
  readonly path: string
  readonly body: unknown
  readonly what: string
  /** The series that it belongs to. */
  readonly key: string
}

/** For so long a repeat belongs to the same Event (KEP-383). */
const seriesLife = 6 * 60_000
const patchEvery = 60_000
const mostWaiting = 10
const tries = 4
const noteBytes = 1024

/** Event objects by events.k8s.io/v1. Losing one loses no traffic: what cannot be written soon is dropped with a line. */
export class ApiEvents implements Events {
  readonly #options: ApiEventsOptions
  readonly #clock: Clock
  readonly #series = new Map<string, Series>()
  readonly #waiting: Work[] = []
  #working = false
  #dropping = false

  constructor(options: ApiEventsOptions) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
  }

  report(facts: EventFacts): void {
    const now = this.#clock.now()
    for (const [key, { startedAt }] of this.#series) if (now - startedAt >= seriesLife) this.#series.delete(key)
    const key = JSON.stringify([facts.type, facts.reason, facts.regarding, facts.note])
    const series = this.#series.get(key)
    if (series === undefined) {
      const { namespace, name, body } = this.#object(facts, now)
      const path = `/apis/events.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/events`
      if (this.#enqueue({ method: 'POST', path, body, what: facts.reason, key })) {
        this.#series.set(key, { path: `${path}/${name}`, startedAt: now, count: 1, patchedAt: now })
      }
      return
    }
    series.count++
    if (now - series.patchedAt < patchEvery) return
    series.patchedAt = now
    const body = { series: { count: series.count, lastObservedTime: microTime(now) } }
    this.#enqueue({ method: 'PATCH', path: series.path, body, what: facts.reason, key })
  }

  #object(facts: EventFacts, now: number): { namespace: string; name: string; body: unknown } {
    const { nodeName } = this.#options
    // A Node has no namespace; kubelet and kube-proxy put its Events into "default" and its name in the place of its uid.
    const regarding = facts.regarding ?? { kind: 'Node', apiVersion: 'v1', name: nodeName, uid: nodeName }
    const namespace = facts.regarding?.namespace ?? 'default'
    const name = `${regarding.name}.${now.toString(16)}${randomBytes(4).toString('hex')}`
    const body = {
      apiVersion: 'events.k8s.io/v1',
      kind: 'Event',
      metadata: { name, namespace },
      eventTime: microTime(now),
      reportingController: 'kube-ipvs-proxy',
      reportingInstance: nodeName,
      type: facts.type,
      reason: facts.reason,
      action: facts.action,
      note: cut(facts.note, noteBytes),
      regarding,
    }
    return { namespace, name, body }
  }

  #enqueue(work: Work): boolean {
    if (this.#waiting.length >= mostWaiting) {
      if (!this.#dropping) this.#options.log.warn('Too many Events wait for the API server; further ones are dropped')
      this.#dropping = true
      return false
    }
    this.#dropping = false
    this.#waiting.push(work)
    if (!this.#working) void this.#work()
    return true
  }

  async #work(): Promise<void> {
    this.#working = true
    for (let work = this.#waiting.shift(); work !== undefined; work = this.#waiting.shift()) await this.#write(work)
    this.#working = false
  }

  async #write(work: Work): Promise<void> {
    const { client, log, signal } = this.#options
    let trouble = ''
    for (let attempt = 0; attempt < tries && !signal.aborted; attempt++) {
      if (attempt > 0) await this.#clock.sleep(1000 * 4 ** (attempt - 1), signal)
      if (signal.aborted) return
      try {
        const type = work.method === 'PATCH' ? 'application/merge-patch+json' : 'application/json'
        const answer = await client.send(work.method, work.path, type, JSON.stringify(work.body), signal)
        answer.destroy()
        if (answer.status < 300) return
        trouble = `status ${answer.status}`
        if (answer.status === 403) trouble += ': the service account needs create and patch of events.events.k8s.io'
        // 401: the token is read anew before the next try.
        if (answer.status !== 429 && answer.status !== 401 && answer.status < 500) break
      } catch (error) {
        trouble = describeError(error)
      }
    }
    // There is no object to count repeats on: the next one makes another.
    this.#series.delete(work.key)
    if (!signal.aborted) log.warn('An Event could not be written', { event: work.what, error: trouble })
  }
}

function microTime(milliseconds: number): string {
  return new Date(timeOfDay(milliseconds)).toISOString().replace('Z', '000Z')
}

/** At most so many bytes of UTF-8, without half a character at the end. */
function cut(text: string, bytes: number): string {
  const buffer = Buffer.from(text)
  return buffer.length <= bytes
    ? text
    : buffer
        .subarray(0, bytes)
        .toString('utf8')
        .replace(/\uFFFD+$/, '')
}
