// Which pod answers, and which client address it sees, for each way into a Service. What is kept and what is
// masqueraded is as in kube-proxy's IPVS mode. The client has routes for service addresses to node-a.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  addressOf,
  bridgeOf,
  families,
  hostPorts,
  Network,
  nodeOf,
  otherClient,
  pods,
  serviceAddress,
  whole,
  type Pod,
} from './network.ts'
import { paths, placeOf, silence, testRows, type Row } from './rows.ts'
import { serviceObjects, type ServiceShape } from './service.ts'

const everything = ['TCP', 'UDP', 'SCTP'] as const
const local = { externalTrafficPolicy: 'Local', internalTrafficPolicy: 'Local' }
const external = { externalTrafficPolicy: 'Local' }
const clients = families.map((family) => whole(addressOf('client', family)))
const nodeA = families.map((family) => whole(addressOf('node-a', family)))
const leaving = (at: Pod) => ({ at, state: 'leaving' }) as const
const gone = (at: Pod) => ({ at, state: 'gone' }) as const

const shapes: ServiceShape[] = []
function service(name: string, shape: Omit<ServiceShape, 'name' | 'number'>): ServiceShape {
  const whole = { ...shape, name, number: shapes.length + 1 }
  shapes.push(whole)
  return whole
}

const everywhere = service('everywhere', { endpoints: pods, transports: everything })
const near = service('near', { endpoints: pods, transports: everything, spec: local })
const far = service('far', { endpoints: ['b1', 'b2'], spec: external })
const farInside = service('far-inside', { endpoints: ['b1', 'b2'], spec: { internalTrafficPolicy: 'Local' } })
const onlyInside = service('only-inside', { type: 'ClusterIP', endpoints: ['b1', 'b2'], spec: local })
const self = service('self', { endpoints: ['a1'], transports: everything })
const selfLocal = service('self-local', { endpoints: ['a1'], spec: local })
const nobody = service('nobody', { endpoints: [], transports: everything })
const onlyLeaving = service('only-leaving', { endpoints: [leaving('a1'), gone('a2'), leaving('b1')] })
const someLeaving = service('some-leaving', { endpoints: ['a1', leaving('a2'), leaving('b1'), 'b2'] })
const nearLeaving = service('near-leaving', { endpoints: [leaving('a1'), gone('a2'), 'b1'], spec: external })
const nearStaying = service('near-staying', { endpoints: [leaving('a1'), 'a2', 'b1'], spec: external })
const inZones = service('in-zones', {
  endpoints: pods.map((at) => ({ at, hints: { forZones: [{ name: `zone-of-${nodeOf(at)}` }] } })),
})
const onNodes = service('on-nodes', {
  endpoints: pods.map((at) => ({ at, hints: { forNodes: [{ name: nodeOf(at) }] } })),
})
const forClient = service('for-client', {
  endpoints: pods,
  transports: everything,
  spec: { loadBalancerSourceRanges: clients },
})
const forClientNear = service('for-client-near', {
  endpoints: pods,
  spec: { ...local, loadBalancerSourceRanges: clients },
})
const forCluster = service('for-cluster', {
  endpoints: pods,
  spec: { loadBalancerSourceRanges: [...nodeA, '10.244.1.0/24', 'fd44:1::/64'] },
})

const forClientHost = service('for-client-host', {
  endpoints: [{ at: 'node-a' }],
  ports: [{ name: 'tcp', protocol: 'TCP', port: 80, targetPort: 6443 }],
  spec: { loadBalancerSourceRanges: clients },
})

let network: Network

beforeAll(async () => {
  network = await Network.start(shapes.flatMap(serviceObjects))
})

afterAll(() => network?.destroy())

function rows(shape: ServiceShape, list: readonly Row[]): void {
  testRows(() => network, shape, list)
}

const here = ['a1', 'a2'] as const
const there = ['b1', 'b2'] as const

describe('without a Service, nothing is changed on the way', () => {
  const direct = [
    { from: 'a1', to: 'a2' },
    { from: 'a1', to: 'b1' },
    { from: 'node-a', to: 'a1' },
    { from: 'node-a', to: 'b1' },
    { from: 'client', to: 'b1' },
  ] as const
  test.each(direct.flatMap((row) => paths(everything).map((path) => ({ ...row, ...path }))))(
    '$from asks $to, $transport over $family',
    async ({ from, to, transport, family }) => {
      // A node asks its own pods by the address of the bridge; an SCTP question is bound to its first address.
      const byBridge = from === 'node-a' && to === 'a1' && transport !== 'SCTP'
      const seen = byBridge ? bridgeOf('node-a', family) : addressOf(from, family)
      const question = { transport, address: addressOf(to, family), port: 8080 }
      expect(await network.ask(from, question)).toBe(`${to} ${seen} 8080`)
    },
  )
})

