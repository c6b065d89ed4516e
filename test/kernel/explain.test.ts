// What `explain` says of a packet, and what becomes of the packet: on node-a, in good order and broken in many ways. Its
// daemon has ended, so that nothing is repaired meanwhile.
import { spawn, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Explanation } from '../../src/explain/explain.ts'
import type { VerdictCode } from '../../src/explain/verdict.ts'
import type { Family } from '../../src/model/address.ts'
import { destinationKey } from '../../src/model/virtual-server.ts'
import { addressOf, families, Network, pods, serviceAddress, whole, type Actor } from './traffic/network.ts'
import { silence, type Target } from './traffic/rows.ts'
import { nodePortOf, serviceObjects, type ServiceShape } from './traffic/service.ts'

const local = { externalTrafficPolicy: 'Local' }
const shapes = {
  web: { name: 'web', number: 1, endpoints: pods },
  near: { name: 'near', number: 2, endpoints: pods, spec: { ...local, internalTrafficPolicy: 'Local' } },
  far: { name: 'far', number: 3, endpoints: ['b1', 'b2'], spec: local },
  self: { name: 'self', number: 4, endpoints: ['a1'] },
  nobody: { name: 'nobody', number: 5, endpoints: [] },
  ranged: {
    name: 'ranged',
    number: 6,
    endpoints: pods,
    spec: { loadBalancerSourceRanges: families.map((family) => whole(addressOf('client', family))) },
  },
  host: {
    name: 'host',
    number: 7,
    endpoints: [{ at: 'node-a' }],
    ports: [{ name: 'tcp', protocol: 'TCP', port: 80, targetPort: 6443, nodePort: nodePortOf(7) }],
  },
  hostB: {
    name: 'host-b',
    number: 8,
    endpoints: [{ at: 'node-b' }],
    ports: [{ name: 'tcp', protocol: 'TCP', port: 80, targetPort: 6443, nodePort: nodePortOf(8) }],
  },
} as const satisfies Record<string, ServiceShape>
type Name = keyof typeof shapes

interface Ask {
  readonly from: Actor
  readonly to: Name
  readonly at: Target
  readonly transport: 'TCP' | 'UDP'
  readonly family: Family
}

interface Answer {
  readonly explanation: Explanation
  readonly text: string
  readonly took: number
}

let network: Network
let explainer: ChildProcess
let answers: AsyncIterator<string>

beforeAll(async () => {
  network = await Network.start(Object.values(shapes).flatMap((shape) => serviceObjects(shape)))
  await network.daemons.get('node-a')!.stop()
  const program = [join(import.meta.dirname, 'explain-main.ts'), network.folder, 'node-a']
  const { name } = network.namespace('node-a')
  explainer = spawn('ip', ['netns', 'exec', name, process.execPath, ...program], { stdio: ['pipe', 'pipe', 'inherit'] })
  answers = createInterface({ input: explainer.stdout! })[Symbol.asyncIterator]()
})

afterAll(async () => {
  explainer?.stdin!.end()
  await network?.destroy()
})

function placeOf({ to, at, family }: Ask): { address: string; port: number } {
  const { number } = shapes[to]
  if (at === 'node-a' || at === 'node-b') return { address: addressOf(at, family), port: nodePortOf(number) }
  return { address: serviceAddress(at, number, family), port: 80 }
}

async function explainAll(asks: readonly Ask[]): Promise<readonly Answer[]> {
  const requests = asks.map((one) => ({
    target: `${destinationKey(placeOf(one))}/${one.transport}`,
    from: one.from === 'node-a' ? 'node' : addressOf(one.from, one.family),
  }))
  explainer.stdin!.write(`${JSON.stringify(requests)}\n`)
  const { value } = await answers.next()
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- explain-main.ts writes it
  return JSON.parse(value as string) as readonly Answer[]
}

