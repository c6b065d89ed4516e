import { expect, test } from 'vitest'
import { ProxyError } from '../../../src/lib/errors.ts'
import { runCommand } from '../../../src/lib/process.ts'

test('a command that nobody waits for any more is killed', async () => {
  const gone = new AbortController()
  const running = runCommand('sleep', ['60'], { signal: gone.signal })
  setTimeout(() => gone.abort(), 20)
  const error: unknown = await running.catch((reason: unknown) => reason)
  expect(error).toBeInstanceOf(ProxyError)
  expect((error as ProxyError).facts.errno).toBe('ECANCELED')
})

test('one is not even started then', async () => {
  await expect(runCommand('no-such-command', [], { signal: AbortSignal.abort() })).rejects.toThrow(
    'no-such-command: not run: nobody waits for it any more',
  )
})

test('a signal that does not fire changes nothing, and is let go of', async () => {
  const { signal } = new AbortController()
  expect(await runCommand('echo', ['a'], { signal })).toEqual({ code: 0, stdout: 'a\n', stderr: '' })
})
