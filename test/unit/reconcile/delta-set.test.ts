import { expect, test } from 'vitest'
import { DeltaSet } from '../../../src/reconcile/delta-set.ts'

type Step = (set: DeltaSet) => void | Promise<void>
const want: Step = (set) => set.want('a')
const unwant: Step = (set) => set.unwant('a')
const seen: Step = (set) => set.observed('a')
const gone: Step = (set) => set.gone('a')
const dump =
  (...keys: string[]): Step =>
  async (set) =>
    set.take(await set.differences(new Set(keys)))

test.each<{ name: string; steps: Step[]; add: string[]; remove: string[]; wanted?: number; present?: number }>([
  { name: 'wanted and absent', steps: [want, want], add: ['a'], remove: [], wanted: 1 },
  { name: 'wanted and present', steps: [want, seen, seen], add: [], remove: [], wanted: 1, present: 1 },
  { name: 'no longer wanted', steps: [want, seen, unwant, unwant], add: [], remove: ['a'], present: 1 },
  { name: 'wanted and given up before it came to be', steps: [want, unwant], add: [], remove: [] },
  { name: 'wanted again', steps: [want, seen, unwant, want], add: [], remove: [], wanted: 1, present: 1 },
  { name: 'taken away as it should be', steps: [want, seen, unwant, gone, gone], add: [], remove: [] },
  { name: 'taken away by someone', steps: [want, seen, gone], add: ['a'], remove: [], wanted: 1 },
  {
    name: 'a dump that lacks one and has a foreign one',
    steps: [want, seen, dump('b')],
    add: ['a'],
    remove: ['b'],
    wanted: 1,
    present: 1,
  },
  { name: 'all are gone', steps: [want, seen, (set) => set.observedNone()], add: ['a'], remove: [], wanted: 1 },
])('$name', async ({ steps, add, remove, wanted = 0, present = 0 }) => {
  const set = new DeltaSet((key) => key.charCodeAt(0))
  for (const step of steps) await step(set)
  expect([...set.additions()]).toEqual(add)
  expect([...set.removals()]).toEqual(remove)
  expect([set.pendingCount, set.wantedCount, set.presentCount]).toEqual([add.length + remove.length, wanted, present])
})

test('the sum of what is present is the same however it came to be so', async () => {
  const make = async (...steps: Step[]): Promise<number> => {
    const set = new DeltaSet((key) => key.charCodeAt(0))
    for (const step of steps) await step(set)
    return set.presentSum
  }
  expect(await make(want, seen, seen)).toBe(97)
  expect(await make(dump('b', 'a'))).toBe(98 + 97)
  expect(await make(want, dump('a', 'b'), dump('b'))).toBe(98)
  expect(await make(seen, gone, gone, want, unwant)).toBe(0)
})
