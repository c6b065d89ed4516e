import { execFileSync } from 'node:child_process'
import { afterAll, describe, expect, it } from 'vitest'
import { KernelIpset } from '../../src/ipset/kernel-ipset.ts'
import { ipsetContract } from '../contract/ipset.ts'

const run = (...args: string[]): string => execFileSync('ipset', args, { encoding: 'utf8' })

describe('KernelIpset', () => {
  afterAll(() => {
    run('destroy')
  })
  ipsetContract(
    async () => {
      const ipset = await KernelIpset.open()
      run('destroy')
      return ipset
    },
    () => run('save'),
  )

  it('lists a foreign set by type and without entries', async () => {
    const ipset = await KernelIpset.open()
    run('create', 'foreign', 'hash:net')
    run('add', 'foreign', '10.0.0.0/8')
    expect(await ipset.list('foreign')).toMatchObject({ spec: { type: 'hash:net', family: 'IPv4' }, entries: [] })
    await ipset.destroy('foreign')
    ipset.close()
  })
})
