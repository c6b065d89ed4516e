// Random ways to break node-a, and to mend it again.
import type { Family } from '../../../src/model/address.ts'
import type { Random } from '../../random.ts'
import {
  addressOf,
  bridgeOf,
  families,
  podCIDRs,
  pods,
  serviceAddress,
  whole,
  type ServiceAddress,
} from '../traffic/network.ts'
import { nodePortOf, type ServiceShape } from '../traffic/service.ts'
import type { Probe } from './lab.ts'

/** In shell lines. */
export interface Fault {
  readonly by: readonly string[]
  readonly undo: readonly string[]
}

/** What stands in good order: as `ipset save` and `ipvsadm -Sn` print it. */
export interface Standing {
  readonly entries: readonly string[]
  readonly servers: readonly string[]
}

export function readStanding(shell: (lines: readonly string[]) => string): Standing {
  const lines = (command: string, start: string): string[] =>
    shell([command])
      .split('\n')
      .map((line) => line.trim())
      .filter((line) => line.startsWith(start))
  return { entries: lines('ipset save', 'add '), servers: lines('ipvsadm -Sn', '-') }
}

type Make = (random: Random, shape: ServiceShape, standing: Standing, aim: Probe) => Fault

/** None to two things out of order, most of them of one Service; `aim`: questions that they are to concern. */
export function randomFaults(
  random: Random,
  shape: ServiceShape,
  standing: Standing,
  aims: readonly Probe[],
): readonly Fault[] {
  const count = Number(random.weighted({ 0: 1, 1: 5, 2: 4 }))
  return Array.from({ length: count }, () =>
    makers[random.weighted(weights)](random, shape, standing, random.pick(aims)),
  )
}

const nothing: Fault = { by: [], undo: [] }
const toolOf: Readonly<Record<Family, string>> = { IPv4: 'iptables', IPv6: 'ip6tables' }
const kinds: readonly ServiceAddress[] = ['clusterIP', 'loadBalancer', 'externalIP']

const weights = {
  rule: 14,
  address: 2,
  entry: 3,
  server: 1,
  destination: 3,
  setting: 2,
  route: 3,
  ownRule: 3,
  policy: 2,
  hairpin: 1,
}

