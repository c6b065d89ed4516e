import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { fields, type FieldSpec } from '../../../src/config/schema.ts'

const text = readFileSync(join(import.meta.dirname, '../../../docs/configuration.md'), 'utf8')
/** Cells of the table of fields, by path. */
const rows = new Map(
  text
    .split('\n')
    .filter((line) => /^\| `[\w.]+` +\|/.test(line))
    .map((line) => {
      const cells = line.split('|').map((cell) => cell.trim().replaceAll('`', ''))
      return [cells[1]!, cells.slice(2)]
    }),
)

test.each(Object.entries(fields) as [string, FieldSpec][])(
  '%s is documented as it is',
  (path, { preset, flag, kind, use }) => {
    const row = rows.get(path)
    expect(row).toBeDefined()
    const [shownDefault, shownFlag, inUse, about] = row!
    const value = kind.show(preset)
    const shown = value === '' ? '' : typeof value === 'string' ? value : JSON.stringify(value)
    expect(shownDefault).toBe(shown)
    expect(shownFlag).toBe(flag === undefined ? '' : `--${flag}`)
    expect(inUse).toBe({ now: 'yes', never: 'no' }[use])
    expect(about!.length).toBeGreaterThan(5)
  },
)

test('nothing is documented that is no field', () => {
  expect([...rows.keys()].filter((path) => !Object.hasOwn(fields, path))).toEqual([])
})
