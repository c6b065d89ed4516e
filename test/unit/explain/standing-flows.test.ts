import { expect, test } from 'vitest'
import { FakeFlows } from '../../../src/conntrack/fake-flows.ts'
import { pinnedDestination, readStaleFlows } from '../../../src/explain/standing-flows.ts'
import type { ObservedServer } from '../../../src/ipvs/ipvs.ts'

const id = { family: 'IPv4', protocol: 'UDP', address: '10.96.0.10', port: 53 } as const
const server: ObservedServer = {
  server: { ...id, scheduler: 'rr', flags: 0, timeout: 0 },
  destinations: ['10.244.1.2', '10.244.1.3'].map((address) => ({
    address,
    port: 5353,
    weight: 1,
    forwarding: 0,
    activeConnections: 0,
    inactiveConnections: 0,
  })),
}

async function* lines(...texts: string[]): AsyncGenerator<string> {
  yield 'Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData'
  yield* texts
}

const client = '0AF40109'
const other = '0AF4010A'
const vip = '0A60000A 0035'
const gone = '0AF40163 14E9'

test.each<[name: string, texts: string[], found: string | undefined]>([
  ['none', [], undefined],
  ['of the client', [`UDP ${client} 0000 ${vip} 0AF40103 14E9 NONE         60`], '10.244.1.3:5353'],
  ['of another client', [`UDP ${other} 0000 ${vip} 0AF40103 14E9 NONE         60`], undefined],
  ['of another protocol', [`TCP ${client} 0000 ${vip} 0AF40103 14E9 NONE         60`], undefined],
  ['a connection, which is no affinity', [`UDP ${client} 9C40 ${vip} 0AF40103 14E9 UDP         60`], undefined],
])('client affinity: %s', async (_, texts, found) => {
  expect(await pinnedDestination(id, '10.244.1.9', lines(...texts))).toBe(found)
})

interface Flow {
  readonly to?: string
  readonly port?: number
  readonly by: string
  readonly protocol?: 'TCP'
}

test.each<[name: string, flow: Flow, expires: boolean, connections: string[], stale: boolean]>([
  ['to a destination', { by: '10.244.1.2' }, true, [], false],
  ['to one that is gone', { by: '10.244.1.99' }, true, [], true],
  ['to nobody: from before the virtual server', { by: '10.96.0.10' }, true, [], true],
  ['that IPVS ends', { by: '10.244.1.99' }, true, [`UDP ${client} 9C40 ${vip} ${gone} UDP         60`], false],
  ['that IPVS does not end', { by: '10.244.1.99' }, false, [`UDP ${client} 9C40 ${vip} ${gone} UDP         60`], true],
  [
    'of another client’s IPVS connection',
    { by: '10.244.1.99' },
    true,
    [`UDP ${other} 9C40 ${vip} ${gone} UDP  60`],
    true,
  ],
  ['to another address', { to: '10.96.0.11', by: '10.244.1.99' }, true, [], false],
  ['to another port', { port: 54, by: '10.244.1.99' }, true, [], false],
  ['of TCP', { by: '10.244.1.99', protocol: 'TCP' }, true, [], false],
])('a flow %s', async (_, { to = id.address, port = id.port, by, protocol }, expires, connections, stale) => {
  const flows = new FakeFlows()
  flows.add({
    source: '10.244.1.9',
    sourcePort: 40000,
    destination: to,
    destinationPort: port,
    replySource: by,
    replySourcePort: by === id.address ? port : 5353,
    ...(protocol === undefined ? {} : { protocol }),
  })
  const found = await readStaleFlows(server, expires, flows, lines(...connections))
  expect(found.map(({ replySource }) => replySource)).toEqual(stale ? [by] : [])
})
