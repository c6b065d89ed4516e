import { describe, expect, test } from 'vitest'
import { Turn } from '../../../src/lib/turn.ts'
import {
  leftOutFamily,
  linesPerPiece,
  serviceFamilies,
  serviceLabels,
  serviceSeries,
} from '../../../src/metrics/service-series.ts'
import { columns, ServiceTable } from '../../../src/metrics/service-table.ts'

function tableOf(connections: readonly number[]): ServiceTable {
  const table = new ServiceTable()
  for (const [i, count] of connections.entries()) {
    const row = table.row(`s${i}`, () => `service="s${i}"`)
    table.add(row, 'connections', count)
    table.add(row, 'counted', 1)
    table.add(row, 'standing', 1)
  }
  return table
}

async function linesOf(pieces: AsyncIterable<string>): Promise<string[]> {
  const lines: string[] = []
  for await (const piece of pieces) lines.push(...piece.split('\n').filter(Boolean))
  return lines
}

/** A turn that is over at every question, and counts how often others had theirs. */
class ImpatientTurn extends Turn {
  count = 0
  override get isOver(): boolean {
    return true
  }
  override async next(): Promise<void> {
    this.count++
    await super.next()
  }
}

test('40,000 series come in pieces of a few lines, with a turn of others after each', async () => {
  // Nine series of each.
  const table = tableOf(Array.from({ length: 4500 }, (_, i) => i))
  const turn = new ImpatientTurn()
  let series = 0
  /** Series since others last had their turn. */
  let inARow = 0
  let turns = 0
  const runs: number[] = []
  for await (const piece of serviceSeries(table, 10_000, 'text', turn)) {
    const lines = piece.split('\n').filter((line) => line !== '' && !line.startsWith('#')).length
    if (turn.count > turns) inARow = 0
    turns = turn.count
    inARow += lines
    series += lines
    runs.push(inARow)
  }
  expect(series).toBe(40_501)
  // The end of one family and the beginning of the next come without a turn between them.
  expect(Math.max(...runs)).toBeLessThan(2 * linesPerPiece)
  expect(turns).toBeGreaterThanOrEqual(Math.floor(40_500 / linesPerPiece))
})

describe('the busiest', () => {
  test.each<[string, number[], number, number[]]>([
    ['all there are', [1, 2], 2, [0, 1]],
    ['those with most connections', [5, 1, 9, 7], 2, [2, 3]],
    ['of equals the first', [0, 3, 0, 0], 2, [1, 0]],
    ['of equals at the top, too', [4, 4, 4], 2, [0, 1]],
    ['none', [1, 2], 0, []],
    ['of none', [], 5, []],
  ])('%s', (_name, connections, most, rows) => expect(tableOf(connections).busiest(most)).toEqual(rows))
})

test('each family has its heading and its rows, and what is left out is counted', async () => {
  const table = tableOf([1, 2, 3])
  const lines = await linesOf(serviceSeries(table, 2, 'text'))
  for (const { name, type, samples } of serviceFamilies) {
    const from = lines.findIndex((line) => line === `# TYPE ${name} ${type}`)
    expect(lines[from - 1]).toMatch(`# HELP ${name} `)
    const rows = lines.slice(from + 1, from + 1 + 2 * samples.length)
    expect(rows.every((line) => line.startsWith(`${name}{service="s`))).toBe(true)
  }
  expect(lines).toContain('kube_ipvs_service_connections_total{service="s2"} 3')
  expect(lines.join('\n')).not.toContain('"s0"')
  expect(lines.at(-1)).toBe(`${leftOutFamily.name} 1`)
})

test('OpenMetrics names counters without _total', async () => {
  const lines = await linesOf(serviceSeries(tableOf([1]), 2, 'openmetrics'))
  expect(lines).toContain('# TYPE kube_ipvs_service_connections counter')
  expect(lines).toContain('kube_ipvs_service_connections_total{service="s0"} 1')
})

test('of a service port with a virtual server missing in the list, only the counters are told', async () => {
  const table = tableOf([1, 2])
  table.add(0, 'counted', 1)
  const lines = await linesOf(serviceSeries(table, 9, 'text'))
  const shown = (service: string): number => lines.filter((line) => line.includes(`"${service}"`)).length
  expect([shown('s0'), shown('s1')]).toEqual([5, 9])
})

describe('the table', () => {
  test('grows, and forgets all when cleared', () => {
    const table = tableOf(Array.from({ length: 1000 }, (_, i) => i))
    expect([table.size, table.value(999, 'connections'), table.labels(999)]).toEqual([1000, 999, 'service="s999"'])
    table.clear()
    expect(table.size).toBe(0)
    const row = table.row('again', () => '')
    expect(columns.map((column) => table.value(row, column))).toEqual(columns.map(() => 0))
  })

  test('labels are asked for once', () => {
    const table = new ServiceTable()
    let asked = 0
    const labels = (): string => String(++asked)
    expect([table.row('a', labels), table.row('b', labels), table.row('a', labels)]).toEqual([0, 1, 0])
    expect([asked, table.find('b'), table.find('c')]).toEqual([2, 1, undefined])
  })
})

test('labels are written as the format wants them', () => {
  const port = { namespace: 'default', service: 'we"b\\', port: 'a\nb', protocol: 'TCP', family: 'IPv6' }
  expect(serviceLabels(port)).toBe(
    'namespace="default",service="we\\"b\\\\",port="a\\nb",protocol="TCP",ip_family="IPv6"',
  )
})
