import { resources } from '../kube/api-source.ts'
import type { Client } from '../kube/client.ts'
import { listObjects } from '../kube/list.ts'
import { ManifestsSource } from '../kube/manifests.ts'
import {
  isJson,
  objectKey,
  problemText,
  translateEndpointSlice,
  translateNode,
  translateService,
  type Report,
} from '../kube/translate.ts'
import type { Log } from '../lib/log.ts'
import type { ClusterKind, ClusterListener } from '../model/cluster.ts'

/** Where the objects come from: a folder, or the API server. */
export type ObjectSource = { readonly manifests: string } | { readonly client: Pick<Client, 'get'> }

export interface ClusterOptions {
  readonly source: ObjectSource
  readonly nodeName: string
  readonly log: Log
  /** Give up after so many milliseconds without the whole. */
  readonly timeoutMs?: number
}

/** Tells all Services, all EndpointSlices and the own Node once, as they are now. Throws ProxyError CONFIG or API. */
export async function readCluster(options: ClusterOptions, listener: ClusterListener): Promise<void> {
  const { source, nodeName, log, timeoutMs = 60_000 } = options
  if ('manifests' in source) {
    await readManifests(source.manifests, nodeName, log, listener)
    return
  }
  const { client } = source
  const signal = AbortSignal.timeout(timeoutMs)
  const report: Report = (problem) => log.error(problemText(problem))
  const told =
    <T>(translate: (object: unknown) => T | undefined, tell: (key: string, record: T) => void) =>
    (object: unknown): void => {
      const key = objectKey(object)
      const record = key === undefined ? undefined : translate(object)
      if (key !== undefined && record !== undefined) tell(key, record)
    }
  const node = told(
    (object) => translateNode(object, report),
    (_key, record) => listener.nodeChanged(record),
  )
  const service = told(
    (object) => translateService(object, report),
    (key, record) => listener.serviceChanged(key, record),
  )
  const slice = told(
    (object) => translateEndpointSlice(object, nodeName, report),
    (key, record) => listener.sliceChanged(key, record),
  )
  await Promise.all([
    listObjects(client, resources.node(nodeName), node, signal),
    listObjects(client, resources.services, service, signal),
    listObjects(client, resources.endpointslices, slice, signal),
  ])
  for (const kind of ['services', 'endpointslices', 'node'] as const) listener.synced(kind)
}

/** The folder is read by the daemon's own source, until it has told everything once. */
async function readManifests(directory: string, nodeName: string, log: Log, listener: ClusterListener): Promise<void> {
  const source = new ManifestsSource({ directory, nodeName, log })
  await source.check()
  const done = new AbortController()
  const waiting = new Set<ClusterKind>(['services', 'endpointslices', 'node'])
  const synced = (kind: ClusterKind): void => {
    listener.synced(kind)
    waiting.delete(kind)
    if (waiting.size === 0) done.abort()
  }
  await source.run({ ...listener, synced }, done.signal)
}

/** A pod behind an endpoint: "namespace/name", by the endpoint's address. */
export type PodNames = ReadonlyMap<string, string>

/** Which pods the endpoints of one slice belong to, by their addresses: the records of the daemon do not keep that. */
export function podNames(slice: unknown): PodNames {
  const names = new Map<string, string>()
  if (!isJson(slice) || !Array.isArray(slice.endpoints)) return names
  for (const endpoint of slice.endpoints as unknown[]) {
    if (!isJson(endpoint) || !isJson(endpoint.targetRef) || endpoint.targetRef.kind !== 'Pod') continue
    const { name, namespace } = endpoint.targetRef
    const [address] = Array.isArray(endpoint.addresses) ? (endpoint.addresses as unknown[]) : []
    if (typeof name !== 'string' || typeof address !== 'string') continue
    names.set(address, typeof namespace === 'string' ? `${namespace}/${name}` : name)
  }
  return names
}
