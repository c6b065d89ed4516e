import { describe, expect, test } from 'vitest'
import { checks, examine, kernelNumber, type Facts, type LinkFacts } from '../../../src/inspect/checks.ts'
import { parseSave } from '../../../src/iptables/text.ts'
import { parseCidr } from '../../../src/model/address.ts'

const eth0: LinkFacts = { name: 'eth0', kind: '', addresses: [{ family: 'IPv4', address: '192.168.0.1', prefix: 24 }] }
const eth1: LinkFacts = { name: 'eth1', kind: '', addresses: [{ family: 'IPv4', address: '172.16.0.1', prefix: 16 }] }
const cni0: LinkFacts = {
  name: 'cni0',
  kind: 'bridge',
  addresses: [{ family: 'IPv4', address: '10.244.1.1', prefix: 24 }],
}
const ours: LinkFacts = { name: 'kube-ipvs0', kind: 'dummy', addresses: [] }

const filter = (policy: string, ...input: string[]): Facts['filter'] =>
  new Map([
    [
      'IPv4',
      parseSave(
        ['*filter', `:INPUT ${policy} [0:0]`, ':KUBE-IPVS-FILTER - [0:0]', ':ufw-user-input - [0:0]']
          .concat(
            input.map((rule) => `-A INPUT ${rule}`),
            'COMMIT',
          )
          .join('\n'),
      ).get('filter')!,
    ],
  ])

/** A node on which nothing is to be found. */
const healthy: Facts = {
  release: '6.1.0-42-amd64',
  scheduler: 'rr',
  excludeCIDRs: [],
  sysctls: new Map([
    ['net.ipv4.ip_forward', '1'],
    ['net.ipv4.vs.conntrack', '1'],
    ['net.ipv4.vs.conn_reuse_mode', '1'],
    ['net.ipv4.conf.all.arp_ignore', '0'],
    ['net.ipv4.conf.all.rp_filter', '0'],
    ['net.bridge.bridge-nf-call-iptables', '1'],
    ['net.netfilter.nf_conntrack_count', '100'],
    ['net.netfilter.nf_conntrack_max', '1000'],
  ]),
  wrongSysctls: [],
  unread: new Map(),
  modules: new Set(['ip_vs', 'ip_vs_rr']),
  servers: 10,
  destinations: 20,
  servedFamilies: new Set(['IPv4']),
  schedulersInUse: new Set(['rr']),
  sets: [{ family: 'IPv4', set: 'KUBE-CLUSTER-IP', members: 10, size: 65536 }],
  filter: filter('ACCEPT', '-j KUBE-IPVS-FILTER'),
  variant: 'nft',
  chainsOfOtherVariant: [],
  leftovers: [],
  links: [eth0, cni0, ours],
  externalAddresses: ['203.0.113.1'],
  serviceAddresses: new Set(['10.96.0.1', '203.0.113.1']),
  clashes: [],
  driftCount: 0,
  unknownWanted: '',
  proxy: 'ours',
}

const sysctls = (change: Record<string, string | undefined>): Pick<Facts, 'sysctls'> => {
  const values = new Map(healthy.sysctls)
  for (const [name, value] of Object.entries(change)) {
    if (value === undefined) values.delete(name)
    else values.set(name, value)
  }
  return { sysctls: values }
}
const fill = (members: number, size: number): Pick<Facts, 'sets'> => ({
  sets: [{ family: 'IPv4', set: 'KUBE-LOOP-BACK', members, size }],
})

const many = { servers: 10_000, destinations: 100_000 }
const accept = '-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT'

