import { expect, test } from 'vitest'
import { answerOfReject, answerOfRoute } from '../../../src/explain/answers.ts'
import { passChain } from '../../../src/explain/chains.ts'
import { apiCluster } from '../../../src/explain/sources.ts'
import { judgeEndpoints } from '../../../src/explain/eligibility.ts'
import { parseTarget } from '../../../src/explain/explain.ts'
import { chainAttributes, decodeForeignChain } from '../../../src/explain/foreign-chains.ts'
import { matchRule } from '../../../src/explain/match.ts'
import type { Packet } from '../../../src/explain/packet.ts'
import { decodeRoute, routeMessage } from '../../../src/explain/routes.ts'
import { parseRule } from '../../../src/explain/rule.ts'
import { snapshotState, type Snapshot } from '../../../src/explain/snapshot.ts'
import { listens, readSockets } from '../../../src/explain/sockets.ts'
import { elementOf } from '../../../src/ipset/membership.ts'
import { parseSave } from '../../../src/iptables/text.ts'
import { Writer } from '../../../src/netlink/attributes.ts'
import { mergeEndpoints } from '../../../src/proxier/endpoint-choice.ts'
import { endpoint, port, service, slice } from '../proxier/objects.ts'
import { explainOn, inSync, settings, withRules, withSysctl, type SetUp } from './lab.ts'

const packet: Packet = {
  family: 'IPv4',
  protocol: 'TCP',
  source: '10.244.1.9',
  sourcePort: 54321,
  destination: '10.96.0.10',
  destinationPort: 80,
  ephemeral: 'source',
  inLink: 'cni0',
  outLink: '',
  bridged: true,
  mark: 0x4001,
  connectionMark: 2,
  state: 'NEW',
  direction: 'ORIGINAL',
  original: { source: '10.244.1.9', destination: '10.96.0.10', destinationPort: 80 },
  isTracked: false,
  sourceTranslated: false,
}
const reply: Packet = {
  ...packet,
  source: '10.244.1.2',
  sourcePort: 8080,
  destination: '10.244.1.9',
  destinationPort: 54321,
  ephemeral: 'destination',
  state: 'ESTABLISHED',
  direction: 'REPLY',
}
const translated: Packet = {
  ...packet,
  destination: '10.244.1.2',
  server: { family: 'IPv4', protocol: 'TCP', address: '10.96.0.10', port: 80 },
}

const bare: Snapshot = {
  family: 'IPv4',
  ruleSets: [],
  sets: new Map([
    ['PORTS', { type: 'hash:ip,port', entries: ['10.96.0.10,tcp:80'] }],
    ['NETS', { type: 'hash:ip,port,net', entries: ['10.96.0.10,tcp:80,10.244.0.0/16'] }],
    ['NUMBERS', { type: 'bitmap:port', entries: ['80'] }],
  ]),
  servers: [],
  links: [],
  addresses: new Map([['10.96.0.10', 'kube-ipvs0']]),
  routes: [{ to: '10.244.1.0/24', link: 'cni0' }],
  sysctls: new Map(),
}
const state = snapshotState(bare)

const unknown = 'unknown'

