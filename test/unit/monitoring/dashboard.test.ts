import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createMetrics } from '../../../src/metrics/metrics.ts'
import { leftOutFamily, serviceFamilies } from '../../../src/metrics/service-series.ts'
import { alerts, allQueries, dashboard, mixinQueries, substituted } from '../../monitoring/manifests.ts'

const panels = dashboard.panels.filter(({ type }) => type !== 'row')
const guide = readFileSync(join(import.meta.dirname, '../../../docs/troubleshooting.md'), 'utf8')

/** Series that there are, by name; a histogram's are three. */
const known = new Set<string>(['up'])
const text = await createMetrics().registry.metrics()
const families = [...text.matchAll(/^# TYPE (\S+) (\S+)/gm)].map(([, name, type]) => ({ name: name!, type: type! }))
for (const { name, type } of [...families, ...serviceFamilies, leftOutFamily]) {
  for (const end of type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']) known.add(`${name}${end}`)
}

test('Grafana 10 and later can read it', () => {
  expect(dashboard.schemaVersion).toBeGreaterThanOrEqual(38)
  expect(new Set(dashboard.panels.map(({ id }) => id)).size).toBe(dashboard.panels.length)
})

test('it has variables for the data source, the node, the namespace and the Service', () => {
  const names = dashboard.templating.list.map(({ name, type }) => `${name} ${type}`)
  expect(names).toEqual(['datasource datasource', 'job query', 'instance query', 'namespace query', 'service query'])
})

test('panels lie beside each other', () => {
  const taken = new Map<string, string>()
  for (const { title, gridPos } of dashboard.panels) {
    expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24)
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        expect(taken.get(`${x} ${y}`), title).toBeUndefined()
        taken.set(`${x} ${y}`, title)
      }
    }
  }
})

test.each(panels)('$title: it is said what it shows, and its queries go to the chosen data source', (panel) => {
  expect(panel.description).toMatch(/[\w”]\.$/)
  expect(panel.targets?.length).toBeGreaterThan(0)
  for (const { expr, datasource } of panel.targets!) {
    expect(datasource.uid).toBe('${datasource}')
    expect(expr).toContain('job="$job", instance=~"$instance"')
    expect(substituted(expr)).not.toContain('$')
  }
  // What it refers to in the guide is a heading there.
  for (const [, heading] of panel.description!.matchAll(/“(.+?)”/g)) expect(guide).toContain(`\n## ${heading}\n`)
})

test('every series that is asked for is there', () => {
  expect(allQueries().length).toBe(
    panels.flatMap(({ targets }) => targets).length + alerts.length + mixinQueries().length,
  )
  const unknown = allQueries().flatMap(([from, expr]) => {
    const bare = expr.replaceAll(/"[^"]*"/g, '')
    const names = [...bare.matchAll(/\b([a-z]\w*)\{/g)].map(([, name]) => name!)
    expect(names.length, from).toBeGreaterThan(0)
    return names.filter((name) => !known.has(name)).map((name) => `${from}: ${name}`)
  })
  expect(unknown).toEqual([])
})
