import { mkdtemp, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { nextConfig } from '../../../src/config-follower.ts'
import type { Clock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'follower-'))
})
afterEach(() => rm(folder, { recursive: true }))

/** Each look is preceded by one step. */
async function follow(steps: readonly ((path: string) => Promise<void>)[], path = join(folder, 'config.conf')) {
  const stop = new AbortController()
  const told: string[] = []
  let step = 0
  const clock: Clock = {
    now: () => 0,
    sleep: async () => {
      const next = steps[step++]
      if (next === undefined) stop.abort()
      else await next(path)
    },
  }
  const result = await nextConfig(
    {
      path,
      text: 'a',
      read: (text) => {
        if (text.startsWith('bad')) throw new Error(`${text} is wrong`)
        return { word: text.trim() }
      },
      inForce: { word: 'a' },
      prepare: (config) =>
        config.word === 'unfit' ? Promise.reject(new Error('not on this node')) : Promise.resolve(`for ${config.word}`),
      rejected: (error) => void told.push(`rejected ${(error as Error).message}`),
      accepted: () => void told.push('accepted'),
      clock,
      log: silentLog,
    },
    stop.signal,
  )
  return { result, told }
}

const write = (text: string) => (path: string) => writeFile(path, text)

test.each<[string, ((path: string) => Promise<void>)[], string | undefined, string[]]>([
  ['no change', [write('a'), write('a')], undefined, []],
  ['a change', [write('b')], 'b', []],
  ['another text that says the same', [write(' a\n')], undefined, ['accepted']],
  [
    'a wrong one is told once, a good one follows',
    [write('bad'), write('bad'), write('c')],
    'c',
    ['rejected bad is wrong'],
  ],
  [
    'wrong, then back to what is in force',
    [write('bad'), write('a')],
    undefined,
    ['rejected bad is wrong', 'accepted'],
  ],
  ['one that does not fit this node', [write('unfit'), write('d')], 'd', ['rejected not on this node']],
  ['truncated while it is written', [write(''), write('b')], 'b', []],
  ['gone for a while', [unlink, write('b')], 'b', []],
  ['renamed over', [(path) => writeFile(`${path}.new`, 'b').then(() => rename(`${path}.new`, path))], 'b', []],
])('%s', async (_name, steps, word, lines) => {
  await writeFile(join(folder, 'config.conf'), 'a')
  const { result, told } = await follow(steps)
  expect(result?.config.word).toBe(word)
  expect(result?.prepared).toBe(word === undefined ? undefined : `for ${word}`)
  expect(told).toEqual(lines)
})

test('the link of a ConfigMap volume is swapped', async () => {
  await writeFile(join(folder, 'first'), 'a')
  await writeFile(join(folder, 'second'), 'b')
  await symlink('first', join(folder, '..data'))
  await symlink('..data', join(folder, 'config.conf'))
  const { result } = await follow([
    async () => {
      await symlink('second', join(folder, '..data_tmp'))
      await rename(join(folder, '..data_tmp'), join(folder, '..data'))
    },
  ])
  expect(result?.text).toBe('b')
})
