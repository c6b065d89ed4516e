// The DaemonSet asks for what the program uses, and for no more.
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parseFlags } from '../../../src/cli/flags.ts'
import { loadConfig } from '../../../src/config/load.ts'
import { defaultSocket, fields, parseListen } from '../../../src/config/schema.ts'
import { resources } from '../../../src/kube/api-source.ts'
import { ApiEvents } from '../../../src/kube/events.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { version } from '../../../src/lib/version.ts'
import { neededCapabilities } from '../../../src/preflight.ts'
import { readYaml } from '../../monitoring/manifests.ts'
import { manifests, ofKind, readManifests, type Manifest, type PodSpec } from './documents.ts'
import { mistakes } from './kubernetes-types.ts'

const daemonset = ofKind(readManifests('base/daemonset.yaml'), 'DaemonSet')
const rbac = readManifests('base/rbac.yaml')
const { spec: pod, metadata } = daemonset.spec.template
const main = pod.containers[0]!
const init = pod.initContainers[0]!

const types: Readonly<Record<string, string>> = {
  DaemonSet: 'V1DaemonSet',
  ServiceAccount: 'V1ServiceAccount',
  ClusterRole: 'V1ClusterRole',
  ClusterRoleBinding: 'V1ClusterRoleBinding',
  Pod: 'V1Pod',
}

test.each([daemonset, ...rbac, ...['migrate-check.yaml', 'cleanup.yaml'].flatMap(readManifests)])(
  '$kind is as the API has it',
  (object) => {
    expect(mistakes(object, types[object.kind]!)).toEqual([])
  },
)

test('the check of types finds what is wrong', () => {
  const wrong = { apiVersion: 'v1', kind: 'Pod', spec: { containers: [{ nam: 'x', args: 'y' }], hostNetwork: 'yes' } }
  expect(mistakes(wrong, 'V1Pod')).toEqual([
    'V1Pod.spec.containers[0].name is missing',
    'V1Pod.spec.containers[0].nam is no field',
    'V1Pod.spec.containers[0].args: "y" is no list',
    'V1Pod.spec.hostNetwork: "yes" is no boolean',
  ])
})

describe('flags', () => {
  test.each([
    ['the daemon', main, 'run'],
    ['what runs before it', init, 'init'],
  ] as const)('of %s', async (_name, { args, command, image }, operation) => {
    expect(command).toEqual(['/opt/kube-ipvs-proxy/bin/kube-ipvs-proxy'])
    expect(image).toBe(`kube-ipvs-proxy:${version}`)
    const line = await parseFlags(args)
    expect(line.operation).toBe(operation)
    expect([...line.flags]).toEqual([
      ['hostname-override', '$(NODE_NAME)'],
      ['proxy-mode', 'ipvs'],
    ])
    const { mountPath } = main.volumeMounts.find(({ name }) => name === 'kube-proxy')!
    expect(line.config).toBe(`${mountPath}/config.conf`)
  })

  test.each(['', 'ipvs', 'iptables', 'nftables'])(
    'kubeadm’s ConfigMap is taken as it is, with mode "%s"',
    async (mode) => {
      const { flags } = await parseFlags(main.args)
      const file = `apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: "${mode}"`
      const { config, problems } = loadConfig({ file, flags })
      expect(problems).toEqual([])
      expect(config.mode).toBe('ipvs')
    },
  )

  test('both containers know the node’s name, and nothing else of the environment', () => {
    for (const { env } of [main, init]) expect(env.map(({ name }) => name)).toEqual(['NODE_NAME'])
  })
})

describe('ports', () => {
  const portOf = (preset: string): number => parseListen(preset, 0)!.port

  test('probes ask the health server: waiting for the API server is no reason to be ended, but not ready either', () => {
    const port = portOf(fields.healthzBindAddress.preset)
    expect(main.livenessProbe.httpGet).toEqual({ path: '/livez', port })
    expect(main.readinessProbe.httpGet).toEqual({ path: '/healthz', port })
  })

  test('none is declared: the configuration decides, and one that is declared is a host port that keeps others away', () => {
    expect(main.ports).toBeUndefined()
  })

  test('the PodMonitor asks the metrics server', () => {
    const port = portOf(fields.metricsBindAddress.preset)
    expect(JSON.stringify(readYaml('podmonitor.yaml'))).toContain(`:${port}"`)
  })
})

describe('mounts', () => {
  const mounts = ({ volumeMounts }: Pick<typeof main, 'volumeMounts'>): string[] =>
    volumeMounts.map(({ mountPath, readOnly }) => `${mountPath} ${readOnly ? 'ro' : 'rw'}`)

  test('of the daemon: its configuration, the place of its socket, the lock of legacy iptables', () => {
    const socket = dirname(defaultSocket)
    expect(mounts(main)).toEqual(['/var/lib/kube-proxy ro', `${socket} rw`, '/run/xtables.lock rw'])
  })

  test('of what runs before it: the configuration, and modules for modprobe', () => {
    expect(mounts(init)).toEqual(['/var/lib/kube-proxy ro', '/lib/modules ro'])
  })

  test('every volume is mounted, and the host gives no folder to write to', () => {
    const used = new Set([...main.volumeMounts, ...init.volumeMounts].map(({ name }) => name))
    expect(pod.volumes.map(({ name }) => name).sort()).toEqual([...used].sort())
    for (const { name, hostPath } of pod.volumes) {
      const mount = [...main.volumeMounts, ...init.volumeMounts].find((one) => one.name === name)!
      if (hostPath !== undefined && hostPath.type !== 'FileOrCreate') expect(mount.readOnly, name).toBe(true)
    }
  })
})

