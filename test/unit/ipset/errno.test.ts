import { expect, it } from 'vitest'
import { observerOf } from '../../../src/open.ts'

// The values are those of linux/netfilter/ipset/ip_set.h (enum ipset_errno) and ip_set_hash.h.
const cases: [string, number | 'failed', string][] = [
  ['ipset', 4097, 'IPSET_ERR_PROTOCOL'],
  ['ipset', 4098, 'IPSET_ERR_FIND_TYPE'],
  ['ipset', 4100, 'IPSET_ERR_BUSY'],
  ['ipset', 4103, 'IPSET_ERR_EXIST'],
  ['ipset', 4108, 'IPSET_ERR_REFERENCED'],
  ['ipset', 4114, 'IPSET_ERR_SKBINFO'],
  ['ipset', 4115, 'IPSET_ERR_BITMASK_NETMASK_EXCL'],
  ['ipset', 4352, 'IPSET_ERR_HASH_FULL'],
  ['ipset', 4353, 'IPSET_ERR_HASH_ELEM'],
  ['ipset', 4357, 'IPSET_ERR_HASH_RANGE'],
  ['ipset', 4358, 'errno 4358'],
  ['ipset', 12, 'ENOMEM'],
  ['ipset', 'failed', 'failed'],
  // The same numbers mean nothing elsewhere.
  ['ipvs', 4352, 'errno 4352'],
]

it.each(cases)('a refusal of %s with %s counts as %s', (layer, value, name) => {
  const heard: string[] = []
  const watch = { traffic: new Map(), answered: () => {}, refused: (...what: string[]) => heard.push(what.join(' ')) }
  observerOf(layer, watch).refused('send', value)
  expect(heard).toEqual([`${layer} send ${name}`])
})
