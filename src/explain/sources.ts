import type { Client } from '../kube/client.ts'
import { ManifestsSource } from '../kube/manifests.ts'
import { isJson, translateEndpointSlice, translateNode, translateService } from '../kube/translate.ts'
import { ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { canonicalAddress } from '../model/address.ts'
import type { EndpointSliceRecord, NodeRecord, ServiceRecord } from '../model/cluster.ts'
import { portAt, type Cluster } from './cluster.ts'

/** Objects of a folder of manifests, read once. Throws ProxyError CONFIG where it cannot be read. */
export async function manifestCluster(directory: string, nodeName: string, log: Log): Promise<Cluster> {
  const services = new Map<string, ServiceRecord>()
  const slices: EndpointSliceRecord[] = []
  let node: NodeRecord | undefined
  const source = new ManifestsSource({ directory, nodeName, log })
  await source.check()
  const read = new AbortController()
  await source.run(
    {
      serviceChanged: (key, service) => void (service && services.set(key, service)),
      sliceChanged: (_key, slice) => void (slice && slices.push(slice)),
      nodeChanged: (record) => void (node = record),
      synced: () => read.abort(),
    },
    read.signal,
  )
  return {
    service: async (key) => services.get(key),
    serviceAt: async (address, port, protocol) => {
      const isNode = node?.addresses.includes(address) ?? false
      const all = [...services.values()]
      return (
        all.find((service) => portAt(service, address, port, protocol, isNode)) ??
        all.find((service) => portAt(service, address, port, protocol, true))
      )
    },
    slices: async (key) => slices.filter((slice) => slice.service === key),
    node: async () => node,
    podAddresses: async () => [],
  }
}

/** Objects of the API server: the one Service, its slices and the own Node. Throws ProxyError API. */
export function apiCluster(client: Pick<Client, 'get'>, nodeName: string, signal: AbortSignal): Cluster {
  const ignore = (): void => {}
  const read = async (path: string): Promise<unknown> => {
    const response = await client.get(path, signal)
    let text = ''
    for await (const chunk of response.body) text += chunk.toString('utf8')
    if (response.status === 404) return undefined
    if (response.status !== 200) {
      throw new ProxyError('API', `the API server answers ${response.status} to GET ${path}`, { object: path })
    }
    return JSON.parse(text)
  }
  const items = async (path: string): Promise<readonly unknown[]> => {
    const list = await read(path)
    return isJson(list) && Array.isArray(list.items) ? list.items : []
  }
  return {
    service: async (key) => {
      const [namespace = '', name = ''] = key.split('/').map(encodeURIComponent)
      return translateService(await read(`/api/v1/namespaces/${namespace}/services/${name}`), ignore)
    },
    serviceAt: async (address, port, protocol) => {
      const found = await items(`/api/v1/services?fieldSelector=${encodeURIComponent(`spec.clusterIP=${address}`)}`)
      const services = found.flatMap((item) => translateService(item, ignore) ?? [])
      return services.find((service) => portAt(service, address, port, protocol, false))
    },
    slices: async (key) => {
      const [namespace = '', name = ''] = key.split('/')
      const selector = encodeURIComponent(`kubernetes.io/service-name=${name}`)
      const path = `/apis/discovery.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/endpointslices`
      const found = await items(`${path}?labelSelector=${selector}`)
      return found.flatMap((item) => translateEndpointSlice(item, nodeName, ignore) ?? [])
    },
    node: async () => translateNode(await read(`/api/v1/nodes/${encodeURIComponent(nodeName)}`), ignore),
    podAddresses: async (key) => {
      const [namespace = '', name = ''] = key.split('/').map(encodeURIComponent)
      const pod = await read(`/api/v1/namespaces/${namespace}/pods/${name}`)
      const status = isJson(pod) && isJson(pod.status) ? pod.status : {}
      const listed = Array.isArray(status.podIPs) ? status.podIPs : []
      return listed.flatMap((entry) =>
        isJson(entry) && typeof entry.ip === 'string' ? (canonicalAddress(entry.ip) ?? []) : [],
      )
    },
  }
}
