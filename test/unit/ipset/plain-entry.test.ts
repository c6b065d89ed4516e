import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { entryAttributes, entryHash, hashOfAttributes, parseEntry, writeEntry } from '../../../src/ipset/entries.ts'
import { PlainEntry } from '../../../src/ipset/plain-entry.ts'
import type { SetType } from '../../../src/model/sets.ts'
import { Writer } from '../../../src/netlink/attributes.ts'

const types = ['hash:ip', 'hash:ip,port', 'hash:ip,port,ip', 'hash:ip,port,net', 'bitmap:port'] as const
const families = ['IPv4', 'IPv6'] as const

/** As the general reading has it; undefined where it refuses, or where it is not of IPv4. */
function parts(type: SetType, text: string): Partial<PlainEntry> | undefined {
  const entry = parseEntry({ type, family: 'IPv4' }, text)
  if (entry?.ip?.ipv4 === undefined) return undefined
  const number = (bytes: Uint8Array | undefined): number =>
    bytes === undefined ? 0 : new DataView(bytes.buffer, bytes.byteOffset).getInt32(0)
  return {
    ip: number(entry.ip.ipv4),
    protocol: entry.proto ?? 0,
    port: entry.port ?? 0,
    ip2: number(entry.ip2?.ipv4),
  }
}

describe('an entry read by character', () => {
  test.each<[SetType, string, Partial<PlainEntry>]>([
    ['hash:ip', '255.255.255.255', { ip: -1 }],
    ['hash:ip,port', '0.0.0.1,tcp:0', { ip: 1, protocol: 6, port: 0 }],
    ['hash:ip,port', '10.96.0.1,udp:65535', { ip: 0x0a600001, protocol: 17, port: 65535 }],
    ['hash:ip,port,ip', '10.96.0.1,sctp:10,10.0.0.2', { ip: 0x0a600001, protocol: 132, port: 10, ip2: 0x0a000002 }],
  ])('%s %s', (type, text, wanted) => {
    const plain = new PlainEntry()
    expect(plain.read({ type, family: 'IPv4' }, text)).toBe(true)
    expect(plain).toMatchObject({ port: 0, protocol: 0, ip2: 0, ...wanted })
    expect(parts(type, text)).toEqual({ port: 0, protocol: 0, ip2: 0, ...wanted })
  })

  test.each<[SetType, string]>([
    ['hash:ip', ''],
    ['hash:ip', '10.0.0'],
    ['hash:ip', '10.0.0.'],
    ['hash:ip', '10.0.0.1.'],
    ['hash:ip', '10.0.0.256'],
    ['hash:ip', '10.0.0.01'],
    ['hash:ip', '10.0.0.1,tcp:1'],
    ['hash:ip,port', '10.0.0.1'],
    ['hash:ip,port', '10.0.0.1,foo:1'],
    ['hash:ip,port', '10.0.0.1,tcp:'],
    ['hash:ip,port', '10.0.0.1,tcp:01'],
    ['hash:ip,port', '10.0.0.1,tcp:65536'],
    ['hash:ip,port', '10.0.0.1,tcp:1,'],
    ['hash:ip,port,ip', '10.0.0.1,tcp:1'],
    ['hash:ip,port,ip', '10.0.0.1,tcp:1;10.0.0.2'],
    ['hash:ip,port,ip', '10.0.0.1,tcp:1,10.0.0.2/8'],
    ['hash:ip,port,net', '10.0.0.1,tcp:1,10.0.0.0/8'],
    ['bitmap:port', '80'],
  ])('%s "%s" is left to the general reading', (type, text) => {
    expect(new PlainEntry().read({ type, family: 'IPv4' }, text)).toBe(false)
  })

  test('of another family is left to it, too', () => {
    expect(new PlainEntry().read({ type: 'hash:ip', family: 'IPv6' }, '10.0.0.1')).toBe(false)
  })

  test('is what the general reading makes of it, whatever the text', () => {
    const number = fc.oneof(
      fc.integer({ min: 0, max: 300 }).map(String),
      fc.constantFrom('', '0', '00', '065', '-1', '65536'),
    )
    const address = fc.array(number, { minLength: 3, maxLength: 5 }).map((octets) => octets.join('.'))
    const port = fc.tuple(fc.constantFrom('tcp', 'udp', 'sctp', 'TCP', ''), fc.constantFrom(':', '', '::'), number)
    const text = fc
      .array(
        fc.oneof(
          address,
          port.map((one) => one.join('')),
          fc.constantFrom('fd00::1', '10.0.0.1'),
        ),
        { maxLength: 4 },
      )
      .map((list) => list.join(','))
    const plain = new PlainEntry()
    fc.assert(
      fc.property(fc.constantFrom(...types), text, (type, entry) => {
        if (!plain.read({ type, family: 'IPv4' }, entry)) return
        const { ip, protocol, port: number, ip2 } = plain
        expect({ ip, protocol, port: number, ip2 }).toEqual(parts(type, entry))
      }),
      { numRuns: 3000, seed: 1 },
    )
  })
})

describe.each(families)('entries of %s', (family) => {
  const [one, two] = family === 'IPv4' ? ['10.96.0.1', '10.0.255.2'] : ['fd00::1', 'fd00:10::b']
  const entries: Record<SetType, string> = {
    'hash:ip': one,
    'hash:ip,port': `${one},sctp:258`,
    'hash:ip,port,ip': `${one},tcp:65535,${two}`,
    'hash:ip,port,net': `${one},udp:53,${two}`,
    'bitmap:port': '30000',
  }

  test.each(types)('%s: written and added up as its attributes are', (type) => {
    const set = { type, family }
    const general = entryAttributes.encode({ ...parseEntry(set, entries[type]), line: 0x01020304 })
    const writer = new Writer(8)
    writeEntry(writer, set, entries[type], 0x01020304)
    expect(writer.bytes(4).toString('hex')).toBe(general.toString('hex'))
    expect(writer.buffer.readUInt16LE(0)).toBe(general.length + 4)
    const without = entryAttributes.encode(parseEntry(set, entries[type])!)
    expect(entryHash(set, entries[type])).toBe(hashOfAttributes(without, 0, without.length))
  })
})
