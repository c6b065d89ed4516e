import { expect, test } from 'vitest'
import { DestinationList } from '../../../src/model/destination-list.ts'
import type { Contribution } from '../../../src/proxier/contribution.ts'
import { Ledger } from '../../../src/proxier/ledger.ts'
import { nothing } from '../../../src/proxier/planner.ts'

function wants(change: Partial<Contribution>): Contribution {
  return { ...nothing, ...change }
}

const server = {
  family: 'IPv4',
  protocol: 'TCP',
  address: '1.2.3.4',
  port: 80,
  scheduler: 'rr',
  flags: 0,
  timeout: 0,
} as const
const serves = (...destinations: string[]): Contribution =>
  wants({
    servers: [
      { server, destinations: DestinationList.of(destinations.map((address) => ({ address, port: 80, weight: 1 }))) },
    ],
  })

test.each<{ name: string; steps: [string, Contribution | undefined][]; heard: string[] }>([
  {
    name: 'an address shared by two ports goes with the last',
    steps: [
      ['a', wants({ addresses: ['10.0.0.1'] })],
      ['b', wants({ addresses: ['10.0.0.1'] })],
      ['a', undefined],
      ['b', undefined],
    ],
    heard: ['+ 10.0.0.1', '- 10.0.0.1'],
  },
  {
    name: 'the same contribution again says nothing',
    steps: [
      ['a', wants({ members: [{ role: 'clusterIP', entry: 'x' }], addresses: ['10.0.0.1'] })],
      ['a', wants({ members: [{ role: 'clusterIP', entry: 'x' }], addresses: ['10.0.0.1'] })],
    ],
    heard: ['+ clusterIP x', '+ 10.0.0.1'],
  },
  {
    name: 'the same entry in two sets is two entries',
    steps: [
      [
        'a',
        wants({
          members: [
            { role: 'loadBalancer', entry: 'x' },
            { role: 'loadBalancerLocal', entry: 'x' },
          ],
        }),
      ],
      ['a', wants({ members: [{ role: 'loadBalancer', entry: 'x' }] })],
    ],
    heard: ['+ loadBalancer x', '+ loadBalancerLocal x', '- loadBalancerLocal x'],
  },
  {
    name: 'of two claims on a virtual server the first name wins, whoever came first; the other takes over',
    steps: [
      ['b', serves('10.0.0.2')],
      ['a', serves('10.0.0.1')],
      ['a', undefined],
      ['b', undefined],
    ],
    heard: [
      '= 1.2.3.4:80/TCP 10.0.0.2',
      'b loses to a',
      '= 1.2.3.4:80/TCP 10.0.0.1',
      '= 1.2.3.4:80/TCP 10.0.0.2',
      'x 1.2.3.4:80/TCP',
    ],
  },
])('$name', ({ steps, heard }) => {
  const said: string[] = []
  const ledger = new Ledger(
    {
      sets: {
        want: (role, entry) => said.push(`+ ${role} ${entry}`),
        unwant: (role, entry) => said.push(`- ${role} ${entry}`),
      },
      addresses: { want: (address) => said.push(`+ ${address}`), unwant: (address) => said.push(`- ${address}`) },
      servers: {
        want: (key, want) => said.push(`= ${key} ${[...want.destinations].map(({ address }) => address).join(' ')}`),
        unwant: (key) => said.push(`x ${key}`),
      },
    },
    ({ winner, loser }) => said.push(`${loser} loses to ${winner}`),
  )
  for (const [owner, contribution] of steps) ledger.replace(owner, contribution)
  expect(said).toEqual(heard)
})

test('knows the owners and which sets have members', () => {
  const sink = { want: () => {}, unwant: () => {} }
  const ledger = new Ledger({ sets: sink, servers: sink, addresses: sink })
  ledger.replace('a', wants({ members: [{ role: 'clusterIP', entry: 'x' }] }))
  ledger.replace(
    'b',
    wants({
      members: [
        { role: 'clusterIP', entry: 'x' },
        { role: 'nodePortTCP', entry: '1' },
      ],
    }),
  )
  expect([...ledger.memberOwners('clusterIP', 'x')]).toEqual(['a', 'b'])
  ledger.replace('b', undefined)
  expect([...ledger.memberOwners('clusterIP', 'x')]).toEqual(['a'])
  expect([...ledger.nonEmptyRoles()]).toEqual(['clusterIP'])
})
