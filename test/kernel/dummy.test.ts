import { execFileSync } from 'node:child_process'
import { describe } from 'vitest'
import { KernelDummy } from '../../src/dummy/kernel-dummy.ts'
import { dummyContract } from '../contract/dummy.ts'

describe('KernelDummy', () => {
  dummyContract(
    () => KernelDummy.open(),
    (_dummy, name) =>
      execFileSync('ip', ['addr', 'show', 'dev', name], { encoding: 'utf8' })
        .split('\n')
        .map((line) => line.trim())
        .filter((line) => line.startsWith('inet'))
        .sort()
        .map((line) => `${line}\n`)
        .join(''),
    async (_dummy, name, address) => void execFileSync('ip', ['addr', 'add', address, 'dev', name]),
  )
})
