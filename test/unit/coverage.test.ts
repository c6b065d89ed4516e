import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '../..')
const [map] = readFileSync(join(root, 'docs/coverage.md'), 'utf8').split('\n## Conformance') as [string]

/** Rows as cells, by number of the section. */
const sections = new Map(
  map
    .split(/^## /m)
    .slice(1)
    .map((text) => [
      Number.parseInt(text, 10),
      text
        .split('\n')
        .filter((line) => line.startsWith('| ') && !/^\| (-|Upstream|Case)/.test(line))
        .map((line) =>
          line
            .slice(1, -1)
            .split(' | ')
            .map((cell) => cell.trim()),
        ),
    ]),
)

/** How many rows each section has, at least one for each of upstream's cases: one that gets lost is noticed. */
const counts: Readonly<Record<number, number>> = {
  1: 25,
  2: 16,
  3: 14,
  4: 9,
  5: 40,
  6: 47,
  7: 25,
  8: 8,
  9: 7,
  10: 16,
  11: 8,
  12: 12,
}

test('the map has all its rows', () => {
  expect(Object.fromEntries([...sections].map(([section, rows]) => [section, rows.length]))).toEqual(counts)
})

test.each([...sections.values()].flat())('%s', (_case, file, title, ...more) => {
  expect(more).toEqual([])
  if (file === '') {
    expect(title).toMatch(/^(does not apply|wanted difference): .{10,}/)
    return
  }
  expect(file).toMatch(/^test\/(contract\/.+|.+\.test)\.ts$/)
  expect(existsSync(join(root, file)), `no file ${file}`).toBe(true)
  // A whole string of the source, so that a word in passing, or a part of another title, is no test.
  const source = readFileSync(join(root, file), 'utf8').replaceAll("\\'", "'")
  const quoted = ["'", '"', '`'].some((quote) => source.includes(`${quote}${title}${quote}`))
  expect(quoted, `${file} has no title "${title}"`).toBe(true)
})
