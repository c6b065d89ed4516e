/** So long one piece of work may keep the event loop to itself, in milliseconds. */
const longest = 6
/** The clock is looked at once in so many questions where the pieces of work are small: it costs as much as one. */
const ofSmallPieces = 4

/** Those who wait for their next turn: one for each round of the event loop, or the pieces of all would add up. */
const waiting: (() => void)[] = []

function callNext(): void {
  const wake = waiting.shift()
  if (waiting.length > 0) setImmediate(callNext)
  wake?.()
}

/** Long work that lets others have their turn: `if (turn.isOver) await turn.next()`. */
export class Turn {
  readonly #questionsPerLook: number
  #began = performance.now()
  #questions = 0

  constructor(questionsPerLook = ofSmallPieces) {
    this.#questionsPerLook = questionsPerLook
  }

  get isOver(): boolean {
    if (++this.#questions % this.#questionsPerLook !== 0) return false
    return performance.now() - this.#began >= longest
  }

  /** Resolves when all that waited has had its turn. */
  async next(): Promise<void> {
    await new Promise<void>((resolve) => {
      waiting.push(resolve)
      if (waiting.length === 1) setImmediate(callNext)
    })
    this.#began = performance.now()
  }
}

/** What each becomes, in turns with others; what becomes nothing is left out. */
export async function mapInTurns<A, B>(list: Iterable<A>, make: (one: A) => B | undefined): Promise<B[]> {
  const turn = new Turn()
  const made: B[] = []
  for (const one of list) {
    if (turn.isOver) await turn.next()
    const result = make(one)
    if (result !== undefined) made.push(result)
  }
  return made
}

const nothing = (): void => {}

/** One at a time, in the order in which they came. */
export class Queue {
  /** Ends with the last of them, without its result: that would stay in memory until the next one. */
  #last: Promise<void> = Promise.resolve()

  run<T>(act: () => Promise<T>): Promise<T> {
    const result = this.#last.then(act)
    this.#last = result.then(nothing, nothing)
    return result
  }
}