test.each<[rule: string, packet: Packet, is: boolean | 'unknown']>([
  ['', packet, true],
  ['-s 10.244.0.0/16', packet, true],
  ['! -s 10.244.0.0/16', packet, false],
  ['-d 10.96.0.10/32 -p tcp -m tcp --dport 80', packet, true],
  ['-d 10.96.0.0/255.255.0.0', packet, true],
  ['-s fd00::/8', packet, false],
  ['-i cni0', packet, true],
  ['-i cni+', packet, true],
  ['! -i cni+', packet, false],
  ['-o eth0', packet, false],
  ['-p udp', packet, false],
  ['-p 6', packet, true],
  ['-p icmp -m icmp --icmp-type 8', packet, false],
  ['-p tcp -m tcp --dport 79:81', packet, true],
  ['-p tcp -m tcp ! --dport 80', packet, false],
  ['-p tcp -m tcp --sport 1024:65535', packet, true],
  ['-p tcp -m tcp --sport 40000', packet, unknown],
  ['-p tcp -m tcp --sport 22', packet, false],
  ['-p tcp -m tcp --sport 8080', reply, true],
  ['-p tcp -m tcp --dport 1:1023', reply, false],
  ['-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN', packet, true],
  ['-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN', reply, false],
  ['-p tcp -m multiport --dports 22,80', packet, true],
  ['-p tcp -m multiport --dports 22,1000:2000', packet, false],
  ['-m set --match-set PORTS dst,dst', packet, true],
  ['-m set ! --match-set PORTS dst,dst', packet, false],
  ['-m set --match-set PORTS src,dst', packet, false],
  ['-m set --match-set PORTS dst', packet, false],
  ['-m set --match-set NETS dst,dst,src', packet, true],
  ['-m set --match-set NUMBERS dst', packet, true],
  ['-m set --match-set NONE dst', packet, unknown],
  ['-m addrtype --dst-type LOCAL', packet, true],
  ['-m addrtype ! --src-type LOCAL', packet, true],
  ['-m addrtype --src-type UNICAST,LOCAL', packet, true],
  ['-m mark --mark 0x4000/0x4000', packet, true],
  ['-m mark ! --mark 0x4000/0x4000', packet, false],
  ['-m mark --mark 0x4000', packet, false],
  ['-m connmark --mark 0x2', packet, true],
  ['-m conntrack --ctstate NEW', packet, true],
  ['-m conntrack --ctstate RELATED,ESTABLISHED', packet, false],
  ['-m conntrack --ctstate RELATED,ESTABLISHED', reply, true],
  ['-m conntrack ! --ctstate INVALID,UNTRACKED', packet, true],
  ['-m state --state NEW', packet, true],
  ['-m conntrack --ctstate SNAT', { ...packet, sourceTranslated: true }, true],
  ['-m conntrack --ctorigdst 10.96.0.10 --ctorigdstport 80', translated, true],
  ['-m conntrack --ctdir ORIGINAL', reply, false],
  ['-m conntrack --ctexpire 10', packet, unknown],
  ['-m physdev --physdev-is-in', packet, true],
  ['-m physdev ! --physdev-is-in', packet, false],
  ['-m physdev --physdev-in veth1', packet, unknown],
  ['-m comment --comment "-m limit; ! -s 0.0.0.0/0"', packet, true],
  ['-m statistic --mode random --probability 0.5', packet, unknown],
  ['-m limit --limit 5/min', packet, unknown],
  ['-m geoip ! --source-country XX', packet, unknown],
  ['-m socket', packet, unknown],
  ['-p udp -m geoip --source-country XX', packet, false],
  ['-s 10.244.1.9/32 -m ipvs --vaddr 10.96.0.10 --vproto 6 --vport 80', translated, true],
  ['-m ipvs --vaddr 10.96.0.10 --vproto 6 --vport 81', translated, false],
  ['-m ipvs --vaddr 10.96.0.10 --vproto 6 --vport 80', packet, false],
  ['-m iprange --src-range 10.244.1.1-10.244.1.20', packet, true],
  ['-m iprange --dst-range 10.244.1.1-10.244.1.20', packet, false],
  ['-m rpfilter --invert', packet, false],
])('whether "%s" matches', async (text, given, is) => {
  const told = await matchRule(parseRule(text), given, state)
  expect(typeof told === 'string' ? unknown : told).toBe(is)
})

async function pass(save: string, given: Packet = packet): Promise<string[]> {
  const kernel = snapshotState({ ...bare, ruleSets: [{ variant: 'nft', tables: parseSave(save) }] })
  const passages = await passChain(kernel, 'filter', 'INPUT', given, '10.0.0.7')
  return passages.map(({ fate, packet: after }) => {
    const by = fate.kind === 'accept' ? '' : ` by ${fate.by.chain} ${fate.by.number}`
    return `${fate.kind}${by} mark ${after.mark.toString(16)} to ${after.destination}:${after.destinationPort}`
  })
}

const own = (rules: readonly string[], policy = 'ACCEPT'): string =>
  [
    '*filter',
    `:INPUT ${policy} [0:0]`,
    ':A - [0:0]',
    ':B - [0:0]',
    ...rules.map((rule) => `-A ${rule}`),
    'COMMIT',
  ].join('\n')
const there = 'to 10.96.0.10:80'

