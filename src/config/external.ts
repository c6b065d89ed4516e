import { fields, type FieldPath, type FieldSpec, type ProxyConfig } from './schema.ts'

/** The effective configuration in the shape of a KubeProxyConfiguration: nested, durations as text. */
export function externalForm(config: ProxyConfig): Record<string, unknown> {
  const root: Record<string, unknown> = {
    kind: 'KubeProxyConfiguration',
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
  }
  for (const path of Object.keys(fields) as FieldPath[]) {
    const [section, member] = path.split('.') as [string, string?]
    const value = (fields[path] as FieldSpec).kind.show(config[path])
    if (member === undefined) root[section] = value
    else ((root[section] ??= {}) as Record<string, unknown>)[member] = value
  }
  return root
}
