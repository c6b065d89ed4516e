// Set-ups of node-a broken by hand: how, what is asked then, and the cause that `explain` or `doctor` has to name.
import type { VerdictCode } from '../../../src/explain/verdict.ts'
import type { Family } from '../../../src/model/address.ts'
import { addressOf, families, pods, serviceAddress, whole, type Actor } from '../traffic/network.ts'
import { placeOf, type Target } from '../traffic/rows.ts'
import { nodePortOf, type ServiceShape } from '../traffic/service.ts'
import type { Probe } from './lab.ts'

const local = { externalTrafficPolicy: 'Local' }
const hinted = (at: 'a1' | 'b1', node: string) => ({ at, hints: { forZones: [{ name: `zone-of-${node}` }] } })

export const shapes = {
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
  dead: {
    name: 'dead',
    number: 9,
    endpoints: [{ at: 'node-a' }],
    ports: [{ name: 'tcp', protocol: 'TCP', port: 80, targetPort: 6444, nodePort: nodePortOf(9) }],
  },
  sticky: { name: 'sticky', number: 10, endpoints: pods, spec: { sessionAffinity: 'ClientIP' } },
  leaving: { name: 'leaving', number: 11, endpoints: ['a1', 'b1'].map((at) => ({ at: at as 'a1', state: 'gone' })) },
  zoned: { name: 'zoned', number: 12, endpoints: [hinted('a1', 'node-a'), hinted('b1', 'node-b')] },
  elsewhere: { name: 'elsewhere', number: 13, endpoints: [hinted('b1', 'node-b')] },
  proxied: { name: 'proxied', number: 14, endpoints: pods, ipMode: 'Proxy' },
} as const satisfies Record<string, ServiceShape>
export type Name = keyof typeof shapes

export interface Ask {
  readonly from: Actor
  readonly to: Name
  readonly at: Target
  readonly transport: 'TCP' | 'UDP'
  readonly family: Family
  readonly source?: string
  readonly inLink?: string
}

export function probeOf({ to, at, ...rest }: Ask): Probe {
  return { ...rest, ...placeOf(shapes[to], at, rest.family) }
}

export interface SetUp {
  readonly name: string
  /** Shell lines in node-a. */
  readonly by: readonly string[]
  readonly undo: readonly string[]
  readonly asked?: Partial<Ask> & Pick<Ask, 'from'>
  readonly code?: VerdictCode
  /** What the verdict has to name. */
  readonly says?: string
  /** What of doctor's findings, severity and name, and its text. */
  readonly doctor?: readonly [id: string, says: string]
}

type Rest = Pick<SetUp, 'code' | 'says' | 'doctor'> & Partial<Ask>

function askedOf({ code, says, doctor, ...asked }: Rest): Omit<SetUp, 'name' | 'by' | 'undo'> {
  return {
    ...(asked.from === undefined ? {} : { asked: { ...asked, from: asked.from } }),
    ...(code === undefined ? {} : { code }),
    ...(says === undefined ? {} : { says }),
    ...(doctor === undefined ? {} : { doctor }),
  }
}

/** A rule put first: "INPUT -p tcp -j DROP", "-t raw PREROUTING …". */
function ruled(name: string, rule: string, rest: Rest, tool = 'iptables'): SetUp {
  const [, table = '', words = ''] = /^(-t \S+ )?(.*)$/.exec(rule) ?? []
  return { name, by: [`${tool} ${table}-I ${words}`], undo: [`${tool} ${table}-D ${words}`], ...askedOf(rest) }
}

function switchedOff(name: string, setting: string, rest: Rest): SetUp {
  return { name, by: [`sysctl -qw ${setting}=0`], undo: [`sysctl -qw ${setting}=1`], ...askedOf(rest) }
}

function as(name: string, rest: Rest): SetUp {
  return { name, by: [], undo: [], ...askedOf(rest) }
}

function changed(name: string, by: string | readonly string[], undo: string | readonly string[], rest: Rest): SetUp {
  return { name, by: [by].flat(), undo: [undo].flat(), ...askedOf(rest) }
}

