import { createSocket, type Socket } from 'node:dgram'
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { FlowCleaner } from '../../src/conntrack/cleaner.ts'
import type { NewFlow } from '../../src/conntrack/fake-flows.ts'
import { flowText, type UdpFlow } from '../../src/conntrack/flows.ts'
import { KernelFlows } from '../../src/conntrack/kernel-flows.ts'
import { listMessage } from '../../src/conntrack/messages.ts'
import { silentLog } from '../../src/lib/log.ts'
import type { Family } from '../../src/model/address.ts'
import { destinationKey } from '../../src/model/virtual-server.ts'
import { Connection } from '../../src/netlink/connection.ts'
import { protocols } from '../../src/netlink/header.ts'
import { flowsContract, row } from '../contract/conntrack.ts'
import { run } from './lab.ts'

/** Entries by conntrack(8), many in one process; it makes them as if a datagram of each direction had passed. */
function insert(...entries: NewFlow[]): void {
  const lines = entries.map((flow) => {
    const protocol = flow.protocol === 'TCP' ? 'tcp --state ESTABLISHED' : 'udp'
    return [
      `-A -t 300 -u SEEN_REPLY -p ${protocol}`,
      `-s ${flow.source} -d ${flow.destination} --sport ${flow.sourcePort} --dport ${flow.destinationPort}`,
      `-r ${flow.replySource} -q ${flow.source}`,
      `--reply-port-src ${flow.replySourcePort} --reply-port-dst ${flow.sourcePort}`,
      flow.zone === undefined ? '' : `-w ${flow.zone}`,
    ].join(' ')
  })
  // From a file: it opens /dev/stdin by name, which cannot be done with the socket that Node gives it.
  const file = join(tmpdir(), 'flows')
  writeFileSync(file, `${lines.join('\n')}\n`)
  run('conntrack', '-R', file)
}

/** What conntrack(8) lists, in the words of FakeFlows.dump. */
function list(): string[] {
  const lines = ['ipv4', 'ipv6'].flatMap((family) => run('conntrack', '-L', '-f', family).split('\n'))
  return lines
    .filter((line) => /^(udp|tcp) /.test(line))
    .map((line) => {
      const field = (name: string, index = 0): string =>
        [...line.matchAll(RegExp(` ${name}=(\\S+)`, 'g'))][index]?.[1] ?? '0'
      const flow: UdpFlow = {
        source: field('src'),
        sourcePort: Number(field('sport')),
        destination: field('dst'),
        destinationPort: Number(field('dport')),
        replySource: field('src', 1),
        replySourcePort: Number(field('sport', 1)),
        zone: Number(field('zone')),
        id: 0,
      }
      return `${line.slice(0, 3).toUpperCase()} ${flowText(flow)}`
    })
    .sort()
}

const flush = (): void => void run('conntrack', '-F')

describe('KernelFlows', () => {
  beforeAll(async () => {
    // Nobody but the first question has the module loaded.
    execFileSync('modprobe', ['-r', '-q', 'nf_conntrack_netlink'])
    const before = run('lsmod')
    const flows = new KernelFlows()
    await flows.select('IPv4', () => true)
    flows.close()
    expect([before.includes('nf_conntrack_netlink'), run('lsmod').includes('nf_conntrack_netlink')]).toEqual([
      false,
      true,
    ])
  })
  afterAll(flush)

  flowsContract(async () => {
    flush()
    return { flows: new KernelFlows(), insert, list }
  })

  it('has the kernel leave out other protocols', async () => {
    flush()
    insert(
      row('10.0.0.1:1 10.0.0.2:2 10.0.0.2:2'),
      row('10.0.0.1:1 10.0.0.2:2 10.0.0.2:2', { protocol: 'TCP' }),
      row('[fd00::1]:1 [fd00::2]:2 [fd00::2]:2'),
    )
    const connection = Connection.open(protocols.netfilter)
    const count = async (family: Family, udpOnly: boolean): Promise<number> => {
      let payloads = 0
      const end = await connection.stream(listMessage(family, udpOnly), () => payloads++)
      expect(end).toEqual({ errno: 0, interrupted: false })
      return payloads
    }
    expect([await count('IPv4', false), await count('IPv4', true), await count('IPv6', true)]).toEqual([2, 1, 1])
    connection.close()
  })

  it('finds and removes an entry whose zone counts for one direction', async () => {
    flush()
    const line = '-p udp -t 300 -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2'.split(' ')
    run('conntrack', '-I', ...line, '--orig-zone', '7')
    run('conntrack', '-I', ...line, '--reply-zone', '8', '--reply-port-dst', '9')
    const flows = new KernelFlows()
    const found = await flows.select('IPv4', () => true)
    expect(found.map(({ zone }) => zone).toSorted((a, b) => a - b)).toEqual([0, 7])
    expect(await flows.remove(found)).toEqual(new Map())
    expect(list()).toEqual([])
    flows.close()
  })
})

interface Site {
  readonly family: Family
  readonly node: string
  readonly vip: string
  readonly endpoints: readonly [string, string]
  readonly socketType: 'udp4' | 'udp6'
  readonly ip: readonly string[]
  readonly iptables: string
}

