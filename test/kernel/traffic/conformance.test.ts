// What Kubernetes' conformance tests of Services ask of a proxy, each test named as there, and what of them has to do
// with affinity. Their Services are made and changed here by writing manifests. docs/coverage.md says which
// tests ask the API server alone.
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { eventually } from '../lab.ts'
import { addressOf, families, Network, pods, serviceAddress, type Actor, type Question } from './network.ts'
import { paths, placeOf, settles, type Row, type Target } from './rows.ts'
import { serviceObject, serviceObjects, sliceObjects, type ServiceShape } from './service.ts'

let last = 0
function service(name: string, shape: Omit<ServiceShape, 'name' | 'number'>): ServiceShape {
  return { ...shape, name, number: ++last }
}

const clientIP = (timeoutSeconds: number) => ({
  sessionAffinity: 'ClientIP',
  sessionAffinityConfig: { clientIP: { timeoutSeconds } },
})

const sticky = service('sticky', { type: 'NodePort', endpoints: pods, spec: clientIP(600) })
// In the kernel an affinity outlives its time as long as connections that it has chosen are known: 2 s for UDP by the
// flag below, 10 s after a reset for TCP.
const brief = {
  TCP: service('brief-tcp', { type: 'NodePort', endpoints: ['a1', 'b1'], spec: clientIP(14) }),
  UDP: service('brief-udp', { type: 'NodePort', endpoints: ['a1', 'b1'], spec: clientIP(4) }),
}
const basic = service('basic', { type: 'NodePort', endpoints: pods })
const master = service('kubernetes', {
  type: 'ClusterIP',
  endpoints: [{ at: 'node-a' }],
  ports: [{ name: 'https', protocol: 'TCP', port: 443, targetPort: 6443 }],
})

let network: Network

beforeAll(async () => {
  const first = [sticky, brief.TCP, brief.UDP, basic, master].flatMap(serviceObjects)
  network = await Network.start(first, ['--ipvs-udp-timeout=2s'])
})

afterAll(() => network?.destroy())

/** Writes the Service with its endpoints to a file of its own. */
async function apply(shape: ServiceShape): Promise<void> {
  await network.write(`${shape.name}.json`, ...serviceObjects(shape))
}

async function becomes(shape: ServiceShape, ...rows: readonly Row[]): Promise<void> {
  await Promise.all(rows.map((row) => settles(network, shape, row)))
}

function podOf(answer: string): string {
  return answer.split(' ')[0]!
}

/** The pods that answer many connections, each once and sorted; an error instead of an answer counts as a pod. */
async function answering(from: Actor, question: Question): Promise<string[]> {
  return [...new Set((await network.askMany(from, 8, { timeout: 3000, ...question })).map(podOf))].sort()
}

const clients: readonly (readonly [Actor, Target])[] = [
  ['a1', 'clusterIP'],
  ['node-a', 'clusterIP'],
  ['client', 'clusterIP'],
  ['client', 'node-a'],
  ['b1', 'node-a'],
]

