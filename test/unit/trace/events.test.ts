import { describe, expect, test } from 'vitest'
import { parseLegacyLine, parseNftLine } from '../../../src/trace/events.ts'

// Lines as `nft -a -nn monitor trace` (1.0.6) wrote them of Linux 6.1, Debian 12.
const id = '1aeb57a1'
const ethernet = 'ether saddr 5e:c5:9d:c1:c8:5c ether daddr 26:71:31:f5:e7:c1'

describe('trace events of nftables', () => {
  test.each([
    {
      line: `trace id ${id} ip filter INPUT packet: iif "eth0" ${ethernet} ip saddr 192.168.60.9 ip daddr 10.96.0.1 ip dscp 0x00 ip ecn 0x0 ip ttl 64 ip id 28505 ip length 60 tcp sport 52116 tcp dport 80 tcp flags == 0x2 tcp window 64240 `,
      event: {
        kind: 'packet',
        id,
        family: 'ip',
        table: 'filter',
        chain: 'INPUT',
        packet: {
          protocol: 'TCP',
          source: '192.168.60.9',
          sourcePort: 52116,
          destination: '10.96.0.1',
          destinationPort: 80,
          inLink: 'eth0',
          outLink: '',
          flags: 'syn',
        },
      },
    },
    {
      line: `trace id ${id} ip nat POSTROUTING packet: iif "eth0" oif "cni0" ${ethernet} ip saddr 192.168.60.9 ip daddr 10.244.1.2 ip dscp 0x00 ip ecn 0x0 ip ttl 63 ip id 28505 ip length 60 tcp sport 52116 tcp dport 8080 tcp flags == 0x12 tcp window 64240 `,
      event: { kind: 'packet', packet: { inLink: 'eth0', outLink: 'cni0', destinationPort: 8080, flags: 'syn ack' } },
    },
    {
      line: `trace id b8717339 ip tr pre packet: iif "eth0" ${ethernet} ip saddr 192.168.60.9 ip daddr 10.96.0.1 ip dscp 0x00 ip ecn 0x0 ip ttl 64 ip id 45468 ip length 30 udp sport 55856 udp dport 80 udp length 10 @th,64,16 0x780a `,
      event: { kind: 'packet', table: 'tr', packet: { protocol: 'UDP', sourcePort: 55856, flags: '' } },
    },
    {
      line: `trace id ${id} ip nat PREROUTING rule ip daddr 10.96.0.1 counter packets 0 bytes 0 jump KUBE-MARK-MASQ # handle 4 (verdict jump KUBE-MARK-MASQ)`,
      event: {
        kind: 'rule',
        handle: 4,
        verdict: 'jump',
        to: 'KUBE-MARK-MASQ',
        text: 'ip daddr 10.96.0.1 counter packets 0 bytes 0 jump KUBE-MARK-MASQ',
      },
    },
    {
      line: `trace id ${id} ip mangle PREROUTING rule  counter packets 0 bytes 0 # handle 2 (verdict continue)`,
      event: { kind: 'rule', handle: 2, verdict: 'continue', text: 'counter packets 0 bytes 0' },
    },
    {
      line: 'trace id 8ca1a64b ip filter INPUT unknown rule handle 7 (verdict drop)',
      event: { kind: 'rule', handle: 7, verdict: 'drop', text: '' },
    },
    {
      line: `trace id ${id} ip nat KUBE-MARK-MASQ verdict continue meta mark 0x00004000 `,
      event: { kind: 'end', mark: 0x4000 },
    },
    { line: `trace id ${id} ip filter INPUT verdict return `, event: { kind: 'end' } },
    {
      line: 'trace id 301553e6 ip filter INPUT policy drop meta mark 0x00004000 ',
      event: { kind: 'policy', policy: 'drop', mark: 0x4000 },
    },
    { line: `trace id ${id} ip mangle PREROUTING policy accept `, event: { kind: 'policy', policy: 'accept' } },
  ])('$line', ({ line, event }) => {
    expect(parseNftLine(line)).toMatchObject({ variant: 'nft', ...event })
  })

  test.each([
    '# Warning: table ip nat is managed by iptables-nft, do not touch!',
    '# new generation 16 by process 21 (iptables-nft)',
    'trace id 1aeb57a1 ip filter',
    'trace id 1aeb57a1 ip filter INPUT packet: iif "eth0" arp operation request',
    'trace id 1aeb57a1 ip filter INPUT something else',
    '',
  ])('no event: %s', (line) => {
    expect(parseNftLine(line)).toBeUndefined()
  })
})

// Lines of the kernel log of Linux 6.1 with iptables-legacy.
const packet =
  'IN=eth0 OUT= MAC=1a:3b:68:41:8f:61:46:ab:14:e6:39:e5:08:00 SRC=192.168.60.9 DST=10.96.0.1 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=56151 DF PROTO=TCP SPT=59682 DPT=80 SEQ=2215159201 ACK=0 WINDOW=64240 RES=0x00 SYN URGP=0 OPT (020405B40402080A1C54DF6C0000000001030307) '

describe('lines of legacy iptables', () => {
  const seen = {
    protocol: 'TCP',
    source: '192.168.60.9',
    sourcePort: 59682,
    destination: '10.96.0.1',
    destinationPort: 80,
    inLink: 'eth0',
    outLink: '',
    flags: 'syn',
  }
  test.each([
    {
      line: `TRACE: mangle:PREROUTING:rule:1 ${packet}`,
      event: { table: 'mangle', chain: 'PREROUTING', kind: 'rule', number: 1 },
    },
    {
      line: `TRACE: nat:KUBE-MARK-MASQ:return:2 ${packet}MARK=0x4000 `,
      event: { table: 'nat', chain: 'KUBE-MARK-MASQ', kind: 'end', mark: 0x4000 },
    },
    {
      line: `TRACE: nat:PREROUTING:policy:2 ${packet}MARK=0x4000 `,
      event: { table: 'nat', chain: 'PREROUTING', kind: 'policy', mark: 0x4000 },
    },
  ])('$line', ({ line, event }) => {
    const [first, told] = parseLegacyLine(line)
    expect(first).toMatchObject({ variant: 'legacy', kind: 'packet', packet: seen })
    expect(told).toMatchObject({ variant: 'legacy', family: 'ip', ...event })
    expect(first!.id).toBe(told!.id)
  })

  test('what leaves, with its answer’s flags', () => {
    const line =
      'TRACE: filter:OUTPUT:policy:1 IN= OUT=cni0 SRC=192.168.60.9 DST=10.244.1.2 LEN=52 TOS=0x00 PREC=0x00 TTL=63 ID=56153 DF PROTO=TCP SPT=59682 DPT=8080 SEQ=2215159202 ACK=2399306533 WINDOW=502 RES=0x00 ACK FIN URGP=0 OPT (0101080A1C54DF9DE6BBF304) '
    expect(parseLegacyLine(line)[0]).toMatchObject({ packet: { inLink: '', outLink: 'cni0', flags: 'fin ack' } })
  })

  test.each(['IPVS: Registered protocols (TCP, UDP, SCTP, AH, ESP)', 'TRACE: of something else', ''])(
    'no line of it: %s',
    (line) => {
      expect(parseLegacyLine(line)).toEqual([])
    },
  )
})
