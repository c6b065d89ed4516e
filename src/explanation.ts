import type { Cluster } from './explain/cluster.ts'
import { runExplain } from './explain/run.ts'
import type { Inspection } from './inspect/setup.ts'
import { describeError } from './lib/errors.ts'

/** The packet's way; without the cluster's objects where they cannot be had. Answers the exit code. */
export async function runExplanation(inspection: Inspection): Promise<number> {
  const { command, settings } = inspection
  const ended = new AbortController()
  const cluster = await clusterOf(inspection, ended.signal).catch((error: unknown) => {
    process.stderr.write(`Without the cluster's objects: ${describeError(error)}\n`)
    return undefined
  })
  const from = command.options.get('from')
  const request = { target: command.argument, output: command.output, ...(from === undefined ? {} : { from }) }
  const text = await runExplain(request, { settings, ...(cluster === undefined ? {} : { cluster }) })
  process.stdout.write(text)
  ended.abort()
  return 0
}

async function clusterOf({ source, nodeName, notes }: Inspection, signal: AbortSignal): Promise<Cluster> {
  const found = await source()
  const { apiCluster, manifestCluster } = await import('./explain/sources.ts')
  if ('manifests' in found) return manifestCluster(found.manifests, nodeName, notes)
  return apiCluster(found.client, nodeName, signal)
}
