// Explains in the network namespace that it is started in, on orders that come as lines of JSON: lists of requests.
// Arguments: the folder of manifests and the node's name. Each answer is a line: a list of explanations, each as an
// object and as text, with the milliseconds it took.
import { createInterface } from 'node:readline'
import { manifestCluster } from '../../src/explain/sources.ts'
import { explain, type ExplainRequest } from '../../src/explain/explain.ts'
import { openLiveState, type LiveState } from '../../src/explain/live-state.ts'
import { explanationText } from '../../src/explain/text.ts'
import type { PlanSettings } from '../../src/explain/wanted.ts'
import { createLog } from '../../src/lib/log.ts'
import type { Family } from '../../src/model/address.ts'

const [, , folder = '', node = ''] = process.argv
const settings: PlanSettings = {
  nodeName: node,
  scheduler: 'rr',
  nodePortRanges: [],
  nodeIPs: [],
  strictExternal: false,
  masqueradeBit: 14,
  masqueradeAll: false,
  localDetector: (family) => ({ kind: 'cidr', cidr: family === 'IPv4' ? '10.244.0.0/16' : 'fd44::/16' }),
}
const cluster = await manifestCluster(folder, node, createLog(0))
for await (const line of createInterface({ input: process.stdin })) {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the test beside it writes it
  const requests = JSON.parse(line) as readonly ExplainRequest[]
  // One state for a list: what it has asked once is not asked again.
  const open = new Map<Family, LiveState>()
  const kernel = async (family: Family): Promise<LiveState> => {
    if (!open.has(family)) open.set(family, await openLiveState(family))
    return open.get(family)!
  }
  const answers = []
  for (const request of requests) {
    const began = performance.now()
    const explanation = await explain(request, { kernel, cluster, settings })
    answers.push({ explanation, text: explanationText(explanation), took: performance.now() - began })
  }
  for (const state of open.values()) state.close()
  process.stdout.write(`${JSON.stringify(answers)}\n`)
}
