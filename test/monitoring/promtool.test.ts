// Prometheus' own judgement of our rules and series, with promtool as Debian has it.
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import { createMetrics, startAtZero } from '../../src/metrics/metrics.ts'
import { leftOutFamily, serviceFamilies } from '../../src/metrics/service-series.ts'
import { heading } from '../../src/metrics/exposition.ts'
import { alerts, knownFindings, plainRules, tool } from './manifests.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kube-ipvs-proxy-'))
  writeFileSync(join(folder, 'rules.yaml'), plainRules())
  cpSync(join(import.meta.dirname, 'alerts.yaml'), join(folder, 'alerts.yaml'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const promtool = (...args: string[]): string =>
  execFileSync(tool('promtool'), args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

test('check rules', () => {
  expect(promtool('check', 'rules', 'rules.yaml')).toContain(`SUCCESS: ${alerts.length} rules found`)
})

test('test rules: each alert fires, and is quiet on a healthy node', () => {
  expect(promtool('test', 'rules', 'alerts.yaml')).toContain('SUCCESS')
})

test('no alert is left out of those tests', () => {
  const written = parse(readFileSync(join(folder, 'alerts.yaml'), 'utf8')) as {
    tests: { name: string; promql_expr_test?: { exp_samples?: { labels: string }[] }[] }[]
  }
  const firing = new Set<string>()
  for (const { promql_expr_test: steps = [] } of written.tests) {
    for (const { exp_samples: samples = [] } of steps) {
      const names = samples.flatMap(({ labels }) => [...labels.matchAll(/alertname="(\w+)"/g)])
      for (const [, name] of names) firing.add(name!)
    }
  }
  expect([...firing].sort()).toEqual(alerts.map(({ alert }) => alert).sort())
})

test('check metrics: of all families that there are', async () => {
  const metrics = createMetrics(new Map([['ipvs', { messages: 1, sends: 1 }]]))
  startAtZero(metrics, ['IPv4', 'IPv6'])
  const more = [...serviceFamilies, leftOutFamily].map(({ name, type, help }) => heading(name, type, help, 'text'))
  const text = `${await metrics.registry.metrics()}\n${more.join('')}${await metrics.slis.registry.metrics()}`
  // A family without a sample would be passed over.
  const input = text.replaceAll(/^(# TYPE (\S+) (?:counter|gauge)\n)(?=#|\n|$(?![^]))/gm, '$1$2 0\n')
  expect(input).toContain('kube_ipvs_service_connections_total 0\n')
  const { stderr, stdout } = spawnSync(tool('promtool'), ['check', 'metrics'], { input, encoding: 'utf8' })
  expect(`${stdout}${stderr}`.split('\n').filter(Boolean).sort()).toEqual(knownFindings)
})
