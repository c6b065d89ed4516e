import type { Client, Response } from '../../../src/kube/client.ts'
import type { Hostile } from './objects.ts'

type Kind = Hostile['kind']

/** An API server's answers without a server: watches that begin with all objects and bring what is pushed. */
export class Feed implements Pick<Client, 'get'> {
  readonly #initial: ReadonlyMap<Kind, readonly unknown[]>
  readonly #waiting = new Map<Kind, { readonly text: string; readonly taken: () => void }[]>()
  readonly #wake = new Map<Kind, () => void>()

  constructor(initial: ReadonlyMap<Kind, readonly unknown[]>) {
    this.#initial = initial
  }

  /** Sends lines in one piece; resolves when the events have been dealt with. */
  push(kind: Kind, ...lines: readonly string[]): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    const waiting = this.#waiting.get(kind) ?? []
    this.#waiting.set(kind, [...waiting, { text: lines.map((line) => `${line}\n`).join(''), taken: resolve }])
    this.#wake.get(kind)?.()
    return promise
  }

  async get(path: string, signal: AbortSignal): Promise<Response> {
    const kind = /\/(services|endpointslices|nodes)\?/.exec(path)![1] as Kind
    return { status: 200, retryAfterMs: undefined, body: this.#watch(kind, signal), destroy: () => {} }
  }

  async *#watch(kind: Kind, signal: AbortSignal): AsyncGenerator<Buffer> {
    const end = { metadata: { resourceVersion: '1', annotations: { 'k8s.io/initial-events-end': 'true' } } }
    const first = [
      ...(this.#initial.get(kind) ?? []).map((object) => ({ type: 'ADDED', object })),
      { type: 'BOOKMARK', object: end },
    ]
    yield Buffer.from(first.map((event) => `${JSON.stringify(event)}\n`).join(''))
    while (!signal.aborted) {
      const next = this.#waiting.get(kind)?.shift()
      if (next !== undefined) {
        yield Buffer.from(next.text)
        // Whoever asks for more is done with it.
        next.taken()
        continue
      }
      await new Promise<void>((wake) => {
        this.#wake.set(kind, wake)
        signal.addEventListener('abort', () => wake(), { once: true })
      })
    }
  }
}
