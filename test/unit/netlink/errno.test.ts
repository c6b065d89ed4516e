import { expect, it } from 'vitest'
import { errnoName, kernelError } from '../../../src/netlink/errno.ts'

const cases: [number, string][] = [
  [1, 'EPERM'],
  [2, 'ENOENT'],
  [11, 'EAGAIN'],
  [17, 'EEXIST'],
  [95, 'EOPNOTSUPP'],
  [524, 'ENOTSUPP'],
  [4999, 'errno 4999'],
]
it.each(cases)('%i is %s', (value, name) => {
  expect(errnoName(value)).toBe(name)
})

it("takes a subsystem's own names first", () => {
  expect(errnoName(4103, new Map([[4103, 'IPSET_ERR_EXIST']]))).toBe('IPSET_ERR_EXIST')
})

it('explains a missing right', () => {
  expect(kernelError(1, 'add', 'it', 'other advice').message).toBe('add it: EPERM (needs the capability CAP_NET_ADMIN)')
})
