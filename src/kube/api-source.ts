import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { inOwnTurn } from '../lib/turn.ts'
import type { ClusterKind, ClusterListener, ClusterSource } from '../model/cluster.ts'
import type { Client } from './client.ts'
import { Reflector } from './reflector.ts'
import type { ReflectorOptions, ReflectorState, ReflectorTimes } from './reflector.ts'
import { ProblemLog, translateEndpointSlice, translateNode, translateService } from './translate.ts'
import type { Report } from './translate.ts'

export interface ApiSourceOptions {
  readonly client: Pick<Client, 'get'>
  readonly nodeName: string
  readonly log: Log
  readonly times?: Partial<ReflectorTimes>
  readonly clock?: Clock
  readonly random?: () => number
}

const UNHANDLED: ReflectorState = { listed: false, lastContact: 0, failingSince: undefined, lastError: undefined }
const SELECTOR = '!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless'

/** Where the API has each kind, and which of its objects are asked for. */
export const resources = {
  services: {
    path: '/api/v1/services',
    labelSelector: SELECTOR,
    fieldSelector: 'spec.clusterIP!=None',
    fieldSelectorOptional: true,
  },
  endpointslices: { path: '/apis/discovery.k8s.io/v1/endpointslices', labelSelector: SELECTOR },
  node: (name: string) => ({ path: '/api/v1/nodes', fieldSelector: `metadata.name=${name}` }),
} as const

/** Services, EndpointSlices and the own Node from the API server. */
export class ApiSource implements ClusterSource {
  readonly #options: ApiSourceOptions
  readonly #problems: ProblemLog
  readonly #reflectors = new Map<ClusterKind, { readonly state: ReflectorState }>()

  constructor(options: ApiSourceOptions) {
    this.#options = options
    this.#problems = new ProblemLog(options.log)
  }

  /** How the following of one kind goes. */
  state(kind: ClusterKind): ReflectorState {
    return this.#reflectors.get(kind)?.state ?? UNHANDLED
  }

  /** How the following of each kind goes, by the name that the API has for it. */
  states(): (ReflectorState & { readonly resource: string })[] {
    const of = (resource: string, kind: ClusterKind) => ({ resource, ...this.state(kind) })
    return [of('services', 'services'), of('endpointslices', 'endpointslices'), of('nodes', 'node')]
  }

  async run(listener: ClusterListener, signal: AbortSignal): Promise<void> {
    const { nodeName } = this.#options
    const kinds = [
      () =>
        this.#follow(signal, 'services', {
          ...resources.services,
          decode: (object, key, version) => translateService(object, this.#report(`Service ${key}`, version)),
          listener: {
            changed: (key, service) => listener.serviceChanged(key, service),
            synced: () => listener.synced('services'),
          },
        }),
      () =>
        this.#follow(signal, 'endpointslices', {
          ...resources.endpointslices,
          decode: (object, key, version) =>
            translateEndpointSlice(object, nodeName, this.#report(`EndpointSlice ${key}`, version)),
          listener: {
            changed: (key, slice) => listener.sliceChanged(key, slice),
            synced: () => listener.synced('endpointslices'),
          },
        }),
      () =>
        this.#follow(signal, 'node', {
          ...resources.node(nodeName),
          decode: (object, key, version) => translateNode(object, this.#report(`Node ${key}`, version)),
          listener: {
            // Of any other node nobody has asked.
            changed: (key, node) => {
              if (key === nodeName) listener.nodeChanged(node)
            },
            synced: () => listener.synced('node'),
          },
        }),
    ]
    await Promise.all(kinds.map(inOwnTurn))
  }

  #report(object: string, version: string): Report {
    return this.#problems.for(object, version)
  }

  #follow<T>(
    signal: AbortSignal,
    kind: ClusterKind,
    resource: Pick<
      ReflectorOptions<T>,
      'path' | 'labelSelector' | 'fieldSelector' | 'fieldSelectorOptional' | 'decode' | 'listener'
    >,
  ): Promise<void> {
    const { client, log, times, clock, random } = this.#options
    const reflector = new Reflector<T>({
      client,
      log,
      ...resource,
      ...(times === undefined ? {} : { times }),
      ...(clock === undefined ? {} : { clock }),
      ...(random === undefined ? {} : { random }),
    })
    this.#reflectors.set(kind, reflector)
    return reflector.run(signal)
  }
}