const cases: readonly { name: string; change: Partial<Facts>; found: readonly string[] }[] = [
  { name: 'a healthy node', change: {}, found: [] },
  {
    name: 'nobody says what is wanted',
    change: { unknownWanted: 'not known: ECONNREFUSED' },
    found: ['error wanted-unknown'],
  },
  { name: 'no IPVS', change: { unread: new Map([['IPv4 ipvs', 'modprobe ip_vs']]) }, found: ['error layer-unread'] },
  {
    name: 'a scheduler that is not loaded',
    change: { scheduler: 'mh', modules: new Set(['ip_vs']) },
    found: ['warning scheduler-module'],
  },
  { name: 'a scheduler in use that is built in', change: { modules: new Set() }, found: [] },
  { name: 'no device', change: { links: [eth0] }, found: ['error dummy-device'] },
  {
    name: 'a device of another kind',
    change: { links: [eth0, { ...ours, kind: 'bridge' }] },
    found: ['error dummy-device'],
  },
  { name: 'no forwarding', change: sysctls({ 'net.ipv4.ip_forward': '0' }), found: ['error ip-forward'] },
  {
    name: 'no forwarding of a family that is not served',
    change: sysctls({ 'net.ipv6.conf.all.forwarding': '0' }),
    found: [],
  },
  {
    name: 'no forwarding of IPv6',
    change: { ...sysctls({ 'net.ipv6.conf.all.forwarding': '0' }), servedFamilies: new Set(['IPv6']) },
    found: ['error ip-forward'],
  },
  { name: 'no conntrack', change: sysctls({ 'net.ipv4.vs.conntrack': '0' }), found: ['error vs-conntrack'] },
  { name: 'reuse on an old kernel', change: { release: '5.4.0-1' }, found: ['warning conn-reuse-mode'] },
  {
    name: 'reuse off on an old kernel',
    change: { release: '5.4.0-1', ...sysctls({ 'net.ipv4.vs.conn_reuse_mode': '0' }) },
    found: [],
  },
  {
    name: 'reuse off on a new kernel',
    change: sysctls({ 'net.ipv4.vs.conn_reuse_mode': '0' }),
    found: ['warning conn-reuse-mode'],
  },
  {
    name: 'a kernel without the mode',
    change: { release: '3.10.0', ...sysctls({ 'net.ipv4.vs.conn_reuse_mode': undefined }) },
    found: [],
  },
  { name: 'much to estimate', change: many, found: ['warning estimation-cost'] },
  { name: 'much to estimate, by threads', change: { ...many, release: '6.2.0' }, found: [] },
  {
    name: 'much to estimate, switched off',
    change: { ...many, ...sysctls({ 'net.ipv4.vs.run_estimation': '0' }) },
    found: [],
  },
  { name: 'INPUT drops', change: { filter: filter('DROP', '-i lo -j ACCEPT') }, found: ['error input-drop'] },
  {
    name: 'INPUT drops but what goes on',
    change: { filter: filter('DROP', '-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT') },
    found: ['error input-drop'],
  },
  { name: 'INPUT drops all but Services', change: { filter: filter('DROP', accept) }, found: [] },
  {
    name: 'INPUT ends in REJECT',
    change: { filter: filter('ACCEPT', '-j REJECT --reject-with icmp-host-prohibited') },
    found: ['error input-drop'],
  },
  {
    name: 'what comes after the end does not count',
    change: { filter: filter('ACCEPT', '-j DROP', accept) },
    found: ['error input-drop'],
  },
  {
    name: 'INPUT drops, others may accept',
    change: { filter: filter('DROP', '-j ufw-user-input') },
    found: ['warning input-drop'],
  },
  {
    name: 'INPUT drops, something is accepted',
    change: { filter: filter('DROP', '-p tcp -m tcp --dport 22 -j ACCEPT') },
    found: ['warning input-drop'],
  },
  { name: 'INPUT drops after all was accepted', change: { filter: filter('DROP', '-j ACCEPT') }, found: [] },
  { name: 'a set near full', change: fill(60_000, 65_536), found: ['warning set-full'] },
  { name: 'a full set', change: fill(65_536, 65_536), found: ['error set-full'] },
  { name: 'the largest set near full', change: fill(15_000_000, 2 ** 24), found: ['error set-full'] },
  {
    name: 'conntrack near full',
    change: sysctls({ 'net.netfilter.nf_conntrack_count': '850' }),
    found: ['warning conntrack-full'],
  },
  {
    name: 'conntrack full',
    change: sysctls({ 'net.netfilter.nf_conntrack_count': '1000' }),
    found: ['error conntrack-full'],
  },
  { name: 'conntrack without limit', change: sysctls({ 'net.netfilter.nf_conntrack_max': '0' }), found: [] },
  { name: 'conntrack not loaded', change: sysctls({ 'net.netfilter.nf_conntrack_count': undefined }), found: [] },
  {
    name: 'a load balancer address on the wire',
    change: { externalAddresses: ['192.168.0.200'] },
    found: ['warning strict-arp'],
  },
  {
    name: 'the same with strictARP',
    change: { externalAddresses: ['192.168.0.200'], ...sysctls({ 'net.ipv4.conf.all.arp_ignore': '1' }) },
    found: [],
  },
  {
    name: 'both variants',
    change: { chainsOfOtherVariant: ['nat KUBE-SERVICES'] },
    found: ['error iptables-variants'],
  },
  {
    name: 'leftovers',
    change: { leftovers: ['IPv4 nat: 3 chains, such as KUBE-SEP-A'] },
    found: ['warning leftovers'],
  },
  { name: 'no daemon', change: { proxy: 'none' }, found: ['warning other-proxy'] },
  { name: 'another kube-proxy', change: { proxy: { mode: 'iptables' } }, found: ['error other-proxy'] },
  {
    name: 'strict reverse path on two links',
    change: { links: [eth0, eth1, ours], ...sysctls({ 'net.ipv4.conf.all.rp_filter': '1' }) },
    found: ['warning rp-filter'],
  },
  {
    name: 'strict reverse path on one link',
    change: { links: [eth0, ours], ...sysctls({ 'net.ipv4.conf.eth0.rp_filter': '1' }) },
    found: [],
  },
  {
    name: 'loose for all outdoes strict of one',
    change: {
      links: [eth0, eth1, ours],
      ...sysctls({
        'net.ipv4.conf.all.rp_filter': '2',
        'net.ipv4.conf.eth0.rp_filter': '1',
        'net.ipv4.conf.eth1.rp_filter': '1',
      }),
    },
    found: [],
  },
  {
    name: 'bridged packets pass by',
    change: sysctls({ 'net.bridge.bridge-nf-call-iptables': '0' }),
    found: ['warning bridge-nf'],
  },
  {
    name: 'br_netfilter is not loaded',
    change: sysctls({ 'net.bridge.bridge-nf-call-iptables': undefined }),
    found: ['warning bridge-nf'],
  },
  {
    name: 'no bridge of pods',
    change: {
      links: [eth0, ours, { ...cni0, name: 'docker0' }],
      ...sysctls({ 'net.bridge.bridge-nf-call-iptables': '0' }),
    },
    found: [],
  },
  {
    name: 'a clash',
    change: { clashes: [{ owner: 'default/web/TCP', address: '192.168.0.1' }] },
    found: ['warning address-clash'],
  },
  {
    name: 'excluded Services',
    change: { excludeCIDRs: [parseCidr('10.96.0.0/12')!] },
    found: ['warning exclude-cidrs'],
  },
  { name: 'nothing excluded that is a Service', change: { excludeCIDRs: [parseCidr('10.50.0.0/16')!] }, found: [] },
  {
    name: 'a sysctl changed since',
    change: { wrongSysctls: [{ name: 'net.ipv4.vs.expire_nodest_conn', value: '0', wanted: '1' }] },
    found: ['warning sysctls'],
  },
  { name: 'drift', change: { driftCount: 3 }, found: ['warning drift'] },
]

describe('findings', () => {
  test.each(cases)('$name', ({ change, found }) => {
    expect(examine({ ...healthy, ...change }).map(({ severity, id }) => `${severity} ${id}`)).toEqual(found)
  })

  test('errors stand first, and each says what, why and what to do', () => {
    const findings = examine({ ...healthy, driftCount: 1, links: [eth0] })
    expect(findings.map(({ id }) => id)).toEqual(['dummy-device', 'drift'])
    for (const one of findings) for (const text of [one.title, one.found, one.why, one.fix]) expect(text).not.toBe('')
  })

  test('the table above has each check', () => {
    const tried = new Set(cases.flatMap(({ found }) => found.map((text) => text.split(' ')[1])))
    expect(checks.map(({ id }) => id).filter((id) => !tried.has(id))).toEqual([])
    expect(new Set(checks.map(({ id }) => id)).size).toBe(checks.length)
  })
})

test.each([
  ['6.1.0-42-amd64', 6001],
  ['5.9', 5009],
  ['4.18.0-553.el8', 4018],
])('kernel %s', (release, number) => {
  expect(kernelNumber(release)).toBe(number)
})