test.each<[name: string, save: string, ways: string[]]>([
  ['no rule', own([]), [`accept mark 4001 ${there}`]],
  ['a policy', own([], 'DROP'), [`drop by INPUT 0 mark 4001 ${there}`]],
  ['RETURN of a built-in chain: the policy', own(['INPUT -j RETURN'], 'DROP'), [`drop by INPUT 0 mark 4001 ${there}`]],
  [
    'RETURN of a called chain',
    own(['INPUT -j A', 'A -j RETURN', 'A -j DROP', 'INPUT -j ACCEPT'], 'DROP'),
    [`accept mark 4001 ${there}`],
  ],
  [
    'goto does not come back',
    own(['INPUT -j A', 'A -g B', 'A -j DROP', 'B -j MARK --set-xmark 0x1/0x1']),
    [`accept mark 4001 ${there}`],
  ],
  [
    'goto from a built-in chain: the policy',
    own(['INPUT -g A', 'INPUT -j ACCEPT'], 'DROP'),
    [`drop by INPUT 0 mark 4001 ${there}`],
  ],
  ['marks: or', own(['INPUT -j MARK --set-xmark 0x8000/0x8000']), [`accept mark c001 ${there}`]],
  ['marks: clear', own(['INPUT -j MARK --set-xmark 0x4000/0x0']), [`accept mark 1 ${there}`]],
  ['marks: set', own(['INPUT -j MARK --set-xmark 0x2/0xffffffff']), [`accept mark 2 ${there}`]],
  [
    'marks: restored',
    own(['INPUT -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff']),
    [`accept mark 2 ${there}`],
  ],
  ['DNAT', own(['INPUT -p tcp -j DNAT --to-destination 10.9.9.9:99']), ['accept mark 4001 to 10.9.9.9:99']],
  ['DNAT, address alone', own(['INPUT -p tcp -j DNAT --to-destination 10.9.9.9']), ['accept mark 4001 to 10.9.9.9:80']],
  ['REDIRECT', own(['INPUT -p tcp -j REDIRECT --to-ports 8080']), ['accept mark 4001 to 10.0.0.7:8080']],
  [
    'LOG goes on',
    own(['INPUT -j LOG --log-prefix "-j DROP"', 'INPUT -j DROP']),
    [`drop by INPUT 2 mark 4001 ${there}`],
  ],
  [
    'a doubt, both ways',
    own(['INPUT -m limit --limit 1/s -j ACCEPT', 'INPUT -j DROP']),
    [`accept mark 4001 ${there}`, `drop by INPUT 2 mark 4001 ${there}`],
  ],
  [
    'a doubt that ends alike',
    own(['INPUT -m limit --limit 1/s -j A', 'A -j RETURN', 'INPUT -j DROP']),
    [`drop by INPUT 3 mark 4001 ${there}`].map((one) => one.replace('3', '2')),
  ],
  ['a target we do not know', own(['INPUT -j NFQUEUE --queue-num 1']), [`untold by INPUT 1 mark 4001 ${there}`]],
])('a chain: %s', async (_, save, ways) => {
  expect((await pass(save)).sort()).toEqual([...ways].sort())
})

test('both variants of iptables are passed', async () => {
  const drop = parseSave(own(['INPUT -p tcp -j DROP']))
  const ruleSets = [
    { variant: 'nft', tables: parseSave(own(['INPUT -j ACCEPT'])) },
    { variant: 'legacy', tables: drop },
  ]
  const [only] = await passChain(snapshotState({ ...bare, ruleSets }), 'filter', 'INPUT', packet)
  expect(only!.fate).toMatchObject({ kind: 'drop', by: { variant: 'legacy', number: 1 } })
})

test.each<[how: string, tcp: string, udp: string, sctp: string]>([
  ['icmp-port-unreachable', 'refused', 'refused', 'nothing'],
  ['icmp6-port-unreachable', 'refused', 'refused', 'nothing'],
  ['tcp-reset', 'refused', 'refused', 'refused'],
  ['icmp-host-unreachable', 'unreachable', 'nothing', 'nothing'],
  ['icmp-admin-prohibited', 'unreachable', 'unreachable', 'nothing'],
])('REJECT with %s', (how, tcp, udp, sctp) => {
  expect((['TCP', 'UDP', 'SCTP'] as const).map((protocol) => answerOfReject(how, protocol))).toEqual([tcp, udp, sctp])
})

