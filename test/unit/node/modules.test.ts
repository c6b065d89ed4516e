import { expect, test } from 'vitest'
import { ProxyError } from '../../../src/lib/errors.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { loadModules, modulesFor } from '../../../src/node/modules.ts'

test('modprobe is asked for each module, whatever became of the one before', async () => {
  const asked: string[] = []
  await loadModules(modulesFor('wlc'), silentLog, (command, args) => {
    asked.push([command, ...args].join(' '))
    return Promise.resolve({ code: 1, stdout: '', stderr: 'not found' })
  })
  expect(asked).toEqual(['modprobe ip_vs', 'modprobe ip_vs_wlc', 'modprobe ip_set'])
})

test('without modprobe the kernel is left to itself', async () => {
  const missing = (): Promise<never> => Promise.reject(new ProxyError('COMMAND', 'modprobe: no such command'))
  await expect(loadModules(['ip_vs'], silentLog, missing)).resolves.toBeUndefined()
})
