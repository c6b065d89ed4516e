import { expect, test } from 'vitest'
import type { CampaignResult } from './campaign.ts'

/** scripts/verify-long.sh kills 500 times, with a thousand Services and another seed. */
const kills = Number(process.env.CRASH_KILLS ?? 2)
if (process.env.CRASH_KILLS === undefined) process.env.CRASH_FILES = '2'
const { Campaign } = await import('./campaign.ts')
const seed = Number(process.env.CRASH_SEED ?? 1)

test('killed at any moment, the next start makes the kernel as planned, and nobody is answered wrongly', async () => {
  const tell = (result: CampaignResult): void => console.log(JSON.stringify(result))
  const result = await new Campaign({ seed, kills, onProgress: tell }).run()
  tell(result)
  expect(result.wrong).toEqual([])
  expect(result.kills.cold + result.kills.start + result.kills.change).toBe(kills)
  expect(result.answered).toBeGreaterThan(kills * 10)
}, 21_600_000)