const vip = (number: number, family: Family = 'IPv4'): string => serviceAddress('clusterIP', number, family)
const [vip1, vip4, vip10] = [vip(1), vip(4), vip(10)]
const client = addressOf('client', 'IPv4')
const a2 = addressOf('a2', 'IPv4')
const nodeB = addressOf('node-b', 'IPv4')

function without(name: string, address: string, rest: Rest): SetUp {
  const on = `${whole(address)} dev kube-ipvs0`
  return changed(name, `ip address del ${on}`, `ip address add ${on}${address.includes(':') ? ' nodad' : ''}`, rest)
}

function unlisted(name: string, set: string, entry: string, rest: Rest): SetUp {
  return changed(name, `ipset del ${set} ${entry}`, `ipset add ${set} ${entry}`, rest)
}

const jump = 'PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
const forwardJump = 'FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD'
const selfServer = `-t ${vip4}:80`
const selfDestination = `${selfServer} -r 10.244.1.2:8080 -m`

const rules: readonly SetUp[] = [
  ruled('a foreign DROP in INPUT', 'INPUT -p tcp --dport 80 -j DROP', {
    from: 'client',
    code: 'dropped-by-foreign-rule',
    says: 'dropped in filter INPUT by rule 1 (-p tcp -m tcp --dport 80 -j DROP), which is not ours; IPVS never sees it',
  }),
  ruled('a foreign DROP in INPUT, another transport', 'INPUT -p tcp --dport 80 -j DROP', {
    from: 'client',
    transport: 'UDP',
    code: 'served',
  }),
  ruled('a foreign DROP in INPUT, the node asks', 'INPUT -p tcp --dport 80 -j DROP', {
    from: 'node-a',
    code: 'served',
  }),
  ruled('a foreign REJECT in INPUT', `INPUT -s ${client} -j REJECT --reject-with icmp-admin-prohibited`, {
    from: 'client',
    code: 'rejected-by-foreign-rule',
    says: `-s ${client}/32`,
  }),
  ruled('a foreign tcp-reset in INPUT', 'INPUT -p tcp -j REJECT --reject-with tcp-reset', {
    from: 'a1',
    code: 'rejected-by-foreign-rule',
    says: 'tcp-reset',
  }),
  ruled(
    'a foreign DROP in INPUT over IPv6',
    'INPUT -p tcp --dport 80 -j DROP',
    {
      from: 'client',
      family: 'IPv6',
      code: 'dropped-by-foreign-rule',
      says: 'filter INPUT',
    },
    'ip6tables',
  ),
  ruled('filter OUTPUT comes after IPVS: not the service address', `OUTPUT -d ${vip1} -j DROP`, {
    from: 'node-a',
    code: 'served',
  }),
  ruled('filter OUTPUT comes after IPVS: but the endpoint', 'OUTPUT -p tcp -d 10.244.0.0/16 --dport 8080 -j DROP', {
    from: 'node-a',
    code: 'dropped-by-foreign-rule',
    says: 'filter OUTPUT',
  }),
  ruled(
    'what IPVS sends passes OUTPUT, though it came from outside',
    'OUTPUT -p tcp -d 10.244.0.0/16 --dport 8080 -j DROP',
    { from: 'client', code: 'dropped-by-foreign-rule', says: 'filter OUTPUT' },
  ),
  ruled('what IPVS sends does not pass FORWARD', 'FORWARD -p tcp -d 10.244.0.0/16 --dport 8080 -j DROP', {
    from: 'client',
    code: 'served',
  }),
  ruled('the answer passes FORWARD', 'FORWARD -p tcp -s 10.244.0.0/16 --sport 8080 -j DROP', {
    from: 'client',
    code: 'forward-dropped',
    says: 'the answer is dropped in filter FORWARD by rule 1',
  }),
  ruled('the answer to the node passes INPUT', 'INPUT -p tcp --sport 8080 -j DROP', {
    from: 'node-a',
    code: 'dropped-by-foreign-rule',
    says: 'the answer is dropped in filter INPUT',
  }),
  ruled('the raw table', '-t raw PREROUTING -p udp --dport 80 -j DROP', {
    from: 'a1',
    transport: 'UDP',
    code: 'dropped-by-foreign-rule',
    says: 'raw PREROUTING',
  }),
  ruled('a datagram of the node, dropped before IPVS takes it: EPERM', `-t mangle OUTPUT -d ${vip1} -j DROP`, {
    from: 'node-a',
    transport: 'UDP',
    code: 'dropped-by-foreign-rule',
    says: 'dropped in mangle OUTPUT',
  }),
  ruled('NOTRACK, a remote endpoint', '-t raw PREROUTING -p tcp --dport 80 -j NOTRACK', {
    from: 'client',
    to: 'hostB',
    code: 'not-tracked',
    says: 'takes it away from connection tracking',
  }),
  ruled('NOTRACK where it is tracked already', '-t raw OUTPUT -p tcp -j CT --notrack', {
    from: 'client',
    to: 'hostB',
    code: 'served',
  }),
  ruled('a foreign DNAT', `-t nat PREROUTING -p tcp -d ${vip1} -j DNAT --to-destination ${a2}:8081`, {
    from: 'client',
    code: 'redirected-by-foreign-rule',
    says: `DNAT to ${a2}:8081 by rule 1 of nat PREROUTING`,
  }),
  ruled('a foreign ACCEPT in nat POSTROUTING', '-t nat POSTROUTING -j ACCEPT', {
    from: 'client',
    to: 'hostB',
    code: 'dropped-by-foreign-rule',
    says: 'rule 1 of nat POSTROUTING (-j ACCEPT), which is not ours, ends table nat',
  }),
  ruled('the mark for masquerading is taken away', '-t mangle POSTROUTING -j MARK --set-xmark 0x0/0xffffffff', {
    from: 'client',
    to: 'hostB',
    code: 'mark-lost',
    says: 'rule 1 of mangle POSTROUTING',
  }),
  changed(
    "another daemon's rule first: a host port of the CNI",
    [
      'iptables -t nat -N CNI-HOSTPORT-DNAT',
      `iptables -t nat -A CNI-HOSTPORT-DNAT -p tcp --dport ${nodePortOf(1)} -j DNAT --to-destination ${a2}:8081`,
      'iptables -t nat -I PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT',
    ],
    [
      'iptables -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT',
      'iptables -t nat -F CNI-HOSTPORT-DNAT',
      'iptables -t nat -X CNI-HOSTPORT-DNAT',
    ],
    { from: 'client', at: 'node-a', code: 'redirected-by-foreign-rule', says: 'rule 1 of nat CNI-HOSTPORT-DNAT' },
  ),
  changed(
    'a chain of a firewall that drops',
    [
      'iptables -N KUBE-ROUTER-INPUT',
      'iptables -A KUBE-ROUTER-INPUT -s 10.244.0.0/16 -j DROP',
      'iptables -I INPUT -j KUBE-ROUTER-INPUT',
    ],
    ['iptables -D INPUT -j KUBE-ROUTER-INPUT', 'iptables -F KUBE-ROUTER-INPUT', 'iptables -X KUBE-ROUTER-INPUT'],
    { from: 'a1', code: 'dropped-by-foreign-rule', says: 'chain KUBE-ROUTER-INPUT, by rule 1' },
  ),
  changed(
    "left of kube-proxy's iptables mode",
    [
      'iptables -t nat -N KUBE-SEP-ABCDEFGHIJKLMNOP',
      `iptables -t nat -A KUBE-SEP-ABCDEFGHIJKLMNOP -p tcp -j DNAT --to-destination 10.244.1.99:8080`,
      `iptables -t nat -I PREROUTING -p tcp -d ${vip1} --dport 80 -j KUBE-SEP-ABCDEFGHIJKLMNOP`,
    ],
    [
      `iptables -t nat -D PREROUTING -p tcp -d ${vip1} --dport 80 -j KUBE-SEP-ABCDEFGHIJKLMNOP`,
      'iptables -t nat -F KUBE-SEP-ABCDEFGHIJKLMNOP',
      'iptables -t nat -X KUBE-SEP-ABCDEFGHIJKLMNOP',
    ],
    {
      from: 'client',
      code: 'redirected-by-foreign-rule',
      says: 'DNAT to 10.244.1.99:8080',
    },
  ),
  changed(
    'rules of both variants',
    'iptables-legacy -A INPUT -p tcp --dport 80 -j DROP',
    'iptables-legacy -D INPUT 1',
    {
      from: 'client',
      code: 'dropped-by-foreign-rule',
      says: 'of iptables-legacy',
    },
  ),
  changed(
    'chains of both variants',
    'iptables-legacy -t nat -N KUBE-SERVICES',
    'iptables-legacy -t nat -X KUBE-SERVICES',
    { doctor: ['iptables-variants', 'the other one has nat KUBE-SERVICES'] },
  ),
  changed('a policy of INPUT', 'iptables -P INPUT DROP', 'iptables -P INPUT ACCEPT', {
    from: 'client',
    code: 'dropped-by-policy',
    says: 'dropped in filter INPUT by its policy (DROP)',
  }),
  changed('a policy of INPUT, the node asks: the answer', 'iptables -P INPUT DROP', 'iptables -P INPUT ACCEPT', {
    from: 'node-a',
    code: 'dropped-by-policy',
    says: 'the answer is dropped in filter INPUT',
  }),
  changed('a policy of FORWARD', 'iptables -P FORWARD DROP', 'iptables -P FORWARD ACCEPT', {
    from: 'client',
    code: 'served',
  }),
  changed(
    'a policy of FORWARD, and our jump is gone',
    ['iptables -P FORWARD DROP', `iptables -D ${forwardJump}`],
    [`iptables -I ${forwardJump}`, 'iptables -P FORWARD ACCEPT'],
    { from: 'client', to: 'self', code: 'rule-missing', says: 'chain FORWARD of table filter lacks the rule' },
  ),
  changed('the jump to KUBE-SERVICES is gone', `iptables -t nat -D ${jump}`, `iptables -t nat -I ${jump}`, {
    from: 'client',
    to: 'hostB',
    code: 'rule-missing',
    says: 'chain PREROUTING of table nat lacks the rule',
  }),
  changed(
    'a chain of nftables drops',
    [
      'nft add table inet guard',
      "nft add chain inet guard in '{ type filter hook input priority 0; policy accept; }'",
      'nft add rule inet guard in tcp dport 80 drop',
    ],
    'nft delete table inet guard',
    {
      from: 'client',
      code: 'dropped-by-foreign-rule',
      says: 'dropped in chain inet guard in of nftables at INPUT by rule 1 (tcp dport 80 drop)',
    },
  ),
]

