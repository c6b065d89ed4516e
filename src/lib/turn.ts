/** So long one piece of work may keep the event loop to itself, in milliseconds. */
const longest = 8
/** The clock is looked at once in so many questions: it costs as much as a small piece of work. */
const questionsPerLook = 8

/** Long work that lets others have their turn: `if (turn.isOver) await turn.next()`. */
export class Turn {
  #began = performance.now()
  #questions = 0

  get isOver(): boolean {
    if (++this.#questions % questionsPerLook !== 0) return false
    return performance.now() - this.#began >= longest
  }

  /** Resolves when all that waited has had its turn. */
  async next(): Promise<void> {
    await new Promise(setImmediate)
    this.#began = performance.now()
  }
}
