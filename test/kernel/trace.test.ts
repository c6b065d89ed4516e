// What `trace` says of live packets on node-a: real traffic, in good order and broken; and that it leaves nothing behind.
// The daemon of node-a has ended, so that nothing is repaired meanwhile.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Family } from '../../src/model/address.ts'
import { destinationKey } from '../../src/model/virtual-server.ts'
import type { TraceReport } from '../../src/trace/trace.ts'
import { eventually, program, run } from './lab.ts'
import { addressOf, Network, serviceAddress, type Actor, type Transport } from './traffic/network.ts'
import { serviceObjects, type ServiceShape } from './traffic/service.ts'

const shapes = {
  web: { name: 'web', number: 1, endpoints: ['a1', 'b1'] },
  near: { name: 'near', number: 2, endpoints: ['a1'] },
  dropped: { name: 'dropped', number: 3, endpoints: ['a1'] },
  oneway: { name: 'oneway', number: 4, endpoints: ['a2'] },
  nobody: { name: 'nobody', number: 5, endpoints: [] },
  closed: {
    name: 'closed',
    number: 6,
    endpoints: ['a1'],
    ports: [{ name: 'udp', protocol: 'UDP', port: 80, targetPort: 9999 }],
  },
  far: { name: 'far', number: 7, endpoints: ['b2'] },
  quiet: { name: 'quiet', number: 8, endpoints: ['a1'] },
  legacy: { name: 'legacy', number: 9, endpoints: ['b1'] },
} as const satisfies Record<string, ServiceShape>
type Name = keyof typeof shapes

let network: Network

beforeAll(async () => {
  network = await Network.start(Object.values(shapes).flatMap((shape) => serviceObjects(shape)))
  await network.daemons.get('node-a')!.stop()
  onNode('sysctl', '-qw', 'net.ipv4.vs.expire_nodest_conn=1')
})

afterAll(async () => {
  await network?.destroy()
})

function onNode(...command: [string, ...string[]]): string {
  return network.namespace('node-a').run(...command)
}

const vip = (name: Name, family: Family = 'IPv4'): string => serviceAddress('clusterIP', shapes[name].number, family)

/** A trace on node-a, begun. */
class Tracing {
  readonly child: ChildProcess
  readonly exit: Promise<unknown[]>
  stdout = ''
  stderr = ''

  constructor(...args: string[]) {
    const flags = [
      `--manifests=${network.folder}`,
      '--hostname-override=node-a',
      '--cluster-cidr=10.244.0.0/16,fd44::/16',
    ]
    const command = [process.execPath, program, 'trace', ...args, ...flags]
    this.child = spawn('ip', ['netns', 'exec', network.namespace('node-a').name, ...command])
    this.child.stdout!.on('data', (chunk: Buffer) => (this.stdout += chunk.toString()))
    this.child.stderr!.on('data', (chunk: Buffer) => (this.stderr += chunk.toString()))
    this.exit = once(this.child, 'close')
  }

  /** Until packets are marked. */
  async begun(): Promise<this> {
    await eventually('the trace to begin', () => {
      if (this.child.exitCode !== null) throw new Error(`trace ended: ${this.stderr}`)
      return this.stderr.includes('Following packets')
    })
    return this
  }

  async report(): Promise<TraceReport & { code: number | null }> {
    const [code] = await this.exit
    if (this.stdout === '') throw new Error(`no report, exit code ${String(code)}: ${this.stderr}`)
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the program writes it
    return { ...(JSON.parse(this.stdout) as TraceReport), code: code as number | null }
  }
}

async function traced(
  args: readonly string[],
  act: () => Promise<unknown>,
): Promise<TraceReport & { code: number | null }> {
  const tracing = await new Tracing(...args, '-o', 'json').begun()
  await act()
  return tracing.report()
}

interface Row {
  readonly name: string
  readonly to: Name
  readonly from: Actor
  readonly source?: string
  readonly transport?: Transport
  readonly family?: Family
  readonly port?: number
  readonly count?: number
  readonly limit?: string
  readonly rules?: readonly (readonly string[])[]
  readonly heard: RegExp
  readonly verdict: string
  readonly text: RegExp
  /** Texts that the steps have in this order. */
  readonly steps: readonly RegExp[]
}

