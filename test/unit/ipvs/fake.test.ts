import { describe, expect, it } from 'vitest'
import { KernelError } from '../../../src/lib/errors.ts'
import { FakeIpvs } from '../../../src/ipvs/fake-ipvs.ts'
import { ipvsContract } from '../../contract/ipvs.ts'

describe('FakeIpvs', () => {
  ipvsContract(
    async () => new FakeIpvs(),
    (fake) => fake.dump(),
  )

  it('answers and throws what the fault says, and keeps a log', async () => {
    const fake = new FakeIpvs()
    const server = {
      family: 'IPv4',
      protocol: 'TCP',
      address: '10.96.0.1',
      port: 80,
      scheduler: 'rr',
      flags: 0,
      timeout: 0,
    } as const
    fake.fault = (operation) => (operation === 'newServer' ? new KernelError(12, 'ENOMEM', 'add', 'it') : undefined)
    const [answer] = await fake.apply([{ kind: 'newServer', server }])
    expect(answer?.errnoName).toBe('ENOMEM')
    fake.fault = () => new Error('socket gone')
    await expect(fake.apply([{ kind: 'newServer', server }])).rejects.toThrow('socket gone')
    await expect(fake.listServers()).rejects.toThrow('socket gone')
    fake.fault = undefined
    expect(await fake.listServers()).toEqual([])
    expect(fake.calls).toEqual([
      'newServer virtual server 10.96.0.1:80/TCP',
      'newServer virtual server 10.96.0.1:80/TCP',
      'listServers',
      'listServers',
    ])
  })

  it('lets connections stand on a destination', async () => {
    const fake = new FakeIpvs()
    const server = {
      family: 'IPv4',
      protocol: 'TCP',
      address: '10.96.0.1',
      port: 80,
      scheduler: 'rr',
      flags: 0,
      timeout: 0,
    } as const
    const destination = { address: '10.1.0.1', port: 8080, weight: 1 }
    await fake.apply([
      { kind: 'newServer', server },
      { kind: 'newDestination', server, destination },
    ])
    fake.setConnections(server, destination, 3, 4)
    await fake.apply([{ kind: 'setDestination', server, destination: { ...destination, weight: 0 } }])
    expect(await fake.listDestinations(server)).toEqual([
      { ...destination, weight: 0, forwarding: 0, activeConnections: 3, inactiveConnections: 4 },
    ])
  })
})
