import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { ProxyError } from '../../../src/lib/errors.ts'
import { explore } from './coverage.ts'
import { targets } from './targets.ts'

/** `npm run fuzz` takes a million of each, or of those that FUZZ_TARGET names. */
const runs = Number(process.env.FUZZ_RUNS ?? 2000)
const seed = Number(process.env.FUZZ_SEED ?? 1)
const chosen = targets.filter(({ name }) => name.includes(process.env.FUZZ_TARGET ?? ''))

test.each(chosen)(
  'whatever comes as $name is read or refused',
  { timeout: 7_200_000 },
  async ({ inputs, decoders }) => {
    const refused = decoders.map(() => 0)
    await fc.assert(
      fc.asyncProperty(inputs as fc.Arbitrary<never>, async (input) => {
        for (const [i, decode] of decoders.entries()) {
          try {
            await decode(input)
          } catch (error) {
            if (!(error instanceof ProxyError)) throw error
            refused[i]!++
          }
        }
      }),
      { numRuns: runs, seed },
    )
    // Inputs that are all refused would say nothing of what lies behind the first check.
    for (const count of refused) expect(count).toBeLessThan(runs)
  },
)

/** Fewer: a look at the coverage takes tens of milliseconds. Of the few runs of a unit test, just enough to see it work. */
const guided = runs < 20_000 ? 20 : runs / 10

test.each(chosen.filter(({ corpus }) => corpus !== undefined))(
  'so is what coverage leads to, as $name',
  { timeout: 7_200_000 },
  async ({ corpus, decoders }) => {
    const run = async (input: Buffer): Promise<void> => {
      for (const decode of decoders) {
        try {
          await decode(input as never)
        } catch (error) {
          if (!(error instanceof ProxyError)) throw error
        }
      }
    }
    const grown = await explore(corpus!, run, guided, seed)
    expect(grown.length).toBeGreaterThanOrEqual(corpus!.length)
  },
)
