import type { Family } from '../model/address.ts'
import { explain, type ExplainParts, type Explanation, type ExplainRequest } from './explain.ts'
import { openLiveState, type LiveState } from './live-state.ts'
import { explanationText } from './text.ts'

export interface RunExplainArgs extends ExplainRequest {
  readonly output: 'text' | 'json'
}

/** Explains over the kernel of this network namespace, and lets it go. */
export async function explainHere(request: ExplainRequest, parts: Omit<ExplainParts, 'kernel'>): Promise<Explanation> {
  const open: LiveState[] = []
  const kernel = async (family: Family): Promise<LiveState> => {
    const state = await openLiveState(family)
    open.push(state)
    return state
  }
  try {
    return await explain(request, { ...parts, kernel })
  } finally {
    for (const state of open) state.close()
  }
}

/** What the command prints. Throws ProxyError CONFIG for a target or source that is none. */
export async function runExplain(
  { output, ...request }: RunExplainArgs,
  parts: Omit<ExplainParts, 'kernel'>,
): Promise<string> {
  const explanation = await explainHere(request, parts)
  return output === 'json' ? `${JSON.stringify(explanation, null, 2)}\n` : explanationText(explanation)
}