/** What the asker hears by the explanation, as the agent says it: each of these texts, or one of a kind. */
function predicted({ explanation }: Answer, { family }: Ask): string[] {
  const [way] = explanation.ways
  const ends = way?.balanced?.results.map(({ destination, ways }) => ({ destination, end: ways[0]!.end! }))
  if (ends === undefined) return [kindOf(explanation.verdict.answer)]
  return ends.map(({ destination, end }) => {
    if (end.answer !== 'answered') return kindOf(end.answer)
    const who = [...pods, 'node-a' as const, 'node-b' as const].find(
      (one) => addressOf(one, family) === destination.address,
    )
    return `${who} ${end.seen} ${destination.port}`
  })
}

function kindOf(answer: string): string {
  return { refused: 'refused', nothing: 'timeout', unreachable: 'no route', leaves: 'leaves' }[answer] ?? answer
}

/** What it heard: two rounds of the scheduler. Long is waited for what is to come, not for what is not. */
async function heard(one: Ask, wanted: readonly string[]): Promise<string[]> {
  const limit = wanted.every((text) => text === 'timeout' || text === 'leaves') ? { timeout: silence } : {}
  const question = { transport: one.transport, ...placeOf(one), ...limit }
  const texts = await network.askMany(one.from, 2 * wanted.length, question)
  return texts.map((text) => (/^(EHOSTUNREACH|ENETUNREACH|EACCES)$/.test(text) ? 'no route' : text))
}

/** Asks of one actor side by side, for each goes to a virtual server of its own; those of several would share rounds. */
async function mistakes(asks: readonly Ask[]): Promise<{ wrong: string[]; found: readonly Answer[] }> {
  const found = await explainAll(asks)
  const check = async (one: Ask): Promise<string[]> => {
    const { text, ...answer } = found[asks.indexOf(one)]!
    const wanted = predicted({ text, ...answer }, one)
    const got = await heard(one, wanted)
    const same = [...new Set(got)].sort().join() === [...new Set(wanted)].sort().join()
    return same ? [] : [`${JSON.stringify(one)}: said ${wanted.join()}, was ${got.join()}\n${text}`]
  }
  const wrong: string[] = []
  for (const actor of new Set(asks.map(({ from }) => from))) {
    const results = await Promise.all(asks.filter(({ from }) => from === actor).map(check))
    wrong.push(...results.flat())
  }
  return { wrong, found }
}

const targets = ['clusterIP', 'loadBalancer', 'externalIP', 'node-a'] as const
const askers = ['client', 'a1', 'node-a', 'b1'] as const

test.each(Object.keys(shapes) as Name[])('in good order: %s', async (to) => {
  const transports = to.startsWith('host') ? (['TCP'] as const) : (['TCP', 'UDP'] as const)
  const asks = families.flatMap((family) =>
    transports.flatMap((transport) =>
      targets.flatMap((at) =>
        // What a pod of node-b asks of service addresses goes to node-b's own.
        askers
          .filter((from) => from !== 'b1' || at === 'node-a')
          .map((from): Ask => ({ from, to, at, transport, family })),
      ),
    ),
  )
  const { wrong } = await mistakes(asks)
  expect(wrong).toEqual([])
})

const vip1 = serviceAddress('clusterIP', 1, 'IPv4')
const filter = (...rule: string[]): string[][] => [
  ['iptables', '-I', ...rule],
  ['iptables', '-D', ...rule.filter((word, i) => i !== 1 || word !== '1')],
]

interface Broken {
  readonly name: string
  readonly by: readonly (readonly string[])[]
  readonly undo: readonly (readonly string[])[]
  readonly from: Actor
  readonly to?: Name
  readonly at?: Target
  readonly transport?: 'TCP' | 'UDP'
  readonly code: VerdictCode
}

function ruled(name: string, rule: readonly string[], rest: Omit<Broken, 'name' | 'by' | 'undo'>): Broken {
  const [by, undo] = filter(...rule)
  return { name, by: [by!], undo: [undo!], ...rest }
}

function sysctl(name: string, setting: string, rest: Omit<Broken, 'name' | 'by' | 'undo'>): Broken {
  const set = (value: string): string[] => ['sysctl', '-qw', `${setting}=${value}`]
  return { name, by: [set('0')], undo: [set('1')], ...rest }
}

