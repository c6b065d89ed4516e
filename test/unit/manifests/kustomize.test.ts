import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { loadConfig } from '../../../src/config/load.ts'
import { kustomize, manifests, noKubectl, ofKind, readManifests, type DaemonSet } from './documents.ts'
import { mistakes } from './kubernetes-types.ts'

const read = (path: string): string => readFileSync(join(manifests, path), 'utf8')

test('the configuration of the overlay with its own is accepted', () => {
  const { config, problems } = loadConfig({ file: read('overlays/own-config/config.conf'), flags: new Map() })
  expect(problems).toEqual([])
  expect(config['clientConnection.kubeconfig']).toBe('/var/lib/kube-proxy/kubeconfig.conf')
  expect(parse(read('overlays/own-config/kubeconfig.conf'))).toMatchObject({
    clusters: [{ cluster: { server: 'https://control-plane.example:6443' } }],
    users: [{ user: { tokenFile: '/var/run/secrets/kubernetes.io/serviceaccount/token' } }],
  })
})

test.each(['.', 'base', 'overlays/kubeadm', 'overlays/side-by-side', 'overlays/own-config', 'monitoring'])(
  'files that %s/kustomization.yaml names are there',
  (folder) => {
    const { resources, patches, configMapGenerator } = parse(read(join(folder, 'kustomization.yaml'))) as {
      resources: string[]
      patches?: { path?: string }[]
      configMapGenerator?: { files: string[] }[]
    }
    const files = [
      ...resources,
      ...(patches ?? []).flatMap(({ path }) => path ?? []),
      ...(configMapGenerator ?? []).flatMap((one) => one.files.map((file) => file.split('=').at(-1)!)),
    ]
    expect(files.filter((file) => !existsSync(join(manifests, folder, file)))).toEqual([])
  },
)

test('the patch that keeps kube-proxy off labelled nodes is for a DaemonSet', () => {
  const patch = parse(read('overlays/side-by-side/kube-proxy.yaml')) as {
    spec: { template: { spec: { affinity: object } } }
  }
  expect(mistakes(patch.spec.template.spec.affinity, 'V1Affinity')).toEqual([])
})

const types = ['DaemonSet', 'ServiceAccount', 'ClusterRole', 'ClusterRoleBinding', 'ConfigMap']

/** kubeadm's, as far as a merge is concerned with it. */
const kubeadm = {
  apiVersion: 'apps/v1',
  kind: 'DaemonSet',
  metadata: { name: 'kube-proxy', namespace: 'kube-system', labels: { 'k8s-app': 'kube-proxy' } },
  spec: {
    selector: { matchLabels: { 'k8s-app': 'kube-proxy' } },
    updateStrategy: { type: 'RollingUpdate' },
    template: {
      metadata: { labels: { 'k8s-app': 'kube-proxy' } },
      spec: {
        hostNetwork: true,
        priorityClassName: 'system-node-critical',
        serviceAccountName: 'kube-proxy',
        containers: [
          {
            name: 'kube-proxy',
            image: 'kube-proxy:v1.36.0',
            command: [
              '/usr/local/bin/kube-proxy',
              '--config=/var/lib/kube-proxy/config.conf',
              '--hostname-override=$(NODE_NAME)',
            ],
            env: [{ name: 'NODE_NAME', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } }],
            securityContext: { privileged: true },
            volumeMounts: [
              { name: 'kube-proxy', mountPath: '/var/lib/kube-proxy' },
              { name: 'xtables-lock', mountPath: '/run/xtables.lock' },
              { name: 'lib-modules', mountPath: '/lib/modules', readOnly: true },
            ],
          },
        ],
        volumes: [
          { name: 'kube-proxy', configMap: { name: 'kube-proxy' } },
          { name: 'xtables-lock', hostPath: { path: '/run/xtables.lock', type: 'FileOrCreate' } },
          { name: 'lib-modules', hostPath: { path: '/lib/modules' } },
        ],
      },
    },
  },
}

describe.skipIf(noKubectl !== '')(`built by kubectl kustomize${noKubectl && `: ${noKubectl}`}`, () => {
  test.each(['.', 'base', 'overlays/kubeadm', 'overlays/side-by-side', 'overlays/own-config'])('%s', (folder) => {
    const objects = kustomize(folder)
    for (const object of objects) {
      expect(types).toContain(object.kind)
      expect(mistakes(object, `V1${object.kind}`), object.kind).toEqual([])
      if (!object.kind.startsWith('Cluster')) expect(object.metadata.namespace, object.kind).toBe('kube-system')
    }
    const { template, selector } = ofKind(objects, 'DaemonSet').spec
    expect(template.metadata.labels).toMatchObject(selector.matchLabels)
    expect(template.metadata.labels).toMatchObject({ 'k8s-app': 'kube-proxy' })
  })

  test('the root is what takes kubeadm’s place: the base as it is', () => {
    expect(kustomize('.')).toEqual(kustomize('base'))
    const built = ofKind(kustomize('.'), 'DaemonSet')
    expect(built.spec).toEqual(ofKind(readManifests('base/daemonset.yaml'), 'DaemonSet').spec)
    expect(built.metadata.name).toBe('kube-proxy')
  })

  test('side by side: another name and selector, labelled nodes alone, never beside a kube-proxy', () => {
    const { metadata, spec } = ofKind(kustomize('overlays/side-by-side'), 'DaemonSet')
    expect(metadata.name).toBe('kube-ipvs-proxy')
    expect(spec.selector.matchLabels).toEqual({ 'k8s-app': 'kube-proxy', 'app.kubernetes.io/name': 'kube-ipvs-proxy' })
    expect(spec.template.spec.nodeSelector).toEqual({ 'kubernetes.io/os': 'linux', 'kube-ipvs-proxy': 'true' })
    expect(JSON.stringify(spec.template.spec.affinity)).toContain('podAntiAffinity')
  })

  test('with its own configuration: the ConfigMap that it brings', () => {
    const objects = kustomize('overlays/own-config')
    const configMap = ofKind(objects, 'ConfigMap')
    const { volumes } = ofKind(objects, 'DaemonSet').spec.template.spec
    expect(volumes.find(({ name }) => name === 'kube-proxy')!.configMap!.name).toBe(configMap.metadata.name)
  })

  test('applied over kubeadm’s DaemonSet nothing of it is left that matters', () => {
    const folder = mkdtempSync(join(tmpdir(), 'manifests-'))
    try {
      const ours = ofKind(kustomize('.'), 'DaemonSet')
      writeFileSync(join(folder, 'theirs.yaml'), stringify(kubeadm))
      writeFileSync(join(folder, 'ours.yaml'), stringify(ours))
      const args = ['patch', '--local', '-f', 'theirs.yaml', '--patch-file', 'ours.yaml', '-o', 'json']
      const text = execFileSync('kubectl', args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' })
      const merged = JSON.parse(text) as DaemonSet
      const [main, ...more] = merged.spec.template.spec.containers
      const wanted = ours.spec.template.spec.containers[0]!
      expect(more).toEqual([])
      expect(main).toMatchObject({
        command: wanted.command,
        args: wanted.args,
        securityContext: wanted.securityContext,
      })
      expect(merged.spec.template.spec.serviceAccountName).toBe('kube-ipvs-proxy')
      // A merge takes no mount away: this one is to read, and docs/migration.md says so.
      const left = main!.volumeMounts.filter(
        ({ mountPath }) => !wanted.volumeMounts.some((own) => own.mountPath === mountPath),
      )
      expect(left).toEqual([{ name: 'lib-modules', mountPath: '/lib/modules', readOnly: true }])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
