import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { ProxyError } from '../../../src/lib/errors.ts'
import { targets } from './targets.ts'

/** `npm run fuzz` takes a million of each, or of those that FUZZ_TARGET names. */
const runs = Number(process.env.FUZZ_RUNS ?? 2000)
const seed = Number(process.env.FUZZ_SEED ?? 1)
const chosen = targets.filter(({ name }) => name.includes(process.env.FUZZ_TARGET ?? ''))

test.each(chosen)('whatever comes as $name is read or refused', { timeout: 7_200_000 }, async ({ inputs, take }) => {
  let refused = 0
  await fc.assert(
    fc.asyncProperty(inputs as fc.Arbitrary<never>, async (input) => {
      try {
        await take(input)
      } catch (error) {
        if (!(error instanceof ProxyError)) throw error
        refused++
      }
    }),
    { numRuns: runs, seed, endOnFailure: false },
  )
  // Inputs that are all refused would say nothing of what lies behind the first check.
  expect(refused).toBeLessThan(runs)
})