const makers: Readonly<Record<keyof typeof weights, Make>> = {
  rule: randomRule,
  address: (random, { number }, _standing, { family }) => {
    const address = serviceAddress(random.pick(kinds), number, family)
    const on = `${whole(address)} dev kube-ipvs0`
    return { by: [`ip address del ${on}`], undo: [`ip address add ${on}${address.includes(':') ? ' nodad' : ''}`] }
  },
  entry: (random, shape, { entries }) => {
    const own = entries.filter((line) => concerns(line, shape))
    if (own.length === 0) return nothing
    const [, set, entry] = random.pick(own).split(' ')
    return { by: [`ipset del ${set} ${entry}`], undo: [`ipset add ${set} ${entry}`] }
  },
  server: (random, shape, { servers }) => {
    const own = servers.filter((line) => line.startsWith('-A ') && concerns(line, shape))
    if (own.length === 0) return nothing
    const id = idOf(random.pick(own))
    return {
      by: [`ipvsadm -D ${id}`],
      undo: servers.filter((line) => idOf(line) === id).map((line) => `ipvsadm ${line}`),
    }
  },
  destination: (random, shape, { servers }) => {
    const own = servers.filter((line) => line.startsWith('-a ') && concerns(line, shape))
    if (own.length === 0) return nothing
    const line = random.pick(own)
    const [, to = ''] = / -r (\S+)/.exec(line) ?? []
    const weigh = (weight: number): string => `ipvsadm -e ${idOf(line)} -r ${to} -m -w ${weight}`
    if (random.chance(0.5)) return { by: [weigh(0)], undo: [weigh(1)] }
    return { by: [`ipvsadm -d ${idOf(line)} -r ${to}`], undo: [`ipvsadm ${line}`] }
  },
  setting: (random) => {
    const name = random.pick([
      'ipv4.vs.conntrack',
      'ipv4.ip_forward',
      'ipv4.conf.eth0.forwarding',
      'ipv6.conf.all.forwarding',
      'bridge.bridge-nf-call-iptables',
      'bridge.bridge-nf-call-ip6tables',
    ])
    return { by: [`sysctl -qw net.${name}=0`], undo: [`sysctl -qw net.${name}=1`] }
  },
  route: (random, _shape, _standing, { family }) => {
    const elsewhere = podCIDRs['node-b'][family]
    const replaced = random.pick(['blackhole', 'unreachable', 'prohibit'])
    const to = random.pick([
      ...pods.map((pod) => whole(addressOf(pod, family))),
      whole(addressOf('client', family)),
      elsewhere.replace('10.244.2.0/24', '10.244.2.0/25'),
    ])
    if (random.chance(0.3)) {
      return {
        by: [`ip route del ${elsewhere}`],
        undo: [`ip route add ${elsewhere} via ${addressOf('node-b', family)}`],
      }
    }
    const route = `${family === 'IPv6' ? '-6 ' : ''}route`
    return { by: [`ip ${route} add ${replaced} ${to}`], undo: [`ip ${route} del ${replaced} ${to}`] }
  },
  ownRule: (random, _shape, _standing, { family }) => {
    const tool = toolOf[family]
    const [table = '', chain = ''] = random
      .pick([
        'nat PREROUTING',
        'nat OUTPUT',
        'nat POSTROUTING',
        'nat KUBE-SERVICES',
        'nat KUBE-POSTROUTING',
        'filter INPUT',
        'filter FORWARD',
        'filter KUBE-FORWARD',
      ])
      .split(' ')
    // It is put back as iptables itself prints it.
    const kept = `/tmp/explain-rule-${random.seed()}`
    const first = `${tool} -t ${table} -S ${chain} | grep -e '^-A .*KUBE' | head -n 1`
    return {
      by: [`${first} | sed 's/^-A //' > ${kept}`, `grep -q . ${kept}`, `eval ${tool} -t ${table} -D "$(cat ${kept})"`],
      undo: [`eval ${tool} -t ${table} -I "$(cat ${kept})"`, `rm ${kept}`],
    }
  },
  policy: (random, _shape, _standing, { family }) => {
    const tool = toolOf[family]
    const chain = random.pick(['INPUT', 'FORWARD', 'OUTPUT'])
    // Neighbours are looked for by ICMPv6, which passes these chains, too.
    const neighbours =
      family === 'IPv4'
        ? []
        : ['INPUT', 'OUTPUT'].flatMap((one) =>
            ['solicitation', 'advertisement'].map(
              (type) => `${one} -p ipv6-icmp -m icmp6 --icmpv6-type neighbour-${type} -j ACCEPT`,
            ),
          )
    return {
      by: [...neighbours.map((rule) => `${tool} -A ${rule}`), `${tool} -P ${chain} DROP`],
      undo: [`${tool} -P ${chain} ACCEPT`, ...neighbours.map((rule) => `${tool} -D ${rule}`)],
    }
  },
  hairpin: (random) => {
    const set = `ip link set ${random.pick(['a1', 'a2'])} type bridge_slave hairpin`
    return { by: [`${set} off`], undo: [`${set} on`] }
  },
}

/** "-t 10.96.0.1:80" of a line of `ipvsadm -Sn`. */
function idOf(line: string): string {
  return line.split(' ').slice(1, 3).join(' ')
}

/** Whether a line names an address or the node port of a Service. */
function concerns(line: string, { number, endpoints }: ServiceShape): boolean {
  const addresses = families.flatMap((family) => kinds.map((kind) => serviceAddress(kind, number, family)))
  const [, , third = ''] = line.split(' ')
  const isLoop = line.includes('LOOP-BACK')
  if (isLoop) {
    return endpoints.some((one) =>
      families.some((family) => third.startsWith(`${addressOf(typeof one === 'string' ? one : one.at, family)},`)),
    )
  }
  const nodePort = String(nodePortOf(number))
  return (
    third === nodePort ||
    third.endsWith(`:${nodePort}`) ||
    addresses.some(
      (address) =>
        third === address ||
        third.startsWith(`${address},`) ||
        third.startsWith(`${address}:`) ||
        third.startsWith(`[${address}]:`),
    )
  )
}

type Hook = 'PREROUTING' | 'INPUT' | 'FORWARD' | 'OUTPUT' | 'POSTROUTING'

const hooksOf: Readonly<Record<string, readonly Hook[]>> = {
  raw: ['PREROUTING', 'OUTPUT'],
  mangle: ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING'],
  nat: ['PREROUTING', 'OUTPUT', 'POSTROUTING'],
  filter: ['INPUT', 'FORWARD', 'OUTPUT'],
}

