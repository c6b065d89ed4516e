import { appendFileSync } from 'node:fs'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { runCampaign } from '../kernel/churn/campaign.ts'
import { FakeWorld } from '../kernel/churn/fake-world.ts'

// The daemon's clock stands still but for the pauses: the same seed gives the same calls in the same order.
beforeEach(() => vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(() => vi.useRealTimers())

const { CHURN_SEED, CHURN_ROUNDS = '250', CHURN_OUT } = process.env

/** Where events come in the midst of passes only the end can be judged; where they do not, each single write. */
const campaigns = [
  { seed: Number(CHURN_SEED ?? 1), guarded: false, what: 'events in the midst of passes' },
  { seed: Number(CHURN_SEED ?? 2), guarded: true, what: 'each write judged' },
]

test.each(campaigns)(
  '$what, seed $seed: the fakes are as a plan from scratch says',
  async ({ seed, guarded }) => {
    const world = new FakeWorld((milliseconds) => vi.advanceTimersByTimeAsync(milliseconds))
    const rounds = Number(CHURN_ROUNDS)
    const result = await runCampaign({
      seed,
      rounds,
      world,
      syncPeriod: 5,
      longestPause: 20,
      patience: 1000,
      secondLook: 1,
      guarded,
    })
    if (CHURN_OUT !== undefined) appendFileSync(CHURN_OUT, `${JSON.stringify(result)}\n`)
    expect(result.rounds).toBe(rounds)
  },
  3_600_000,
)
