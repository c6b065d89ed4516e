import { createHistogram, eventLoopUtilization } from 'node:perf_hooks'
import { Gauge, type Registry } from 'prom-client'

/** Milliseconds between two looks at the event loop: while there is work, and else. */
const [whileWorking, whileResting] = [20, 1000]

/** Milliseconds without work from which on there is none. */
const linger = 500

/** So much of the time says that there is work of which nobody has told. */
const busyShare = 0.05

/**
 * How long the event loop keeps others from their turn. Node's own monitor wakes the process every few milliseconds for
 * good, which costs an idle node more than all else that it does; this one does so only while there is work.
 */
export class LoopLag {
  /** Nanoseconds between two looks, at least those that a look waits for while there is work. */
  readonly histogram = createHistogram()
  readonly #busy: () => number
  #timer: NodeJS.Timeout | undefined
  #waiting = 0
  #due = 0
  #restFrom = 0

  /** `busy`: the share of the time, 0 to 1, in which the event loop had something to do since it was last asked. */
  constructor(busy: () => number = busyShareOfLoop()) {
    this.#busy = busy
    this.working()
  }

  /** Work begins, or goes on. */
  working(): void {
    this.#restFrom = performance.now() + linger
    if (this.#waiting !== whileWorking) this.#wait(whileWorking)
  }

  #wait(milliseconds: number): void {
    clearTimeout(this.#timer)
    this.#waiting = milliseconds
    this.#due = performance.now() + milliseconds
    this.#timer = setTimeout(() => this.#look(), milliseconds)
    this.#timer.unref()
  }

  #look(): void {
    const now = performance.now()
    this.histogram.record(Math.round((whileWorking + Math.max(0, now - this.#due)) * 1e6))
    if (now >= this.#restFrom && this.#busy() >= busyShare) this.#restFrom = now + linger
    this.#wait(now < this.#restFrom ? whileWorking : whileResting)
  }
}

function busyShareOfLoop(): () => number {
  let last = eventLoopUtilization()
  return () => {
    const now = eventLoopUtilization()
    const { utilization } = eventLoopUtilization(now, last)
    last = now
    return utilization
  }
}

const figures = {
  min: ['The minimum recorded event loop delay.', ({ min }) => min],
  max: ['The maximum recorded event loop delay.', ({ max }) => max],
  mean: ['The mean of the recorded event loop delays.', ({ mean }) => mean],
  stddev: ['The standard deviation of the recorded event loop delays.', ({ stddev }) => stddev],
  p50: ['The 50th percentile of the recorded event loop delays.', (histogram) => histogram.percentile(50)],
  p90: ['The 90th percentile of the recorded event loop delays.', (histogram) => histogram.percentile(90)],
  p99: ['The 99th percentile of the recorded event loop delays.', (histogram) => histogram.percentile(99)],
} satisfies Record<string, readonly [help: string, of: (histogram: LoopLag['histogram']) => number]>

/** In the place of prom-client's gauges nodejs_eventloop_lag_*_seconds, of what was seen since they were last asked for. */
export function loopLagMetrics(registry: Registry): LoopLag {
  const lag = new LoopLag()
  const gauges = Object.entries(figures).map(([figure, [help, of]], i) => {
    const name = `nodejs_eventloop_lag_${figure}_seconds`
    registry.removeSingleMetric(name)
    // The first sets all: between two families of a scrape others have their turn, and the loop may be looked at.
    return { gauge: new Gauge({ name, help, registers: [registry], ...(i === 0 ? { collect } : {}) }), of }
  })
  function collect(): void {
    if (lag.histogram.count === 0) return
    for (const { gauge, of } of gauges) gauge.set(of(lag.histogram) / 1e9)
    lag.histogram.reset()
  }
  return lag
}
