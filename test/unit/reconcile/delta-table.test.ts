import { expect, test } from 'vitest'
import { DeltaTable } from '../../../src/reconcile/delta-table.ts'

type Step = (table: DeltaTable<string, number>) => void
const want =
  (key: string, value: number): Step =>
  (table) =>
    table.want(key, value)
const unwant =
  (key: string): Step =>
  (table) =>
    table.unwant(key)
const seen =
  (key: string, value: number): Step =>
  (table) =>
    table.observed(key, value)
const gone =
  (key: string): Step =>
  (table) =>
    table.gone(key)
const dump =
  (...entries: [string, number][]): Step =>
  (table) =>
    table.observedAll(new Map(entries))

test.each<{ name: string; steps: Step[]; add: [string, number][]; remove: string[] }>([
  { name: 'wanted and absent', steps: [want('a', 1)], add: [['a', 1]], remove: [] },
  { name: 'wanted and present', steps: [want('a', 1), seen('a', 1)], add: [], remove: [] },
  { name: 'wanted otherwise', steps: [want('a', 2), seen('a', 1)], add: [['a', 2]], remove: [] },
  { name: 'no longer wanted', steps: [want('a', 1), seen('a', 1), unwant('a')], add: [], remove: ['a'] },
  { name: 'wanted and given up before it came to be', steps: [want('a', 1), unwant('a')], add: [], remove: [] },
  { name: 'taken away by someone', steps: [want('a', 1), seen('a', 1), gone('a')], add: [['a', 1]], remove: [] },
  {
    name: 'a dump that lacks one and has a foreign one',
    steps: [want('a', 1), seen('a', 1), dump(['b', 1])],
    add: [['a', 1]],
    remove: ['b'],
  },
])('$name', ({ steps, add, remove }) => {
  const table = new DeltaTable<string, number>()
  for (const step of steps) step(table)
  expect([...table.additions()]).toEqual(add)
  expect([...table.removals()]).toEqual(remove)
  expect(table.pendingCount).toBe(add.length + remove.length)
})
