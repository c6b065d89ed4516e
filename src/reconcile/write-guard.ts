/** So often a look reads again because something was written meanwhile; then it leaves it to the next one. */
const attempts = 3

/** Tells a look at the kernel whether this process wrote meanwhile. At most one write is under way at a time. */
export class WriteGuard {
  /** Writes begun or ended so far: odd while one is under way. */
  #count = 0

  /** What the write has done must be entered before it ends: a look would take it for others' work. */
  async write<T>(write: () => Promise<T>): Promise<T> {
    this.#count++
    try {
      return await write()
    } finally {
      this.#count++
    }
  }

  /**
   * What was read with no write in between, and the mark to ask `isAt` about later; undefined where there was one each
   * time. `read` is given its mark.
   */
  async quietly<T>(
    read: (mark: number) => Promise<T>,
  ): Promise<{ readonly found: T; readonly mark: number } | undefined> {
    for (let attempt = 0; attempt < attempts; attempt++) {
      const mark = this.#count
      const found = await read(mark)
      if (mark % 2 === 0 && this.isAt(mark)) return { found, mark }
    }
    return undefined
  }

  /** Whether nothing has been written since. */
  isAt(mark: number): boolean {
    return mark === this.#count
  }
}
