/** Milliseconds that are not worth saving. */
const little = 50

/** Keeps work that comes again and again below a share of the time, where it takes long at all. */
export class Thrift {
  readonly #share: number
  #restUntil = Number.NEGATIVE_INFINITY

  /** `share`: of one core, 0 to 1. */
  constructor(share: number) {
    this.#share = share
  }

  /** Whether it has rested long enough for what it took the last time. */
  get isDue(): boolean {
    return performance.now() >= this.#restUntil
  }

  /** It took so many milliseconds of a core. */
  spent(milliseconds: number): void {
    if (milliseconds > little) this.#restUntil = performance.now() + milliseconds / this.#share
  }

  /** Does it, and takes note of what it can have taken at most: no more than the time, nor than the whole process. */
  async during<T>(act: () => Promise<T>): Promise<T> {
    const began = performance.now()
    const before = process.cpuUsage()
    try {
      return await act()
    } finally {
      const { user, system } = process.cpuUsage(before)
      this.spent(Math.min(performance.now() - began, (user + system) / 1000))
    }
  }
}
