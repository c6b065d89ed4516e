import { expect, test } from 'vitest'
import { passChain } from '../../../src/explain/chains.ts'
import type { ForeignChain } from '../../../src/explain/kernel-state.ts'
import { parseNativeTable, readNativeChains, tableOf, translateRule } from '../../../src/explain/native-chains.ts'
import type { Packet } from '../../../src/explain/packet.ts'
import { snapshotState } from '../../../src/explain/snapshot.ts'
import type { RunCommand } from '../../../src/lib/process.ts'

/** Statements as nft 1.0.6 wrote them. */
const payload = (protocol: string, field: string) => ({ payload: { protocol, field } })
const meta = (key: string) => ({ meta: { key } })
const match = (left: object, right: unknown, op = '==') => ({ match: { op, left, right } })
const drop = { drop: null }
const sets = new Map([
  ['blocked', { set: [{ prefix: { addr: '10.1.0.0', len: 16 } }, { range: ['10.2.0.1', '10.2.0.9'] }, '10.3.0.1'] }],
])

test.each<[name: string, statements: object[], four: readonly string[], six?: readonly string[]]>([
  ['iifname "lo" accept', [match(meta('iifname'), 'lo'), { accept: null }], ['-i lo -j ACCEPT']],
  [
    'ct state vmap',
    [
      {
        vmap: {
          key: { ct: { key: 'state' } },
          data: {
            set: [
              ['invalid', drop],
              ['established', { accept: null }],
            ],
          },
        },
      },
    ],
    ['-m conntrack --ctstate INVALID -j DROP', '-m conntrack --ctstate ESTABLISHED -j ACCEPT'],
  ],
  [
    'ct state established,related accept',
    [match({ ct: { key: 'state' } }, ['established', 'related'], 'in'), { accept: null }],
    ['-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT'],
  ],
  [
    'tcp dport { 22, 8000-9000 } counter drop',
    [
      match(payload('tcp', 'dport'), { set: [22, { range: [8000, 9000] }] }),
      { counter: { packets: 0, bytes: 0 } },
      drop,
    ],
    ['-p tcp -m multiport --dports 22,8000:9000 -j DROP'],
  ],
  ['th dport != 443 drop', [match(payload('th', 'dport'), 443, '!='), drop], ['-m multiport ! --dports 443 -j DROP']],
  [
    'ip saddr @blocked drop',
    [match(payload('ip', 'saddr'), '@blocked'), drop],
    ['-s 10.1.0.0/16,10.2.0.1-10.2.0.9,10.3.0.1 -j DROP'],
    [],
  ],
  [
    'ip6 daddr != fd00::/8 reject with tcp reset',
    [match(payload('ip6', 'daddr'), { prefix: { addr: 'fd00::', len: 8 } }, '!='), { reject: { type: 'tcp reset' } }],
    [],
    ['! -d fd00::/8 -j REJECT --reject-with tcp-reset'],
  ],
  [
    'meta nfproto ipv6 reject with icmpx admin-prohibited',
    [match(meta('nfproto'), 'ipv6'), { reject: { type: 'icmpx', expr: 'admin-prohibited' } }],
    [],
    ['-j REJECT --reject-with icmp6-adm-prohibited'],
  ],
  [
    'reject',
    [{ reject: null }],
    ['-j REJECT --reject-with icmp-port-unreachable'],
    ['-j REJECT --reject-with icmp6-port-unreachable'],
  ],
  [
    'meta mark & 0x4000 == 0x4000 jump more',
    [match({ '&': [meta('mark'), 16384] }, 16384), { jump: { target: 'more' } }],
    ['-m mark --mark 16384/16384 -j more'],
  ],
  [
    'meta mark set 7 goto more',
    [{ mangle: { key: meta('mark'), value: 7 } }, { goto: { target: 'more' } }],
    ['-j MARK --set-xmark 7/0xffffffff', '-g more'],
  ],
  [
    'fib daddr type local return',
    [match({ fib: { result: 'type', flags: ['daddr'] } }, 'local'), { return: null }],
    ['-m addrtype --dst-type LOCAL -j RETURN'],
  ],
  ['limit rate 5/second accept', [{ limit: { rate: 5 } }, { accept: null }], ['-m nftables --limit -j ACCEPT']],
  [
    'what we do not know',
    [match({ socket: { key: 'mark' } }, 1), { queue: { num: 0 } }],
    ['-m nftables --socket -j NFT-queue'],
  ],
  ['a set that is not there', [match(payload('ip', 'saddr'), '@none'), drop], ['-m nftables --payload -j DROP'], []],
  ['dnat to 10.0.0.1:8080', [{ dnat: { addr: '10.0.0.1', port: 8080 } }], ['-j DNAT --to-destination 10.0.0.1:8080']],
  ['dnat to [fd00::1]:8080', [{ dnat: { addr: 'fd00::1', port: 8080 } }], ['-j DNAT --to-destination [fd00::1]:8080']],
  ['masquerade', [{ masquerade: null }], ['-j MASQUERADE']],
  ['counter', [{ counter: { packets: 1, bytes: 60 } }, { log: { prefix: 'x' } }], []],
])('%s', (_, statements, four, six = four) => {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- what JSON.parse gives
  const given = statements as Parameters<typeof translateRule>[0]
  expect(translateRule(given, 'IPv4', sets)).toEqual(four)
  expect(translateRule(given, 'IPv6', sets)).toEqual(six)
})

