import { runCommand } from '../lib/process.ts'
import type { Family } from '../model/address.ts'
import { explain, type ExplainParts, type Explanation, type ExplainRequest } from './explain.ts'
import { openLiveState, type LiveState } from './live-state.ts'
import type { KernelState } from './kernel-state.ts'
import { explanationText } from './text.ts'

export interface RunExplainArgs extends ExplainRequest {
  readonly output: 'text' | 'json'
}

/** Explains over the kernel of this network namespace, and lets it go. Rejects when the signal fires. */
export async function explainHere(
  request: ExplainRequest,
  parts: Omit<ExplainParts, 'kernel'>,
  signal?: AbortSignal,
): Promise<Explanation> {
  const open: LiveState[] = []
  const kernel = async (family: Family): Promise<KernelState> => {
    const state = await openLiveState(family, (command, args, options) =>
      runCommand(command, args, signal === undefined ? options : { ...options, signal }),
    )
    open.push(state)
    return signal === undefined ? state : until(signal, state)
  }
  try {
    return await explain(request, { ...parts, kernel })
  } finally {
    for (const state of open) state.close()
  }
}

/** The same kernel, which answers no more once the signal has fired: the walk ends at its next question. */
function until(signal: AbortSignal, kernel: KernelState): KernelState {
  signal.throwIfAborted()
  const ask =
    <A extends unknown[], R>(question: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      signal.throwIfAborted()
      const answer = await question(...args)
      signal.throwIfAborted()
      return answer
    }
  return {
    ...kernel,
    inSet: ask((...args: Parameters<KernelState['inSet']>) => kernel.inSet(...args)),
    hasEntry: ask((...args: Parameters<KernelState['hasEntry']>) => kernel.hasEntry(...args)),
    server: ask((...args: Parameters<KernelState['server']>) => kernel.server(...args)),
    route: ask((...args: Parameters<KernelState['route']>) => kernel.route(...args)),
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