const broken: readonly Broken[] = [
  ruled('a foreign DROP in INPUT', ['INPUT', '-p', 'tcp', '--dport', '80', '-j', 'DROP'], {
    from: 'client',
    code: 'dropped-by-foreign-rule',
  }),
  ruled('a foreign DROP in INPUT, another transport', ['INPUT', '-p', 'tcp', '--dport', '80', '-j', 'DROP'], {
    from: 'client',
    transport: 'UDP',
    code: 'served',
  }),
  ruled('a foreign DROP in INPUT, the node asks', ['INPUT', '-p', 'tcp', '--dport', '80', '-j', 'DROP'], {
    from: 'node-a',
    code: 'served',
  }),
  ruled(
    'a foreign REJECT in INPUT',
    ['INPUT', '-s', addressOf('client', 'IPv4'), '-j', 'REJECT', '--reject-with', 'icmp-admin-prohibited'],
    { from: 'client', code: 'rejected-by-foreign-rule' },
  ),
  ruled('a foreign tcp-reset in INPUT', ['INPUT', '-p', 'tcp', '-j', 'REJECT', '--reject-with', 'tcp-reset'], {
    from: 'a1',
    code: 'rejected-by-foreign-rule',
  }),
  ruled('filter OUTPUT comes after IPVS: not the service address', ['OUTPUT', '-d', vip1, '-j', 'DROP'], {
    from: 'node-a',
    code: 'served',
  }),
  ruled(
    'filter OUTPUT comes after IPVS: but the endpoint',
    ['OUTPUT', '-p', 'tcp', '-d', '10.244.0.0/16', '--dport', '8080', '-j', 'DROP'],
    { from: 'node-a', code: 'dropped-by-foreign-rule' },
  ),
  ruled(
    'what IPVS sends passes OUTPUT, though it came from outside',
    ['OUTPUT', '-p', 'tcp', '-d', '10.244.0.0/16', '--dport', '8080', '-j', 'DROP'],
    { from: 'client', code: 'dropped-by-foreign-rule' },
  ),
  ruled(
    'what IPVS sends does not pass FORWARD',
    ['FORWARD', '-p', 'tcp', '-d', '10.244.0.0/16', '--dport', '8080', '-j', 'DROP'],
    { from: 'client', code: 'served' },
  ),
  ruled('the answer passes FORWARD', ['FORWARD', '-p', 'tcp', '-s', '10.244.0.0/16', '--sport', '8080', '-j', 'DROP'], {
    from: 'client',
    code: 'forward-dropped',
  }),
  ruled('the answer to the node passes INPUT', ['INPUT', '-p', 'tcp', '--sport', '8080', '-j', 'DROP'], {
    from: 'node-a',
    code: 'dropped-by-foreign-rule',
  }),
  ruled('the raw table', ['PREROUTING', '-t', 'raw', '-p', 'udp', '--dport', '80', '-j', 'DROP'], {
    from: 'a1',
    transport: 'UDP',
    code: 'dropped-by-foreign-rule',
  }),
  ruled('NOTRACK, a remote endpoint', ['PREROUTING', '-t', 'raw', '-p', 'tcp', '--dport', '80', '-j', 'NOTRACK'], {
    from: 'client',
    to: 'hostB',
    code: 'not-tracked',
  }),
  ruled(
    'a foreign DNAT',
    [
      'PREROUTING',
      '-t',
      'nat',
      '-p',
      'tcp',
      '-d',
      vip1,
      '-j',
      'DNAT',
      '--to-destination',
      `${addressOf('a2', 'IPv4')}:8081`,
    ],
    { from: 'client', code: 'redirected-by-foreign-rule' },
  ),
  ruled('a foreign ACCEPT in nat POSTROUTING', ['POSTROUTING', '-t', 'nat', '-j', 'ACCEPT'], {
    from: 'client',
    to: 'hostB',
    code: 'dropped-by-foreign-rule',
  }),
  {
    name: 'a policy of INPUT',
    by: [['iptables', '-P', 'INPUT', 'DROP']],
    undo: [['iptables', '-P', 'INPUT', 'ACCEPT']],
    from: 'client',
    code: 'dropped-by-policy',
  },
  {
    name: 'a policy of INPUT, the node asks: the answer',
    by: [['iptables', '-P', 'INPUT', 'DROP']],
    undo: [['iptables', '-P', 'INPUT', 'ACCEPT']],
    from: 'node-a',
    code: 'dropped-by-policy',
  },
  {
    name: 'a policy of FORWARD',
    by: [['iptables', '-P', 'FORWARD', 'DROP']],
    undo: [['iptables', '-P', 'FORWARD', 'ACCEPT']],
    from: 'client',
    code: 'served',
  },
  {
    name: 'address missing',
    by: [['ip', 'address', 'del', `${vip1}/32`, 'dev', 'kube-ipvs0']],
    undo: [['ip', 'address', 'add', `${vip1}/32`, 'dev', 'kube-ipvs0']],
    from: 'client',
    code: 'address-missing',
  },
  {
    name: 'address missing, a pod asks',
    by: [['ip', 'address', 'del', `${vip1}/32`, 'dev', 'kube-ipvs0']],
    undo: [['ip', 'address', 'add', `${vip1}/32`, 'dev', 'kube-ipvs0']],
    from: 'a1',
    code: 'address-missing',
  },
  {
    name: 'address missing, the node asks',
    by: [['ip', 'address', 'del', `${vip1}/32`, 'dev', 'kube-ipvs0']],
    undo: [['ip', 'address', 'add', `${vip1}/32`, 'dev', 'kube-ipvs0']],
    from: 'node-a',
    code: 'address-missing',
  },
  {
    name: 'set entry missing: cluster IP',
    by: [['ipset', 'del', 'KUBE-CLUSTER-IP', `${vip1},tcp:80`]],
    undo: [['ipset', 'add', 'KUBE-CLUSTER-IP', `${vip1},tcp:80`]],
    from: 'client',
    code: 'set-entry-missing',
  },
  {
    name: 'set entry missing: node port',
    by: [['ipset', 'del', 'KUBE-NODE-PORT-TCP', '30008']],
    undo: [['ipset', 'add', 'KUBE-NODE-PORT-TCP', '30008']],
    from: 'client',
    to: 'hostB',
    at: 'node-a',
    code: 'set-entry-missing',
  },
  {
    name: 'set entry missing: hairpin',
    by: [['ipset', 'del', 'KUBE-LOOP-BACK', '10.244.1.2,tcp:8080,10.244.1.2']],
    undo: [['ipset', 'add', 'KUBE-LOOP-BACK', '10.244.1.2,tcp:8080,10.244.1.2']],
    from: 'a1',
    to: 'self',
    code: 'set-entry-missing',
  },
  {
    name: 'virtual server missing',
    by: [['ipvsadm', '-D', '-t', `${serviceAddress('clusterIP', 4, 'IPv4')}:80`]],
    undo: [
      ['ipvsadm', '-A', '-t', `${serviceAddress('clusterIP', 4, 'IPv4')}:80`, '-s', 'rr'],
      ['ipvsadm', '-a', '-t', `${serviceAddress('clusterIP', 4, 'IPv4')}:80`, '-r', '10.244.1.2:8080', '-m'],
    ],
    from: 'client',
    to: 'self',
    code: 'virtual-server-missing',
  },
  {
    name: 'weight 0',
    by: [
      ['ipvsadm', '-e', '-t', `${serviceAddress('clusterIP', 4, 'IPv4')}:80`, '-r', '10.244.1.2:8080', '-m', '-w', '0'],
    ],
    undo: [
      ['ipvsadm', '-e', '-t', `${serviceAddress('clusterIP', 4, 'IPv4')}:80`, '-r', '10.244.1.2:8080', '-m', '-w', '1'],
    ],
    from: 'client',
    to: 'self',
    code: 'destination-weight',
  },
  { name: 'no endpoints', by: [], undo: [], from: 'client', to: 'nobody', code: 'rejected-no-endpoints' },
  {
    name: 'no local endpoint',
    by: [],
    undo: [],
    from: 'client',
    to: 'far',
    at: 'loadBalancer',
    code: 'no-local-endpoint',
  },
  { name: 'source range', by: [], undo: [], from: 'a1', to: 'ranged', at: 'loadBalancer', code: 'source-range' },
  sysctl('vs.conntrack off', 'net.ipv4.vs.conntrack', {
    from: 'client',
    to: 'hostB',
    at: 'node-a',
    code: 'ipvs-conntrack-off',
  }),
  sysctl('forwarding off', 'net.ipv4.ip_forward', { from: 'client', to: 'self', code: 'ip-forward-off' }),
  sysctl('forwarding off, the node asks', 'net.ipv4.ip_forward', { from: 'node-a', to: 'self', code: 'served' }),
  sysctl('a bridge without netfilter', 'net.bridge.bridge-nf-call-iptables', {
    from: 'a2',
    to: 'self',
    code: 'bridge-netfilter-off',
  }),
  {
    name: 'hairpin mode off',
    by: ['a1', 'a2'].map((port) => ['ip', 'link', 'set', port, 'type', 'bridge_slave', 'hairpin', 'off']),
    undo: ['a1', 'a2'].map((port) => ['ip', 'link', 'set', port, 'type', 'bridge_slave', 'hairpin', 'on']),
    from: 'a1',
    to: 'self',
    code: 'hairpin-off',
  },
  {
    name: 'the jump to KUBE-SERVICES is gone',
    by: [
      [
        'iptables',
        '-t',
        'nat',
        '-D',
        'PREROUTING',
        '-m',
        'comment',
        '--comment',
        'kubernetes service portals',
        '-j',
        'KUBE-SERVICES',
      ],
    ],
    undo: [
      [
        'iptables',
        '-t',
        'nat',
        '-I',
        'PREROUTING',
        '-m',
        'comment',
        '--comment',
        'kubernetes service portals',
        '-j',
        'KUBE-SERVICES',
      ],
    ],
    from: 'client',
    to: 'hostB',
    code: 'rule-missing',
  },
  {
    name: 'no route to the endpoint',
    by: [['ip', 'route', 'del', '10.244.2.0/24']],
    undo: [['ip', 'route', 'add', '10.244.2.0/24', 'via', addressOf('node-b', 'IPv4')]],
    from: 'a1',
    to: 'far',
    code: 'destination-unreachable',
  },
]

