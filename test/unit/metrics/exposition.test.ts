import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import { describe, expect, test } from 'vitest'
import { expose, formatFor, type Format } from '../../../src/metrics/exposition.ts'
import { createMetrics } from '../../../src/metrics/metrics.ts'
import { leftOutFamily, serviceFamilies } from '../../../src/metrics/service-series.ts'

describe('which format', () => {
  test.each<[string, string, Format]>([
    ['nothing said', '', 'text'],
    ['a browser', 'text/html,application/xhtml+xml,*/*;q=0.8', 'text'],
    ['curl', '*/*', 'text'],
    ['only OpenMetrics', 'application/openmetrics-text', 'openmetrics'],
    [
      'Prometheus 2',
      'application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.1',
      'openmetrics',
    ],
    ['Prometheus told to ask for text', 'text/plain;version=0.0.4;q=1,*/*;q=0.1', 'text'],
    ['text before OpenMetrics', 'application/openmetrics-text;q=0.2, text/plain;q=0.9', 'text'],
    ['OpenMetrics refused', 'application/openmetrics-text;q=0', 'text'],
  ])('%s', (_name, accept, format) => expect(formatFor(accept)).toBe(format))
})

async function textOf(pieces: AsyncIterable<string>): Promise<string> {
  let text = ''
  for await (const piece of pieces) text += piece
  return text
}

function registry(): Registry {
  const made = new Registry()
  const registers = [made]
  new Counter({ name: 'a_total', help: 'An a', labelNames: ['x'], registers }).inc({ x: 'y' }, 2)
  new Gauge({ name: 'b_total', help: 'A b_total that is none', registers }).set(3)
  new Histogram({ name: 'c_seconds', help: 'A c', buckets: [1], registers }).observe(0.5)
  return made
}

async function* more(format: Format): AsyncGenerator<string> {
  yield `# in ${format}\n`
}

const histogram = [
  '# HELP c_seconds A c',
  '# TYPE c_seconds histogram',
  'c_seconds_bucket{le="1"} 1',
  'c_seconds_bucket{le="+Inf"} 1',
  'c_seconds_sum 0.5',
  'c_seconds_count 1',
]
const gauge = ['# HELP b_total A b_total that is none', '# TYPE b_total gauge', 'b_total 3']

test.each<[Format, string[]]>([
  ['text', ['# HELP a_total An a', '# TYPE a_total counter', 'a_total{x="y"} 2', ...gauge, ...histogram, '# in text']],
  [
    'openmetrics',
    ['# HELP a An a', '# TYPE a counter', 'a_total{x="y"} 2', ...gauge, ...histogram, '# in openmetrics', '# EOF'],
  ],
])('%s', async (format, lines) => {
  const made = registry()
  // Asking for one format leaves the other as it is.
  await textOf(expose(made, 'openmetrics'))
  expect(await textOf(expose(made, format, more))).toBe(lines.map((line) => `${line}\n`).join(''))
})

test('no two families have one name in OpenMetrics, and counters end as they must', async () => {
  const metrics = createMetrics()
  const types = [...(await metrics.registry.metrics()).matchAll(/^# TYPE (\S+) (\S+)/gm)].map(([, name, type]) => ({
    name: name!,
    type: type!,
  }))
  const all = [...types, ...serviceFamilies, leftOutFamily]
  const names = all.map(({ name, type }) => (type === 'counter' ? name.replace(/_total$/, '') : name))
  expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([])
  expect(all.filter(({ name, type }) => type === 'counter' && !name.endsWith('_total'))).toEqual([])
})
