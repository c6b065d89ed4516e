// kubeIpvsProxy.strictExternalTrafficPolicy: without a local endpoint, who is no pod of the node is refused at once.
import { afterAll, beforeAll, describe } from 'vitest'
import { Network } from './network.ts'
import { testRows } from './rows.ts'
import { serviceObjects, type ServiceShape } from './service.ts'

const spec = { externalTrafficPolicy: 'Local' }
const far: ServiceShape = { name: 'far', number: 1, endpoints: ['b1', 'b2'], spec }
const near: ServiceShape = { name: 'near', number: 2, endpoints: ['a1', 'b1'], spec }

let network: Network
beforeAll(async () => {
  network = await Network.start([far, near].flatMap(serviceObjects), ['--strict-external-traffic-policy'])
})
afterAll(() => network?.destroy())

const there = ['b1', 'b2'] as const

describe('no local endpoint', () => {
  testRows(() => network, far, [
    ['an outside client is refused at the node port', 'client', 'node-a', 'refused', '-'],
    ['an outside client is refused at the VIP', 'client', 'loadBalancer', 'refused', '-'],
    ['an outside client is refused at the external IP', 'client', 'externalIP', 'refused', '-'],
    ['an outside client asks a node that has some', 'client', 'node-b', there, 'kept'],
    ['a pod is answered at the VIP', 'a1', 'loadBalancer', there, 'kept'],
    ['a pod is answered at the external IP', 'a1', 'externalIP', there, 'kept'],
    ['a pod is answered at the node port', 'a1', 'node-a', there, 'kept'],
    // With or without the option: its packets have the service address as source, and remote pods cannot answer that.
    ['the node itself is neither refused nor answered', 'node-a', 'loadBalancer', 'timeout', '-', ['TCP']],
    ['the cluster IP is as ever', 'client', 'clusterIP', there, 'node-a'],
  ])
})

describe('a local endpoint', () => {
  testRows(() => network, near, [
    ['an outside client is answered by it', 'client', 'loadBalancer', ['a1'], 'kept'],
    ['a pod is answered by it', 'a2', 'loadBalancer', ['a1'], 'kept'],
  ])
})
