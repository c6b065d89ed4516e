import { parseDuration } from './config/duration.ts'
import type { Cluster } from './explain/cluster.ts'
import { runExplain } from './explain/run.ts'
import type { Inspection } from './inspect/setup.ts'
import { describeError } from './lib/errors.ts'

/** The packet's way; without the cluster's objects where they cannot be had. Answers the exit code. */
export async function runExplanation(inspection: Inspection): Promise<number> {
  const { command, settings } = inspection
  const from = command.options.get('from')
  const request = { target: command.argument, output: command.output, ...(from === undefined ? {} : { from }) }
  const text = await withCluster(inspection, (cluster) => runExplain(request, { settings, ...cluster }))
  process.stdout.write(text)
  return 0
}

/** Live packets' way. Answers 1 where none came. */
export async function runTrace(inspection: Inspection): Promise<number> {
  const { command, settings } = inspection
  const { options } = command
  const from = options.get('from')
  const request = {
    target: command.argument,
    ...(from === undefined ? {} : { from }),
    limit: parseDuration(options.get('for') ?? '30s') ?? 30_000,
    count: Number(options.get('count') ?? 5),
    packets: options.get('packets') === 'all' ? ('all' as const) : ('opening' as const),
    kernelDebug: options.has('kernel-debug'),
  }
  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  const { printed, traceHere } = await import('./trace/run.ts')
  const report = await withCluster(inspection, (cluster) => traceHere(request, { settings, ...cluster }, say))
  process.stdout.write(printed(report, command.output))
  return report.flows.length === 0 ? 1 : 0
}

async function withCluster<T>(
  inspection: Inspection,
  act: (cluster: { readonly cluster?: Cluster }) => Promise<T>,
): Promise<T> {
  const ended = new AbortController()
  const cluster = await clusterOf(inspection, ended.signal).catch((error: unknown) => {
    process.stderr.write(`Without the cluster's objects: ${describeError(error)}\n`)
    return undefined
  })
  try {
    return await act(cluster === undefined ? {} : { cluster })
  } finally {
    ended.abort()
  }
}

async function clusterOf({ source, nodeName, notes }: Inspection, signal: AbortSignal): Promise<Cluster> {
  const found = await source()
  const { apiCluster, manifestCluster } = await import('./explain/sources.ts')
  if ('manifests' in found) return manifestCluster(found.manifests, nodeName, notes)
  return apiCluster(found.client, nodeName, signal)
}