describe('Services', () => {
  test('should be able to change the type from ClusterIP to ExternalName', async () => {
    const shape = service('to-external', { type: 'ClusterIP', endpoints: ['a1', 'b1'] })
    await apply(shape)
    await becomes(shape, ['', 'a2', 'clusterIP', ['a1', 'b1'], 'kept'])
    await apply({ ...shape, type: 'ExternalName' })
    await becomes(shape, ['', 'a2', 'clusterIP', 'no route', '-'], ['', 'node-a', 'clusterIP', 'no route', '-'])
  })

  test('should be able to change the type from ExternalName to ClusterIP', async () => {
    const shape = service('from-external', { type: 'ClusterIP', endpoints: ['a1', 'b1'] })
    await apply({ ...shape, type: 'ExternalName' })
    await becomes(shape, ['', 'a2', 'clusterIP', 'no route', '-'])
    await apply(shape)
    await becomes(shape, ['', 'a2', 'clusterIP', ['a1', 'b1'], 'kept', ['TCP', 'UDP']])
  })

  test('should be able to change the type from ExternalName to NodePort', async () => {
    const shape = service('external-to-node-port', { type: 'NodePort', endpoints: ['a1', 'b1'] })
    await apply({ ...shape, type: 'ExternalName' })
    await becomes(shape, ['', 'client', 'node-a', 'refused', '-'])
    await apply(shape)
    await becomes(
      shape,
      ['', 'a2', 'clusterIP', ['a1', 'b1'], 'kept'],
      ['', 'client', 'node-a', ['a1', 'b1'], 'node-a', ['TCP', 'UDP']],
      ['', 'client', 'node-b', ['a1', 'b1'], 'node-b'],
    )
  })

  test('should be able to change the type from NodePort to ExternalName', async () => {
    const shape = service('node-port-to-external', { type: 'NodePort', endpoints: ['a1', 'b1'] })
    await apply(shape)
    await becomes(shape, ['', 'client', 'node-a', ['a1', 'b1'], 'node-a'])
    await apply({ ...shape, type: 'ExternalName' })
    await becomes(
      shape,
      ['', 'client', 'node-a', 'refused', '-'],
      ['', 'client', 'node-b', 'refused', '-'],
      ['', 'a2', 'clusterIP', 'no route', '-'],
    )
  })

  test('should be able to create a functioning NodePort service', async () => {
    await becomes(
      basic,
      ['', 'a1', 'clusterIP', pods, 'kept', ['TCP', 'UDP']],
      ['', 'a2', 'node-a', pods, 'node-a'],
      ['', 'b1', 'node-b', pods, 'node-b'],
      ['', 'client', 'node-a', pods, 'node-a', ['TCP', 'UDP']],
    )
  })

  test.each([
    { to: 'clusterIP', what: 'service with type clusterIP' },
    { to: 'node-a', what: 'NodePort service' },
  ] as const)('should be able to switch session affinity for $what', async ({ to }) => {
    const shape = service(`switch-${to.toLowerCase()}`, { type: 'NodePort', endpoints: pods })
    const become = (wanted: (answers: readonly string[]) => boolean, what: string) =>
      Promise.all(
        families.map((family) =>
          eventually(`connections to ${what}`, async () =>
            wanted(await answering('client', { transport: 'TCP', ...placeOf(shape, to, family) })),
          ),
        ),
      )
    const spread = () => become((answers) => answers.join() === pods.join(), 'be spread')
    const stick = () => become((answers) => answers.length === 1 && pods.some((pod) => pod === answers[0]), 'stick')
    await apply(shape)
    await spread()
    await apply({ ...shape, spec: clientIP(600) })
    await stick()
    await apply(shape)
    await spread()
  })

  test.each(clients.flatMap(([from, to]) => paths().map((path) => ({ from, to, ...path }))))(
    'should have session affinity work, from $from to $to, $transport over $family',
    async ({ from, to, transport, family }) => {
      const question = { transport, ...placeOf(sticky, to, family) }
      const [pod, ...others] = await answering(from, question)
      expect(pods).toContain(pod)
      expect(others).toEqual([])
      expect(await answering(from, question)).toEqual([pod])
    },
  )

  test('should complete a service status lifecycle: its load balancer addresses follow the status', async () => {
    const shape = service('status', { endpoints: ['a1', 'b1'], spec: { externalIPs: [] } })
    await apply({ ...shape, hasVIP: false })
    await becomes(shape, ['', 'client', 'node-a', ['a1', 'b1'], 'node-a'])
    await becomes(shape, ['', 'client', 'loadBalancer', 'no route', '-'])
    await apply(shape)
    await becomes(shape, ['', 'client', 'loadBalancer', ['a1', 'b1'], 'node-a'])
    await apply({ ...shape, hasVIP: false })
    await becomes(shape, ['', 'client', 'loadBalancer', 'no route', '-'])
    await becomes(shape, ['', 'client', 'node-a', ['a1', 'b1'], 'node-a'])
  })

  test('should delete a collection of services', async () => {
    const [first, second, third] = [1, 2, 3].map((i) => service(`collection-${i}`, { endpoints: ['a1', 'b1'] }))
    await network.write('collection.json', ...[first!, second!].flatMap(serviceObjects))
    await apply(third!)
    for (const shape of [first!, second!, third!]) {
      await becomes(shape, ['', 'a2', 'clusterIP', ['a1', 'b1'], 'kept'])
    }
    await network.remove('collection.json')
    for (const shape of [first!, second!]) {
      await becomes(
        shape,
        ['', 'a2', 'clusterIP', 'no route', '-'],
        ['', 'client', 'loadBalancer', 'no route', '-'],
        ['', 'client', 'node-a', 'refused', '-'],
      )
    }
    await becomes(third!, ['', 'a2', 'clusterIP', ['a1', 'b1'], 'kept'])
  })

  // A node's packet to a server of its own crosses no interface that it could be masqueraded for.
  test.each(
    (['a1', 'b1', 'node-a', 'node-b', 'client'] as const).flatMap((from) =>
      families.map((family) => ({ from, family })),
    ),
  )('should provide secure master service, on the host network of one node: to $from over $family', async (row) => {
    const { from, family } = row
    const address = serviceAddress('clusterIP', master.number, family)
    const answer = await network.ask(from, { transport: 'TCP', address, port: 443 })
    expect(answer).toBe(`node-a ${addressOf(from, family)} 6443`)
  })

  test('should serve a basic endpoint from pods', async () => {
    const shape = service('endpoints', { type: 'ClusterIP', endpoints: [] })
    for (const endpoints of [[], ['a1'], ['a1', 'b1'], ['b1'], []] as const) {
      await apply({ ...shape, endpoints })
      const answer = endpoints.length === 0 ? 'refused' : endpoints
      await becomes(shape, ['', 'a2', 'clusterIP', answer, 'kept'], ['', 'client', 'clusterIP', answer, 'node-a'])
    }
  })

  test('should serve endpoints on same port and different protocols', async () => {
    const shape = service('protocols', { type: 'NodePort', endpoints: [] })
    const part = (at: 'a1' | 'b1', protocol: 'TCP' | 'UDP') =>
      sliceObjects({ ...shape, endpoints: [at], transports: [protocol] }, protocol.toLowerCase())
    await network.write('protocols.json', serviceObject(shape), ...part('a1', 'TCP'), ...part('b1', 'UDP'))
    await becomes(
      shape,
      ['', 'a2', 'clusterIP', ['a1'], 'kept', ['TCP']],
      ['', 'a2', 'clusterIP', ['b1'], 'kept', ['UDP']],
      ['', 'client', 'node-a', ['a1'], 'node-a', ['TCP']],
      ['', 'client', 'node-a', ['b1'], 'node-a', ['UDP']],
    )
    await network.write('protocols.json', serviceObject(shape), ...part('b1', 'UDP'))
    await becomes(
      shape,
      ['', 'a2', 'clusterIP', 'refused', '-', ['TCP']],
      ['', 'a2', 'clusterIP', ['b1'], 'kept', ['UDP']],
    )
  })

  test('should serve multiport endpoints from pods', async () => {
    const ports = [
      { name: 'one', protocol: 'TCP', port: 80, targetPort: 8080 },
      { name: 'two', protocol: 'TCP', port: 81, targetPort: 8081 },
    ] as const
    const shape = service('ports', { type: 'ClusterIP', endpoints: [], ports })
    const part = (at: 'a1' | 'b1', port: 0 | 1) =>
      sliceObjects({ ...shape, endpoints: [at], ports: [ports[port]] }, ports[port].name)
    const become = (port: number, wanted: string) =>
      Promise.all(
        families.map((family) =>
          network.becomes(
            'a2',
            { transport: 'TCP', address: serviceAddress('clusterIP', shape.number, family), port },
            [wanted.replace('FROM', addressOf('a2', family))],
          ),
        ),
      )
    await network.write('ports.json', serviceObject(shape), ...part('a1', 0))
    await become(80, 'a1 FROM 8080')
    await become(81, 'refused')
    await network.write('ports.json', serviceObject(shape), ...part('a1', 0), ...part('b1', 1))
    await become(80, 'a1 FROM 8080')
    await become(81, 'b1 FROM 8081')
    await network.write('ports.json', serviceObject(shape), ...part('b1', 1))
    await become(80, 'refused')
    await become(81, 'b1 FROM 8081')
  })

  test('should test the lifecycle of an Endpoint: its slices are created, changed and deleted', async () => {
    const shape = service('lifecycle', { type: 'ClusterIP', endpoints: ['a1'] })
    await network.write('lifecycle.json', serviceObject(shape))
    await becomes(shape, ['', 'a2', 'clusterIP', 'refused', '-'])
    await network.write('lifecycle-slices.json', ...sliceObjects(shape))
    await becomes(shape, ['', 'a2', 'clusterIP', ['a1'], 'kept'])
    await network.write('lifecycle-slices.json', ...sliceObjects({ ...shape, endpoints: ['b2'] }))
    await becomes(shape, ['', 'a2', 'clusterIP', ['b2'], 'kept'])
    await network.remove('lifecycle-slices.json')
    await becomes(shape, ['', 'a2', 'clusterIP', 'refused', '-'])
  })

  test.each([
    {
      what: 'service.kubernetes.io/service-proxy-name',
      label: { 'service.kubernetes.io/service-proxy-name': 'other' },
    },
    { what: 'service.kubernetes.io/headless', label: { 'service.kubernetes.io/headless': '' } },
  ])('should implement $what', async ({ what, label }) => {
    const shape = service(what.split('/')[1]!, { type: 'ClusterIP', endpoints: ['a1', 'b1'] })
    await apply({ ...shape, metadata: { labels: label } })
    await becomes(shape, ['', 'a2', 'clusterIP', 'no route', '-'])
    await apply(shape)
    await becomes(shape, ['', 'a2', 'clusterIP', ['a1', 'b1'], 'kept'])
    await apply({ ...shape, metadata: { labels: label } })
    await becomes(shape, ['', 'a2', 'clusterIP', 'no route', '-'])
  })

  test.concurrent.each([
    { transport: 'TCP', wait: 17_000 },
    { transport: 'UDP', wait: 7000 },
  ] as const)('should have session affinity timeout work, $transport', async ({ transport, wait }) => {
    const places = (['clusterIP', 'node-a'] as const).flatMap((to) =>
      families.map((family) => placeOf(brief[transport], to, family)),
    )
    await Promise.all(
      places.map(async (place) => {
        const question = { transport, ...place, reset: true }
        const [pod, ...others] = await answering('client', question)
        expect(['a1', 'b1']).toContain(pod)
        expect(others).toEqual([])
        await sleep(wait)
        // The scheduler goes round: without affinity it is the other one's turn.
        expect(await answering('client', question)).toEqual([pod === 'a1' ? 'b1' : 'a1'])
      }),
    )
  })

  test.each(paths())(
    'should have session affinity find another pod when its own goes, $transport over $family',
    async ({ transport, family }) => {
      const shape = service(`leaves-${transport}-${family}`.toLowerCase(), {
        endpoints: ['a1', 'b1'],
        spec: clientIP(600),
      })
      const question = { transport, ...placeOf(shape, 'clusterIP', family) }
      await apply(shape)
      const pod = await eventually('one pod to answer', async () => {
        const answers = await answering('a2', question)
        return answers.length === 1 && /^[ab]1$/.test(answers[0]!) ? answers[0] : undefined
      })
      const other = pod === 'a1' ? 'b1' : 'a1'
      await apply({ ...shape, endpoints: [other] })
      await eventually('the other pod to answer', async () => (await answering('a2', question)).join() === other)
    },
  )
})
