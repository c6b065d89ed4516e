// One campaign of forecasts against packets. Prints one line of JSON at the end; how far it has come and each mistake go to
// standard error. Started by scripts/verify-long.sh.
import { startCampaign } from './campaign.ts'

const number = (name: string, otherwise: number): number => Number(process.env[name] ?? otherwise)

const seed = number('EXPLAIN_SEED', 1)
const result = await startCampaign(
  {
    seed,
    combinations: number('EXPLAIN_COMBINATIONS', 600),
    perState: number('EXPLAIN_PER_STATE', 12),
    seconds: number('EXPLAIN_SECONDS', Number.POSITIVE_INFINITY),
    onState: (done) => console.error(`seed ${seed}: ${done} combinations`),
  },
  number('EXPLAIN_SERVICES', 24),
)
for (const text of result.mistakes) console.error(text)
console.log(JSON.stringify({ ...result, mistakes: result.mistakes.length }))
process.exitCode = result.mistakes.length === 0 ? 0 : 1
