import type { Family } from '../../../src/model/address.ts'
import { addressOf, families, serviceAddress, type NodeName, type Pod, type Transport } from './network.ts'

/** "ready" is what most are; "leaving": terminating and still serving; "gone": neither ready nor serving. */
export type State = 'ready' | 'leaving' | 'gone'

export interface EndpointShape {
  /** A pod; or a node, for a server on the host's network. */
  readonly at: Pod | NodeName
  readonly state?: State
  readonly hints?: Readonly<Record<string, unknown>>
}

export interface PortShape {
  readonly name: string
  readonly protocol: Transport
  readonly port: number
  readonly targetPort: number
  readonly nodePort?: number
}

export interface ServiceShape {
  readonly name: string
  /** Gives its addresses and its node port; 1 to 250. */
  readonly number: number
  readonly type?: 'ClusterIP' | 'NodePort' | 'LoadBalancer' | 'ExternalName'
  readonly endpoints: readonly (Pod | EndpointShape)[]
  /** Port 80 to 8080 over each; TCP and UDP where absent. */
  readonly transports?: readonly Transport[]
  /** Instead of `transports`. */
  readonly ports?: readonly PortShape[]
  /** Whether the status of one of type LoadBalancer has its VIPs; true where absent. */
  readonly hasVIP?: boolean
  /** Of its VIPs; none where absent, which is VIP. */
  readonly ipMode?: 'VIP' | 'Proxy'
  readonly spec?: Readonly<Record<string, unknown>>
  readonly metadata?: Readonly<Record<string, unknown>>
}

/** The node port of the Service with that number, of every transport. */
export function nodePortOf(number: number): number {
  return 30000 + number
}

function portsOf({ number, transports = ['TCP', 'UDP'], ports }: ServiceShape): readonly PortShape[] {
  return (
    ports ??
    transports.map((protocol) => ({
      name: protocol.toLowerCase(),
      protocol,
      port: 80,
      targetPort: 8080,
      nodePort: nodePortOf(number),
    }))
  )
}

const conditions: Readonly<Record<State, unknown>> = {
  ready: { ready: true, serving: true, terminating: false },
  leaving: { ready: false, serving: true, terminating: true },
  gone: { ready: false, serving: false, terminating: true },
}

/**
 * A Service of both families and its EndpointSlices. One of type LoadBalancer has an address of each kind: cluster
 * IP, node port, load balancer VIP and external IP.
 */
export function serviceObjects(shape: ServiceShape): unknown[] {
  return [serviceObject(shape), ...sliceObjects(shape)]
}

/** The Service alone. */
export function serviceObject(shape: ServiceShape): unknown {
  const { name, number, type = 'LoadBalancer', hasVIP = true, ipMode, spec, metadata } = shape
  const own = (kind: 'clusterIP' | 'loadBalancer' | 'externalIP') =>
    families.map((family) => serviceAddress(kind, number, family))
  const ports = portsOf(shape)
  const outside = type === 'NodePort' || type === 'LoadBalancer'
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: 'default', ...metadata },
    spec:
      type === 'ExternalName'
        ? { type, externalName: 'example.com' }
        : {
            type,
            clusterIP: own('clusterIP')[0],
            clusterIPs: own('clusterIP'),
            ipFamilies: families,
            ipFamilyPolicy: 'RequireDualStack',
            ports: ports.map(({ nodePort, ...port }) => (outside && nodePort ? { ...port, nodePort } : port)),
            ...(type === 'LoadBalancer' ? { externalIPs: own('externalIP') } : {}),
            ...spec,
          },
    ...(type === 'LoadBalancer' && hasVIP
      ? { status: { loadBalancer: { ingress: own('loadBalancer').map((ip) => ({ ip, ...(ipMode && { ipMode }) })) } } }
      : {}),
  }
}

/** The EndpointSlices of a Service, one of each family. `part`: goes into their names, where there are several. */
export function sliceObjects(shape: ServiceShape, part = 'slice'): unknown[] {
  return families.map((family) => sliceOf(shape, part, family))
}

function sliceOf(shape: ServiceShape, part: string, family: Family): unknown {
  const { name, endpoints } = shape
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name: `${name}-${part}-${family.toLowerCase()}`,
      namespace: 'default',
      labels: { 'kubernetes.io/service-name': name },
    },
    addressType: family,
    ports: portsOf(shape).map((port) => ({ name: port.name, port: port.targetPort, protocol: port.protocol })),
    endpoints: endpoints.map((endpoint) => {
      const { at, state = 'ready', hints } = typeof endpoint === 'string' ? { at: endpoint } : endpoint
      return {
        addresses: [addressOf(at, family)],
        conditions: conditions[state],
        nodeName: at.startsWith('node') ? at : `node-${at[0]}`,
        ...(hints === undefined ? {} : { hints }),
      }
    }),
  }
}