test('a failed route is an error at once for the node, and an ICMP message for others', () => {
  expect(answerOfRoute('ENETUNREACH', 'UDP', true)).toBe('unreachable')
  expect(answerOfRoute('ENETUNREACH', 'UDP', false)).toBe('nothing')
  expect(answerOfRoute('ENETUNREACH', 'TCP', false)).toBe('unreachable')
  expect(answerOfRoute('EINVAL', 'TCP', false)).toBe('nothing')
})

test.each<[text: string, address: string | undefined, port?: number, protocol?: string]>([
  ['10.96.0.10:80', '10.96.0.10', 80, 'TCP'],
  ['10.96.0.10:53/udp', '10.96.0.10', 53, 'UDP'],
  ['[fd96::0a]:80/SCTP', 'fd96::a', 80, 'SCTP'],
  ['10.96.0.10', undefined],
  ['10.96.0.10:0', undefined],
  ['10.96.0.10:80/icmp', undefined],
  ['default/web', undefined],
])('target %s', (text, address, number, protocol) => {
  const target = parseTarget(text, 'TCP')
  expect(target?.address).toBe(address)
  if (address !== undefined) expect(target).toMatchObject({ port: number, protocol })
})

const sides = [
  { address: '10.96.0.10', port: 80, link: 'eth0' },
  { address: '10.96.0.10', port: 80, link: 'eth0' },
  { address: '10.244.1.9', port: 54321, link: 'cni0' },
]
const sought = { family: 'IPv4', protocol: 'TCP', mark: 7, sides } as const
const ip = { ipv4: Uint8Array.of(10, 96, 0, 10) }
const ip2 = { ipv4: Uint8Array.of(10, 244, 1, 9) }

test.each([
  ['hash:ip', { ip }],
  ['hash:net', { ip }],
  ['hash:ip,port', { ip, port: 80, proto: 6 }],
  ['hash:ip,port,net', { ip, port: 80, proto: 6, ip2 }],
  ['hash:ip,port,ip', { ip, port: 80, proto: 6, ip2 }],
  ['bitmap:port', { port: 80 }],
  ['hash:ip,mark', { ip, mark: 7 }],
  ['hash:net,iface', { ip, link: 'eth0' }],
  ['list:set', 'its type list:set is not looked into'],
  ['hash:mac', 'its type hash:mac is not looked into'],
  ['hash:net,port,net,x', undefined],
])('an element of %s', (type, element) => {
  expect(elementOf(type, sought)).toEqual(element)
})

test('a question for a route, and its answer', () => {
  const writer = new Writer()
  routeMessage(
    { destination: '10.96.0.10', source: '10.244.1.9', mark: 1, protocol: 'TCP', destinationPort: 80 },
    3,
    0,
  ).write(writer)
  expect(writer.bytes().toString('hex')).toBe(
    '022020000000000000000000' +
      '080001000a60000a' +
      '080002000af40109' +
      '0800030003000000' +
      '0800100001000000' +
      '05001b0006000000' +
      '06001d0000500000',
  )
  const answer = Buffer.from('022000000000000100000000080004000200000008000500c0a83c0208000700c0a83c01', 'hex')
  expect(decodeRoute(answer)).toEqual({ type: 1, outLink: 2, gateway: '192.168.60.2', source: '192.168.60.1' })
})

test('a question for a route of SCTP, which the kernel knows no ports of', () => {
  const writer = new Writer()
  const query = { destination: '10.96.0.10', mark: 0, protocol: 'SCTP' as const, destinationPort: 80 }
  routeMessage(query, undefined, 0).write(writer)
  expect(writer.bytes().toString('hex')).toBe('022000000000000000000000080001000a60000a')
})

function chainBytes(family: number, table: string, name: string, number: number, policy: number, uses: number): Buffer {
  const body = chainAttributes.encode({ table, name, hook: { number, priority: 10 }, policy, uses })
  return Buffer.concat([Buffer.from([family, 0, 0, 0]), body])
}

