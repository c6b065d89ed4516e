import { describe, expect, it } from 'vitest'
import { KernelError } from '../../../src/lib/errors.ts'
import { FakeIpset } from '../../../src/ipset/fake-ipset.ts'
import { ipsetContract } from '../../contract/ipset.ts'

describe('FakeIpset', () => {
  ipsetContract(
    async () => new FakeIpset(),
    (fake) => fake.dump(),
  )

  it('refuses to destroy a set that rules name', async () => {
    const fake = new FakeIpset()
    await fake.create({ name: 'a', type: 'hash:ip', family: 'IPv4', hashsize: 1024, maxelem: 65536 })
    fake.setReferences('a', 1)
    expect((await fake.list('a'))?.references).toBe(1)
    await expect(fake.destroy('a')).rejects.toThrow('destroy set a: IPSET_ERR_BUSY (rules or other sets still name it)')
  })

  it('answers and throws what the fault says', async () => {
    const fake = new FakeIpset()
    const set = { name: 'a', type: 'bitmap:port', family: 'IPv4', hashsize: 1024, maxelem: 65536 } as const
    await fake.create(set)
    fake.fault = (_operation, object) =>
      object === 'a 2' ? new KernelError(12, 'ENOMEM', 'add entry', '2 of set a') : undefined
    expect([...(await fake.add(set, ['1', '2', '3'])).keys()]).toEqual(['2'])
    fake.fault = () => new Error('socket gone')
    await expect(fake.add(set, ['4'])).rejects.toThrow('socket gone')
    expect(fake.dump()).toBe('create a bitmap:port range 0-65535\nadd a 1\nadd a 3\n')
    expect(fake.calls).toEqual(['create a', 'add a 1', 'add a 2', 'add a 3', 'add a 4'])
  })
})
