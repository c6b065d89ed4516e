import type { ExplainParts } from '../explain/explain.ts'
import { openLiveState, type LiveState } from '../explain/live-state.ts'
import { serverKey } from '../model/virtual-server.ts'
import type { Family } from '../model/address.ts'
import { traceText } from './text.ts'
import { trace, type TraceReport, type TraceRequest } from './trace.ts'

/** Traces in this network namespace until it is over or a signal ends it. */
export async function traceHere(
  request: TraceRequest,
  parts: Omit<ExplainParts, 'kernel'>,
  say: (line: string) => void,
): Promise<TraceReport> {
  const open: LiveState[] = []
  const kernel = async (family: Family): Promise<LiveState> => {
    const state = await openLiveState(family)
    open.push(state)
    return state
  }
  const ended = new AbortController()
  // Ctrl-C is how one ends it: what was seen until then is told. A second one ends the process; helpers clean up after it.
  const end = (): void => ended.abort()
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const signal of signals) process.once(signal, end)
  try {
    return await trace(request, { ...parts, kernel }, ended.signal, (target) => {
      const seconds = request.limit / 1000
      say(`Following packets to ${serverKey(target)} for ${seconds} s at most; Ctrl-C ends it`)
    })
  } finally {
    for (const signal of signals) process.removeListener(signal, end)
    for (const state of open) state.close()
  }
}

/** What the command prints. Throws ProxyError. */
export function printed(report: TraceReport, output: 'text' | 'json'): string {
  if (output === 'text') return traceText(report)
  // The steps are in the list already.
  const leaveOut = (key: string, value: unknown): unknown => (key === 'way' ? undefined : value)
  return `${JSON.stringify(report, leaveOut, 2)}\n`
}