test.each<[name: string, bytes: Buffer, found: string | undefined]>([
  ['of firewalld', chainBytes(1, 'firewalld', 'filter_INPUT', 1, 1, 3), 'inet firewalld filter_INPUT INPUT accept'],
  ['of iptables-nft', chainBytes(2, 'filter', 'INPUT', 1, 1, 3), undefined],
  ['of a trace that runs', chainBytes(2, 'kube-ipvs-proxy-trace-1-a', 'input_last', 1, 1, 3), undefined],
  ['without rules', chainBytes(1, 'mine', 'input', 1, 1, 0), undefined],
  ['without rules, policy drop', chainBytes(1, 'mine', 'input', 1, 0, 0), 'inet mine input INPUT drop'],
  ['of the other family', chainBytes(10, 'mine', 'input', 1, 0, 0), undefined],
  ['of a bridge', chainBytes(7, 'mine', 'input', 1, 0, 0), undefined],
  ['at ingress', chainBytes(1, 'mine', 'in', 5, 0, 0), undefined],
])('an nftables chain %s', (_, bytes, found) => {
  const chain = decodeForeignChain(bytes, 'IPv4')
  expect(chain && `${chain.name} ${chain.hook} ${chain.policy}`).toBe(found)
})

test('an nftables chain on the way makes a verdict less than certain', async () => {
  const given: SetUp = {
    service: service(),
    slices: [slice([endpoint('10.244.1.2', 'rsl')])],
    settings,
    family: 'IPv4',
  }
  const foreignChains = [
    { name: 'inet firewalld filter_INPUT', hook: 'INPUT', priority: 10, policy: 'accept' as const },
    { name: 'inet other nat_OUT', hook: 'POSTROUTING', priority: 10, policy: 'accept' as const },
  ]
  const explanation = await explainOn({ ...inSync(given), foreignChains: foreignChains.slice(0, 1) }, given, {
    target: 'default/web',
    from: '10.244.1.9',
  })
  expect(explanation.verdict).toMatchObject({ code: 'served', isCertain: false })
  expect(explanation.verdict.text).toContain('inet firewalld filter_INPUT')
  const fromNode = await explainOn({ ...inSync(given), foreignChains: foreignChains.slice(1) }, given, {
    target: '10.96.0.10:22',
    from: '10.244.1.9',
  })
  expect(fromNode.verdict.isCertain).toBe(true)
})

const tcp = `  sl  local_address rem_address   st
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 0F02000A:0016 0200000A:D431 01 00000000:00000000
   2: 00000000:0016 00000000:0000 0A 00000000:00000000`
const tcp6 = `  sl  local_address
   0: 00000000000000000000000001000000:0CEA 00000000000000000000000000000000:0000 0A 0
   1: 0000000000000000FFFF00000100000A:2711 00000000000000000000000000000000:0000 0A 0`

test('sockets that listen', () => {
  expect(readSockets(tcp, '0A')).toEqual([
    { address: '127.0.0.1', port: 8080 },
    { address: '0.0.0.0', port: 22 },
  ])
  expect(readSockets(tcp6, '0A')).toEqual([
    { address: '::1', port: 3306 },
    { address: '10.0.0.1', port: 10001 },
  ])
  const read = (path: string): string => ({ '/proc/net/tcp': tcp, '/proc/net/tcp6': tcp6 })[path] ?? ''
  expect(listens('TCP', '10.0.2.15', 22, read)).toBe(true)
  expect(listens('TCP', '10.0.2.15', 8080, read)).toBe(false)
  expect(listens('TCP', '10.0.0.1', 10001, read)).toBe(true)
  expect(listens('UDP', '10.0.0.1', 22, read)).toBe(false)
  expect(listens('SCTP', '10.0.0.1', 22, read)).toBeTypeOf('string')
})

const topology = { nodeName: 'node1', zone: 'zone-a' }
const zones = (...names: string[]): { zones: string[] } => ({ zones: names })

