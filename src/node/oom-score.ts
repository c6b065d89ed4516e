import { writeFileSync } from 'node:fs'
import { describeError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'

/** Tells the kernel how readily to end this process when memory is short (proc(5), oom_score_adj). Failure is logged. */
export function adjustOomScore(value: number, log: Log, path = '/proc/self/oom_score_adj'): void {
  try {
    writeFileSync(path, String(value))
  } catch (error) {
    // Lowering it takes CAP_SYS_RESOURCE, which the daemon needs for nothing else.
    log.v(1, 'oomScoreAdj could not be set; the Pod’s own value stays', {
      oomScoreAdj: value,
      error: describeError(error),
    })
  }
}
