import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createMetrics } from '../../../src/metrics/metrics.ts'
import { leftOutFamily, serviceFamilies } from '../../../src/metrics/service-series.ts'

const text = readFileSync(join(import.meta.dirname, '../../../docs/metrics.md'), 'utf8')

/** Type of each family by the document's tables. */
const documented = new Map<string, string>()
for (const [, name, type] of text.matchAll(/^\| `([a-z_0-9]+)` +\| (counter|gauge|histogram) +\|/gm)) {
  expect(documented.has(name!), name).toBe(false)
  documented.set(name!, type!)
}

/** Labels as the document has them, by family; those of the process's own series are not in columns. */
const labels = new Map(
  [...text.matchAll(/^\| `(kube[a-z_]+|rest_client[a-z_]+)` +\| \w+ +\| ([^|]*?) *\|/gm)].map(([, name, cell]) => [
    name!,
    cell!.startsWith('`') ? cell!.replaceAll('`', '').split(', ').sort() : [],
  ]),
)

const metrics = createMetrics()
const registered = [metrics.registry, metrics.slis.registry].flatMap((registry) => registry.getMetricsAsArray())
const types = new Map<string, string>([...serviceFamilies, leftOutFamily].map(({ name, type }) => [name, type]))
const ownText = `${await metrics.registry.metrics()}${await metrics.slis.registry.metrics()}`
for (const [, name, type] of ownText.matchAll(/^# TYPE (\S+) (\S+)/gm)) types.set(name!, type!)

test.each([...types])('%s is documented as the %s that it is', (name, type) => {
  expect(documented.get(name)).toBe(type)
})

test('nothing is documented that is not registered', () => {
  expect([...documented.keys()].filter((name) => !types.has(name))).toEqual([])
})

test('labels are documented as they are', () => {
  const wrong: string[] = []
  for (const metric of registered) {
    const { name, labelNames } = metric as unknown as { name: string; labelNames: readonly string[] }
    // Its nine labels are upstream's, as the table says.
    if (!labels.has(name) || name === 'kubernetes_build_info') continue
    const own = labelNames.filter((label) => label !== 'le').toSorted()
    if (labels.get(name)!.join() !== own.join()) wrong.push(`${name}: ${own.join()}`)
  }
  expect(wrong).toEqual([])
})