test.each<[name: string, endpoints: ReturnType<typeof endpoint>[], isLocal: boolean, lines: string[]]>([
  [
    'ready and not',
    [endpoint('10.0.0.1'), endpoint('10.0.0.2', '')],
    false,
    ['10.0.0.1:8080 used: ready', '10.0.0.2:8080 not: not ready'],
  ],
  [
    'on its way out',
    [endpoint('10.0.0.1'), endpoint('10.0.0.2', 'st'), endpoint('10.0.0.3', 't')],
    false,
    [
      '10.0.0.1:8080 used: ready',
      '10.0.0.2:8080 not: terminating: used only while none is ready',
      '10.0.0.3:8080 not: terminating, and serves no more',
    ],
  ],
  [
    'all on their way out',
    [endpoint('10.0.0.2', 'st')],
    false,
    ['10.0.0.2:8080 used: terminating and still serving, none is ready'],
  ],
  [
    'zones',
    [endpoint('10.0.0.1', 'rs', zones('zone-a')), endpoint('10.0.0.2', 'rs', zones('zone-b'))],
    false,
    ['10.0.0.1:8080 used: ready', '10.0.0.2:8080 not: for other zones than zone-a by its hints: zone-b'],
  ],
  [
    'nodes',
    [endpoint('10.0.0.1', 'rs', { nodes: ['node1'] }), endpoint('10.0.0.2', 'rs', { nodes: ['node2'] })],
    false,
    ['10.0.0.1:8080 used: ready', '10.0.0.2:8080 not: for other nodes by its hints: node2'],
  ],
  [
    'hints that not all have',
    [endpoint('10.0.0.1', 'rs', zones('zone-b')), endpoint('10.0.0.2')],
    false,
    ['10.0.0.1:8080 used: ready', '10.0.0.2:8080 used: ready'],
  ],
  [
    'policy Local',
    [endpoint('10.0.0.1', 'rsl'), endpoint('10.0.0.2'), endpoint('10.0.0.3', 'l')],
    true,
    ['10.0.0.1:8080 used: ready', '10.0.0.2:8080 not: not on this node', '10.0.0.3:8080 not: not ready'],
  ],
  [
    'policy Local, none local',
    [endpoint('10.0.0.2')],
    true,
    ['10.0.0.2:8080 used: ready; externalTrafficPolicy is Local, and no endpoint of this node can be used'],
  ],
])('eligibility: %s', (_, endpoints, externalLocal, lines) => {
  const shape = service({ type: 'NodePort', externalLocal, ports: [port({ nodePort: 30080 })] })
  const merged = mergeEndpoints([slice(endpoints)], shape.ports[0]!)
  const judged = judgeEndpoints(shape, shape.ports[0]!, merged, topology, false)
  expect(judged.map((one) => `${one.endpoint} ${one.isEligible ? 'used' : 'not'}: ${one.reason}`)).toEqual(lines)
})

test('of the API server one Service, its slices and the Node are asked', async () => {
  const asked: string[] = []
  const objects: Readonly<Record<string, unknown>> = {
    '/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dweb': {
      items: [
        { metadata: { name: 'web', namespace: 'default' }, spec: { clusterIP: '10.96.0.10', ports: [{ port: 80 }] } },
      ],
    },
    '/api/v1/services?resourceVersion=0': {
      items: [
        {
          metadata: { name: 'ports', namespace: 'default' },
          spec: { type: 'NodePort', clusterIP: '10.96.0.11', ports: [{ port: 80, nodePort: 30080 }] },
        },
        {
          metadata: { name: 'vip', namespace: 'default' },
          spec: {
            type: 'LoadBalancer',
            clusterIP: '10.96.0.12',
            externalIPs: ['198.51.100.12'],
            ports: [{ port: 30080, nodePort: 30081 }],
          },
          status: { loadBalancer: { ingress: [{ ip: '203.0.113.12' }] } },
        },
      ],
    },
    '/api/v1/namespaces/default/pods/a1': { status: { podIPs: [{ ip: '10.244.1.2' }, { ip: 'fd44:1::2' }] } },
  }
  const client = {
    get: async (path: string) => {
      asked.push(path)
      const object = objects[path]
      const text = JSON.stringify(object ?? { items: [] })
      const isList = path.includes('?')
      return {
        status: object === undefined && !isList ? 404 : 200,
        retryAfterMs: undefined,
        body: (async function* () {
          yield Buffer.from(text)
        })(),
        destroy: () => {},
      }
    },
  }
  const cluster = apiCluster(client, 'node1', new AbortController().signal)
  expect((await cluster.service('default/web'))?.clusterIPs).toEqual(['10.96.0.10'])
  expect(await cluster.service('default/none')).toBeUndefined()
  expect(await cluster.podAddresses('default/a1')).toEqual(['10.244.1.2', 'fd44:1::2'])
  expect(await cluster.slices('default/web')).toEqual([])
  expect(await cluster.node()).toBeUndefined()
  expect(await cluster.serviceAt('10.96.0.10', 80, 'TCP')).toBeUndefined()
  expect(asked).toEqual([
    '/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dweb',
    '/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dnone',
    '/api/v1/namespaces/default/pods/a1',
    '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb',
    '/api/v1/nodes?fieldSelector=metadata.name%3Dnode1',
    '/api/v1/services?fieldSelector=spec.clusterIP%3D10.96.0.10',
    '/api/v1/services?resourceVersion=0',
  ])
  const at = async (address: string, number: number): Promise<string | undefined> =>
    (await cluster.serviceAt(address, number, 'TCP'))?.key
  expect(await at('203.0.113.12', 30080)).toBe('default/vip')
  expect(await at('198.51.100.12', 30080)).toBe('default/vip')
  expect(await at('192.168.60.1', 30080)).toBe('default/ports')
  expect(await at('192.168.60.1', 30081)).toBe('default/vip')
  expect(await at('192.168.60.1', 30082)).toBeUndefined()
})

