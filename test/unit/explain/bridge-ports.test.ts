import { expect, test } from 'vitest'
import { portNumber, sendsBack, type BridgeFiles } from '../../../src/explain/bridge-ports.ts'

const mac = Buffer.from('0242ac110002', 'hex')
const other = Buffer.from('0242ac110003', 'hex')

/** struct __fdb_entry. */
function entry(address: Buffer, port: number): Buffer {
  const bytes = Buffer.alloc(16)
  address.copy(bytes)
  bytes[6] = port & 255
  bytes[12] = port >> 8
  return bytes
}

const table = Buffer.concat([entry(other, 1), entry(mac, 0x102)])

test.each([
  ['of a low number', other, 1],
  ['of a high number', mac, 0x102],
  ['of an address that is not known', Buffer.from('0242ac110009', 'hex'), undefined],
])('the port %s', (_, address, port) => {
  expect(portNumber(table, address)).toBe(port)
})

function bridge(modes: Readonly<Record<string, string>>): BridgeFiles {
  const numbers: Readonly<Record<string, string>> = { a1: '0x102', a2: '0x1' }
  return {
    ports: (link) => (link === 'cni0' ? Object.keys(modes) : undefined),
    text: (path) => {
      const [, , port = '', name] = path.split('/')
      return name === 'port_no' ? numbers[port]! : modes[port]!
    },
    bytes: () => table,
  }
}

test.each<
  [name: string, link: string, modes: Record<string, string>, known: Buffer | undefined, told: boolean | RegExp]
>([
  ['no bridge', 'veth1', {}, undefined, true],
  ['all ports do', 'cni0', { a1: '1', a2: '1' }, undefined, true],
  ['no port does', 'cni0', { a1: '0', a2: '0' }, undefined, false],
  ['its port does', 'cni0', { a1: '1', a2: '0' }, mac, true],
  ['another port does', 'cni0', { a1: '0', a2: '1' }, mac, false],
  ['the neighbour is not known', 'cni0', { a1: '0', a2: '1' }, undefined, /behind which the endpoint is/],
])('packets are sent back: %s', async (_, link, modes, known, wanted) => {
  const told = await sendsBack(link, async () => known, bridge(modes))
  if (wanted instanceof RegExp) expect(told).toMatch(wanted)
  else expect(told).toBe(wanted)
})
