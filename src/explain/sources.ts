import type { Client } from '../kube/client.ts'
import { listObjects } from '../kube/list.ts'
import { ManifestsSource } from '../kube/manifests.ts'
import { isJson, translateEndpointSlice, translateNode, translateService } from '../kube/translate.ts'
import { ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { canonicalAddress, type Protocol } from '../model/address.ts'
import type { EndpointSliceRecord, NodeRecord, ServiceRecord } from '../model/cluster.ts'
import { portAt, type Cluster } from './cluster.ts'

/** The Service that has an address of its own with a port, before one that has the port as its node port. */
class BestMatch {
  readonly #asked: readonly [address: string, port: number, protocol: Protocol]
  #own: ServiceRecord | undefined
  #byNodePort: ServiceRecord | undefined

  constructor(address: string, port: number, protocol: Protocol) {
    this.#asked = [address, port, protocol]
  }

  see(service: ServiceRecord): void {
    if (portAt(service, ...this.#asked, false)) this.#own ??= service
    else if (portAt(service, ...this.#asked, true)) this.#byNodePort ??= service
  }

  get service(): ServiceRecord | undefined {
    return this.#own ?? this.#byNodePort
  }
}

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
      const found = new BestMatch(address, port, protocol)
      for (const service of services.values()) found.see(service)
      return found.service
    },
    slices: async (key) => slices.filter((slice) => slice.service === key),
    node: async () => node,
    podAddresses: async () => [],
  }
}

/**
 * Objects of the API server: the one Service, its slices and the own Node; all Services only where the server cannot find
 * one by an address. Throws ProxyError API.
 */
export function apiCluster(client: Pick<Client, 'get'>, nodeName: string, signal: AbortSignal): Cluster {
  const ignore = (): void => {}
  const read = async (path: string): Promise<unknown> => {
    const response = await client.get(path, signal)
    let text = ''
    for await (const chunk of response.body) text += chunk.toString('utf8')
    if (response.status === 404) return undefined
    if (response.status !== 200) {
      const advice = response.status === 403 ? { advice: 'the account of this command may not read that' } : {}
      throw new ProxyError('API', `the API server answers ${response.status} to GET ${path}`, {
        object: path,
        ...advice,
      })
    }
    return JSON.parse(text)
  }
  /** The daemon's account may list, not get. */
  const named = (path: string, name: string): Promise<readonly unknown[]> =>
    items(`${path}?fieldSelector=${encodeURIComponent(`metadata.name=${name}`)}`)
  const items = async (path: string): Promise<readonly unknown[]> => {
    const list = await read(path)
    return isJson(list) && Array.isArray(list.items) ? list.items : []
  }
  return {
    service: async (key) => {
      const [namespace = '', name = ''] = key.split('/')
      const [found] = await named(`/api/v1/namespaces/${encodeURIComponent(namespace)}/services`, name)
      return found === undefined ? undefined : translateService(found, ignore)
    },
    serviceAt: async (address, port, protocol) => {
      const found = await items(`/api/v1/services?fieldSelector=${encodeURIComponent(`spec.clusterIP=${address}`)}`)
      const match = new BestMatch(address, port, protocol)
      const see = (item: unknown): void => {
        const service = translateService(item, ignore)
        if (service !== undefined) match.see(service)
      }
      for (const item of found) see(item)
      // There is a field selector for one cluster IP alone, and none for other addresses and node ports.
      if (match.service === undefined) await listObjects(client, { path: '/api/v1/services' }, see, signal)
      return match.service
    },
    slices: async (key) => {
      const [namespace = '', name = ''] = key.split('/')
      const selector = encodeURIComponent(`kubernetes.io/service-name=${name}`)
      const path = `/apis/discovery.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/endpointslices`
      const found = await items(`${path}?labelSelector=${selector}`)
      return found.flatMap((item) => translateEndpointSlice(item, nodeName, ignore) ?? [])
    },
    node: async () => {
      const [found] = await named('/api/v1/nodes', nodeName)
      return found === undefined ? undefined : translateNode(found, ignore)
    },
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
