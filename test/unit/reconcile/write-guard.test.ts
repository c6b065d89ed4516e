import { expect, test } from 'vitest'
import { WriteGuard } from '../../../src/reconcile/write-guard.ts'

/** A guard, and a read during which so many of its first attempts see something written. */
function disturbed(times: number) {
  const guard = new WriteGuard()
  let reads = 0
  const read = async (): Promise<string> => {
    if (++reads <= times) await guard.write(() => Promise.resolve())
    return `read ${reads}`
  }
  return { guard, read }
}

test.each([
  { times: 0, found: 'read 1' },
  { times: 1, found: 'read 2' },
  { times: 2, found: 'read 3' },
  { times: 3, found: undefined },
])('a read with $times writes in between answers $found', async ({ times, found }) => {
  const { guard, read } = disturbed(times)
  expect((await guard.quietly(read))?.found).toBe(found)
})

test('a read while a write is under way is none, also where the write fails', async () => {
  const guard = new WriteGuard()
  const end = Promise.withResolvers<void>()
  const write = guard.write(() => end.promise)
  expect(await guard.quietly(() => Promise.resolve('half'))).toBeUndefined()
  end.reject(new Error('torn'))
  await expect(write).rejects.toThrow('torn')
  const read = await guard.quietly(() => Promise.resolve('whole'))
  expect(read?.found).toBe('whole')
  expect(guard.isAt(read!.mark)).toBe(true)
  await guard.write(() => Promise.resolve())
  expect(guard.isAt(read!.mark)).toBe(false)
})
