import { setTimeout as sleep } from 'node:timers/promises'

/** So long one piece of work may keep the event loop to itself, in milliseconds. */
const longest = 4
/** The same of work that can wait: what is urgent may come in the midst of a piece. */
const longestPatient = 2
/** The clock is looked at once in so many questions where the pieces of work are small: it costs as much as one. */
const ofSmallPieces = 4
/** But after each of the first pieces: V8 compiles what it runs for the first time, which takes a hundred times as long. */
const unpractised = 16

/** Milliseconds that patient work waits for what is urgent before it takes a turn all the same. */
const patience = 25

/** Those who wait for their next turn: one for each round of the event loop, or the pieces of all would add up. */
const waiting: (() => void)[] = []
/** Of those the ones that others go before, and since when each has waited. */
const waitingPatiently: { readonly wake: () => void; readonly since: number }[] = []

function callNext(): void {
  const [oldest] = waitingPatiently
  const isTired = oldest !== undefined && performance.now() - oldest.since >= patience
  const wake = (isTired ? undefined : waiting.shift()) ?? waitingPatiently.shift()?.wake
  if (waiting.length + waitingPatiently.length > 0) setImmediate(callNext)
  wake?.()
}

/** Long work that lets others have their turn: `if (turn.isOver) await turn.next()`. */
export class Turn {
  readonly #questionsPerLook: number
  readonly #longest: number
  #began = performance.now()
  #questions = 0

  constructor(questionsPerLook = ofSmallPieces, longestPiece = longest) {
    this.#questionsPerLook = questionsPerLook
    this.#longest = longestPiece
  }

  get isOver(): boolean {
    if (++this.#questions > unpractised && this.#questions % this.#questionsPerLook !== 0) return false
    return performance.now() - this.#began >= this.#longest
  }

  /** Resolves when all that waited has had its turn. */
  async next(): Promise<void> {
    await this.inLine((wake) => waiting.push(wake))
    this.restart()
  }

  /** A new turn begins by itself: it came to this in a round of the event loop of its own. */
  restart(): void {
    this.#began = performance.now()
  }

  protected async inLine(enter: (wake: () => void) => void): Promise<void> {
    await new Promise<void>((resolve) => {
      enter(resolve)
      if (waiting.length + waitingPatiently.length === 1) setImmediate(callNext)
    })
  }
}

/** Begins in a round of the event loop of its own: what is begun together would block it together. */
export async function inOwnTurn<T>(act: () => Promise<T>): Promise<T> {
  await new Turn().next()
  return act()
}

/** Milliseconds after urgent work in which the next of it is to be expected: changes come one after the other. */
const lull = 30

/** How much urgent work is under way, and until when more of it is to be expected. */
let urgentCount = 0
let urgentUntil = Number.NEGATIVE_INFINITY

/** Work that others shall not delay: reading the whole kernel state makes room for it. */
export async function urgently<T>(act: () => Promise<T>): Promise<T> {
  urgentCount++
  try {
    return await act()
  } finally {
    urgentCount--
    urgentUntil = performance.now() + lull
  }
}

/** A turn of work that can wait: others go first, and while something is urgent it goes on only once in a while. */
export class PatientTurn extends Turn {
  constructor(questionsPerLook = ofSmallPieces) {
    super(questionsPerLook, longestPatient)
  }

  override async next(): Promise<void> {
    const since = performance.now()
    const round = (): Promise<void> => this.inLine((wake) => waitingPatiently.push({ wake, since }))
    await round()
    const now = performance.now()
    if (urgentCount > 0 || now < urgentUntil) {
      await sleep(Math.max(0, since + patience - now))
      await round()
    }
    this.restart()
  }
}

/** What each becomes, in turns with others; what becomes nothing is left out. */
export async function mapInTurns<A, B>(
  list: Iterable<A>,
  make: (one: A) => B | undefined,
  turn: Turn = new Turn(),
): Promise<B[]> {
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
