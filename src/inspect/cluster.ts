import { resources } from '../kube/api-source.ts'
import type { Client } from '../kube/client.ts'
import { listObjects, type Listing } from '../kube/list.ts'
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
  /** "namespace/name": this Service and its EndpointSlices do; a folder tells the others as well. */
  readonly only?: string
  /** Hears of each EndpointSlice as it was read, with `only` of those of that Service. */
  readonly onSlice?: (object: unknown) => void
  /** The same of each Service. */
  readonly onService?: (object: unknown) => void
}

/** Tells all Services, all EndpointSlices and the own Node once, as they are now. Throws ProxyError CONFIG or API. */
export async function readCluster(options: ClusterOptions, listener: ClusterListener): Promise<void> {
  const { source, nodeName, log, timeoutMs = 60_000, onSlice, onService } = options
  if ('manifests' in source) {
    await readManifests(source.manifests, options, listener)
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
  const { services, endpointslices } = listingsOf(options.only)
  const heard = (object: unknown): void => {
    if (options.only !== undefined && serviceOf(object) !== options.only) return
    onSlice?.(object)
    slice(object)
  }
  await Promise.all([
    listObjects(client, resources.node(nodeName), node, signal),
    listObjects(
      client,
      services,
      (object) => {
        onService?.(object)
        service(object)
      },
      signal,
    ),
    listObjects(client, endpointslices, heard, signal),
  ])
  for (const kind of ['services', 'endpointslices', 'node'] as const) listener.synced(kind)
}

function listingsOf(only: string | undefined): { services: Listing; endpointslices: Listing } {
  if (only === undefined) return resources
  const [namespace, name] = only.split('/')
  const { services, endpointslices } = resources
  return {
    services: { path: services.path, fieldSelector: `metadata.namespace=${namespace},metadata.name=${name}` },
    endpointslices: {
      path: endpointslices.path,
      labelSelector: `${endpointslices.labelSelector},kubernetes.io/service-name=${name}`,
    },
  }
}

/** The folder is read by the daemon's own source, until it has told everything once. */
async function readManifests(
  directory: string,
  { nodeName, log, only, onSlice, onService }: ClusterOptions,
  listener: ClusterListener,
): Promise<void> {
  const onObject = (object: Readonly<Record<string, unknown>>): void => {
    if (object.kind === 'Service') onService?.(object)
    if (object.kind !== 'EndpointSlice') return
    if (only === undefined || serviceOf(object) === only) onSlice?.(object)
  }
  const source = new ManifestsSource({ directory, nodeName, log, onObject })
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

/** The Service that an EndpointSlice belongs to, "namespace/name". */
function serviceOf(slice: unknown): string {
  const metadata = isJson(slice) && isJson(slice.metadata) ? slice.metadata : {}
  const labels = isJson(metadata.labels) ? metadata.labels : {}
  return `${String(metadata.namespace)}/${String(labels['kubernetes.io/service-name'])}`
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
