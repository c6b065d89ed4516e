import { expect, test } from 'vitest'
import { checkCapability } from '../../src/preflight.ts'

const status = (mask: bigint): string => `Name:\tnode\nCapPrm:\t0\nCapEff:\t${mask.toString(16).padStart(16, '0')}\n`
const [netAdmin, netRaw] = [1n << 12n, 1n << 13n]

test.each([
  ['both', netAdmin | netRaw, ''],
  ['all', (1n << 41n) - 1n, ''],
  ['NET_ADMIN alone', netAdmin, 'this process lacks the capability CAP_NET_RAW'],
  ['NET_RAW alone', netRaw, 'this process lacks the capability CAP_NET_ADMIN'],
  ['none', 0n, 'this process lacks the capabilities CAP_NET_ADMIN and CAP_NET_RAW'],
])('with %s', (_name, mask, message) => {
  if (message === '') expect(() => checkCapability(status(mask))).not.toThrow()
  else expect(() => checkCapability(status(mask))).toThrow(message)
})

test('a status without the line is one without capabilities', () => {
  expect(() => checkCapability('')).toThrow(/CAP_NET_ADMIN and CAP_NET_RAW/)
})
