import { describe, expect, it } from 'vitest'
import { KernelError } from '../../../src/lib/errors.ts'
import { FakeDummy } from '../../../src/dummy/fake-dummy.ts'
import { dummyContract } from '../../contract/dummy.ts'

describe('FakeDummy', () => {
  dummyContract(
    async () => new FakeDummy(),
    (fake, name) => fake.dump(name),
    async (fake, name, text) => {
      const link = (await fake.links()).find((one) => one.name === name)
      const [address = '', prefix] = text.split('/')
      fake.addAddress(link!.index, address, Number(prefix))
    },
  )

  it('answers and throws what the fault says', async () => {
    const fake = new FakeDummy()
    const index = fake.addLink('kube-ipvs0', 'dummy')
    fake.fault = (_operation, object) =>
      object === '10.0.0.2' ? new KernelError(12, 'ENOMEM', 'add address', object) : undefined
    expect([...(await fake.bind(index, ['10.0.0.1', '10.0.0.2'])).keys()]).toEqual(['10.0.0.2'])
    fake.fault = () => new Error('socket gone')
    await expect(fake.unbind(index, ['10.0.0.1'])).rejects.toThrow('socket gone')
    await expect(fake.links()).rejects.toThrow('socket gone')
    expect(fake.calls).toEqual(['bind 10.0.0.1', 'bind 10.0.0.2', 'unbind 10.0.0.1', 'links'])
  })
})