/** A rule of somebody else, first or last in its chain, alone or in a chain of its own. */
function randomRule(random: Random, shape: ServiceShape, _standing: Standing, aim: Probe): Fault {
  const { family } = aim
  const tool = toolOf[family]
  const table = random.weighted({ raw: 2, mangle: 2, nat: 2, filter: 6 })
  const hook = random.pick(hooksOf[table]!)
  const isAimed = random.chance(0.7)
  const any = random.weighted({ tcp: 4, udp: 3, '': family === 'IPv4' ? 2 : 0 })
  const protocol = isAimed && any !== '' ? aim.transport.toLowerCase() : any
  const matches = isAimed
    ? aimedMatches(random, hook, protocol, aim)
    : randomMatches(random, { family, hook, protocol, shape })
  const rule = [
    hook,
    protocol === '' ? '' : `-p ${protocol}`,
    ...matches,
    `-j ${randomTarget(random, table, hook, family, protocol, shape)}`,
  ]
    .filter(Boolean)
    .join(' ')
  const at = random.chance(0.6) ? '-I' : '-A'
  return { by: [`${tool} -t ${table} ${at} ${rule}`], undo: [`${tool} -t ${table} -D ${rule}`] }
}

interface Place {
  readonly family: Family
  readonly hook: Hook
  readonly protocol: string
  readonly shape: ServiceShape
}

/** Matches of the packets that a question comes to: on their way in, towards an endpoint, and of the answer. */
function aimedMatches(random: Random, hook: Hook, protocol: string, aim: Probe): string[] {
  const { from, source, address, port, family } = aim
  const asker = whole(source ?? addressOf(from, family))
  const endpoints = family === 'IPv4' ? '10.244.0.0/16' : 'fd44::/16'
  const ports = protocol === '' ? [] : [`--dport ${port}`, '--dport 8080', '--sport 8080', `--sport ${port}`]
  const link = pods.some((pod) => pod === from) && from.startsWith('a') ? 'cni0' : 'eth0'
  const isIn = hook === 'PREROUTING' || hook === 'INPUT'
  const fitting: Readonly<Record<'in' | 'FORWARD' | 'out', readonly string[]>> = {
    in: [`-d ${whole(address)}`, `-s ${asker}`, ...ports.slice(0, 1), ...(from === 'node-a' ? [] : [`-i ${link}`])],
    FORWARD: [`-s ${endpoints}`, `-d ${asker}`, ...ports.slice(2, 3), '-m conntrack --ctstate ESTABLISHED'],
    out: [
      `-d ${endpoints}`,
      ...ports.slice(1, 2),
      `-d ${whole(address)}`,
      '-m ipvs --ipvs',
      `-m conntrack --ctorigdst ${whole(address)}`,
      '-m mark --mark 0x4000/0x4000',
    ],
  }
  return (
    random
      .some(fitting[isIn ? 'in' : hook === 'FORWARD' ? hook : 'out'], Number(random.weighted({ 0: 2, 1: 4, 2: 1 })))
      // -d twice is refused.
      .filter((match, i, all) => !match.startsWith('-d') || all.findIndex((one) => one.startsWith('-d')) === i)
  )
}