const kernelState: readonly SetUp[] = [
  without('address missing', vip1, {
    from: 'client',
    code: 'address-missing',
    says: `${vip1} is on no link of this node, kube-ipvs0 included`,
    doctor: ['drift', '1 things differ'],
  }),
  without('address missing, a pod asks', vip1, { from: 'a1', code: 'address-missing', says: vip1 }),
  without('address missing, the node asks', vip1, { from: 'node-a', code: 'address-missing', says: vip1 }),
  without('address missing, IPv6', vip(1, 'IPv6'), {
    from: 'client',
    family: 'IPv6',
    code: 'address-missing',
    says: vip(1, 'IPv6'),
  }),
  unlisted('set entry missing: cluster IP', 'KUBE-CLUSTER-IP', `${vip1},tcp:80`, {
    from: 'client',
    code: 'set-entry-missing',
    says: `set KUBE-CLUSTER-IP lacks the entry ${vip1},tcp:80`,
  }),
  unlisted('set entry missing: node port', 'KUBE-NODE-PORT-TCP', '30008', {
    from: 'client',
    to: 'hostB',
    at: 'node-a',
    code: 'set-entry-missing',
    says: 'set KUBE-NODE-PORT-TCP lacks the entry 30008',
  }),
  unlisted('set entry missing: hairpin', 'KUBE-LOOP-BACK', '10.244.1.2,tcp:8080,10.244.1.2', {
    from: 'a1',
    to: 'self',
    code: 'set-entry-missing',
    says: 'set KUBE-LOOP-BACK lacks the entry',
  }),
  changed(
    'set full',
    [
      'ipset save KUBE-CLUSTER-IP > /tmp/explain-set',
      'count=$(grep -c ^add /tmp/explain-set)',
      'ipset create FULL hash:ip,port family inet maxelem $count',
      "sed -n 's/^add KUBE-CLUSTER-IP/add FULL/p' /tmp/explain-set | ipset restore",
      'ipset swap FULL KUBE-CLUSTER-IP',
      `ipset del KUBE-CLUSTER-IP ${vip1},tcp:80`,
      'ipset add KUBE-CLUSTER-IP 10.96.250.250,tcp:80',
    ],
    ['ipset swap FULL KUBE-CLUSTER-IP', 'ipset destroy FULL', 'rm /tmp/explain-set'],
    {
      from: 'client',
      code: 'set-full',
      says: `set KUBE-CLUSTER-IP lacks the entry ${vip1},tcp:80, and is full`,
      doctor: ['set-full', 'set KUBE-CLUSTER-IP has'],
    },
  ),
  changed(
    'virtual server missing',
    `ipvsadm -D ${selfServer}`,
    [`ipvsadm -A ${selfServer} -s rr`, `ipvsadm -a ${selfDestination}`],
    { from: 'client', to: 'self', code: 'virtual-server-missing', says: `there is no virtual server ${vip4}:80/TCP` },
  ),
  changed('weight 0', `ipvsadm -e ${selfDestination} -w 0`, `ipvsadm -e ${selfDestination} -w 1`, {
    from: 'client',
    to: 'self',
    code: 'destination-weight',
    says: 'destination 10.244.1.2:8080 has weight 0 instead of 1',
  }),
  changed('destination missing', `ipvsadm -d ${selfServer} -r 10.244.1.2:8080`, `ipvsadm -a ${selfDestination}`, {
    from: 'client',
    to: 'self',
    code: 'destination-missing',
    says: 'lacks destination 10.244.1.2:8080',
  }),
  changed(
    'a destination that nobody wants',
    `ipvsadm -a -t ${vip4}:80 -r 10.244.1.3:8080 -m`,
    `ipvsadm -d -t ${vip4}:80 -r 10.244.1.3:8080`,
    {
      from: 'client',
      to: 'self',
      code: 'partly-served',
      says: '10.244.1.3:8080 of weight 1 is none that the Service wants',
    },
  ),
  changed(
    'another method of forwarding',
    [`ipvsadm -d ${selfServer} -r 10.244.1.2:8080`, `ipvsadm -a ${selfServer} -r 10.244.1.2 -g`],
    [`ipvsadm -d ${selfServer} -r 10.244.1.2`, `ipvsadm -a ${selfDestination}`],
    { from: 'client', to: 'self', code: 'not-masquerading', says: 'is not forwarded by masquerading' },
  ),
  changed(
    "somebody's virtual server of a firewall mark",
    [
      'ipvsadm -A -f 7 -s rr',
      `ipvsadm -a -f 7 -r ${a2}:8081 -m`,
      `iptables -t mangle -I PREROUTING -d ${vip1} -j MARK --set-mark 7`,
    ],
    [`iptables -t mangle -D PREROUTING -d ${vip1} -j MARK --set-mark 7`, 'ipvsadm -D -f 7'],
    { from: 'a1', code: 'taken-by-mark', says: 'firewall mark 0x7, set by rule 1 of mangle PREROUTING' },
  ),
  changed('no route to the endpoint', 'ip route del 10.244.2.0/24', `ip route add 10.244.2.0/24 via ${nodeB}`, {
    from: 'a1',
    to: 'far',
    code: 'destination-unreachable',
    says: 'no route to 10.244.2.',
  }),
  changed(
    'a blackhole to the endpoint',
    'ip route add blackhole 10.244.2.2/32',
    'ip route del blackhole 10.244.2.2/32',
    {
      from: 'a1',
      to: 'far',
      code: 'partly-served',
      says: 'no route to 10.244.2.2',
    },
  ),
  changed(
    'strict rp_filter, the client comes in by another link',
    ['ip route add 192.168.60.10/32 dev cni0', 'sysctl -qw net.ipv4.conf.all.rp_filter=1'],
    ['sysctl -qw net.ipv4.conf.all.rp_filter=0', 'ip route del 192.168.60.10/32 dev cni0'],
    {
      from: 'client',
      source: '192.168.60.10',
      inLink: 'eth0',
      code: 'source-rejected',
      says: 'rp_filter',
      doctor: ['rp-filter', 'rp_filter is strict on'],
    },
  ),
  changed(
    'hairpin mode off',
    ['a1', 'a2'].map((port) => `ip link set ${port} type bridge_slave hairpin off`),
    ['a1', 'a2'].map((port) => `ip link set ${port} type bridge_slave hairpin on`),
    { from: 'a1', to: 'self', code: 'hairpin-off', says: 'bridge cni0 does not send 10.244.1.2 a packet back' },
  ),
  changed(
    'hairpin mode off, of the port that counts',
    'ip link set a1 type bridge_slave hairpin off',
    'ip link set a1 type bridge_slave hairpin on',
    { from: 'a1', to: 'self', code: 'hairpin-off', says: 'bridge cni0 does not send 10.244.1.2 a packet back' },
  ),
  changed(
    'hairpin mode off, of another port',
    'ip link set a2 type bridge_slave hairpin off',
    'ip link set a2 type bridge_slave hairpin on',
    { from: 'a1', to: 'self', code: 'served' },
  ),
  switchedOff('vs.conntrack off', 'net.ipv4.vs.conntrack', {
    from: 'client',
    to: 'hostB',
    at: 'node-a',
    code: 'ipvs-conntrack-off',
    says: 'net.ipv4.vs.conntrack is not 1',
    doctor: ['vs-conntrack', 'net.ipv4.vs.conntrack is 0'],
  }),
  switchedOff('vs.conntrack off, the node asks', 'net.ipv4.vs.conntrack', {
    from: 'node-a',
    to: 'self',
    code: 'ipvs-conntrack-off',
    says: 'net.ipv4.vs.conntrack is not 1',
  }),
  switchedOff('forwarding off', 'net.ipv4.ip_forward', {
    from: 'client',
    to: 'self',
    code: 'ip-forward-off',
    says: 'forwarding is off',
    doctor: ['ip-forward', 'net.ipv4.ip_forward is 0'],
  }),
  switchedOff('forwarding off, the node asks', 'net.ipv4.ip_forward', { from: 'node-a', to: 'self', code: 'served' }),
  switchedOff('forwarding off, IPv6', 'net.ipv6.conf.all.forwarding', {
    from: 'client',
    to: 'self',
    family: 'IPv6',
    code: 'ip-forward-off',
    says: 'net/ipv6/conf/all/forwarding',
  }),
  switchedOff('a bridge without netfilter', 'net.bridge.bridge-nf-call-iptables', {
    from: 'a2',
    to: 'self',
    code: 'bridge-netfilter-off',
    says: 'within cni0',
    doctor: ['bridge-nf', 'net.bridge.bridge-nf-call-iptables is 0'],
  }),
  switchedOff('reuse of source ports', 'net.ipv4.vs.conn_reuse_mode', {
    doctor: ['conn-reuse-mode', 'net.ipv4.vs.conn_reuse_mode is 0'],
  }),
  changed(
    'VIP in a subnet of the node, without strictARP',
    'ip address add 203.0.113.250/24 dev eth0',
    'ip address del 203.0.113.250/24 dev eth0',
    { doctor: ['strict-arp', 'lies in a subnet of this node'] },
  ),
  changed(
    'VIP equals an address of the node',
    `ip address add ${serviceAddress('loadBalancer', 1, 'IPv4')}/32 dev eth0`,
    `ip address del ${serviceAddress('loadBalancer', 1, 'IPv4')}/32 dev eth0`,
    { doctor: ['address-clash', `${serviceAddress('loadBalancer', 1, 'IPv4')} of default/web`] },
  ),
  changed(
    'kube-ipvs0 is no dummy device',
    [
      'ip -o address show dev kube-ipvs0 > /tmp/explain-addresses',
      'ip link del kube-ipvs0',
      'ip link add kube-ipvs0 type bridge',
    ],
    [
      'ip link del kube-ipvs0',
      'ip link add kube-ipvs0 type dummy',
      `awk '$3 == "inet" { print "address add " $4 " dev kube-ipvs0" } $3 == "inet6" && $4 !~ /^fe80/ { print "address add " $4 " dev kube-ipvs0 nodad" }' /tmp/explain-addresses | ip -batch -`,
      'rm /tmp/explain-addresses',
    ],
    { from: 'client', code: 'address-missing', says: vip1, doctor: ['dummy-device', 'bridge'] },
  ),
]

