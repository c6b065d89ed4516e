import type { Session } from 'node:inspector'

/** Of pprof: what is taken where the request says nothing, and what a request may ask for. */
export const profileSeconds = { usual: 30, most: 300 } as const

let running = false

/** Whether one is being taken: a second one would end the first. */
export function isProfiling(): boolean {
  return running
}

/**
 * What the process spends its time on, in V8's own format (.cpuprofile), as JSON. Ends early when the signal fires, with
 * what there is by then.
 */
export async function* cpuProfile(seconds: number, signal: AbortSignal): AsyncGenerator<string> {
  running = true
  // Loaded only here: it costs memory that a daemon without profiling need not have.
  const inspector = await import('node:inspector')
  const session = new inspector.Session()
  try {
    session.connect()
    await post(session, 'Profiler.enable')
    await post(session, 'Profiler.start')
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000)
      const stop = (): void => {
        clearTimeout(timer)
        resolve()
      }
      if (signal.aborted) stop()
      else signal.addEventListener('abort', stop, { once: true })
    })
    const { profile } = await new Promise<{ profile: unknown }>((resolve, reject) =>
      session.post('Profiler.stop', (error, result) => (error === null ? resolve(result) : reject(error))),
    )
    yield JSON.stringify(profile)
  } finally {
    session.disconnect()
    running = false
  }
}

function post(session: Session, method: 'Profiler.enable' | 'Profiler.start'): Promise<void> {
  return new Promise((resolve, reject) => session.post(method, (error) => (error === null ? resolve() : reject(error))))
}

/**
 * All that is in V8's heap, in its own format (.heapsnapshot). The process stands still while V8 takes it, a second or so
 * for each 100 MB, and needs as much memory again.
 */
export async function* heapSnapshot(): AsyncGenerator<Uint8Array> {
  const { getHeapSnapshot } = await import('node:v8')
  yield* getHeapSnapshot() as AsyncIterable<Uint8Array>
}