const masqueraded = 'KUBE-MARK-MASQ'
const rows: readonly Row[] = [
  {
    name: 'a pod asks a served cluster IP',
    to: 'near',
    from: 'a2',
    source: addressOf('a2', 'IPv4'),
    heard: /^a1 /,
    verdict: 'served',
    text: /its destination; 10\.244\.1\.2:8080 sees the client as 10\.244\.1\.3$/,
    steps: [
      /^request in: by \S+: 10\.244\.1\.3:\d+ → 10\.96\.0\.2:80\/TCP/,
      /^request nat PREROUTING: .*KUBE-SERVICES/,
      /^request filter INPUT: .*KUBE-IPVS-FILTER/,
      /^request IPVS at LOCAL_IN: virtual server 10\.96\.0\.2:80\/TCP chose 10\.244\.1\.2:8080/,
      /^request sent: by cni0 as 10\.244\.1\.3:\d+ → 10\.244\.1\.2:8080\/TCP: source kept/,
      /^reply in: .*10\.244\.1\.2:8080 → 10\.244\.1\.3:\d+\/TCP/,
      /^reply sent: .*10\.96\.0\.2:80 → 10\.244\.1\.3:\d+\/TCP/,
    ],
  },
  {
    name: 'the node asks, masqueraded',
    to: 'far',
    from: 'node-a',
    source: 'node',
    heard: /^b2 /,
    verdict: 'served',
    text: /10\.244\.2\.3:8080 sees the client as 192\.168\.60\.1$/,
    steps: [
      /^request out: of this node: /,
      new RegExp(`^request nat OUTPUT: .*${masqueraded}.*mark 0x0 → 0x4000`),
      /^request IPVS at LOCAL_OUT: .* chose 10\.244\.2\.3:8080/,
      /^request nat POSTROUTING: .*MASQUERADE/,
      /^request sent: .* masqueraded, 10\.96\.0\.7 became 192\.168\.60\.1/,
      /^reply in: by eth0: 10\.244\.2\.3:8080 → 192\.168\.60\.1:/,
    ],
  },
  {
    name: 'over IPv6 from outside, two connections',
    to: 'web',
    from: 'client',
    source: 'outside',
    family: 'IPv6',
    count: 2,
    heard: /^(a1|b1) /,
    verdict: 'served',
    text: /^2 of 2 connections: served by virtual server \[fd96::1\]:80\/TCP/,
    steps: [/^request IPVS at LOCAL_IN: virtual server \[fd96::1\]:80\/TCP chose/, /^reply sent: .*\[fd96::1\]:80 → /],
  },
  {
    name: 'over UDP',
    to: 'web',
    from: 'client',
    transport: 'UDP',
    heard: /^(a1|b1) /,
    verdict: 'served',
    text: /virtual server 10\.96\.0\.1:80\/UDP/,
    steps: [/^request IPVS at LOCAL_IN/, /^reply sent/],
  },
  {
    name: 'a foreign DROP in INPUT',
    to: 'dropped',
    from: 'client',
    rules: [['iptables', '-I', 'INPUT', '-d', '10.96.0.3/32', '-p', 'tcp', '-m', 'tcp', '--dport', '80', '-j', 'DROP']],
    heard: /^timeout$/,
    verdict: 'dropped-by-foreign-rule',
    text: /^dropped in filter INPUT by rule \d+ \(-d 10\.96\.0\.3\/32 -p tcp -m tcp --dport 80 -j DROP\), which is not ours; IPVS never sees it$/,
    steps: [/^request filter INPUT: .*INPUT \d+ \(not ours\).*DROP/],
  },
  {
    name: 'a foreign DROP of answers in FORWARD',
    to: 'oneway',
    from: 'client',
    rules: [
      ['iptables', '-I', 'FORWARD', '-s', '10.244.1.3/32', '-p', 'tcp', '-m', 'tcp', '--sport', '8080', '-j', 'DROP'],
    ],
    heard: /^timeout$/,
    verdict: 'forward-dropped',
    text: /^the answer is dropped in filter FORWARD by rule \d+ \(-s 10\.244\.1\.3\/32 .*which is not ours$/,
    steps: [/^request sent/, /^reply filter FORWARD: .*DROP/],
  },
  {
    name: 'no endpoints',
    to: 'nobody',
    from: 'client',
    heard: /^refused$/,
    verdict: 'rejected-no-endpoints',
    text: /no endpoint/,
    steps: [/^request in: by eth0/],
  },
  {
    name: 'an endpoint that does not listen, over UDP',
    to: 'closed',
    from: 'client',
    transport: 'UDP',
    heard: /^refused$/,
    verdict: 'refused-by-endpoint',
    text: /^sent to 10\.244\.1\.2:9999, and refused: ICMP /,
    steps: [/^request sent: by cni0/],
  },
]

/** "request nat PREROUTING: KUBE-SERVICES 1 …": a step and its rules in a line. */
function lines({ flows }: TraceReport): string[] {
  return flows[0]!.steps.map(({ direction, place, text, hits }) => {
    const rules = hits.map(
      ({ chain, number, ours, rule, effect }) =>
        `${chain} ${number} (${ours ? 'ours' : 'not ours'}) ${rule}: ${effect}`,
    )
    return `${direction} ${place}: ${[text, ...rules].join(' ')}`
  })
}

function expectInOrder(found: readonly string[], wanted: readonly RegExp[]): void {
  let at = -1
  for (const pattern of wanted) {
    const next = found.findIndex((line, i) => i > at && pattern.test(line))
    if (next < 0) throw new Error(`no step ${String(pattern)} after step ${at + 1} of\n${found.join('\n')}`)
    at = next
  }
}

const rules = (): string =>
  ['iptables-save', 'ip6tables-save', 'nft list ruleset']
    .map((tool) => {
      const [command, ...args] = tool.split(' ') as [string, ...string[]]
      // Counters count.
      return onNode(command, ...args).replaceAll(/^#.*$|counter packets \d+ bytes \d+|\[\d+:\d+\]/gm, '')
    })
    .join('\n')

async function askRow({
  to,
  from,
  transport = 'TCP',
  family = 'IPv4',
  count = 1,
  port = 80,
  heard,
}: Row): Promise<void> {
  const limit = heard.test('timeout') ? { timeout: 1500 } : {}
  const answers = await network.askMany(from, count, { transport, address: vip(to, family), port, ...limit })
  for (const answer of answers) expect(answer).toMatch(heard)
}

describe('live packets', () => {
  // All at once: each trace has its table, and hears of the others' packets, too.
  const reports = new Map<Row, TraceReport & { code: number | null }>()
  let before = ''
  let during = ''

  beforeAll(async () => {
    for (const { rules: made = [] } of rows) for (const [command, ...args] of made) onNode(command!, ...args)
    before = rules()
    const begun: (readonly [Row, Tracing])[] = []
    for (const row of rows) {
      const { to, transport = 'TCP', family = 'IPv4', source, count = 1, limit = '20s' } = row
      const target = `${destinationKey({ address: vip(to, family), port: 80 })}/${transport}`
      const from = source === undefined ? [] : ['--from', source]
      begun.push([row, new Tracing(target, ...from, '--for', limit, '--count', String(count), '-o', 'json')])
    }
    await Promise.all(begun.map(([, tracing]) => tracing.begun()))
    during = onNode('iptables-save')
    await Promise.all(rows.map(askRow))
    for (const [row, tracing] of begun) reports.set(row, await tracing.report())
  })

  test.each(rows)('$name', (row) => {
    const report = reports.get(row)!
    expect(report).toMatchObject({ code: 0, verdict: { code: row.verdict } })
    expect(report.verdict.text).toMatch(row.text)
    expectInOrder(lines(report), row.steps)
  })

  test('iptables-save has nothing of it meanwhile, and the kernel nothing afterwards', () => {
    expect(during).not.toMatch(/TRACE|trace/)
    expect(rules()).toBe(before)
  })
})

/** Who hears trace events, and shells and tools of ours. */
function helpers(): string[] {
  const list = run('ps', '-eo', 'args').split('\n')
  return list.filter((line) => line.includes('nft -i') || line.includes('monitor trace'))
}

const control = '/proc/dynamic_debug/control'
const sites = (): string[] => run('grep', '\\[ip_vs\\]', control).split('\n')
const target = `${serviceAddress('clusterIP', shapes.quiet.number, 'IPv4')}:80`

describe('what is left behind', () => {
  test('nothing came: the verdict says so, exit code 1', async () => {
    const report = await traced([target, '--for', '1s'], async () => {})
    expect(report).toMatchObject({ code: 1, flows: [], verdict: { code: 'no-packet', isCertain: true } })
    expect(report.verdict.text).toMatch(
      /^no packet that opens a connection to 10\.96\.0\.8:80\/TCP came to this node within 1 s$/,
    )
  })

  test.each(['SIGINT', 'SIGTERM'] as const)('%s ends it with what was seen, and all is as before', async (signal) => {
    const [before, switches] = [rules(), sites()]
    // As a terminal does: the whole group gets it.
    const tracing = await new Tracing(target, '--for', '10m', '--count', '9', '--kernel-debug', '-o', 'json').begun()
    expect(rules()).not.toBe(before)
    expect(sites()).not.toEqual(switches)
    expect(await network.ask('client', { transport: 'TCP', address: vip('quiet'), port: 80 })).toMatch(/^a1 /)
    process.kill(tracing.child.pid!, signal)
    const report = await tracing.report()
    expect(report).toMatchObject({ code: 0, verdict: { code: 'served' } })
    expect(report.flows).toHaveLength(1)
    expect(rules()).toBe(before)
    expect(sites()).toEqual(switches)
    expect(helpers()).toEqual([])
  })

  test('killed: the kernel takes the table, helpers put switches back', async () => {
    const [before, switches] = [rules(), sites()]
    const tracing = await new Tracing(target, '--for', '10m', '--kernel-debug').begun()
    expect(rules()).not.toBe(before)
    process.kill(tracing.child.pid!, 'SIGKILL')
    await tracing.exit
    await eventually('helpers to end', () => helpers().length === 0)
    expect(rules()).toBe(before)
    expect(sites()).toEqual(switches)
  })

  test('a table that nobody owns goes with the next run; one of a trace that runs stays', async () => {
    const before = rules()
    // What a kernel below 5.12 leaves of a trace whose whole container was killed.
    onNode('nft', 'add table ip kube-ipvs-proxy-trace-1-abc { chain c { type filter hook input priority 97; }; }')
    const other = await new Tracing(`[${vip('quiet', 'IPv6')}]:80`, '--for', '10m', '-o', 'json').begun()
    expect(other.stderr).toContain('Following')
    const { findings } = await traced([target, '--for', '1s'], async () => {
      expect(onNode('nft', 'list', 'tables').match(/table ip6? kube-ipvs-proxy-trace-/g)).toHaveLength(2)
    })
    expect(findings).not.toContainEqual(expect.stringContaining('killed trace'))
    process.kill(other.child.pid!, 'SIGINT')
    const { findings: found } = await other.report()
    expect(found).toContain('removed what a killed trace had left: table ip kube-ipvs-proxy-trace-1-abc')
    expect(rules()).toBe(before)
  })

  test('debug switches that were on stay on; what the kernel lacks is said', async () => {
    const [site] = sites().filter((line) => line !== '')
    const [, file, line] = /^(\S+):(\d+) /.exec(site!)!
    run('sh', '-c', `echo 'file ${file} line ${line} +p' > ${control}`)
    const switches = sites()
    const { findings, kernelLines } = await traced([target, '--for', '3s', '--kernel-debug'], async () => {
      run('sh', '-c', 'echo "<6>IPVS: a line of the kernel" > /dev/kmsg')
    })
    expect(findings).toContainEqual(
      expect.stringMatching(/^for the time of the trace: dynamic_debug: 1 of 2 statements of module ip_vs on$/),
    )
    expect(findings).toContainEqual(
      expect.stringMatching(/^this kernel has no net\.ipv4\.vs\.debug_level: .*IP_VS_DEBUG/),
    )
    expect(kernelLines).toEqual(['IPVS: a line of the kernel'])
    expect(sites()).toEqual(switches)
    run('sh', '-c', `echo 'module ip_vs =_' > ${control}`)
  })
})

test.each([
  { name: 'at once', delay: 0 },
  // The log tells that the packet was dropped long before nft tells of the tables before that.
  { name: 'with nft 3 s behind', delay: 3000 },
])('rules of legacy iptables are told of by the kernel log, $name', async ({ delay }) => {
  // Logging of other network namespaces than the first is off otherwise; nodes are in the first.
  run('modprobe', 'nf_log_syslog')
  run('sysctl', '-qw', 'net.netfilter.nf_log_all_netns=1')
  const rule = ['-d', `${vip('legacy')}/32`, '-p', 'tcp', '-m', 'tcp', '--dport', '80', '-j', 'DROP']
  onNode('iptables-legacy', '-I', 'INPUT', ...rule)
  const report = await traced([`${vip('legacy')}:80`, '--count', '1', '--for', '20s'], async () => {
    const [nft] = run('pgrep', '-f', 'nft -a -nn monitor trace$').trim().split('\n').map(Number)
    if (delay > 0) process.kill(nft!, 'SIGSTOP')
    const answer = await network.ask('client', { transport: 'TCP', address: vip('legacy'), port: 80, timeout: 1500 })
    expect(answer).toBe('timeout')
    await sleep(delay)
    if (delay > 0) process.kill(nft!, 'SIGCONT')
  })
  onNode('iptables-legacy', '-D', 'INPUT', ...rule)
  expect(report.verdict).toMatchObject({ code: 'dropped-by-foreign-rule' })
  expect(report.verdict.text).toMatch(
    /^dropped in filter INPUT by rule 1 \(-d 10\.96\.0\.9\/32 .* -j DROP\) of iptables-legacy, which is not ours; IPVS never sees it$/,
  )
  expectInOrder(lines(report), [/^request nat PREROUTING: .*KUBE-SERVICES/, /^request filter INPUT: .*DROP/])
  expect(report.findings).not.toContainEqual(expect.stringContaining('datagram'))
})
