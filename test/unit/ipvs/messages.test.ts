import { beforeEach, describe, expect, it } from 'vitest'
import * as messages from '../../../src/ipvs/messages.ts'
import {
  changesOf,
  serverKey,
  type IpvsChange,
  type IpvsDifferences,
  type KnownServer,
  type ObservedDestination,
  type ServerCounters,
  type ServerId,
  type ServerStanding,
} from '../../../src/ipvs/ipvs.ts'
import { ProcParser, wordsText } from '../../../src/ipvs/proc.ts'
import { KernelIpvs } from '../../../src/ipvs/kernel-ipvs.ts'
import type { ProcFile } from '../../../src/ipvs/proc-file.ts'
import { DestinationList } from '../../../src/model/destination-list.ts'
import { Writer } from '../../../src/netlink/attributes.ts'
import { Connection, type Message } from '../../../src/netlink/connection.ts'
import { fakeKernel, message, refusing, result } from '../netlink/fake-socket.ts'
import * as kernel from './kernel-bytes.ts'

const v4 = { family: 'IPv4', protocol: 'TCP', address: '10.96.0.1', port: 443 } as const
const v6 = { family: 'IPv6', protocol: 'UDP', address: 'fd00::a', port: 53 } as const
const linkLocal = { address: 'fe80::1', port: 5353 }

/** Those that the kernel-bytes are of. */
const changes: IpvsChange[] = [
  { kind: 'newServer', server: { ...v4, scheduler: 'rr', flags: 1, timeout: 10800 } },
  { kind: 'newServer', server: { ...v4, scheduler: 'rr', flags: 0, timeout: 0 } },
  { kind: 'newServer', server: { ...v6, scheduler: 'sh', flags: 0x18, timeout: 0 } },
  { kind: 'newServer', server: { ...v6, port: 54, scheduler: 'nope', flags: 0, timeout: 0 } },
  { kind: 'newDestination', server: v4, destination: { address: '10.0.2.2', port: 6443, weight: 1 } },
  { kind: 'newDestination', server: v4, destination: { address: '224.0.0.1', port: 6443, weight: 1 } },
  { kind: 'newDestination', server: v4, destination: { address: 'fd00::b', port: 6443, weight: 1 } },
  { kind: 'newDestination', server: v6, destination: { address: 'fd00:10::b', port: 5353, weight: 0 } },
  { kind: 'newDestination', server: v6, destination: { ...linkLocal, weight: -1 } },
  { kind: 'newDestination', server: v6, destination: { ...linkLocal, weight: 1 } },
  { kind: 'setDestination', server: v6, destination: { ...linkLocal, weight: 1 } },
  { kind: 'deleteDestination', server: v6, destination: linkLocal },
]

function hex(one: Message): string {
  const writer = new Writer()
  one.write(writer)
  return writer.bytes().toString('hex')
}

const bytes = (text: string): Buffer => Buffer.from(text, 'hex')
const servers = [
  { ...v4, scheduler: 'rr', flags: 1, timeout: 10800 },
  { ...v6, scheduler: 'sh', flags: 0x18, timeout: 0 },
]
const changeMessage = (change: IpvsChange): Message => messages.changeMessages(0x20, [change])[0]!
const noConnections = { forwarding: 0, activeConnections: 0, inactiveConnections: 0 }

