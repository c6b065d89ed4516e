import { expect, test } from 'vitest'
import { Thrift } from '../../../src/lib/thrift.ts'

test.each<[string, number, boolean]>([
  ['nothing at all', 0, true],
  ['as much as is not worth saving', 50, true],
  ['more: it rests', 60_000, false],
])('work that took %s', (_name, milliseconds, isDue) => {
  const thrift = new Thrift(0.01)
  expect(thrift.isDue).toBe(true)
  thrift.spent(milliseconds)
  expect(thrift.isDue).toBe(isDue)
})

test('waiting is not work', async () => {
  const thrift = new Thrift(0.001)
  expect(await thrift.during(() => new Promise((resolve) => setTimeout(resolve, 200, 'done')))).toBe('done')
  expect(thrift.isDue).toBe(true)
})

test('work is noted where it fails, too', async () => {
  const thrift = new Thrift(0.0001)
  const failing = thrift.during(async () => {
    const before = process.cpuUsage()
    while (process.cpuUsage(before).user < 100_000) Math.random()
    throw new Error('the socket failed')
  })
  await expect(failing).rejects.toThrow('the socket failed')
  expect(thrift.isDue).toBe(false)
})
