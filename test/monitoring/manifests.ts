import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parse, stringify } from 'yaml'

const root = resolve(import.meta.dirname, '../..')
const folder = join(root, 'manifests/monitoring')

export interface Alert {
  readonly alert: string
  readonly expr: string
  readonly for: string
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<'summary' | 'description' | 'runbook_url', string>>
}

interface RuleGroups {
  readonly groups: readonly { readonly name: string; readonly rules: readonly Alert[] }[]
}

export function readYaml(name: string): unknown {
  return parse(readFileSync(join(folder, name), 'utf8'))
}

const { spec } = readYaml('prometheusrule.yaml') as { readonly spec: RuleGroups }

export const alerts = spec.groups.flatMap(({ rules }) => rules)

/** The PrometheusRule as Prometheus itself takes rules: without the wrapper. */
export function plainRules(): string {
  return stringify(spec)
}

export interface Panel {
  readonly id: number
  readonly type: string
  readonly title: string
  readonly description?: string
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  readonly targets?: readonly { readonly refId: string; readonly expr: string; readonly datasource: { uid: string } }[]
}

export interface Dashboard {
  readonly uid: string
  readonly schemaVersion: number
  readonly templating: {
    readonly list: readonly { readonly name: string; readonly type: string; readonly query: unknown }[]
  }
  readonly panels: readonly Panel[]
}

export const dashboard = JSON.parse(readFileSync(join(folder, 'dashboard.json'), 'utf8')) as Dashboard

/** A query as Grafana sends it with everything chosen, over a minute. */
export function substituted(expr: string): string {
  const values: Readonly<Record<string, string>> = { job: 'kube-proxy', __rate_interval: '1m' }
  return expr.replaceAll(/\$(\w+)/g, (_all, name: string) => values[name] ?? '.*')
}

/**
 * An alert's expression, each of its comparisons made into a number: it answers 0 where the alert is quiet, and nothing
 * where a series is missing or the two sides of an operator do not match.
 */
export function asNumbers(expr: string): string {
  return expr
    .split(/(\{[^}]*\})/)
    .map((part, i) => (i % 2 === 1 ? part : part.replaceAll(/(==|!=|>=|<=|>|<)/g, '$1 bool')))
    .join('')
}

/**
 * The queries of kubernetes-mixin's dashboard for kube-proxy, made of its list of series: rate and p99 of syncs and of
 * network programming, requests to the API server, process.
 */
export function mixinQueries(): readonly string[] {
  const selector = 'job="kube-proxy", instance=~".*"'
  const rate = (series: string, more = '') => `rate(${series}{${selector}${more}}[1m])`
  const sum = (by: string, of: string) => `sum by (${by}) (${of})`
  const durations = ['kubeproxy_sync_proxy_rules_duration_seconds', 'kubeproxy_network_programming_duration_seconds']
  const p99 = (of: string) => `histogram_quantile(0.99, ${of})`
  return [
    ...durations.flatMap((name) => [`sum(${rate(`${name}_count`)})`, p99(sum('instance, le', rate(`${name}_bucket`)))]),
    p99(rate(`${durations[0]!}_bucket`)),
    ...['2..', '3..', '4..', '5..'].map((code) => `sum(${rate('rest_client_requests_total', `, code=~"${code}"`)})`),
    ...['POST', 'GET'].map((verb) =>
      p99(sum('verb, le', rate('rest_client_request_duration_seconds_bucket', `, verb="${verb}"`))),
    ),
    `process_resident_memory_bytes{${selector}}`,
    rate('process_cpu_seconds_total'),
    `go_goroutines{${selector}}`,
  ]
}

/** Queries by where they are from: those of the dashboard, of the alerts, of kubernetes-mixin. */
export function allQueries(): readonly (readonly [string, string])[] {
  return [
    ...dashboard.panels.flatMap(({ title, targets = [] }) =>
      targets.map(({ refId, expr }) => [`dashboard, ${title}, ${refId}`, substituted(expr)] as const),
    ),
    ...alerts.map(({ alert, expr }) => [`alert ${alert}`, asNumbers(expr)] as const),
    ...mixinQueries().map((expr) => [`kubernetes-mixin, ${expr}`, expr] as const),
  ]
}

/** prometheus or promtool: as scripts/prepare.sh has unpacked it, or the system's own. */
export function tool(name: 'prometheus' | 'promtool'): string {
  const unpacked = join(root, '.cache/prometheus/usr/bin', name)
  if (existsSync(unpacked)) return unpacked
  for (const path of (process.env.PATH ?? '').split(':')) if (existsSync(join(path, name))) return join(path, name)
  throw new Error(`no ${name}: run scripts/prepare.sh, which unpacks Debian's package`)
}

/**
 * What `promtool check metrics` finds in series that keep the names they have elsewhere: upstream's, and prom-client's of the
 * process.
 */
export const knownFindings: readonly string[] = [
  'kubeproxy_sync_proxy_rules_no_local_endpoints_total non-counter metrics should not have "_total" suffix',
  'nodejs_active_handles_total non-counter metrics should not have "_total" suffix',
  'nodejs_active_requests_total non-counter metrics should not have "_total" suffix',
  'nodejs_active_resources_total non-counter metrics should not have "_total" suffix',
]
