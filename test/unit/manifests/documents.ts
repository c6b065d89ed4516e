import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseAllDocuments } from 'yaml'

export const manifests = resolve(import.meta.dirname, '../../../manifests')

export interface Container {
  readonly name: string
  readonly image: string
  readonly command: readonly string[]
  readonly args: readonly string[]
  readonly ports?: unknown
  readonly env: readonly { readonly name: string }[]
  readonly securityContext: {
    readonly privileged?: boolean
    readonly allowPrivilegeEscalation?: boolean
    readonly readOnlyRootFilesystem?: boolean
    readonly capabilities?: { readonly add?: readonly string[]; readonly drop?: readonly string[] }
  }
  readonly livenessProbe: { readonly httpGet: { readonly path: string; readonly port: number } }
  readonly readinessProbe: { readonly httpGet: { readonly path: string; readonly port: number } }
  readonly resources: { readonly requests?: object; readonly limits?: object }
  readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string; readonly readOnly?: boolean }[]
}

export interface PodSpec {
  readonly [field: string]: unknown
  readonly hostNetwork: boolean
  readonly priorityClassName: string
  readonly serviceAccountName: string
  readonly nodeSelector: Readonly<Record<string, string>>
  readonly tolerations: readonly unknown[]
  readonly securityContext: { readonly seccompProfile: { readonly type: string } }
  readonly initContainers: readonly Container[]
  readonly containers: readonly Container[]
  readonly volumes: readonly {
    readonly name: string
    readonly hostPath?: { readonly path: string; readonly type?: string }
    readonly configMap?: { readonly name: string }
    readonly emptyDir?: object
  }[]
}

export interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: {
    readonly name: string
    readonly namespace?: string
    readonly labels?: Readonly<Record<string, string>>
  }
}

export interface DaemonSet extends Manifest {
  readonly spec: {
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> }
    readonly updateStrategy: { readonly type: string; readonly rollingUpdate: object }
    readonly template: {
      readonly metadata: { readonly labels: Readonly<Record<string, string>> }
      readonly spec: PodSpec
    }
  }
}

export interface Role extends Manifest {
  readonly rules: readonly {
    readonly apiGroups: readonly string[]
    readonly resources: readonly string[]
    readonly verbs: readonly string[]
  }[]
}

interface Kinds {
  readonly DaemonSet: DaemonSet
  readonly ClusterRole: Role
  readonly ClusterRoleBinding: Manifest & { readonly roleRef: object; readonly subjects: readonly object[] }
  readonly ConfigMap: Manifest & { readonly data: Readonly<Record<string, string>> }
  readonly PodMonitor: Manifest & { readonly spec: object }
}

export function parseManifests(text: string): readonly Manifest[] {
  return parseAllDocuments(text)
    .map((document) => document.toJS() as Manifest | null)
    .filter((object) => object !== null)
}

export function readManifests(path: string): readonly Manifest[] {
  return parseManifests(readFileSync(join(manifests, path), 'utf8'))
}

/** The one object of a kind; tests go by the shape that the kind has. */
export function ofKind<K extends keyof Kinds>(objects: readonly Manifest[], kind: K): Kinds[K] {
  const found = objects.filter((object) => object.kind === kind)
  if (found.length !== 1) throw new Error(`${found.length} objects of kind ${kind}`)
  return found[0] as Kinds[K]
}

/** Why `kubectl kustomize` cannot be run here; "" where it can. kustomize before 5 does not know all that is used. */
export const noKubectl = ((): string => {
  try {
    const text = execFileSync('kubectl', ['version', '--client', '-o', 'json'], { encoding: 'utf8', stdio: 'pipe' })
    const { kustomizeVersion = '' } = JSON.parse(text) as { kustomizeVersion?: string }
    return Number(/^v(\d+)/.exec(kustomizeVersion)?.[1]) >= 5 ? '' : 'kubectl is too old: its kustomize is below 5'
  } catch {
    return 'there is no kubectl'
  }
})()

export function kustomize(folder: string): readonly Manifest[] {
  return parseManifests(execFileSync('kubectl', ['kustomize', join(manifests, folder)], { encoding: 'utf8' }))
}
