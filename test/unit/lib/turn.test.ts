import { expect, test } from 'vitest'
import { Turn } from '../../../src/lib/turn.ts'

test('long work lets others have their turn, and begins a new one of its own', async () => {
  const turn = new Turn()
  expect(turn.isOver).toBe(false)
  const heard: string[] = []
  setImmediate(() => heard.push('somebody else'))
  while (!turn.isOver) Math.random()
  expect(heard).toEqual([])
  await turn.next()
  expect(heard).toEqual(['somebody else'])
  expect(turn.isOver).toBe(false)
})