describe('a Service with pods on both nodes', () => {
  rows(everywhere, [
    ['a pod asks the cluster IP', 'a1', 'clusterIP', pods, 'kept', everything],
    ['a pod of the other node asks the cluster IP', 'b1', 'clusterIP', pods, 'kept'],
    ['a node asks the cluster IP', 'node-a', 'clusterIP', pods, 'node-a', everything],
    ['an outside client asks the cluster IP', 'client', 'clusterIP', pods, 'node-a', everything],
    ['an outside client asks the node port', 'client', 'node-a', pods, 'node-a', everything],
    ['another node asks the node port', 'node-b', 'node-a', pods, 'node-a'],
    ['a node asks its own node port', 'node-a', 'node-a', pods, 'node-a'],
    ['a pod asks the node port of its own node', 'a1', 'node-a', pods, 'node-a', everything],
    ['a pod asks the node port of the other node', 'a1', 'node-b', pods, 'node-b'],
    ['an outside client asks the VIP', 'client', 'loadBalancer', pods, 'node-a', everything],
    ['a pod asks the VIP', 'a1', 'loadBalancer', pods, 'node-a'],
    ['a node asks the VIP', 'node-a', 'loadBalancer', pods, 'node-a'],
    ['an outside client asks the external IP', 'client', 'externalIP', pods, 'node-a', everything],
    ['a pod asks the external IP', 'a1', 'externalIP', pods, 'node-a'],
    ['a node asks the external IP', 'node-a', 'externalIP', pods, 'node-a'],
  ])
})

describe('hairpin: a pod that is the only endpoint asks its own Service, and sees its node as the client', () => {
  rows(self, [
    ['by the cluster IP', 'a1', 'clusterIP', ['a1'], 'node-a', everything],
    ['by the node port', 'a1', 'node-a', ['a1'], 'node-a'],
    ['by the VIP', 'a1', 'loadBalancer', ['a1'], 'node-a'],
    ['by the external IP', 'a1', 'externalIP', ['a1'], 'node-a'],
  ])
  rows(selfLocal, [
    ['by the cluster IP, policies Local', 'a1', 'clusterIP', ['a1'], 'node-a'],
    ['by the node port, policies Local', 'a1', 'node-a', ['a1'], 'node-a'],
    ['by the VIP, policies Local', 'a1', 'loadBalancer', ['a1'], 'node-a'],
    ['by the external IP, policies Local', 'a1', 'externalIP', ['a1'], 'node-a'],
  ])
})

describe('policies Local, with local endpoints: those alone, and the source from outside is kept', () => {
  rows(near, [
    ['an outside client asks the node port', 'client', 'node-a', here, 'kept', everything],
    ['an outside client asks the other node port', 'client', 'node-b', there, 'kept', everything],
    ['another node asks the node port', 'node-b', 'node-a', here, 'kept'],
    ['a pod asks the node port of its own node', 'a1', 'node-a', here, 'kept'],
    ['a pod asks the node port of the other node', 'a1', 'node-b', there, 'kept'],
    ['an outside client asks the VIP', 'client', 'loadBalancer', here, 'kept', everything],
    ['a pod asks the VIP', 'a1', 'loadBalancer', here, 'kept'],
    // The kernel gives the node's packets the VIP as source, and policy Local does not masquerade.
    ['a node asks the VIP', 'node-a', 'loadBalancer', here, 'service address'],
    ['an outside client asks the external IP', 'client', 'externalIP', here, 'kept', everything],
    ['a pod asks the external IP', 'b1', 'externalIP', there, 'kept'],
    ['a node asks the external IP', 'node-a', 'externalIP', here, 'service address'],
    ['a pod asks the cluster IP', 'a1', 'clusterIP', here, 'kept'],
    ['a pod of the other node asks the cluster IP', 'b1', 'clusterIP', there, 'kept'],
    ['a node asks the cluster IP', 'node-a', 'clusterIP', here, 'node-a'],
    ['an outside client asks the cluster IP', 'client', 'clusterIP', here, 'node-a'],
  ])
})

