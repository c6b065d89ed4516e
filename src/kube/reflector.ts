import { systemClock } from '../lib/clock.ts'
import type { Clock } from '../lib/clock.ts'
import { describeError, ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { Turn } from '../lib/turn.ts'
import type { Client, Response } from './client.ts'
import { ListSplitter } from './list-splitter.ts'
import { isJson, objectKey, shownValue } from './translate.ts'
import { watchEvents } from './watch-events.ts'

/** All times in milliseconds unless said otherwise. */
export interface ReflectorTimes {
  /** Range of a watch's timeoutSeconds, in seconds. */
  readonly watchSeconds: readonly [number, number]
  /** How much longer than its timeoutSeconds a watch may last. */
  readonly watchGrace: number
  /** Silence after which a list, or the initial events of a WatchList, is given up. */
  readonly listIdle: number
  /** Time after which initial events are given up even when something comes. */
  readonly initialEvents: number
  /** Silence after which a watch is given up on which the server tells its version every minute (bookmarks). */
  readonly bookmarkIdle: number
  readonly backoffFirst: number
  readonly backoffMost: number
  /** The longest wait that the server may ask for (Retry-After). */
  readonly retryAfterMost: number
  /** Health after which the back-off begins anew. */
  readonly backoffReset: number
  /** A watch that ends earlier and without events counts as failed. */
  readonly shortWatch: number
  /** The first list waits for a random part of this: a fleet that is switched on does not ask in one moment. */
  readonly startSpread: number
  /** So does a list that is needed because the server has forgotten our version, as all nodes' after a restart. */
  readonly relistSpread: number
}

export const defaultTimes: ReflectorTimes = {
  watchSeconds: [300, 600],
  watchGrace: 15_000,
  listIdle: 30_000,
  initialEvents: 120_000,
  bookmarkIdle: 180_000,
  backoffFirst: 800,
  backoffMost: 30_000,
  retryAfterMost: 120_000,
  backoffReset: 120_000,
  shortWatch: 1000,
  startSpread: 500,
  relistSpread: 5000,
}

export interface ReflectorOptions<T> {
  readonly client: Pick<Client, 'get'>
  /** "/api/v1/services" */
  readonly path: string
  readonly labelSelector?: string
  readonly fieldSelector?: string
  /** The field selector only saves work: where the server does not know it, go on without. */
  readonly fieldSelectorOptional?: boolean
  /** Undefined: of no use to the listener, as if it did not exist. */
  readonly decode: (object: unknown, key: string, version: string) => T | undefined
  readonly listener: ReflectorListener<T>
  readonly log: Log
  readonly times?: Partial<ReflectorTimes>
  readonly clock?: Clock
  readonly random?: () => number
}

export interface ReflectorListener<T> {
  changed(key: string, record: T | undefined): void
  synced(): void
}

export interface ReflectorState {
  /** A complete list was told. */
  readonly listed: boolean
  /** When the server last answered well or sent something, by the clock; 0: never. */
  readonly lastContact: number
  /** Since when every attempt has failed; undefined: not failing. */
  readonly failingSince: number | undefined
  readonly lastError: string | undefined
}

/** An object of a list that has not come to its end. */
interface Collected<T> {
  readonly version: string
  /** Undefined with `same`: nothing to tell of it. */
  readonly record: T | undefined
  /** The listener knows it as it is. */
  readonly same: boolean
}

/** A refusal by the server, as an HTTP status or in an ERROR event. */
class StatusError extends ProxyError {
  readonly status: number
  readonly retryAfterMs: number | undefined

  constructor(status: number, message: string, retryAfterMs?: number) {
    super('API', `${status}: ${message}`)
    this.status = status
    this.retryAfterMs = retryAfterMs
  }
}

/** The initial events of a WatchList did not end in time. */
class NoInitialEnd extends ProxyError {}

/**
 * Follows one resource by list and watch, with client-go's rules. The listener hears of a deletion only from a watch
 * event or a complete list; whatever breaks in between changes nothing.
 */
export class Reflector<T> {
  readonly #options: ReflectorOptions<T>
  readonly #times: ReflectorTimes
  readonly #clock: Clock
  readonly #random: () => number
  readonly #log: Log
  /** Resource version of each object. */
  readonly #known = new Map<string, string>()
  /** Those of which the listener was given no record. */
  readonly #untold = new Set<string>()
  #fieldSelector: string | undefined
  #watchList = true
  /** Where the next watch goes on; undefined: list first. */
  #version: string | undefined
  /** The version a list must not be older than; "" asks for the newest. */
  #listVersion = '0'
  /** The server sends bookmarks on watches: where they stay away, the connection is dead. */
  #hearsBookmarks = false
  #failures = 0
  /** When the last back-off ended. */
  #resumed = 0
  #listed = false
  #lastContact = 0
  #failingSince: number | undefined
  #lastError: string | undefined
  #toldNameless = false

  constructor(options: ReflectorOptions<T>) {
    this.#options = options
    this.#times = { ...defaultTimes, ...options.times }
    this.#clock = options.clock ?? systemClock
    this.#random = options.random ?? Math.random
    this.#log = options.log
    this.#fieldSelector = options.fieldSelector
  }

  get state(): ReflectorState {
    return {
      listed: this.#listed,
      lastContact: this.#lastContact,
      failingSince: this.#failingSince,
      lastError: this.#lastError,
    }
  }

  /** Runs until the signal fires; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    let rejected = false
    await this.#spread(this.#times.startSpread, signal)
    while (!signal.aborted) {
      try {
        if (this.#version !== undefined) await this.#watch(this.#version, signal)
        else if (this.#watchList) await this.#watch(undefined, signal)
        else await this.#list(signal)
        rejected = false
      } catch (error) {
        if (signal.aborted) return
        // The first 401 may only mean that the token has rotated: the next request reads it anew.
        const unauthorized = error instanceof StatusError && error.status === 401
        const retryNow = this.#adapt(error) || (unauthorized && !rejected)
        rejected = unauthorized
        const forgotten = error instanceof StatusError && error.status === 410 && this.#listed
        if (retryNow && forgotten) await this.#spread(this.#times.relistSpread, signal)
        if (!retryNow) await this.#backOff(error, signal)
      }
    }
  }

  async #spread(over: number, signal: AbortSignal): Promise<void> {
    const delay = Math.round(this.#random() * over)
    if (delay > 0) await this.#clock.sleep(delay, signal)
  }

  /** Draws the consequences of a refusal; true where the next attempt differs and needs no wait. */
  #adapt(error: unknown): boolean {
    const { path } = this.#options
    const initial = this.#version === undefined
    if (error instanceof NoInitialEnd) {
      this.#log.info(`${path}: no end of initial events in time, using list`)
      this.#watchList = false
      return true
    }
    if (!(error instanceof StatusError)) return false
    if (error.status === 410) {
      this.#log.v(2, `${path}: ${error.message}, listing again`)
      // A list that is itself too old for the newest state would be refused for ever: that one waits.
      const again = !initial || this.#listVersion !== ''
      this.#version = undefined
      this.#listVersion = ''
      return again
    }
    if (error.status === 504 && initial) this.#listVersion = ''
    if (error.status !== 400 && error.status !== 422) return false
    if (initial && this.#watchList) {
      this.#log.v(2, `${path}: no WatchList (${error.message}), using list`)
      this.#watchList = false
      return true
    }
    if (this.#fieldSelector !== undefined && this.#options.fieldSelectorOptional) {
      this.#log.v(2, `${path}: no field selector ${this.#fieldSelector} (${error.message}), going on without`)
      this.#fieldSelector = undefined
      this.#watchList = true
      this.#version = undefined
      return true
    }
    // A server that refuses this version for good would otherwise never be listed again.
    this.#version = undefined
    return false
  }

  async #backOff(error: unknown, signal: AbortSignal): Promise<void> {
    const { backoffFirst, backoffMost, retryAfterMost, backoffReset } = this.#times
    const now = this.#clock.now()
    if (this.#failingSince === undefined && now - this.#resumed > backoffReset) this.#failures = 0
    this.#failingSince ??= now
    const text = describeError(error)
    const again = text === this.#lastError
    this.#lastError = text
    const wait = Math.min(backoffMost, backoffFirst * 2 ** this.#failures) * (1 + this.#random())
    if (this.#failures < 32) this.#failures++
    const retryAfter = error instanceof StatusError ? (error.retryAfterMs ?? 0) : 0
    const delay = Math.round(Math.max(wait, Math.min(retryAfter, retryAfterMost)))
    this.#resumed = now + delay
    const message = `${this.#options.path}: ${text}; next attempt in ${delay} ms`
    if (again) this.#log.v(2, message)
    else this.#log.error(message)
    await this.#clock.sleep(delay, signal)
  }

  #contact(): void {
    this.#lastContact = this.#clock.now()
    if (this.#failingSince !== undefined) this.#log.info(`${this.#options.path}: the API server answers again`)
    this.#failingSince = undefined
    this.#lastError = undefined
  }

  #url(parameters: Readonly<Record<string, string | undefined>>): string {
    const query = new URLSearchParams()
    const all = { ...parameters, labelSelector: this.#options.labelSelector, fieldSelector: this.#fieldSelector }
    for (const [name, value] of Object.entries(all)) if (value !== undefined) query.set(name, value)
    return `${this.#options.path}?${query.toString()}`
  }

  /** A request whose answer is 200; other answers throw what the server said. */
  async #get(url: string, signal: AbortSignal): Promise<Response> {
    const response = await this.#options.client.get(url, signal)
    if (response.status === 200) return response
    let body = ''
    try {
      for await (const chunk of response.body) {
        body += chunk.toString('utf8')
        if (body.length > 65_536) break
      }
    } catch {
      // The status says enough.
    } finally {
      response.destroy()
    }
    throw new StatusError(response.status, statusMessage(body), response.retryAfterMs)
  }

  async #list(signal: AbortSignal): Promise<void> {
    const limit = new Limit(signal, this.#times.listIdle, 'the list stopped coming')
    try {
      const collected = new Map<string, Collected<T>>()
      let version = ''
      let next: string | undefined
      do {
        const parameters = next === undefined ? { resourceVersion: this.#listVersion } : { continue: next }
        const response = await limit.over(this.#get(this.#url(parameters), limit.signal))
        try {
          const splitter = new ListSplitter((json) => this.#collect(collected, JSON.parse(json)))
          const turn = new Turn()
          for await (const chunk of response.body) {
            if (turn.isOver) await turn.next()
            limit.extend()
            splitter.push(chunk)
          }
          const { metadata } = splitter.end()
          if (!isJson(metadata) || typeof metadata.resourceVersion !== 'string') {
            throw new ProxyError('API', 'the list has no resourceVersion')
          }
          version = metadata.resourceVersion
          next = typeof metadata.continue === 'string' && metadata.continue !== '' ? metadata.continue : undefined
        } finally {
          response.destroy()
        }
      } while (next !== undefined)
      this.#contact()
      await this.#swap(collected, version)
    } catch (error) {
      throw limit.reason(error)
    } finally {
      limit.stop()
    }
  }

  /** One watch; without a version it begins with the initial events of a WatchList. */
  async #watch(version: string | undefined, signal: AbortSignal): Promise<void> {
    const [least, most] = this.#times.watchSeconds
    const timeoutSeconds = Math.round(least + this.#random() * (most - least))
    const began = this.#clock.now()
    const hard = new Limit(signal, timeoutSeconds * 1000 + this.#times.watchGrace, 'the watch did not end in time')
    const { listIdle, bookmarkIdle } = this.#times
    const silence = new Limit(hard.signal, listIdle, 'no initial events')
    const expectBookmarks = (): void => {
      if (this.#hearsBookmarks) silence.within(bookmarkIdle)
      else silence.relax()
    }
    if (version !== undefined) expectBookmarks()
    let collected = version === undefined ? new Map<string, Collected<T>>() : undefined
    let events = 0
    let answered = false
    try {
      const url = this.#url({
        watch: 'true',
        allowWatchBookmarks: 'true',
        timeoutSeconds: String(timeoutSeconds),
        resourceVersion: version,
        ...(version === undefined ? { sendInitialEvents: 'true', resourceVersionMatch: 'NotOlderThan' } : {}),
      })
      const response = await this.#get(url, silence.signal)
      answered = true
      try {
        if (collected === undefined) this.#contact()
        for await (const event of watchEvents(response.body)) {
          if (event.type === 'ERROR') throw errorOf(event.object)
          this.#contact()
          events++
          if (collected === undefined) {
            this.#hearsBookmarks ||= event.type === 'BOOKMARK'
            expectBookmarks()
            this.#apply(event.type, event.object)
          } else if (event.type !== 'BOOKMARK') {
            this.#collectEvent(collected, event.type, event.object)
            silence.extend()
          } else if (endsInitialEvents(event.object)) {
            silence.relax()
            await this.#swap(collected, versionOf(event.object))
            collected = undefined
            expectBookmarks()
          }
          if (collected !== undefined && this.#clock.now() - began > this.#times.initialEvents) {
            throw new NoInitialEnd('API', 'initial events did not end')
          }
        }
      } finally {
        response.destroy()
      }
    } catch (error) {
      if (signal.aborted) throw error
      // A watch that outlives its limit is a dead connection: it is replaced by another without a wait.
      if (hard.expired && answered) return
      if (hard.expired) throw hard.reason(error)
      if (!silence.expired) throw error
      if (collected !== undefined && !answered) throw silence.reason(error)
      if (collected !== undefined) throw new NoInitialEnd('API', 'initial events stopped')
      const { path } = this.#options
      this.#log.warn(`${path}: nothing was heard for ${bookmarkIdle} ms, not even a bookmark; watching anew`)
      return
    } finally {
      silence.stop()
      hard.stop()
    }
    if (collected !== undefined) throw new ProxyError('API', 'the watch ended before its initial events did')
    if (events === 0 && this.#clock.now() - began < this.#times.shortWatch) {
      throw new ProxyError('API', 'the watch ended at once')
    }
  }

  /** Undefined where decoding failed, which must not look like a deletion: the object stays as it is known. */
  #decode(key: string, version: string, object: unknown): { readonly record: T | undefined } | undefined {
    try {
      return { record: this.#options.decode(object, key, version) }
    } catch (error) {
      this.#log.error(`${this.#options.path}: ${key} cannot be decoded: ${describeError(error)}`)
      return undefined
    }
  }

  /** Once as an error: who sends one may send a million. */
  #tellNameless(object: unknown): void {
    const { name, namespace } = metadataOf(object)
    const shown = shownValue({ namespace, name })
    const text = `${this.#options.path}: an object is left out, its metadata.name or metadata.namespace is no name (${shown})`
    if (this.#toldNameless) this.#log.v(2, text)
    else this.#log.error(text)
    this.#toldNameless = true
  }

  #collect(into: Map<string, Collected<T>>, object: unknown): void {
    const key = objectKey(object)
    if (key === undefined) {
      this.#tellNameless(object)
      return
    }
    const version = versionOf(object)
    const same = version !== '' && this.#known.get(key) === version
    const decoded = same ? undefined : this.#decode(key, version, object)
    // Until the first list is whole nobody acts upon it: it need not be gathered first, in one heap to be told at once.
    if (decoded !== undefined && !this.#listed) this.#put(key, version, decoded.record)
    if (decoded === undefined || !this.#listed) into.set(key, { version, same: true, record: undefined })
    else into.set(key, { version, same: false, record: decoded.record })
  }

  #collectEvent(into: Map<string, Collected<T>>, type: unknown, object: unknown): void {
    if (type === 'ADDED' || type === 'MODIFIED') this.#collect(into, object)
    else if (type === 'DELETED') into.delete(objectKey(object) ?? '')
  }

  /** Puts a complete list in force. Deletions go first: what takes an address over comes after what gives it up. */
  async #swap(collected: ReadonlyMap<string, Collected<T>>, version: string): Promise<void> {
    const turn = new Turn()
    for (const key of this.#known.keys()) {
      if (turn.isOver) await turn.next()
      if (!collected.has(key)) this.#remove(key)
    }
    for (const [key, entry] of collected) {
      if (turn.isOver) await turn.next()
      if (!entry.same) this.#put(key, entry.version, entry.record)
    }
    this.#advance(version)
    this.#log.v(2, `${this.#options.path}: listed ${collected.size} objects at version ${version}`)
    if (this.#listed) return
    this.#listed = true
    this.#options.listener.synced()
  }

  #put(key: string, version: string, record: T | undefined): void {
    const wasTold = this.#known.has(key) && !this.#untold.has(key)
    this.#known.set(key, version)
    if (record === undefined) this.#untold.add(key)
    else this.#untold.delete(key)
    if (record !== undefined || wasTold) this.#tell(key, record)
  }

  /** A listener that fails at one object must hear of the others all the same. */
  #tell(key: string, record: T | undefined): void {
    try {
      this.#options.listener.changed(key, record)
    } catch (error) {
      this.#log.error(`${this.#options.path}: ${key} could not be taken over: ${describeError(error)}`)
    }
  }

  #remove(key: string): void {
    const wasTold = this.#known.delete(key) && !this.#untold.delete(key)
    if (wasTold) this.#tell(key, undefined)
  }

  #advance(version: string): void {
    if (version === '') return
    this.#version = version
    this.#listVersion = version
  }

  #apply(type: unknown, object: unknown): void {
    const version = versionOf(object)
    const key = objectKey(object)
    if (type === 'ADDED' || type === 'MODIFIED') {
      if (key === undefined) this.#tellNameless(object)
      else if (this.#known.get(key) !== version) {
        const decoded = this.#decode(key, version, object)
        if (decoded !== undefined) this.#put(key, version, decoded.record)
      }
    } else if (type === 'DELETED') {
      if (key !== undefined) this.#remove(key)
    } else if (type !== 'BOOKMARK') {
      this.#log.error(`${this.#options.path}: watch event of unknown type ${shownValue(type)} is left out`)
      return
    }
    this.#advance(version)
  }
}

