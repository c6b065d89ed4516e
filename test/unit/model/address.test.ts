import { expect, test } from 'vitest'
import {
  addressBytes,
  addressText,
  canonicalAddress,
  cidrContains,
  cidrText,
  parseCidr,
} from '../../../src/model/address.ts'

test.each([
  ['10.0.0.1', '10.0.0.1'],
  ['010.000.000.001', '10.0.0.1'],
  ['::ffff:10.0.0.1', '10.0.0.1'],
  ['FD00:0:0::1', 'fd00::1'],
  ['10.0.0.256', undefined],
  ['10.0.0', undefined],
  ['10.0.0.1 ', undefined],
  ['1e1.0.0.1', undefined],
  ['fe80::1%eth0', undefined],
  ['', undefined],
])('address %s', (text, want) => {
  expect(canonicalAddress(text)).toBe(want)
  if (want !== undefined) expect(addressText(addressBytes(want))).toBe(want)
})

test.each([
  ['10.1.2.3/8', '10.0.0.0/8', '10.255.0.1', '11.0.0.1'],
  ['192.168.1.130/25', '192.168.1.128/25', '192.168.1.255', '192.168.1.127'],
  ['fd00:10::1/48', 'fd00:10::/48', 'fd00:10:0:1::5', 'fd00:11::1'],
  ['1.2.3.4/32', '1.2.3.4/32', '1.2.3.4', '1.2.3.5'],
])('CIDR %s', (text, canonical, inside, outside) => {
  const cidr = parseCidr(text)!
  expect(cidrText(cidr)).toBe(canonical)
  expect(cidrContains(cidr, inside)).toBe(true)
  expect(cidrContains(cidr, outside)).toBe(false)
})

test.each(['10.0.0.0', '10.0.0.0/33', '10.0.0.0/-1', '10.0.0.0/08', 'x/8', '::/129'])('refuses CIDR %s', (text) => {
  expect(parseCidr(text)).toBeUndefined()
})