describe('rights', () => {
  test('of the daemon: the capabilities that its preflight asks for, and nothing besides', () => {
    expect(main.securityContext).toEqual({
      privileged: false,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'], add: Object.keys(neededCapabilities) },
    })
  })

  test('privileged is the init container alone', () => {
    expect(init.securityContext).toEqual({ privileged: true, readOnlyRootFilesystem: true })
    expect([pod.initContainers.length, pod.containers.length]).toEqual([1, 1])
  })

  test('of the pod: the host’s network, and no other namespace of it', () => {
    expect(pod.hostNetwork).toBe(true)
    expect(pod.securityContext).toEqual({ seccompProfile: { type: 'RuntimeDefault' } })
    for (const field of ['hostPID', 'hostIPC', 'shareProcessNamespace', 'automountServiceAccountToken']) {
      expect(pod).not.toHaveProperty(field)
    }
  })
})

test('RBAC is what is watched, and Events', async () => {
  const wanted = new Map<string, Set<string>>()
  const want = (path: string, verbs: readonly string[]): void => {
    const [, group = '', resource] = /^\/apis?\/(?:([^/]+)\/)?v1\/(?:namespaces\/[^/]+\/)?([^/]+)/.exec(path)!
    const key = `${group}/${resource}`
    wanted.set(key, new Set([...(wanted.get(key) ?? []), ...verbs]))
  }
  for (const { path } of [resources.services, resources.endpointslices, resources.node('n')])
    want(path, ['list', 'watch'])
  for (const [method, path] of await eventRequests()) want(path, [method === 'POST' ? 'create' : 'patch'])
  const { rules } = ofKind(rbac, 'ClusterRole')
  const granted = rules.flatMap(({ apiGroups, resources: names, verbs }) =>
    apiGroups.flatMap((group) => names.map((name) => [`${group}/${name}`, new Set(verbs)] as const)),
  )
  expect(new Map(granted)).toEqual(wanted)
  const binding = ofKind(rbac, 'ClusterRoleBinding')
  expect(binding.roleRef).toMatchObject({ kind: 'ClusterRole', name: 'kube-ipvs-proxy' })
  expect(binding.subjects).toEqual([{ kind: 'ServiceAccount', name: pod.serviceAccountName, namespace: 'kube-system' }])
})

/** What is asked of the API server for an Event that comes again a while later. */
async function eventRequests(): Promise<readonly (readonly [string, string])[]> {
  const asked: [string, string][] = []
  let now = 0
  const clock = { now: () => now, sleep: () => Promise.resolve() }
  const client = {
    send: (method: string, path: string) => {
      asked.push([method, path])
      return Promise.resolve({
        status: 201,
        retryAfterMs: undefined,
        body: (async function* () {})(),
        destroy: () => {},
      })
    },
  }
  const signal = new AbortController().signal
  const events = new ApiEvents({ client, nodeName: 'n', log: silentLog, clock, signal })
  for (now of [0, 100_000]) {
    events.report({ type: 'Warning', reason: 'R', action: 'A', note: 'x' })
    for (let i = 0; i < 5; i++) await Promise.resolve()
  }
  return asked
}

describe('as nodes need it', () => {
  test('on every Linux node, whatever its taints, before other pods', () => {
    expect(pod.tolerations).toEqual([{ operator: 'Exists' }])
    expect(pod.nodeSelector).toEqual({ 'kubernetes.io/os': 'linux' })
    expect(pod.priorityClassName).toBe('system-node-critical')
  })

  test('one node after the other, and never two on one', () => {
    const rollingUpdate = { maxUnavailable: 1, maxSurge: 0 }
    expect(daemonset.spec.updateStrategy).toEqual({ type: 'RollingUpdate', rollingUpdate })
  })

  test('found by the label that monitoring and upstream’s tests look for', () => {
    expect(daemonset.spec.selector.matchLabels).toEqual({ 'k8s-app': 'kube-proxy' })
    expect(metadata.labels).toMatchObject({ 'k8s-app': 'kube-proxy' })
  })

  test('asks for CPU and memory, and has no limit', () => {
    for (const { resources: asked } of [main, init])
      expect(asked).toEqual({ requests: { cpu: '50m', memory: '128Mi' } })
  })
})

test.each([
  ['migrate-check.yaml', 'command'],
  ['cleanup.yaml', 'cleanup'],
])('the pod of %s has the daemon’s rights, and never those of a privileged container', async (path, operation) => {
  const [object] = readManifests(path) as readonly (Manifest & { spec: PodSpec })[]
  const [container] = object!.spec.containers
  expect(container!.securityContext).toEqual({
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: main.securityContext.capabilities,
  })
  expect(container!.image).toBe(main.image)
  expect((await parseFlags(container!.args)).operation).toBe(operation)
  // What the command in its head puts in the place of NODE is the node's name alone.
  expect(object!.spec.nodeName).toBe('NODE')
  expect(readFileSync(join(manifests, path), 'utf8').match(/: NODE$/gm)).toHaveLength(1)
})
