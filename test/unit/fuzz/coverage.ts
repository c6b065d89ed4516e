import { Session } from 'node:inspector/promises'
import { Random } from '../../random.ts'
import { edited } from './mutation.ts'

/** So many inputs are run between two looks at the coverage, which cost as much as hundreds of inputs. */
const batch = 100
const longestInput = 20_000

/** What of src has run since the last look: blocks, by V8's own counts, and whether once or many times. */
class Coverage {
  readonly #session = new Session()

  async start(): Promise<void> {
    this.#session.connect()
    await this.#session.post('Profiler.enable')
    await this.#session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })
  }

  async take(): Promise<Set<string>> {
    const { result } = await this.#session.post('Profiler.takePreciseCoverage')
    const blocks = new Set<string>()
    for (const { url, functions } of result) {
      if (!url.includes('/src/') || url.includes('node_modules')) continue
      for (const { ranges } of functions) {
        for (const { startOffset, endOffset, count } of ranges) {
          if (count > 0) blocks.add(`${url} ${startOffset} ${endOffset} ${Math.min(4, Math.floor(Math.log2(count)))}`)
        }
      }
    }
    return blocks
  }

  stop(): void {
    this.#session.disconnect()
  }
}

/**
 * Runs inputs near those of the corpus; one that reaches code which none before it has reached joins the corpus, so that
 * later ones go on from there. Answers the corpus.
 */
export async function explore(
  corpus: readonly Buffer[],
  run: (input: Buffer) => Promise<void>,
  count: number,
  seed: number,
): Promise<readonly Buffer[]> {
  const coverage = new Coverage()
  await coverage.start()
  try {
    const random = new Random(seed)
    const grown = [...corpus]
    for (const input of grown) await run(input)
    const seen = await coverage.take()
    const next = (): Buffer => {
      let bytes = grown[random.below(grown.length)]!
      for (let edits = 1 + random.below(4); edits > 0; edits--) {
        const step = [random.below(8), random.below(0x10000), random.below(0x10000), random.below(0x100)] as const
        bytes = edited(bytes, grown[random.below(grown.length)]!, step)
      }
      return bytes.subarray(0, longestInput)
    }
    for (let done = 0; done < count; done += batch) {
      const inputs = Array.from({ length: Math.min(batch, count - done) }, next)
      for (const input of inputs) await run(input)
      if ((await coverage.take()).isSubsetOf(seen)) continue
      for (const input of inputs) {
        await run(input)
        const reached = (await coverage.take()).difference(seen)
        if (reached.size > 0) grown.push(input)
        for (const block of reached) seen.add(block)
      }
    }
    return grown
  } finally {
    coverage.stop()
  }
}