const sites: readonly Site[] = [
  {
    family: 'IPv4',
    node: '10.1.2.1',
    vip: '10.96.0.10',
    endpoints: ['10.1.2.2', '10.1.2.3'],
    socketType: 'udp4',
    ip: ['address add 10.1.2.1/24 dev flows0', 'route add 10.96.0.0/16 dev flows0'],
    iptables: 'iptables',
  },
  {
    family: 'IPv6',
    node: 'fd01::1',
    vip: 'fd96::10',
    endpoints: ['fd01::2', 'fd01::3'],
    socketType: 'udp6',
    ip: ['address add fd01::1/64 dev flows0 nodad', 'route add fd96::/64 dev flows0'],
    iptables: 'ip6tables',
  },
]

describe.each(sites)(
  'a client of an IPVS service, $family',
  ({ family, node, vip, endpoints, socketType, ip, iptables }) => {
    const flows = new KernelFlows()
    const cleaner = new FlowCleaner({ family, flows, log: silentLog, isNodeAddress: (address) => address === node })
    const frontend = destinationKey({ address: vip, port: 53 })
    const nodeFrontend = destinationKey({ address: node, port: 30053 })
    const [first, second] = endpoints.map((address) => destinationKey({ address, port: 5353 })) as [string, string]
    const rule = ['OUTPUT', '-m', 'conntrack', '--ctstate', 'NEW']
    let client: Socket
    let from = ''

    beforeAll(async () => {
      execFileSync('ip', ['-batch', '-'], {
        input: ['link add flows0 type dummy', 'link set flows0 up', ...ip].join('\n'),
        stdio: ['pipe', 'ignore', 'pipe'],
      })
      run(iptables, '-A', ...rule)
      run('ipvsadm', '-C')
      run('sysctl', '-qw', 'net.ipv4.vs.conntrack=1')
      flush()
      client = createSocket(socketType)
      await new Promise<void>((bound) => client.bind(0, node, bound))
      from = destinationKey({ address: node, port: client.address().port })
    })
    afterAll(async () => {
      await new Promise<void>((closed) => client.close(closed))
      flows.close()
      run('ipvsadm', '-C')
      run('sysctl', '-qw', 'net.ipv4.vs.conntrack=0')
      run(iptables, '-D', ...rule)
      run('ip', 'link', 'delete', 'flows0')
      flush()
    })

    /** Twice: IPVS drops the datagram by which it notices that a destination has gone. */
    async function send(address: string, port: number): Promise<void> {
      for (let i = 0; i < 2; i++) {
        await new Promise<void>((sent, failed) => {
          client.send('question', port, address, (error) => (error === null ? sent() : failed(error)))
        })
      }
    }
    const answeredBy = (...who: string[]): string[] =>
      who.map((one) => `UDP ${from} to ${frontend}, answered by ${one}`)

    it('is sent to the service itself by an entry from before there was one, until that is cleared', async () => {
      await send(vip, 53)
      expect(list()).toEqual(answeredBy(frontend))
      run('ipvsadm', '-A', '-u', frontend, '-s', 'rr')
      run('ipvsadm', '-a', '-u', frontend, '-r', first, '-m')
      await send(vip, 53)
      expect(list()).toEqual(answeredBy(frontend))
      cleaner.touch(frontend, new Set([first]))
      expect(await cleaner.run()).toEqual({ removed: 1 })
      await send(vip, 53)
      expect(list()).toEqual(answeredBy(first))
    })

    it('keeps its entry while the endpoint serves', async () => {
      cleaner.touch(frontend, new Set([first, second]))
      expect(await cleaner.run()).toEqual({ removed: 0 })
      expect(list()).toEqual(answeredBy(first))
    })

    it('goes to another endpoint once the entry to the former is cleared', async () => {
      run('ipvsadm', '-d', '-u', frontend, '-r', first)
      run('ipvsadm', '-a', '-u', frontend, '-r', second, '-m')
      expect(list()).toEqual(answeredBy(first))
      cleaner.touch(frontend, new Set([second]))
      expect(await cleaner.run()).toEqual({ removed: 1 })
      expect(list()).toEqual([])
      // Only now, for with it the kernel clears what IPVS still has a connection for as soon as the destination goes.
      run('sysctl', '-qw', 'net.ipv4.vs.expire_nodest_conn=1')
      await send(vip, 53)
      run('sysctl', '-qw', 'net.ipv4.vs.expire_nodest_conn=0')
      expect(list()).toEqual(answeredBy(second))
    })

    it('goes to another endpoint of a node port, too', async () => {
      run('ipvsadm', '-A', '-u', nodeFrontend, '-s', 'rr')
      run('ipvsadm', '-a', '-u', nodeFrontend, '-r', first, '-m')
      await send(node, 30053)
      expect(list()).toContain(`UDP ${from} to ${nodeFrontend}, answered by ${first}`)
      cleaner.touch(':30053', new Set([second]))
      expect(await cleaner.run()).toEqual({ removed: 1 })
      expect(list()).toEqual(answeredBy(second))
    })

    it('loses its entry with the service', async () => {
      run('ipvsadm', '-D', '-u', frontend)
      cleaner.touch(frontend, undefined)
      expect(await cleaner.run()).toEqual({ removed: 1 })
      expect(list()).toEqual([])
      expect(cleaner.pending).toBe(0)
    })
  },
)