function randomMatches(random: Random, { family, hook, protocol, shape }: Place): string[] {
  const isIn = hook === 'PREROUTING' || hook === 'INPUT' || hook === 'FORWARD'
  const isOut = hook === 'POSTROUTING' || hook === 'OUTPUT' || hook === 'FORWARD'
  const not = (): string => (random.chance(0.2) ? '! ' : '')
  const anybody = (): string => {
    const six = family === 'IPv6'
    return random.pick([
      whole(addressOf(random.pick(['client', 'node-a', 'node-b', ...pods] as const), family)),
      whole(bridgeOf('node-a', family)),
      whole(serviceAddress(random.pick(kinds), shape.number, family)),
      six ? 'fd44::/16' : '10.244.0.0/16',
      six ? 'fd60::/64' : '192.168.60.0/24',
      six ? 'fd96::/112' : '10.96.0.0/24',
    ])
  }
  const ports = (): string => random.pick(['80', '8080', '81', '6443', String(nodePortOf(shape.number)), '30000:32767'])
  const set = family === 'IPv4' ? 'KUBE-' : 'KUBE-6-'
  const made: (() => string)[] = [
    () => `${not()}-s ${anybody()}`,
    () => `${not()}-d ${anybody()}`,
    () => `${not()}-s ${anybody()}`,
    () => `${not()}-d ${anybody()}`,
    ...(isIn ? [() => `${not()}-i ${random.pick(['eth0', 'cni0', 'lo', 'eth+'])}`] : []),
    ...(isOut ? [() => `${not()}-o ${random.pick(['eth0', 'cni0', 'lo', 'cni+'])}`] : []),
    ...(protocol === ''
      ? []
      : [
          () => `${not()}--dport ${ports()}`,
          () => `${not()}--sport ${ports()}`,
          () => `-m multiport ${not()}--dports ${ports()},443,8000:9000`,
          () => `-m multiport ${not()}--sports ${ports()},22`,
          () => `-m multiport ${not()}--ports ${ports()},22`,
        ]),
    ...(protocol === 'tcp' ? [() => `${not()}--syn`, () => '--tcp-flags SYN,ACK SYN,ACK'] : []),
    () =>
      `-m conntrack ${not()}--ctstate ${random.pick(['NEW', 'ESTABLISHED,RELATED', 'INVALID', 'SNAT', 'DNAT', 'NEW,UNTRACKED'])}`,
    () => `-m conntrack --ctdir ${random.pick(['ORIGINAL', 'REPLY'])}`,
    () => `-m conntrack ${not()}--ctorigdst ${anybody()}`,
    () => `-m conntrack ${not()}--ctorigsrc ${anybody()}`,
    ...(protocol === '' ? [] : [() => `-m conntrack --ctproto ${protocol} --ctorigdstport ${ports()}`]),
    () => `-m mark ${not()}--mark 0x4000/0x4000`,
    () =>
      `-m set ${not()}--match-set ${set}${random.pick(['CLUSTER-IP', 'LOAD-BALANCER', 'EXTERNAL-IP'])} ${random.pick(['dst,dst', 'src,src'])}`,
    () => `-m addrtype ${not()}--dst-type ${random.pick(['LOCAL', 'UNICAST'])}`,
    () => `-m addrtype ${not()}--src-type LOCAL`,
    () => `-m ipvs ${not()}--ipvs`,
    () => `-m ipvs --vaddr ${whole(serviceAddress('clusterIP', shape.number, family))}`,
    () => `-m ipvs --vdir ${random.pick(['ORIGINAL', 'REPLY'])}`,
    () => `-m pkttype --pkt-type unicast`,
    () => `-m physdev ${not()}--physdev-is-in`,
    ...(hook === 'PREROUTING' ? [() => `-m rpfilter ${random.pick(['', '--invert'])}`.trim()] : []),
  ]
  // One option of a module at a time: iptables takes each once.
  const words = new Set<string>()
  return random
    .some(made, Number(random.weighted({ 0: 4, 1: 6, 2: 3, 3: 1 })))
    .map((make) => make())
    .filter((match) => {
      const name = match.replace('! ', '').split(' ')[match.startsWith('-m') ? 1 : 0]!
      if (words.has(name)) return false
      words.add(name)
      return true
    })
}

function randomTarget(
  random: Random,
  table: string,
  hook: Hook,
  family: Family,
  protocol: string,
  shape: ServiceShape,
): string {
  const pod = addressOf(random.pick(pods), family)
  const to = family === 'IPv4' ? `${pod}:8080` : `[${pod}]:8080`
  const vip = serviceAddress('clusterIP', shape.number, family)
  const again = family === 'IPv4' ? `${vip}:80` : `[${vip}]:80`
  switch (table) {
    case 'raw':
      return random.pick(['DROP', 'ACCEPT', 'CT --notrack'])
    case 'mangle':
      return random.pick([
        'DROP',
        'ACCEPT',
        'MARK --set-xmark 0x4000/0x4000',
        'MARK --set-xmark 0x0/0xffffffff',
        'MARK --set-mark 7',
      ])
    case 'nat':
      if (hook === 'POSTROUTING') {
        return random.pick(['ACCEPT', 'RETURN', 'MASQUERADE', `SNAT --to-source ${addressOf('node-a', family)}`])
      }
      return random.pick([
        'ACCEPT',
        'RETURN',
        'MARK --set-xmark 0x4000/0x4000',
        ...(protocol === '' ? [] : [`DNAT --to-destination ${to}`, `DNAT --to-destination ${again}`]),
      ])
    default: {
      const rejects =
        family === 'IPv4'
          ? [
              'icmp-port-unreachable',
              'icmp-host-unreachable',
              'icmp-net-unreachable',
              'icmp-admin-prohibited',
              'icmp-host-prohibited',
            ]
          : ['icmp6-port-unreachable', 'icmp6-no-route', 'icmp6-adm-prohibited', 'icmp6-addr-unreachable']
      const how = random.pick(protocol === 'tcp' ? [...rejects, 'tcp-reset'] : rejects)
      return random.pick([
        'DROP',
        'DROP',
        'ACCEPT',
        'RETURN',
        `REJECT --reject-with ${how}`,
        `REJECT --reject-with ${how}`,
      ])
    }
  }
}