test.each<[name: string, target: string, from: string | undefined]>([
  ['a Service that is not there', 'default/none', undefined],
  ['no target at all', '10.96.0.10', undefined],
  ['a port that the Service has not', 'default/web:http', undefined],
  ['a pod that is not known', 'default/web', 'default/other'],
  ['a source of the other family', '10.96.0.10:80', 'fd44:1::2'],
  ['a link that is not there', '10.96.0.10:80', '10.244.1.9@eth7'],
])('%s is refused', async (_, target, from) => {
  const given: SetUp = { service: service(), slices: [], settings, family: 'IPv4' }
  const asked = explainOn(inSync(given), given, { target, ...(from === undefined ? {} : { from }) })
  await expect(asked).rejects.toMatchObject({ code: 'CONFIG' })
})

// One row for each origin, protocol and family.
const paths = (['IPv4', 'IPv6'] as const).flatMap((family) =>
  (['TCP', 'UDP', 'SCTP'] as const).flatMap((protocol) =>
    ['pod', 'a pod’s addresses', 'outside', 'node'].map((from) => ({ family, protocol, from })),
  ),
)

test.each(paths)('$protocol over $family from $from', async ({ family, protocol, from }) => {
  const six = family === 'IPv6'
  const given: SetUp = {
    service: service({ clusterIPs: [six ? 'fd96::a' : '10.96.0.10'], ports: [port({ protocol })] }),
    slices: [
      slice([endpoint(six ? 'fd44:2::2' : '10.244.2.2')], { family, ports: [{ name: '', protocol, port: 8080 }] }),
    ],
    settings,
    family,
  }
  const target = `${six ? '[fd96::a]' : '10.96.0.10'}:80/${protocol}`
  const addresses: Readonly<Record<string, string>> = {
    pod: six ? 'fd44:1::9' : '10.244.1.9',
    'a pod’s addresses': '10.244.1.9,fd44:1::9',
  }
  const request = { target, from: addresses[from] ?? from }
  const { verdict, ways } = await explainOn(inSync(given), given, request)
  expect(verdict).toMatchObject({ code: 'served', answer: 'answered', isCertain: true })
  const seen = from in addresses ? addresses.pod : six ? 'fd60::1' : '192.168.60.1'
  expect(ways[0]!.balanced!.results[0]!.ways[0]!.end!.seen).toBe(seen)
  if (six && from === 'outside') {
    const off = withSysctl(inSync(given), 'net/ipv6/conf/all/forwarding', '0')
    expect((await explainOn(off, given, request)).verdict.code).toBe('ip-forward-off')
  }
  const dropped = withRules(inSync(given), 'raw', from === 'node' ? 'OUTPUT' : 'PREROUTING', [
    `-p ${protocol.toLowerCase()} -j DROP`,
  ])
  expect((await explainOn(dropped, given, request)).verdict.code).toBe('dropped-by-foreign-rule')
})
