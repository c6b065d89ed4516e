import type { ServicePortRecord, ServiceRecord } from '../model/cluster.ts'
import {
  chooseEndpoints,
  endpointKey,
  explainChoice,
  type PortEndpoint,
  type Topology,
} from '../proxier/endpoint-choice.ts'

/** One endpoint of a service port, and whether an address of the Service sends to it. */
export interface Eligibility {
  /** "10.244.1.2:8080" */
  readonly endpoint: string
  readonly isLocal: boolean
  readonly isEligible: boolean
  /** Why it is, or is not. */
  readonly reason: string
}

/** By the policy of the address asked: internal for the cluster IP, external for all others (`planPort`). */
export function judgeEndpoints(
  service: ServiceRecord,
  port: ServicePortRecord,
  endpoints: readonly PortEndpoint[],
  topology: Topology,
  isClusterIP: boolean,
): readonly Eligibility[] {
  const choice = chooseEndpoints(service, port, endpoints, topology)
  const localOnly = isClusterIP ? service.internalLocal : service.externalLocal
  const hasLocal = localOnly && (choice.local?.length ?? 0) > 0
  const chosen = hasLocal ? choice.local! : (choice.cluster ?? [])
  const policy = isClusterIP ? 'internalTrafficPolicy' : 'externalTrafficPolicy'
  return explainChoice(choice, endpoints, topology).map(({ endpoint, cluster, local }) => {
    const isEligible = chosen.includes(endpoint)
    const condition = endpoint.ready ? 'ready' : 'terminating and still serving, none is ready'
    const fallback = localOnly && !hasLocal ? `; ${policy} is Local, and no endpoint of this node can be used` : ''
    const excluded = localOnly && (hasLocal || choice.cluster === undefined) ? local : cluster
    return {
      endpoint: endpointKey(endpoint),
      isLocal: endpoint.local,
      isEligible,
      reason: isEligible ? `${condition}${fallback}` : (excluded ?? 'not chosen'),
    }
  })
}
