// Debian's Prometheus scrapes the daemon: every query of the dashboards and of the alerts has an answer.
import type { ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { stringify } from 'yaml'
import type { Command, KubeObject } from '../../fake-apiserver/server.ts'
import { allQueries, knownFindings, plainRules, readYaml, tool } from '../../monitoring/manifests.ts'
import { eventually, serviceObject, sliceObject } from '../lab.ts'
import { Cluster } from './cluster.ts'

const clusterIP = '10.96.1.1'
const endpoints = ['10.244.1.2', '10.244.1.3']
const prometheusPort = 9090

interface Sample {
  readonly metric: Readonly<Record<string, string>>
  readonly value: readonly [number, string]
}

let cluster: Cluster
const children: ChildProcess[] = []
/** What Prometheus last answered, by query; those that were not asked yet are not in it. */
const answers = new Map<string, readonly Sample[]>()
let prometheusLog = ''

beforeAll(async () => {
  cluster = await Cluster.start(async ({ namespace }) => {
    namespace.ip(...endpoints.map((address) => `address add ${address}/32 dev eth0`))
    // As somebody may have made it: with room for three, so that it is full soon.
    namespace.run(
      'ipset',
      'create',
      'KUBE-CLUSTER-IP',
      'hash:ip,port',
      'family',
      'inet',
      'hashsize',
      '64',
      'maxelem',
      '3',
    )
    return ['--ipvs-sync-period=5s', '--metrics-bind-address=0.0.0.0:10249']
  })
  const { namespace } = cluster
  children.push(namespace.spawn('socat', ['TCP4-LISTEN:8080,fork,reuseaddr', 'EXEC:cat']))
  await startPrometheus()
  await makeEverythingHappen()
})

afterAll(async () => {
  for (const child of children) child.kill('SIGKILL')
  await cluster?.stop()
})

/** Prometheus as it would be with our PodMonitor: its relabelings, on what discovery tells of the pod. */
async function startPrometheus(): Promise<void> {
  const { folder, namespace } = cluster
  const path = (name: string): string => join(folder.path, name)
  await writeFile(path('rules.yml'), plainRules())
  await writeFile(
    path('prometheus.yml'),
    stringify({
      global: { scrape_interval: '2s', scrape_timeout: '2s', evaluation_interval: '10s' },
      rule_files: [path('rules.yml')],
      scrape_configs: [scrapeConfig()],
    }),
  )
  const prometheus = namespace.spawn(tool('prometheus'), [
    `--config.file=${path('prometheus.yml')}`,
    `--storage.tsdb.path=${path('data')}`,
    `--web.listen-address=127.0.0.1:${prometheusPort}`,
  ])
  for (const stream of [prometheus.stdout!, prometheus.stderr!]) {
    stream.on('data', (chunk: Buffer) => (prometheusLog += chunk.toString()))
  }
  children.push(prometheus)
  await eventually('Prometheus', () => {
    expect(prometheus.exitCode, prometheusLog).toBe(null)
    return prometheusLog.includes('Server is ready to receive web requests')
  })
}

function scrapeConfig(): unknown {
  const { metadata, spec } = readYaml('podmonitor.yaml') as {
    metadata: { namespace: string }
    spec: {
      jobLabel: string
      selector: { matchLabels: Record<string, string> }
      podMetricsEndpoints: [{ honorLabels: boolean; relabelings: Record<string, unknown>[] }]
    }
  }
  const [{ honorLabels, relabelings }] = spec.podMetricsEndpoints
  const snake = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
  return {
    job_name: 'podMonitor',
    honor_labels: honorLabels,
    static_configs: [
      {
        targets: ['nowhere:1'],
        labels: {
          // What the operator sets for each target of a PodMonitor.
          job: spec.selector.matchLabels[spec.jobLabel],
          namespace: metadata.namespace,
          pod: 'kube-proxy-x7k2p',
          __meta_kubernetes_pod_node_name: 'node1',
          __meta_kubernetes_pod_ip: '192.168.60.1',
        },
      },
    ],
    relabel_configs: relabelings.map((one) =>
      Object.fromEntries(Object.entries(one).map(([name, value]) => [snake(name), value])),
    ),
  }
}

/** Asks all at once; keeps what has come. */
async function ask(queries: readonly string[]): Promise<void> {
  const url = (query: string): string =>
    `http://127.0.0.1:${prometheusPort}/api/v1/query?query=${encodeURIComponent(query)}`
  const file = join(cluster.folder.path, 'queries')
  await writeFile(file, queries.map((query) => `url = "${url(query)}"\nwrite-out = "\\n"`).join('\n'))
  const lines = cluster.namespace.run('curl', '-sS', '--max-time', '60', '-K', file).split('\n').filter(Boolean)
  for (const [i, query] of queries.entries()) {
    const { status, data, error } = JSON.parse(lines[i]!) as {
      status: string
      data?: { result: readonly Sample[] }
      error?: string
    }
    if (status !== 'success') throw new Error(`${query}: ${error}`)
    if (data!.result.length > 0) answers.set(query, data!.result)
  }
}

/** Asks one query until its values hold. */
async function eventuallyAnswered(query: string, holds: (values: readonly number[]) => boolean): Promise<void> {
  await eventually(query, async () => {
    await ask([query])
    return holds(valuesOf(query))
  })
}

/** A quantile of nothing is NaN: no answer. */
const isAnswered = (query: string): boolean =>
  answers.get(query)?.some(({ value }) => Number.isFinite(Number(value[1]))) ?? false

/** What series need to have something to tell, again and again until all are answered. */
async function makeEverythingHappen(): Promise<void> {
  const { namespace } = cluster
  const queries = [...new Set(allQueries().map(([, query]) => query))]
  // Two connections that stay, one at each endpoint; the second endpoint goes in the first round.
  const both = sliceObject('web', endpoints) as KubeObject
  cluster.tell({ put: both })
  await eventually('both endpoints', () => endpoints.every((one) => namespace.run('ipvsadm', '-Ln').includes(one)))
  for (let i = 0; i < 2; i++) {
    children.push(namespace.spawn('socat', ['-T600', 'EXEC:sleep 600', `TCP4:${clusterIP}:80`]))
  }
  await eventually('both connections', () => countOf(namespace.run('ipvsadm', '-Lnc'), /ESTABLISHED/g) >= 2)
  // A larger set cannot be made where its name is taken, by one that a rule needs.
  namespace.run('ipset', 'create', 'KUBE-CLUSTER-IP-TMP', 'hash:ip')
  namespace.run('iptables', '-A', 'OUTPUT', '-m', 'set', '--match-set', 'KUBE-CLUSTER-IP-TMP', 'dst')
  // What happens before the first scrapes, or between two, is not seen.
  await eventuallyAnswered('count_over_time(up[1m])', ([count]) => count! >= 2)
  let round = 0
  while (round < answersOfApi.length) {
    happen(round)
    if (answersOfApi[round]!.disconnectAll === true) await eventuallyAnswered(failing, isFailure)
    round++
  }
  await eventually(
    'answers to all queries',
    async () => {
      happen(round++)
      await ask([...queries.filter((query) => !isAnswered(query)), ...checks])
      return queries.every(isAnswered) && expectations.every(isMet)
    },
    90_000,
  ).catch(() => {}) // The rows below tell which are not.
}

/**
 * Answers that the API server gives to whatever is asked next, by round: to Events, and to watches where they are cut, too;
 * null: all is well again.
 */
const answersOfApi: readonly Pick<Command, 'failAll' | 'disconnectAll'>[] = [
  { failAll: 302 },
  { failAll: 404 },
  { failAll: 500, disconnectAll: true },
  { failAll: null },
]

function happen(round: number): void {
  // The kernel was written so long after the change, by the annotation.
  const annotations = { 'endpoints.kubernetes.io/last-change-trigger-time': new Date(Date.now() - 500).toISOString() }
  const slice = sliceObject('web', endpoints.slice(0, 1)) as KubeObject
  const labels = { ...slice.metadata.labels, round: `${round}` }
  // A Service with the node's own address gives an Event, which is a POST. And they are too many for the set.
  const spec = { externalIPs: ['192.168.60.1'] }
  const clash = serviceObject({
    name: `clash-${round}`,
    clusterIP: `10.96.2.${round + 1}`,
    port: 8100 + round,
    spec,
  }) as KubeObject
  const put = [{ ...slice, metadata: { ...slice.metadata, annotations, labels } }, clash]
  cluster.tell({ put, ...answersOfApi[round] })
  // Traffic; and somebody else's hand.
  const ask = "timeout 10 bash -c 'exec 3<>/dev/tcp/$0/80; echo hello >&3; read -r -t 5 line <&3' $0"
  const tamper = round % 3 === 1 ? 'ipvsadm -D -t 10.96.2.1:8100' : 'true'
  cluster.namespace.run('sh', '-c', `${ask}; ${tamper} 2> /dev/null; true`, clusterIP)
}

function countOf(text: string, what: RegExp): number {
  return text.match(what)?.length ?? 0
}

const failing = 'max_over_time(kube_ipvs_api_failing_seconds[10m])'
const isFailure = (ages: readonly number[]): boolean => ages.length === 3 && ages.every((age) => age > 0)

/** Beyond there being an answer: what must have come of the events. */
const expectations: readonly [string, string, (values: readonly number[]) => boolean][] = [
  [
    'the target has the labels of the PodMonitor',
    'up{job="kube-proxy",instance="node1",node="node1",pod="kube-proxy-x7k2p"}',
    ([up]) => up === 1,
  ],
  [
    'a Service keeps its own namespace',
    'kube_ipvs_service_connections_total{namespace="default",service="web",port="80"}',
    ([count]) => count! >= 4,
  ],
  ['other series have that of the pod', 'kube_ipvs_config_in_force{namespace="kube-system"}', ([one]) => one === 1],
  [
    'drift was counted',
    'sum(kube_ipvs_drift_repaired_total{layer="ipvs",kind="virtual server",state="missing"})',
    ([count]) => count! >= 1,
  ],
  [
    'the set was full, by the kernel’s name for it',
    'sum(kube_ipvs_kernel_call_errors_total{error="IPSET_ERR_HASH_FULL"})',
    ([count]) => count! >= 1,
  ],
  ['and so were passes failing', 'sum(kube_ipvs_sync_failures_total{ip_family="IPv4"})', ([count]) => count! >= 1],
  ['its Services were refused', 'kube_ipvs_refused_service_ports{ip_family="IPv4"}', ([count]) => count! >= 1],
  ['an endpoint drains', 'kube_ipvs_draining_destinations{ip_family="IPv4"}', ([count]) => count === 1],
  ['and has done so for some time', 'kube_ipvs_longest_drain_seconds{ip_family="IPv4"}', ([seconds]) => seconds! > 2],
  [
    'each resource was heard of',
    'time() - kube_ipvs_api_last_contact_timestamp_seconds',
    (ages) => ages.length === 3 && ages.every((age) => age < 600),
  ],
  ['and failed meanwhile', failing, isFailure],
  [
    'the rules are loaded, and alerts pending',
    'ALERTS{alertname="KubeIPVSServicePortsRefused",alertstate="pending",instance="node1"}',
    ([one]) => one === 1,
  ],
]
const checks = expectations.map(([, query]) => query)

function valuesOf(query: string): number[] {
  return (answers.get(query) ?? []).map(({ value }) => Number(value[1]))
}

function isMet([, query, holds]: (typeof expectations)[number]): boolean {
  return holds(valuesOf(query))
}

test.each(allQueries())('%s', (_from, query) => {
  expect(isAnswered(query), `${query} → ${JSON.stringify(answers.get(query))}`).toBe(true)
})

test.each(expectations)('%s', (...row) => {
  expect(isMet(row), `${row[1]} → ${valuesOf(row[1]).join()}`).toBe(true)
})

test('Prometheus has nothing to complain of', () => {
  expect(prometheusLog.split('\n').filter((line) => /level=(warn|error)/.test(line))).toEqual([])
})

test('promtool finds nothing in what the daemon serves but the names that others gave', async () => {
  const { namespace, folder } = cluster
  const file = join(folder.path, 'metrics.txt')
  namespace.run('curl', '-sS', '--max-time', '60', '-o', file, 'http://127.0.0.1:10249/metrics')
  expect(readFileSync(file, 'utf8')).toContain('kube_ipvs_service_connections_total{')
  const found = namespace.run('bash', '-c', `${tool('promtool')} check metrics < ${file} 2>&1; true`)
  expect(found.split('\n').filter(Boolean).sort()).toEqual(knownFindings)
})