describe('policy Local, without local endpoints', () => {
  // The proxy uses remote pods then, unmasqueraded, so that pods of the node reach the address. They answer a client
  // outside directly, with an address that it has not asked.
  rows(far, [
    ['an outside client gets nothing from the node port', 'client', 'node-a', 'timeout', '-'],
    ['an outside client gets nothing from the VIP', 'client', 'loadBalancer', 'timeout', '-'],
    ['an outside client gets nothing from the external IP', 'client', 'externalIP', 'timeout', '-'],
    ['an outside client asks a node that has some', 'client', 'node-b', there, 'kept'],
    ['a pod asks the VIP', 'a1', 'loadBalancer', there, 'kept'],
    ['a pod asks the external IP', 'a1', 'externalIP', there, 'kept'],
    ['a pod asks the node port', 'a1', 'node-a', there, 'kept'],
    ['the external policy does not touch the cluster IP', 'a1', 'clusterIP', there, 'kept'],
  ])
  rows(onlyInside, [
    ['internal policy: a pod is refused', 'a1', 'clusterIP', 'refused', '-'],
    ['internal policy: a node is refused', 'node-a', 'clusterIP', 'refused', '-'],
    ['internal policy: an outside client is refused', 'client', 'clusterIP', 'refused', '-'],
    ['internal policy: a pod of a node that has some', 'b2', 'clusterIP', there, 'kept'],
  ])
  rows(farInside, [
    ['the internal policy does not touch the VIP', 'client', 'loadBalancer', there, 'node-a'],
    // As in kube-proxy's IPVS mode, and there alone: of a Service with outside addresses all endpoints are at hand.
    ['internal policy with outside addresses: a pod is answered', 'a1', 'clusterIP', there, 'kept'],
  ])
})

describe('terminating endpoints', () => {
  rows(onlyLeaving, [
    ['are used while none is ready', 'a2', 'clusterIP', ['a1', 'b1'], 'kept'],
    ['are used while none is ready, from outside', 'client', 'loadBalancer', ['a1', 'b1'], 'node-a'],
  ])
  rows(someLeaving, [
    ['are not used beside ready ones', 'a2', 'clusterIP', ['a1', 'b2'], 'kept'],
    ['are not used beside ready ones, from outside', 'client', 'node-a', ['a1', 'b2'], 'node-a'],
  ])
  rows(nearLeaving, [
    ['policy Local: are used while no local one is ready', 'client', 'loadBalancer', ['a1'], 'kept'],
    ['policy Cluster: are not used where a remote one is ready', 'a2', 'clusterIP', ['b1'], 'kept'],
  ])
  rows(nearStaying, [['policy Local: are not used beside a ready one', 'client', 'loadBalancer', ['a2'], 'kept']])
})

describe('topology hints', () => {
  rows(inZones, [
    ['keep to the zone', 'a1', 'clusterIP', here, 'kept'],
    ['keep to the zone of the other node', 'b1', 'clusterIP', there, 'kept'],
    ['hold for clients outside', 'client', 'loadBalancer', here, 'node-a'],
  ])
  rows(onNodes, [
    ['keep to the node', 'a1', 'clusterIP', here, 'kept'],
    ['keep to the other node', 'b1', 'clusterIP', there, 'kept'],
  ])
})

describe('a Service without endpoints is refused', () => {
  // TCP over IPv6 hears it a second late: over a veth pair the kernel's answer comes while connect(2) still holds the
  // socket, and counts as LockDroppedIcmps; that to the next SYN is heard. Without any proxy it is the same.
  rows(nobody, [
    ['a pod asks the cluster IP', 'a1', 'clusterIP', 'refused', '-'],
    ['a pod asks the node port', 'a1', 'node-a', 'refused', '-'],
    ['a pod asks the VIP', 'a1', 'loadBalancer', 'refused', '-'],
    ['a pod asks the external IP', 'a1', 'externalIP', 'refused', '-'],
    ['a node asks the cluster IP', 'node-a', 'clusterIP', 'refused', '-'],
    ['a node asks the node port', 'node-a', 'node-a', 'refused', '-'],
    ['a node asks the VIP', 'node-a', 'loadBalancer', 'refused', '-'],
    ['a node asks the external IP', 'node-a', 'externalIP', 'refused', '-'],
    ['an outside client asks the cluster IP', 'client', 'clusterIP', 'refused', '-'],
    ['an outside client asks the node port', 'client', 'node-a', 'refused', '-'],
    ['an outside client asks the VIP', 'client', 'loadBalancer', 'refused', '-'],
    ['an outside client asks the external IP', 'client', 'externalIP', 'refused', '-'],
    // The kernel says "port unreachable" here too, but its own SCTP does not take that for an end (RFC 4960, C.1).
    ['an SCTP client hears nothing', 'client', 'clusterIP', 'timeout', '-', ['SCTP']],
  ])
})