test.each([
  ['PREROUTING', -300, 'raw'],
  ['PREROUTING', -100, 'mangle'],
  ['INPUT', -150, 'mangle'],
  ['INPUT', 0, 'filter'],
  ['INPUT', 50, 'security'],
  ['FORWARD', 10, 'filter'],
  ['OUTPUT', -300, 'raw'],
  ['OUTPUT', -150, 'mangle'],
  ['OUTPUT', 0, 'filter'],
  ['POSTROUTING', 100, 'mangle'],
])('a chain at %s of priority %i is passed with table %s', (hook, priority, table) => {
  expect(tableOf({ hook, priority })).toBe(table)
})

const json = {
  nftables: [
    { metainfo: { json_schema_version: 1 } },
    { table: { family: 'inet', name: 'guard', handle: 1 } },
    {
      chain: {
        family: 'inet',
        table: 'guard',
        name: 'in',
        handle: 1,
        type: 'filter',
        hook: 'input',
        prio: 0,
        policy: 'drop',
      },
    },
    { chain: { family: 'inet', table: 'guard', name: 'more', handle: 2 } },
    {
      rule: {
        family: 'inet',
        table: 'guard',
        chain: 'in',
        handle: 4,
        expr: [match(meta('iifname'), 'lo'), { accept: null }],
      },
    },
    {
      rule: {
        family: 'inet',
        table: 'guard',
        chain: 'in',
        handle: 5,
        expr: [match(payload('tcp', 'dport'), 80), { jump: { target: 'more' } }],
      },
    },
    {
      rule: {
        family: 'inet',
        table: 'guard',
        chain: 'in',
        handle: 6,
        expr: [match(payload('tcp', 'dport'), 81), { accept: null }],
      },
    },
    {
      rule: {
        family: 'inet',
        table: 'guard',
        chain: 'more',
        handle: 7,
        expr: [match(payload('ip', 'saddr'), '10.9.9.9'), drop],
      },
    },
  ],
}
const plain =
  'table inet guard { # handle 1\n\tchain more { # handle 2\n\t\tip saddr 10.9.9.9 drop # handle 7\n\t}\n}\n'
const guard: ForeignChain = { name: 'inet guard in', hook: 'INPUT', priority: 0, policy: 'drop' }
const packet: Packet = {
  family: 'IPv4',
  protocol: 'TCP',
  source: '10.9.9.9',
  sourcePort: 54321,
  destination: '10.96.0.10',
  destinationPort: 80,
  ephemeral: 'source',
  inLink: 'eth0',
  outLink: '',
  bridged: false,
  mark: 0,
  connectionMark: 0,
  state: 'NEW',
  direction: 'ORIGINAL',
  original: { source: '10.9.9.9', destination: '10.96.0.10', destinationPort: 80 },
  isTracked: false,
  sourceTranslated: false,
}

const nft: RunCommand = async (_command, args) => ({
  code: 0,
  stdout: args[0] === '-j' ? JSON.stringify(json) : plain,
  stderr: '',
})

test.each<[name: string, change: Partial<Packet>, fate: string]>([
  ['by a rule of a chain beside', {}, 'drop by rule 1 of inet guard more (ip saddr 10.9.9.9 drop)'],
  ['by the policy', { source: '10.0.0.1' }, 'drop by rule 0 of inet guard in (policy DROP)'],
  ['not', { destinationPort: 81 }, 'accept'],
  ['not by lo', { inLink: 'lo' }, 'accept'],
])('dropped %s', async (_, change, wanted) => {
  const { ruleSets, unread } = await readNativeChains('IPv4', [guard], nft)
  expect(unread).toEqual([])
  const kernel = snapshotState({
    family: 'IPv4',
    ruleSets,
    sets: new Map(),
    servers: [],
    links: [],
    addresses: new Map(),
    routes: [],
    sysctls: new Map(),
  })
  const [passage] = await passChain(kernel, 'filter', 'INPUT', { ...packet, ...change })
  const { fate } = passage!
  const by =
    fate.kind === 'accept' ? '' : ` by rule ${fate.by.number} of ${fate.by.table} ${fate.by.chain} (${fate.by.rule})`
  expect(`${fate.kind}${by}`).toBe(wanted)
})

test.each<[name: string, run: RunCommand]>([
  ['there is no nft', () => Promise.reject(Object.assign(new Error('spawn nft ENOENT'), { code: 'ENOENT' }))],
  ['nft is refused', async () => ({ code: 1, stdout: '', stderr: 'Operation not permitted' })],
  ['nft writes what is no JSON', async () => ({ code: 0, stdout: 'table inet guard', stderr: '' })],
])('where %s, a chain stays unread', async (_, run) => {
  expect(await readNativeChains('IPv4', [guard], run)).toEqual({ ruleSets: [], unread: [guard] })
})

test('a table without rules', () => {
  expect(parseNativeTable('{"nftables": [{"metainfo": {}}]}', '').rules).toEqual([])
})
