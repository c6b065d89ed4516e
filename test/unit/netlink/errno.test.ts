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

it.each([
  ['ENOMEM', 12, /short of memory/],
  ['ENOBUFS', 105, /short of memory/],
  ['EBUSY', 16, /something else holds it/],
])('says what to look at where %s is answered', (name, value, advice) => {
  const { message } = kernelError(value, 'add address', '10.96.0.1 to link 3')
  expect(message).toMatch(new RegExp(`^add address 10\\.96\\.0\\.1 to link 3: ${name} \\(.*\\)$`))
  expect(message).toMatch(advice)
  expect(kernelError(value, 'add', 'it', 'what is known better').message).toContain('(what is known better)')
})
