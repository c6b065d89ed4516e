import { expect, test } from 'vitest'
import { readTables } from '../../../src/node/tables.ts'

const bits = '/sys/module/ip_vs/parameters/conn_tab_bits'

test.each<{ name: string; files: Record<string, string>; want: (number | undefined)[] }>([
  {
    name: 'all of them',
    files: { 'net/netfilter/nf_conntrack_count': '12', 'net/netfilter/nf_conntrack_max': '262144', [bits]: '12\n' },
    want: [12, 262144, 4096],
  },
  { name: 'no modules', files: {}, want: [undefined, undefined, undefined] },
  {
    name: 'what is no number',
    files: { 'net/netfilter/nf_conntrack_count': '', 'net/netfilter/nf_conntrack_max': 'x', [bits]: '0' },
    want: [undefined, undefined, 1],
  },
])('$name', ({ files, want }) => {
  const read = (name: string): string | undefined => files[name]
  const { conntrackEntries, conntrackLimit, connectionTableBuckets } = readTables({ sysctl: read, read })
  expect([conntrackEntries, conntrackLimit, connectionTableBuckets]).toEqual(want)
})