/** The kernel is as wanted: it is the Service, or who asks, that is at fault. */
const ofTheCluster: readonly SetUp[] = [
  as('no endpoints', {
    from: 'client',
    to: 'nobody',
    code: 'rejected-no-endpoints',
    says: 'the Service has no endpoint',
  }),
  as('no endpoint is ready', {
    from: 'client',
    to: 'leaving',
    code: 'rejected-no-endpoints',
    says: '10.244.1.2:8080 terminating, and serves no more',
  }),
  as('endpoints elsewhere with policy Local', {
    from: 'client',
    to: 'far',
    at: 'loadBalancer',
    code: 'no-local-endpoint',
    says: 'the traffic policy is Local, no endpoint of this node can be used',
  }),
  as('zone hints leave one endpoint', {
    from: 'client',
    to: 'zoned',
    code: 'served',
    says: 'its destination; 10.244.1.2',
  }),
  changed(
    'zone hints leave one endpoint alone, and that is out of reach',
    'ip route add blackhole 10.244.1.2/32',
    'ip route del blackhole 10.244.1.2/32',
    {
      from: 'client',
      to: 'zoned',
      code: 'destination-unreachable',
      says: 'not used is 10.244.2.2:8080, for other zones than zone-of-node-a by its hints',
    },
  ),
  as('zone hints exclude all: they do not count', {
    from: 'client',
    to: 'elsewhere',
    code: 'served',
    says: '10.244.2.2',
  }),
  as('source range refuses', {
    from: 'a1',
    to: 'ranged',
    at: 'loadBalancer',
    code: 'source-range',
    says: "none of the Service's loadBalancerSourceRanges",
  }),
  as('the endpoint does not listen', {
    from: 'client',
    to: 'dead',
    code: 'endpoint-not-listening',
    says: 'no process of this node listens on 192.168.60.1:6444/TCP',
  }),
  changed(
    'a process of the node finds no way back to the client',
    'ip -6 route add prohibit fd44:1::2/128',
    'ip -6 route del prohibit fd44:1::2/128',
    { from: 'a1', to: 'host', at: 'node-a', family: 'IPv6', code: 'no-route-back', says: 'no route to fd44:1::2' },
  ),
  as('the endpoint does not listen, and ::1 is not told', {
    from: 'node-a',
    source: '::1',
    to: 'dead',
    family: 'IPv6',
    code: 'endpoint-not-listening',
    says: 'alone, where there is none',
  }),
  as('a VIP of ipMode Proxy is not ours', {
    from: 'node-a',
    to: 'proxied',
    at: 'loadBalancer',
    code: 'no-route',
    says: 'ENETUNREACH',
  }),
]

export const setUps: readonly SetUp[] = [...rules, ...kernelState, ...ofTheCluster]
export { client, vip10 }