test.each(broken)('$name: $code', async ({ by, undo, from, to = 'web', at = 'clusterIP', transport = 'TCP', code }) => {
  const node = network.namespace('node-a')
  const ask: Ask = { from, to, at, transport, family: 'IPv4' }
  for (const [command, ...args] of by) node.run(command!, ...args)
  try {
    const [only] = await explainAll([ask])
    expect(only!.explanation.verdict.code, only!.text).toBe(code)
    // Who answers a redirected packet is another's matter: only the cause is foretold.
    if (code === 'redirected-by-foreign-rule') return
    expect((await mistakes([ask])).wrong).toEqual([])
  } finally {
    for (const [command, ...args] of undo) node.run(command!, ...args)
  }
})

test('with legacy rules beside, both are walked', async () => {
  const node = network.namespace('node-a')
  const rule = ['INPUT', '-p', 'tcp', '--dport', '80', '-j', 'DROP']
  try {
    node.run('iptables-legacy', '-A', ...rule)
  } catch {
    return
  }
  const ask: Ask = { from: 'client', to: 'web', at: 'clusterIP', transport: 'TCP', family: 'IPv4' }
  const { wrong, found } = await mistakes([ask])
  node.run('iptables-legacy', '-D', ...rule)
  expect(wrong).toEqual([])
  expect(found[0]!.explanation.verdict).toMatchObject({ code: 'dropped-by-foreign-rule', answer: 'nothing' })
  expect(found[0]!.text).toContain('legacy')
})

test('nothing of this node is left unread', async () => {
  const asks = families.map((family): Ask => ({ from: 'client', to: 'web', at: 'clusterIP', transport: 'TCP', family }))
  const found = await explainAll(asks)
  expect(found.map(({ explanation }) => explanation.findings)).toEqual([[], []])
  expect(found.map(({ explanation }) => explanation.differences)).toEqual([[], []])
})
