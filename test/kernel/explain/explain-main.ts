// Explains, and runs doctor's checks, in the network namespace that it is started in: starting the program for each answer
// would cost seconds in an emulated machine. Arguments: the folder of manifests and the node's name. Orders come as lines
// of JSON, a list of requests to explain or "doctor"; each answer is a line.
import { createInterface } from 'node:readline'
import { parseFlags } from '../../../src/cli/flags.ts'
import { manifestCluster } from '../../../src/explain/sources.ts'
import { explain, type Explanation, type ExplainRequest } from '../../../src/explain/explain.ts'
import { openLiveState, type LiveState } from '../../../src/explain/live-state.ts'
import { explanationText } from '../../../src/explain/text.ts'
import { examine, type Finding } from '../../../src/inspect/checks.ts'
import { readFacts } from '../../../src/inspect/facts.ts'
import { proxyOf } from '../../../src/inspect/report.ts'
import { lookAtKernel, withKernel } from '../../../src/inspect/look.ts'
import { openInspection } from '../../../src/inspect/setup.ts'
import type { Family } from '../../../src/model/address.ts'

export interface Answer {
  readonly explanation: Explanation
  readonly text: string
  /** Milliseconds. */
  readonly took: number
}

const [, , folder = '', ...flags] = process.argv
const line = await parseFlags(['doctor', `--manifests=${folder}`, ...flags])
const inspection = await openInspection(line)
const { nodeName, settings, notes } = inspection
const cluster = await manifestCluster(folder, nodeName, notes)

/** One state for a list: what it has asked once is not asked again. */
async function explainAll(requests: readonly ExplainRequest[]): Promise<readonly Answer[]> {
  const open = new Map<Family, Promise<LiveState>>()
  const kernel = (family: Family): Promise<LiveState> => {
    if (!open.has(family)) open.set(family, openLiveState(family))
    return open.get(family)!
  }
  const answers: Answer[] = []
  for (const request of requests) {
    const began = performance.now()
    const explanation = await explain(request, { kernel, cluster, settings })
    answers.push({ explanation, text: explanationText(explanation), took: performance.now() - began })
  }
  for (const state of open.values()) (await state).close()
  return answers
}

function doctor(): Promise<readonly Finding[]> {
  return withKernel(async (kernel) => {
    // What it has copied of the kernel's state serves once.
    const inspection = await openInspection(line)
    const proxy = await proxyOf(inspection)
    return examine(await readFacts(inspection, kernel, await lookAtKernel(inspection, kernel), proxy))
  })
}

for await (const line of createInterface({ input: process.stdin })) {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- lab.ts writes it
  const order = JSON.parse(line) as readonly ExplainRequest[] | 'doctor'
  const answer = order === 'doctor' ? await doctor() : await explainAll(order)
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
