// One campaign in the network namespace of this process, which is its own. Prints one line of JSON at the end, and while
// CHURN_TELL is set how far it has come. Started by churn.test.ts and by scripts/verify-long.sh.
import { runCampaign } from './campaign.ts'
import { KernelWorld } from './kernel-world.ts'

const number = (name: string, otherwise: number): number => Number(process.env[name] ?? otherwise)

const world = await KernelWorld.open()
try {
  const started = Date.now()
  const result = await runCampaign({
    seed: number('CHURN_SEED', 1),
    rounds: number('CHURN_ROUNDS', 60),
    seconds: number('CHURN_SECONDS', Number.POSITIVE_INFINITY),
    fewest: number('CHURN_FEWEST', 0),
    world,
    syncPeriod: number('CHURN_SYNC_PERIOD', 1000),
    longestPause: number('CHURN_PAUSE', 150),
    secondLook: 5,
    patience: 120_000,
    onRound: (round) => {
      if (process.env.CHURN_TELL === undefined || round % 20 !== 0) return
      console.error(
        `seed ${process.env.CHURN_SEED}: round ${round} after ${Math.round((Date.now() - started) / 1000)} s`,
      )
    },
  })
  console.log(JSON.stringify(result))
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
} finally {
  world.close()
}