/** Aborts its signal with the outer one, or when the time passes without `extend`. */
class Limit {
  readonly #controller = new AbortController()
  readonly #outer: AbortSignal
  readonly #forward: () => void
  #timer: NodeJS.Timeout
  #milliseconds: number
  readonly #message: string
  expired = false

  constructor(outer: AbortSignal, milliseconds: number, message: string) {
    this.#outer = outer
    this.#message = message
    this.#forward = () => this.#controller.abort()
    if (outer.aborted) this.#forward()
    outer.addEventListener('abort', this.#forward)
    this.#milliseconds = milliseconds
    this.#timer = this.#begin()
  }

  #begin(): NodeJS.Timeout {
    return setTimeout(() => {
      this.expired = true
      this.#controller.abort()
    }, this.#milliseconds)
  }

  /** From now on within this time. */
  within(milliseconds: number): void {
    if (milliseconds === this.#milliseconds) return this.extend()
    clearTimeout(this.#timer)
    this.#milliseconds = milliseconds
    this.#timer = this.#begin()
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  extend(): void {
    this.#timer.refresh()
  }

  /** The timer begins anew when the promise is settled. */
  async over<T>(promise: Promise<T>): Promise<T> {
    const value = await promise
    this.extend()
    return value
  }

  /** What an error really was: the abort that follows an expiry says nothing. */
  reason(error: unknown): unknown {
    return this.expired ? new ProxyError('API', this.#message) : error
  }

  /** No longer expires, until `within` says otherwise; the outer signal still holds. */
  relax(): void {
    clearTimeout(this.#timer)
    this.#milliseconds = 0
  }

  stop(): void {
    this.relax()
    this.#outer.removeEventListener('abort', this.#forward)
  }
}

function metadataOf(object: unknown): Readonly<Record<string, unknown>> {
  return isJson(object) && isJson(object.metadata) ? object.metadata : {}
}

function versionOf(object: unknown): string {
  const { resourceVersion } = metadataOf(object)
  return typeof resourceVersion === 'string' ? resourceVersion : ''
}

function endsInitialEvents(object: unknown): boolean {
  const { annotations } = metadataOf(object)
  return isJson(annotations) && annotations['k8s.io/initial-events-end'] === 'true'
}

function errorOf(status: unknown): StatusError {
  const code = isJson(status) && typeof status.code === 'number' ? status.code : 500
  const message = isJson(status) && typeof status.message === 'string' ? status.message : 'no message'
  const details = isJson(status) && isJson(status.details) ? status.details.retryAfterSeconds : undefined
  return new StatusError(code, message, typeof details === 'number' ? details * 1000 : undefined)
}

/** The message of a Status object, or the beginning of whatever was sent instead. */
function statusMessage(body: string): string {
  try {
    const status: unknown = JSON.parse(body)
    if (isJson(status) && typeof status.message === 'string') return status.message
  } catch {
    // Not from the API server itself.
  }
  return body.trim().slice(0, 200) || 'no message'
}
