import { describe, expect, it } from 'vitest'
import * as codec from '../../../src/netlink/attributes.ts'

const inner = codec.attributes('inner', { name: [1, codec.text], number: [2, codec.net16] })
const all = codec.attributes('all', {
  u8: [1, codec.u8],
  u16: [2, codec.u16],
  u32: [3, codec.u32],
  u64: [4, codec.u64],
  be16: [5, codec.be16],
  be32: [6, codec.be32],
  net16: [7, codec.net16],
  net32: [8, codec.net32],
  text: [9, codec.text],
  bytes: [10, codec.bytes],
  flag: [11, codec.flag],
  address: [12, codec.ipAddress],
  nested: [13, codec.nested(inner)],
  list: [14, codec.nestedList(7, codec.nested(inner))],
  ipv4: [15, codec.netIPv4],
  ipv6: [16, codec.netIPv6],
})
type All = codec.AttributesOf<typeof all>

const sixteen = '000102030405060708090a0b0c0d0e0f'
const cases: [string, All, string][] = [
  ['nothing', {}, ''],
  ['u8', { u8: 255 }, '05000100ff000000'],
  ['u16', { u16: 0x1234 }, '0600020034120000'],
  ['u32', { u32: 0x12345678 }, '0800030078563412'],
  ['u64', { u64: 0x0102030405060708n }, '0c0004000807060504030201'],
  ['be16', { be16: 443 }, '0600050001bb0000'],
  ['be32', { be32: 0xffffff00 }, '08000600ffffff00'],
  ['net16', { net16: 443 }, '0600074001bb0000'],
  ['net32', { net32: 1024 }, '0800084000000400'],
  ['text', { text: 'rr' }, '0700090072720000'],
  ['empty text', { text: '' }, '0500090000000000'],
  ['text of full words', { text: 'abc' }, '0800090061626300'],
  ['bytes', { bytes: Buffer.from('0102030405', 'hex') }, '09000a000102030405000000'],
  ['flag', { flag: true }, '04000b00'],
  ['16 bytes of address', { address: Buffer.from(sixteen, 'hex') }, `14000c00${sixteen}`],
  ['nested', { nested: { name: 'a', number: 1 } }, '14000d8006000100610000000600024000010000'],
  ['empty nested', { nested: {} }, '04000d80'],
  ['list', { list: [{ number: 1 }, { number: 2 }] }, '1c000e800c00078006000240000100000c0007800600024000020000'],
  ['empty list', { list: [] }, '04000e80'],
  ['IPv4', { ipv4: Buffer.from('0a000001', 'hex') }, '08000f400a000001'],
  ['IPv6', { ipv6: Buffer.from(sixteen, 'hex') }, `14001040${sixteen}`],
  ['several', { u8: 1, flag: true, u16: 2 }, '0500010001000000060002000200000004000b00'],
]

describe('attributes', () => {
  it.each(cases)('%s: written and read', (_name, value, hex) => {
    expect(all.encode(value).toString('hex')).toBe(hex)
    expect(all.decode(Buffer.from(hex, 'hex'))).toEqual(value)
  })

  it('pads an IPv4 address to 16 bytes', () => {
    expect(all.encode({ address: Buffer.from([10, 0, 0, 1]) }).toString('hex')).toBe(
      `14000c000a000001${'0'.repeat(24)}`,
    )
  })

  it.each(cases.filter(([, , hex]) => hex !== ''))('%s: every cut is refused or reads as less', (_name, value, hex) => {
    const bytes = Buffer.from(hex, 'hex')
    for (let end = 1; end < bytes.length; end++) {
      let read: All
      try {
        read = all.decode(bytes.subarray(0, end))
      } catch (error) {
        expect(error).toMatchObject({ code: 'CODEC' })
        continue
      }
      // What was read whole ended before the cut, or lost no more than its padding.
      expect({ ...value, ...read }).toEqual(value)
    }
  })

  it('ignores unknown types', () => {
    expect(all.decode(Buffer.from('0800ff00000000000500010007000000', 'hex'))).toEqual({ u8: 7 })
  })

  const bad: [string, string, string][] = [
    ['a header that is cut', '0500', 'all at byte 0: 2 bytes are no attribute header'],
    ['a length below the header', '03000100', 'all at byte 0: attribute length 3, 4 bytes left'],
    ['a length beyond the end', '0900010001000000', 'all at byte 0: attribute length 9, 8 bytes left'],
    ['a number of another size', '0500020001000000', 'all.u16 at byte 4: 1 bytes instead of 2'],
    ['text without NUL', '0600090072720000', 'all.text at byte 4: text without its final NUL'],
    ['a flag with a payload', '05000b0001000000', 'all.flag at byte 4: a flag with a payload'],
    ['an address of 4 bytes', '08000c000a000001', 'all.address at byte 4: 4 bytes instead of 16'],
    ['a bad number inside', '0c000d800500024001000000', 'inner.number at byte 8: 1 bytes instead of 2'],
    ['a bad item of a list', '08000e8009000780', 'all.list at byte 4: attribute length 9, 4 bytes left'],
    ['a second one', '05000100010000000400', 'all at byte 8: 2 bytes are no attribute header'],
  ]
  it.each(bad)('refuses %s', (_name, hex, text) => {
    expect(() => all.decode(Buffer.from(hex, 'hex'))).toThrow(text)
  })

  it('refuses to write more than a length can say', () => {
    expect(() => all.encode({ bytes: Buffer.alloc(65532) })).toThrow('too many')
    const list = Array.from({ length: 6000 }, () => ({ number: 1 }))
    expect(() => all.encode({ list })).toThrow('too many')
  })

  it('grows its buffer', () => {
    const writer = new codec.Writer(8)
    for (let i = 0; i < 100; i++) all.write(writer, { u32: i })
    writer.raw(Buffer.from([1]))
    expect(writer.length).toBe(804)
    expect(all.decode(writer.bytes(0).subarray(792, 800))).toEqual({ u32: 99 })
    expect(writer.bytes(800).toString('hex')).toBe('01000000')
  })
})