describe('loadBalancerSourceRanges', () => {
  rows(forClient, [
    ['a client of a range is answered', 'client', 'loadBalancer', pods, 'node-a', everything],
    ['a pod of no range gets nothing', 'a1', 'loadBalancer', 'timeout', '-', everything],
    ['a node of no range gets nothing', 'node-a', 'loadBalancer', 'timeout', '-'],
    ['another node of no range gets nothing', 'node-b', 'loadBalancer', 'timeout', '-'],
    ['the cluster IP is not restricted', 'a1', 'clusterIP', pods, 'kept'],
  ])
  rows(forClientNear, [
    ['policies Local: a client of a range is answered', 'client', 'loadBalancer', here, 'kept'],
    ['policies Local: a pod of no range gets nothing', 'a1', 'loadBalancer', 'timeout', '-'],
    ['policies Local: a node of no range gets nothing', 'node-a', 'loadBalancer', 'timeout', '-'],
  ])
  rows(forCluster, [
    ['a pod of a range is answered', 'a1', 'loadBalancer', pods, 'node-a'],
    ['a node of a range is answered', 'node-a', 'loadBalancer', pods, 'node-a'],
    ['a client of no range gets nothing', 'client', 'loadBalancer', 'timeout', '-'],
    ['the node port is not restricted', 'client', 'node-a', pods, 'node-a'],
    ['the external IP is not restricted', 'client', 'externalIP', pods, 'node-a'],
  ])

  test.concurrent.each(paths())(
    'another address of the same client gets nothing, $transport over $family',
    async ({ transport, family }) => {
      const place = placeOf(forClient, 'loadBalancer', family)
      const question = { ...place, transport, source: otherClient[family], timeout: silence }
      expect(await network.ask('client', question)).toBe('timeout')
    },
  )

  // The answer of a server on the node itself passes the chain that stops the node's own questions.
  test.each(families)(
    'a client of a range is answered by a server on the host network, TCP over %s',
    async (family) => {
      const question = { transport: 'TCP', ...placeOf(forClientHost, 'loadBalancer', family) } as const
      expect(await network.ask('client', question)).toBe(`node-a ${addressOf('client', family)} 6443`)
      expect(await network.ask('node-a', { ...question, timeout: silence })).toBe('timeout')
    },
  )

  // KUBE-IPVS-OUT-FILTER knows the node's packets by the VIP as their source, as in kube-proxy. A program that binds to
  // an address of the node first is not caught, nor by INPUT: IPVS takes its packets at LOCAL_OUT.
  test.fails.each(paths())(
    'a node of no range that names its own address as source gets nothing, $transport over $family',
    async ({ transport, family }) => {
      const place = placeOf(forClient, 'loadBalancer', family)
      const question = { ...place, transport, source: addressOf('node-a', family), timeout: silence }
      expect(await network.ask('node-a', question)).toBe('timeout')
    },
  )
})

describe('ports of the host', () => {
  const places = (['clusterIP', 'loadBalancer', 'externalIP'] as const).flatMap((kind) =>
    [everywhere, near].flatMap(({ number }) => hostPorts.map((port) => ({ kind, number, port }))),
  )
  const askers = (['client', 'a1', 'node-a'] as const).flatMap((from) => paths().map((path) => ({ from, ...path })))
  test.concurrent.each(askers)(
    '$from reaches them on no address of a Service, $transport over $family',
    async ({ from, transport, family }) => {
      const answers = await Promise.all(
        places.map(async ({ kind, number, port }) => {
          const address = serviceAddress(kind, number, family)
          return `${address} ${port} ${await network.ask(from, { transport, address, port })}`
        }),
      )
      expect(answers.filter((answer) => !answer.endsWith(' refused'))).toEqual([])
    },
  )

  // A pod asks the bridge: a server of UDP on all addresses answers with the one towards the client.
  const askable = [
    { from: 'client', at: addressOf },
    { from: 'node-b', at: addressOf },
    { from: 'a1', at: bridgeOf },
  ] as const
  test.each(askable.flatMap((row) => paths().map((path) => ({ ...row, ...path }))))(
    '$from reaches them on an address of the node, $transport over $family',
    async ({ from, at, transport, family }) => {
      const address = at('node-a', family)
      const answers = await Promise.all(hostPorts.map((port) => network.ask(from, { transport, address, port })))
      expect(answers).toEqual(hostPorts.map((port) => `node-a ${addressOf(from, family)} ${port}`))
    },
  )
})