describe('messages', () => {
  it.each(changes.map((change, index) => [change.kind, change, kernel.changes[index]] as const))(
    '%s is written as the kernel took it',
    (_kind, change, wanted) => {
      expect(hex(changeMessage(change))).toBe(wanted)
    },
  )

  it('many are written as each alone', () => {
    const [first, ...rest] = changes
    const many = [first!, ...rest, first!]
    expect(messages.changeMessages(0x20, many).map(hex)).toEqual(many.map((change) => hex(changeMessage(change))))
  })

  it('those that make servers are the same, in whatever order they are asked for', () => {
    const v4Destinations = [1, 2, 3].map((i) => ({
      address: `10.0.${i}.255`,
      port: 256 * i + 7,
      weight: i * 0x01020304,
    }))
    const v6Destinations = [
      { address: 'fd00:10::b', port: 5353, weight: 0 },
      // In a list with IPv6 ones it is kept in its mapped form.
      { address: '10.0.0.9', port: 1, weight: 2 },
    ]
    const wanted: KnownServer[] = [
      {
        server: { ...v4, scheduler: 'rr', flags: 1, timeout: 10800 },
        destinations: DestinationList.of(v4Destinations),
      },
      { server: { ...v4, port: 1, scheduler: 'rr', flags: 0, timeout: 0 }, destinations: DestinationList.empty },
      { server: { ...v6, scheduler: 'sh', flags: 0x18, timeout: 0 }, destinations: DestinationList.of(v6Destinations) },
    ]
    const single = messages.changeMessages(0x20, wanted.flatMap(changesOf)).map(hex)
    const list = messages.makeMessages(0x20, wanted)
    expect(list.length).toBe(single.length)
    const order = [...single.keys(), ...[...single.keys()].toReversed(), 0, 7, 3, 3, 4, 0]
    expect(order.map((i) => hex(list.at(i)!))).toEqual(order.map((i) => single[i]))
    expect([-1, single.length].map((i) => list.at(i))).toEqual([undefined, undefined])
  })

  it('setServer and deleteServer', () => {
    const server = { ...v4, scheduler: 'rr', flags: 1, timeout: 10800 }
    const asNew = hex(changeMessage({ kind: 'newServer', server }))
    expect(hex(changeMessage({ kind: 'setServer', server }))).toBe(`02${asNew.slice(2)}`)
    expect(hex(changeMessage({ kind: 'deleteServer', server }))).toBe(
      hex(messages.listDestinationsMessage(0x20, v4)).replace(/^08/, '03'),
    )
  })

  it('servers are read from a dump', () => {
    expect(kernel.servers.map((text) => messages.decodeServer(bytes(text)))).toEqual(servers)
  })

  it('counters are read from a dump', () => {
    const counters = (text: string) => {
      const whole = Buffer.concat([Buffer.alloc(7), bytes(text)])
      return messages.decodeCounters(whole, 7, whole.length)
    }
    const none = { connections: 0, incomingPackets: 0, outgoingPackets: 0, incomingBytes: 0, outgoingBytes: 0 }
    expect(kernel.servers.map(counters)).toEqual([
      { id: v4, counters: none },
      { id: v6, counters: none },
    ])
    // IPVS_SVC_ATTR_STATS64 with 2^33 + 1 connections in the place of none.
    const [first = ''] = kernel.servers
    const at = first.indexOf('7c000c000c000100') + 16
    expect(first.slice(at, at + 16)).toBe('0'.repeat(16))
    const busy = `${first.slice(0, at)}0100000002000000${first.slice(at + 16)}`
    expect(counters(busy)?.counters).toEqual({ ...none, connections: 2 ** 33 + 1 })
  })

  it('destinations are read from a dump', () => {
    const [one = '', two = ''] = kernel.destinations
    const first = { address: '10.0.2.2', port: 6443, weight: 1, ...noConnections }
    expect(messages.decodeDestination(bytes(one), 'IPv4')).toEqual(first)
    const second = { address: 'fd00:10::b', port: 5353, weight: 0, ...noConnections }
    expect(messages.decodeDestination(bytes(two), 'IPv6')).toEqual(second)
  })

  it('timeouts are read and written', () => {
    expect(messages.decodeTimeouts(bytes(kernel.timeouts))).toEqual({ tcp: 900, tcpFin: 120, udp: 300 })
    const set = messages.setTimeoutsMessage(0x20, { tcp: 0, tcpFin: 0, udp: 77 })
    expect(hex(set)).toBe(kernel.setTimeouts)
  })

  it.each([...kernel.servers, ...kernel.destinations])('cut bytes are refused', (text) => {
    const whole = bytes(text)
    for (let end = 5; end < whole.length; end++) {
      expect(() => messages.commandAttributes.decode(whole, 4, end)).toThrow(/at byte/)
    }
  })

  it('firewall marks and other protocols are no servers', () => {
    const mark = messages.commandAttributes.encode({ server: { family: 2, firewallMark: 5, scheduler: 'rr' } })
    expect(messages.decodeServer(Buffer.concat([Buffer.alloc(4), mark]))).toBeUndefined()
  })
})

