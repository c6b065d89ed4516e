import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Namespace } from '../lab.ts'
import type { CampaignResult } from './campaign.ts'

/** The beginning of a campaign that scripts/verify-long.sh runs whole: what the time allows of so many rounds, these few at least. */
const share = { rounds: 80, seconds: 30, fewest: 10 }
const seed = 1

let namespace: Namespace

beforeAll(() => {
  namespace = new Namespace('churn')
})
afterAll(() => namespace.destroy())

/** Signals by which V8 dies now and then under emulation, never on a machine: they say nothing of the proxy. */
const emulatorFaults: readonly unknown[] = ['SIGSEGV', 'SIGTRAP']

interface Ending {
  readonly status: readonly unknown[]
  readonly output: string
  readonly trouble: string
}

async function campaign(): Promise<Ending> {
  const env = {
    ...process.env,
    CHURN_SEED: String(seed),
    CHURN_ROUNDS: String(share.rounds),
    CHURN_SECONDS: String(share.seconds),
    CHURN_FEWEST: String(share.fewest),
  }
  const child = namespace.spawn('node', [join(import.meta.dirname, 'main.ts')], env)
  const ended = once(child, 'exit')
  const [output, trouble] = await Promise.all([text(child.stdout!), text(child.stderr!)])
  return { status: await ended, output, trouble }
}

test('rounds of churn with faults: the kernel is as a plan from scratch says', async () => {
  let ending = await campaign()
  for (let triesLeft = 2; triesLeft > 0 && emulatorFaults.includes(ending.status[1]); triesLeft--) {
    namespace.destroy()
    namespace = new Namespace('churn')
    ending = await campaign()
  }
  expect(ending.status, ending.trouble).toEqual([0, null])
  const result = JSON.parse(ending.output) as CampaignResult
  console.log(ending.output.trim())
  expect(result.rounds).toBeGreaterThanOrEqual(share.fewest)
})
