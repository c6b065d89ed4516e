import { describe, expect, test } from 'vitest'
import { markCommands, tableCommands, type Marking } from '../../../src/trace/marking.ts'
import { parseControl, restoreCommand } from '../../../src/trace/kernel-switches.ts'
import { recordText } from '../../../src/trace/kmsg.ts'
import { traceListeners } from '../../../src/trace/monitor.ts'

const four: Marking = {
  target: { family: 'IPv4', protocol: 'TCP', address: '10.96.0.1', port: 80 },
  comesIn: true,
  isSent: true,
  flows: 5,
  packets: 'opening',
}
const marking = (change: Partial<Marking>): Marking => ({ ...four, ...change })
const requests = (one: Marking): string[] => markCommands(one, 't').filter((text) => /_first /.test(text))

describe('what is marked', () => {
  test.each<{ name: string; change: Partial<Marking>; commands: string[] }>([
    {
      name: 'TCP: what opens a connection, from anywhere',
      change: {},
      commands: [
        'add rule ip t prerouting_first ip daddr 10.96.0.1 tcp dport 80 tcp flags & (syn | ack | rst | fin) == syn limit rate 20/second burst 20 packets add @flows { ip saddr . tcp sport } meta nftrace set 1',
        'add rule ip t output_first ip daddr 10.96.0.1 tcp dport 80 tcp flags & (syn | ack | rst | fin) == syn limit rate 20/second burst 20 packets add @flows { ip saddr . tcp sport } meta nftrace set 1',
      ],
    },
    {
      name: 'all packets, of one source, by one link',
      change: { packets: 'all', source: '10.0.0.9', inLinks: ['eth1'], isSent: false },
      commands: [
        'add rule ip t prerouting_first iifname { "eth1" } ip daddr 10.96.0.1 ip saddr 10.0.0.9 tcp dport 80 limit rate 20/second burst 20 packets add @flows { ip saddr . tcp sport } meta nftrace set 1',
      ],
    },
    {
      name: 'IPv6, UDP, of the node',
      change: { target: { family: 'IPv6', protocol: 'UDP', address: 'fd96::1', port: 53 }, comesIn: false },
      commands: [
        'add rule ip6 t output_first ip6 daddr fd96::1 udp dport 53 limit rate 20/second burst 20 packets add @flows { ip6 saddr . udp sport } meta nftrace set 1',
      ],
    },
    {
      name: 'SCTP',
      change: { target: { ...four.target, protocol: 'SCTP' }, comesIn: false },
      commands: [
        'add rule ip t output_first ip daddr 10.96.0.1 sctp dport 80 @th,96,8 1 limit rate 20/second burst 20 packets add @flows { ip saddr . sctp sport } meta nftrace set 1',
      ],
    },
  ])('$name', ({ change, commands }) => {
    expect(requests(marking(change))).toEqual(commands)
  })

  test('datagrams of our own to ourselves are, too, where they begin', () => {
    expect(markCommands(four, 't', { address: '127.0.0.1', port: 4711 }).at(-1)).toBe(
      'add rule ip t output_first ip saddr 127.0.0.1 ip daddr 127.0.0.1 udp dport 4711 meta nftrace set 1',
    )
    const six = marking({ target: { ...four.target, family: 'IPv6', address: 'fd96::1' } })
    expect(markCommands(six, 't', { address: '::1', port: 4711 }).at(-1)).toBe(
      'add rule ip6 t output_first ip6 saddr ::1 ip6 daddr ::1 udp dport 4711 meta nftrace set 1',
    )
  })

  test('answers are those of flows that are followed, at both places where they begin', () => {
    const answers = markCommands(four, 't').filter((text) => text.includes('@flows') && text.includes('_tracked'))
    expect(answers).toHaveLength(2)
    for (const text of answers) {
      expect(text).toContain('ct direction reply ct original ip daddr 10.96.0.1 ct original proto-dst 80')
      expect(text).toContain('ct original ip saddr . ct original proto-src @flows tcp flags & (syn | rst) != 0x0')
    }
  })

  test('the table is made before anything marks, the set holds no more flows than asked for', () => {
    const commands = tableCommands(marking({ flows: 7 }), 't', true)
    expect(commands[0]).toBe('add table ip t { flags owner; }')
    expect(commands[1]).toBe('add set ip t flows { type ipv4_addr . inet_service; size 7; flags dynamic; }')
    expect(
      commands
        .slice(2)
        .every((text) => /^add chain ip t \w+ \{ type filter hook \w+ priority -?\d+; policy accept; \}$/.test(text)),
    ).toBe(true)
    expect(tableCommands(four, 't', false)[0]).toBe('add table ip t')
  })
})

// As Linux 6.1 of Debian 12 has them.
const control = `# filename:lineno [module]function flags format
init/main.c:1183 [main]initcall_blacklisted =p "initcall %s blacklisted\\012"
net/netfilter/ipvs/ip_vs_proto.c:242 [ip_vs]ip_vs_tcpudp_debug_packet_v4 =_ "%s: %s %s\\n"
net/netfilter/ipvs/ip_vs_proto.c:274 [ip_vs]ip_vs_tcpudp_debug_packet_v6 =pm "%s: %s %s\\n"
net/netfilter/ipvs/ip_vs_ftp.c:9 [ip_vs_ftp]f =_ "%s"
`

test('debug statements of one module, and how each is put back', () => {
  const sites = parseControl(control, 'ip_vs')
  expect(sites.map(restoreCommand)).toEqual([
    'module ip_vs file net/netfilter/ipvs/ip_vs_proto.c line 242 =_',
    'module ip_vs file net/netfilter/ipvs/ip_vs_proto.c line 274 =pm',
  ])
  expect(parseControl(control, 'nothing')).toEqual([])
})

test.each([
  ['6,1234,98765432,-;IPVS: a line\n SUBSYSTEM=net\n', 'IPVS: a line'],
  ['4,1,2,-,caller=T1;a;b', 'a;b'],
  [' SUBSYSTEM=net', undefined],
  ['', undefined],
])('the text of a record of the kernel log: %j', (record, text) => {
  expect(recordText(record)).toBe(text)
})

test('who hears trace events', () => {
  const table = `sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000ead07ee8 12  190        00000100 0        0        0     2        0        11008
000000006825e7a1 12  174        00000000 0        0        0     2        0        1375
00000000d04251ef 0   174        00000100 0        0        0     2        0        10935
`
  expect(traceListeners(table)).toEqual(['00000000ead07ee8'])
})