describe('the proc file', () => {
  const text = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:01BB rr  persistent 2700000 FFFFFFFF
  -> 0A000202:192B      Masq    1      3          40        
  -> 0A000203:192B      Route   -1     0          0         
FWM  00000007 rr 
  -> 0A000209:0050      Masq    1      0          0         
UDP  [fd00:0000:0000:0000:0000:0000:0000:000a]:0035 sh ops
  -> [fd00:0010:0000:0000:0000:0000:0000:000b]:14E9      Masq    0      0          0         
SCTP 0A600001:0F1C rr 
`
  /** Servers with their destinations, the text given in chunks of so many bytes. */
  const parsed = (given: string, chunk = 65_536): [string, ObservedDestination[]][] => {
    const servers: [string, ObservedDestination[]][] = []
    const parser = new ProcParser({
      server: ({ id }) => servers.push([serverKey(id), []]),
      destination: ({ family, words, ...rest }) =>
        servers.at(-1)![1].push({ ...rest, address: wordsText(family, words) }),
    })
    const bytes = Buffer.from(given)
    for (let from = 0; from < bytes.length; from += chunk) parser.push(bytes.subarray(from, from + chunk))
    return servers
  }

  it.each([65_536, 100, 7, 1])('reads servers with their destinations, in chunks of %i', (chunk) => {
    const found = { weight: 1, forwarding: 0, activeConnections: 3, inactiveConnections: 40 }
    expect(parsed(text, chunk)).toEqual([
      [
        '10.96.0.1:443/TCP',
        [
          { address: '10.0.2.2', port: 6443, ...found },
          { address: '10.0.2.3', port: 6443, weight: -1, forwarding: 3, activeConnections: 0, inactiveConnections: 0 },
        ],
      ],
      ['[fd00::a]:53/UDP', [{ address: 'fd00:10::b', port: 5353, weight: 0, ...noConnections }]],
      ['10.96.0.1:3868/SCTP', []],
    ])
  })

  it.each(['', 'nonsense', 'TCP  zz rr', '  -> 0A000202:192B Masq 1 0 0'])('reads nothing from "%s"', (other) => {
    expect(parsed(`${other}\n`)).toEqual([])
  })

  it.each([
    '  -> 0A000202:192B',
    '  -> 0A000202:192B      Masq    1',
    '  -> 0A000202:192B      Masq    1      0          ',
  ])('a destination cut short is none, and the next line is read: "%s"', (line) => {
    const whole = '  -> 0A000203:192B      Masq    1      0          0         '
    const destination = { address: '10.0.2.3', port: 6443, weight: 1, ...noConnections }
    expect(parsed(`TCP  0A600001:01BB rr  \n${line}\n${whole}\n`)).toEqual([['10.96.0.1:443/TCP', [destination]]])
    expect(parsed(`TCP  0A600001:01BB rr  \n${line}\n`)).toEqual([['10.96.0.1:443/TCP', []]])
  })
})

describe('changeError', () => {
  const cases: [number, number, string][] = [
    [0, 17, 'add virtual server 10.96.0.1:443/TCP: EEXIST'],
    [3, 2, 'add virtual server [fd00::a]:54/UDP: ENOENT (unknown scheduler "nope": modprobe ip_vs_nope)'],
    [4, 3, 'add destination 10.0.2.2:6443 of virtual server 10.96.0.1:443/TCP: ESRCH'],
    [10, 2, 'update destination [fe80::1]:5353 of virtual server [fd00::a]:53/UDP: ENOENT'],
    [
      11,
      1,
      'delete destination [fe80::1]:5353 of virtual server [fd00::a]:53/UDP: EPERM (needs the capability CAP_NET_ADMIN)',
    ],
  ]
  it.each(cases)('change %i, errno %i: %s', (index, errno, text) => {
    expect(messages.changeError(changes[index]!, errno).message).toBe(text)
  })
})

describe('KernelIpvs', () => {
  const family = bytes('010200000600010020000000')

  it('asks for the family once and maps refusals to changes', async () => {
    const fake = fakeKernel((sent) =>
      sent[0]!.type === 0x10
        ? [message(0x10, sent[0]!.sequence, family), result(2, sent[0]!.sequence, 0)]
        : refusing((one) => (one.payload[0] === 5 ? 3 : 0))(sent),
    )
    const ipvs = new KernelIpvs(() => new Connection(fake.open))
    const answers = [...(await ipvs.apply(changes.slice(2, 5))), ...(await ipvs.apply(changes.slice(0, 1)))]
    expect(answers.map((error) => error?.errnoName)).toEqual([undefined, undefined, 'ESRCH', undefined])
    expect(fake.sends.map((send) => send.messages[0]?.type)).toEqual([0x10, 0x20, 0x20])
    ipvs.close()
  })

  it('does not write while it lists', async () => {
    const fake = fakeKernel(([one], purpose) =>
      one!.type === 0x10
        ? [message(0x10, one!.sequence, family), result(2, one!.sequence, 0)]
        : purpose === 'requests'
          ? refusing(() => 0)([one!])
          : one!.payload[0] === 4
            ? [
                ...kernel.servers.map((text) => message(0x20, one!.sequence, bytes(text), 2)),
                result(3, one!.sequence, 0),
              ]
            : [result(3, one!.sequence, 0)],
    )
    const ipvs = new KernelIpvs(() => new Connection(fake.open))
    const [all] = await Promise.all([ipvs.listAll(), ipvs.apply(changes.slice(0, 1)), ipvs.listServers()])
    expect(all.length).toBe(2)
    const commands = fake.sends.slice(1).map(({ messages: [one] }) => one!.payload[0])
    // IPVS_CMD_GET_SERVICE, GET_DEST for each, then NEW_SERVICE.
    expect(commands).toEqual([4, 8, 8, 1, 4])
  })

  it('goes on from one thrifty look to the next, and reads all at once otherwise', async () => {
    const fake = fakeKernel(([one, ...rest], purpose) =>
      one!.type === 0x10
        ? [message(0x10, one!.sequence, family), result(2, one!.sequence, 0)]
        : purpose === 'requests'
          ? refusing(() => 0)([one!, ...rest])
          : [result(3, one!.sequence, 0)],
    )
    const pages = 12
    const files: { read: number; closed: boolean }[] = []
    const slowFile = (): ProcFile => {
      const file = { read: 0, closed: false }
      files.push(file)
      return {
        read: (buffer) => {
          for (const end = performance.now() + 10; performance.now() < end;);
          return file.read++ < pages ? buffer.write('\n') : 0
        },
        close: () => (file.closed = true),
      }
    }
    const ipvs = new KernelIpvs(() => new Connection(fake.open), slowFile)
    const look = (thrifty: boolean): Promise<IpvsDifferences> => ipvs.compare('IPv4', new Map(), thrifty)
    // Few servers are listed, whatever it takes.
    await look(true)
    expect(files).toEqual([])
    await ipvs.apply(Array.from({ length: 64 }, () => changes[1]!))
    await look(false)
    expect(files).toEqual([{ read: pages + 1, closed: true }])
    const parts: number[] = []
    while (files[1]?.closed !== true) {
      expect(await look(true)).toMatchObject({ found: [], missing: [] })
      parts.push(files[1]!.read)
    }
    expect(parts.length).toBeGreaterThan(2)
    expect(new Set(parts).size).toBe(parts.length)
    await look(true)
    expect(files[2]).toMatchObject({ closed: false })
    await look(false)
    expect(files.slice(2).map(({ closed }) => closed)).toEqual([true, true])
    expect(files[3]!.read).toBe(pages + 1)
    ipvs.close()
  })

  describe('traffic', () => {
    /** Answers dumps of these servers and of each one's destinations; `onDump` is called before those of servers. */
    const counting = (onDump: (nth: number) => void, servers = kernel.servers.map(bytes)) => {
      let dumps = 0
      return fakeKernel(([one], purpose) => {
        const { sequence } = one!
        if (one!.type === 0x10) return [message(0x10, sequence, family), result(2, sequence, 0)]
        if (purpose === 'requests') return refusing(() => 0)([one!])
        const isOfServers = one!.payload[0] === 4
        if (isOfServers) onDump(++dumps)
        const answers = isOfServers ? servers : kernel.destinations.slice(0, 1).map(bytes)
        return [...answers.map((payload) => message(0x20, sequence, payload, 2)), result(3, sequence, 0)]
      })
    }
    const proc = (text: string) => () => ({
      read: (buffer: Buffer) => {
        const count = buffer.write(text)
        text = ''
        return count
      },
      close: () => {},
    })
    const recorder = () => {
      const told: string[] = []
      return {
        told,
        visitor: {
          begin: () => void told.push('begin'),
          counted: (id: ServerId, { connections }: ServerCounters) => void told.push(`${serverKey(id)} ${connections}`),
          standing: (id: ServerId, one: ServerStanding) =>
            void told.push(
              `${serverKey(id)} ${one.ready} ${one.draining} ${one.activeConnections} ${one.inactiveConnections}`,
            ),
        },
      }
    }
    const once = ['begin', '10.96.0.1:443/TCP 0', '[fd00::a]:53/UDP 0']
    const standing = ['10.96.0.1:443/TCP 1 0 0 0', '[fd00::a]:53/UDP 1 0 0 0']

    it('of few servers is counters and destinations by netlink', async () => {
      const ipvs = new KernelIpvs(() => new Connection(counting(() => {}).open), proc(''))
      const { told, visitor } = recorder()
      await ipvs.traffic(visitor)
      expect(told).toEqual([...once, ...standing])
    })

    it('of many is destinations by the proc file; those that it leaves out are asked for', async () => {
      const addressOf = (n: number): Uint8Array => Uint8Array.from([10, 96, 1, n])
      const many = Array.from({ length: 70 }, (_, n) =>
        Buffer.concat([
          Buffer.alloc(4),
          messages.commandAttributes.encode({ server: { family: 2, protocol: 6, address: addressOf(n), port: 80 } }),
        ]),
      )
      const lines = many.flatMap((_, n) =>
        n === 7
          ? []
          : [
              `TCP  0A6001${n.toString(16).padStart(2, '0').toUpperCase()}:0050 rr  `,
              '  -> 0A000202:192B      Masq    1      3          40        ',
              '  -> 0A000203:192B      Masq    0      1          2         ',
            ],
      )
      // Somebody else's, in the file twice: told once or not at all.
      const text = [...lines, 'TCP  0A600101:0050 rr  ', 'TCP  0A600201:0050 rr  ', ''].join('\n')
      const ipvs = new KernelIpvs(() => new Connection(counting(() => {}, many).open), proc(text))
      const { told, visitor } = recorder()
      await ipvs.traffic(visitor)
      const stood = told.filter((line) => line.split(' ').length === 5)
      expect(stood).toHaveLength(70)
      expect(stood[0]).toBe('10.96.1.0:80/TCP 1 1 4 42')
      expect(stood.at(-1)).toBe('10.96.1.7:80/TCP 1 0 0 0')
    })

    it.each<[string, IpvsChange[], number]>([
      ['is counted again where servers were deleted meanwhile', [{ kind: 'deleteServer', server: v4 }], 2],
      ['is not counted again for other writes', changes.slice(0, 1), 1],
    ])('%s', async (_name, written, dumps) => {
      let ipvs: KernelIpvs | undefined
      let writing: Promise<unknown> | undefined
      const fake = counting((nth) => {
        if (nth === 1) writing = ipvs!.apply(written)
      })
      ipvs = new KernelIpvs(() => new Connection(fake.open), proc(''))
      const { told, visitor } = recorder()
      await ipvs.traffic(visitor)
      await writing
      expect(told).toEqual([...Array.from({ length: dumps }, () => once).flat(), ...standing])
    })
  })

  describe('whose module was unloaded', () => {
    /** The number under which the kernel knows IPVS; undefined: it has none, and cannot load it. */
    let number: number | undefined
    const reloads: string[] = []
    const unloaded = (openProc?: () => ProcFile): KernelIpvs => {
      const fake = fakeKernel((sent, purpose) => {
        const [one] = sent
        if (one!.type === 0x10) {
          if (number === undefined) return [result(2, one!.sequence, 2)]
          return [
            message(0x10, one!.sequence, bytes(`0102000006000100${number.toString(16)}000000`)),
            result(2, one!.sequence, 0),
          ]
        }
        // What is asked of a number that nobody has any more.
        if (one!.type !== number) return purpose === 'dumps' ? [result(2, one!.sequence, 2)] : refusing(() => 2)(sent)
        return purpose === 'dumps' ? [result(3, one!.sequence, 0)] : refusing(() => 0)(sent)
      })
      const ipvs = new KernelIpvs(() => new Connection(fake.open), openProc)
      ipvs.reloaded = () => void reloads.push('loaded anew')
      return ipvs
    }
    beforeEach(() => {
      number = 0x20
      reloads.length = 0
    })

    it('is found under its new number, once, by a list and by a write', async () => {
      for (const call of [
        (ipvs: KernelIpvs) => ipvs.listServers(),
        (ipvs: KernelIpvs) => ipvs.apply(changes.slice(0, 3)),
      ]) {
        number = 0x20
        const ipvs = unloaded()
        await ipvs.listServers()
        number = 0x31
        const answer = await call(ipvs)
        expect(answer.filter((one) => one !== undefined)).toEqual([])
        await ipvs.listServers()
      }
      expect(reloads).toEqual(['loaded anew', 'loaded anew'])
    })

    it('is an error that says what to load where it cannot be', async () => {
      const ipvs = unloaded()
      await ipvs.listServers()
      number = undefined
      await expect(ipvs.listServers()).rejects.toThrow('find generic netlink family "IPVS": ENOENT (modprobe ip_vs)')
      await expect(ipvs.apply(changes.slice(0, 1))).rejects.toThrow('modprobe ip_vs')
      number = 0x31
      expect(await ipvs.listServers()).toEqual([])
    })

    it('is found where a look would have read /proc/net/ip_vs: all that was known is missing', async () => {
      const ipvs = unloaded(() => {
        throw new Error("ENOENT: no such file or directory, open '/proc/net/ip_vs'")
      })
      const many = Array.from({ length: 100 }, (_, i) => ({
        ...v4,
        port: i + 1,
        scheduler: 'rr',
        flags: 0,
        timeout: 0,
      }))
      const known = new Map(many.map((server) => [serverKey(server), { server, destinations: DestinationList.empty }]))
      await ipvs.compare('IPv4', new Map())
      await ipvs.apply(many.map((server) => ({ kind: 'newServer', server })))
      number = 0x31
      const { found, missing } = await ipvs.compare('IPv4', known)
      expect([found.length, missing.length, reloads.length]).toEqual([0, 100, 1])
    })

    it('is not asked for anew where a scheduler is all that is missing', async () => {
      const fake = fakeKernel((sent) =>
        sent[0]!.type === 0x10
          ? [message(0x10, sent[0]!.sequence, family), result(2, sent[0]!.sequence, 0)]
          : refusing(() => 2)(sent),
      )
      const ipvs = new KernelIpvs(() => new Connection(fake.open))
      ipvs.reloaded = () => void reloads.push('loaded anew')
      const [error] = await ipvs.apply(changes.slice(3, 4))
      expect(error?.message).toContain('unknown scheduler "nope"')
      expect(reloads).toEqual([])
    })
  })

  it('asks again for a family that was not there', async () => {
    let there = false
    const fake = fakeKernel(([one]) =>
      there ? [message(0x10, one!.sequence, family), result(2, one!.sequence, 0)] : [result(2, one!.sequence, 2)],
    )
    const ipvs = new KernelIpvs(() => new Connection(fake.open))
    await expect(ipvs.apply([])).rejects.toThrow('modprobe ip_vs')
    there = true
    expect(await ipvs.apply([])).toEqual([])
  })
})

describe('virtual servers of firewall marks', () => {
  it.each([
    ['getServer', 4],
    ['getDestination', 8],
  ] as const)('%s names family and mark', (command, number) => {
    const written = bytes(hex(messages.markMessage(0x20, command, 'IPv6', 7)))
    expect(written[0]).toBe(number)
    expect(messages.commandAttributes.decode(written, 4).server).toMatchObject({ family: 10, firewallMark: 7 })
  })

  it('how one balances is told without an address', () => {
    const server = { family: 2, firewallMark: 7, scheduler: 'wrr', flags: bytes('0300000000000000'), timeout: 300 }
    const payload = Buffer.concat([bytes('01010000'), messages.commandAttributes.encode({ server })])
    expect(messages.decodeBalancing(payload)).toEqual({ scheduler: 'wrr', flags: 1, timeout: 300 })
    expect(messages.decodeServer(payload)).toBeUndefined()
  })
})
