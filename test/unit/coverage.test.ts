import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '../..')
const rows = readFileSync(join(root, 'docs/coverage.md'), 'utf8')
  .split('\n## Conformance')[0]!
  .split('\n')
  .filter((line) => line.startsWith('| ') && !/^\| (-|Upstream|Case|Behaviour)/.test(line))
  .map((line) => line.split(' | ').map((cell) => cell.replace(/^\|\s*|\s*\|$/g, '').trim()))

test('the map has its rows', () => expect(rows.length).toBeGreaterThan(150))

test.each(rows)('%s', (_case, file, title) => {
  if (file === '') {
    expect(title).toMatch(/^(does not apply|wanted difference): .{10,}/)
    return
  }
  expect(existsSync(join(root, file))).toBe(true)
  // Titles may hold quotes that the source escapes, and end where a sentence of the source goes on.
  const source = readFileSync(join(root, file), 'utf8').replaceAll("\\'", "'")
  expect(source.includes(title), `${file} has no "${title}"`).toBe(true)
})
