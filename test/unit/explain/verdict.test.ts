import { expect, test } from 'vitest'
import { explanationText } from '../../../src/explain/text.ts'
import type { Snapshot } from '../../../src/explain/snapshot.ts'
import type { VerdictCode } from '../../../src/explain/verdict.ts'
import type { Answer } from '../../../src/explain/answers.ts'
import { parseCidr } from '../../../src/model/address.ts'
import type { UdpFlow } from '../../../src/conntrack/flows.ts'
import type { ServicePortRecord, ServiceRecord } from '../../../src/model/cluster.ts'
import type { EndpointRecord } from '../../../src/model/endpoint-list.ts'
import { endpoint, port, service, slice } from '../proxier/objects.ts'
import {
  explainOn,
  inSync,
  settings,
  withoutAddress,
  withoutEntries,
  withoutRules,
  withRules,
  withSysctl,
  type SetUp,
} from './lab.ts'

const here = endpoint('10.244.1.2', 'rsl')
const alsoHere = endpoint('10.244.1.3', 'rsl')
const there = endpoint('10.244.2.2', 'rs')
const tcp = port({ nodePort: 30080 })

interface Shape {
  readonly endpoints?: readonly EndpointRecord[]
  readonly ports?: readonly ServicePortRecord[]
  readonly service?: Partial<ServiceRecord>
  readonly settings?: Partial<SetUp['settings']>
}

const whole: Partial<ServiceRecord> = {
  type: 'LoadBalancer',
  externalIPs: ['198.51.100.10'],
  loadBalancerIPs: ['203.0.113.10'],
}

function setUp({ endpoints = [here, there], ports = [tcp], service: change, settings: own }: Shape = {}): SetUp {
  return {
    service: service({ ...whole, ports, ...change }),
    slices: [slice(endpoints, { ports: ports.map(({ name, protocol }) => ({ name, protocol, port: 8080 })) })],
    settings: { ...settings, ...own },
    family: 'IPv4',
  }
}

type Change = (snapshot: Snapshot) => Snapshot
const asWanted: Change = (snapshot) => snapshot
const clusterIP = '10.96.0.10:80'
const vip = '203.0.113.10:80'
const externalIP = '198.51.100.10:80'
const nodePort = '192.168.60.1:30080'
const outside = '192.168.60.9'
const pod = '10.244.1.9'

interface Case {
  readonly name: string
  readonly shape?: Shape
  readonly change?: Change
  readonly to: string
  readonly from: string
  readonly code: VerdictCode
  readonly answer?: Answer
  readonly says?: string
  /** Without the cluster's objects. */
  readonly blind?: true
}

const local: Shape = { endpoints: [there], service: { externalLocal: true } }
const ranged: Shape = { service: { sourceRanges: ['192.168.60.9/32'] } }
const dropIn =
  (rule: string): Change =>
  (s) =>
    withRules(s, 'filter', 'INPUT', [rule])
const lone: Shape = { endpoints: [here] }
const remote: Shape = { endpoints: [there] }
const sticky: Shape = { service: { affinitySeconds: 600 } }

const cases: readonly Case[] = [
  { name: 'a pod asks the cluster IP', to: clusterIP, from: pod, code: 'served', says: 'as 10.244.1.9' },
  { name: 'from outside, masqueraded', to: clusterIP, from: outside, code: 'served', says: 'as 10.244.1.1' },
  { name: 'the node itself', to: clusterIP, from: 'node', code: 'served' },
  { name: 'anybody outside', to: clusterIP, from: 'outside', code: 'served' },
  { name: 'a node port from outside', to: nodePort, from: outside, code: 'served' },
  { name: 'a node port from the node', to: nodePort, from: 'node', code: 'served' },
  { name: 'an external IP', to: externalIP, from: outside, code: 'served' },
  { name: 'a VIP', to: vip, from: outside, code: 'served' },
  {
    name: 'a VIP, policy Local',
    shape: { endpoints: [here], service: { externalLocal: true } },
    to: vip,
    from: outside,
    code: 'served',
    says: 'as 192.168.60.9',
  },
  { name: 'hairpin', shape: lone, to: clusterIP, from: '10.244.1.2', code: 'served', says: 'as 10.244.1.1' },
  { name: 'a Service by its name', to: 'default/web', from: 'default/a1', code: 'served' },
  { name: 'without objects', to: clusterIP, from: pod, code: 'served', blind: true },

  {
    name: 'a DROP of somebody else in a chain of ours',
    change: (s) => withRules(s, 'filter', 'KUBE-IPVS-FILTER', ['-s 10.244.1.9/32 -j DROP']),
    to: clusterIP,
    from: pod,
    code: 'dropped-by-foreign-rule',
    says: 'in filter INPUT, chain KUBE-IPVS-FILTER, by rule 1 (-s 10.244.1.9/32 -j DROP), which is not ours',
  },
  {
    name: 'a RETURN of somebody else before masquerading',
    shape: remote,
    change: (s) => withRules(s, 'nat', 'KUBE-SERVICES', ['-d 10.96.0.0/16 -j RETURN']),
    to: clusterIP,
    from: outside,
    code: 'dropped-by-foreign-rule',
    says: 'KUBE-SERVICES',
  },
  {
    name: 'a node port on an address that is not served',
    shape: { settings: { nodePortRanges: [{ address: '10.99.0.0', prefix: 16, family: 'IPv4' }] } },
    to: nodePort,
    from: outside,
    code: 'address-not-served',
    answer: 'refused',
  },
  {
    name: 'an external IP that the settings refuse',
    shape: { settings: { externalRanges: { allowed: [], denied: [parseCidr('198.51.100.0/24')!] } } },
    to: externalIP,
    from: outside,
    code: 'address-not-served',
    says: 'the Service may not have 198.51.100.10 on this node, for kubeIpvsProxy.deniedExternalCIDRs has 198.51.100.0/24',
  },
  {
    name: 'the same, and the load balancer address beside it is served',
    shape: { settings: { externalRanges: { allowed: [parseCidr('203.0.113.0/24')!], denied: [] } } },
    to: vip,
    from: outside,
    code: 'served',
  },
  {
    name: 'a load balancer address that no setting allows',
    shape: { settings: { externalRanges: { allowed: [parseCidr('198.51.100.0/24')!], denied: [] } } },
    to: vip,
    from: outside,
    code: 'address-not-served',
    says: 'kubeIpvsProxy.allowedExternalCIDRs has no range of it',
  },
  {
    name: 'a DROP of somebody else in INPUT',
    change: dropIn('-p tcp -m tcp --dport 80 -j DROP'),
    to: clusterIP,
    from: outside,
    code: 'dropped-by-foreign-rule',
    answer: 'nothing',
    says: 'dropped in filter INPUT by rule 1 (-p tcp -m tcp --dport 80 -j DROP), which is not ours; IPVS never sees it',
  },
  {
    name: 'the same, from the node, which does not pass INPUT',
    change: dropIn('-p tcp -m tcp --dport 80 -j DROP'),
    to: clusterIP,
    from: 'node',
    code: 'served',
  },
  {
    name: 'a REJECT of somebody else',
    change: dropIn('-p tcp -j REJECT --reject-with tcp-reset'),
    to: clusterIP,
    from: pod,
    code: 'rejected-by-foreign-rule',
    answer: 'refused',
  },
  {
    name: 'in a chain of their own',
    change: (s) =>
      withRules(withRules(s, 'filter', 'FW', ['-s 192.168.60.0/24 -j DROP']), 'filter', 'INPUT', ['-g FW']),
    to: clusterIP,
    from: outside,
    code: 'dropped-by-foreign-rule',
    says: 'chain FW, by rule 1',
  },
  {
    name: 'an INPUT policy',
    change: (s) => withRules(s, 'filter', 'INPUT', [], { policy: 'DROP' }),
    to: clusterIP,
    from: pod,
    code: 'dropped-by-policy',
    says: 'by its policy (DROP); IPVS never sees it',
  },
  {
    name: 'a DROP in raw',
    change: (s) => withRules(s, 'raw', 'PREROUTING', ['-i eth0 -j DROP']),
    to: vip,
    from: outside,
    code: 'dropped-by-foreign-rule',
    says: 'raw PREROUTING',
  },
  {
    name: 'OUTPUT sees the destination',
    change: (s) => withRules(s, 'filter', 'OUTPUT', ['-d 10.244.0.0/16 -p tcp -m tcp --dport 8080 -j DROP']),
    to: clusterIP,
    from: outside,
    code: 'dropped-by-foreign-rule',
    says: 'in filter OUTPUT by rule 1',
  },
  {
    name: 'filter OUTPUT does not see the service address',
    change: (s) => withRules(s, 'filter', 'OUTPUT', ['-d 10.96.0.10/32 -j DROP']),
    to: clusterIP,
    from: 'node',
    code: 'served',
  },
  {
    name: 'a DNAT of somebody else',
    change: (s) => withRules(s, 'nat', 'PREROUTING', ['-d 10.96.0.10/32 -p tcp -j DNAT --to-destination 10.9.9.9:99']),
    to: clusterIP,
    from: outside,
    code: 'redirected-by-foreign-rule',
  },
  {
    name: 'the answer is dropped',
    change: (s) => withRules(s, 'filter', 'FORWARD', ['-s 10.244.0.0/16 -j DROP']),
    to: clusterIP,
    from: outside,
    code: 'forward-dropped',
    answer: 'nothing',
    says: 'the answer is dropped in filter FORWARD by rule 1',
  },
  {
    name: 'a FORWARD policy without our jump',
    change: (s) =>
      withRules(withoutRules(s, 'filter', 'FORWARD', 'KUBE-FORWARD'), 'filter', 'FORWARD', [], { policy: 'DROP' }),
    to: clusterIP,
    from: outside,
    code: 'rule-missing',
    says: 'KUBE-FORWARD',
  },
  {
    name: 'a FORWARD policy with our jump',
    change: (s) => withRules(s, 'filter', 'FORWARD', [], { policy: 'DROP' }),
    to: clusterIP,
    from: outside,
    code: 'served',
  },

  {
    name: 'a source out of the ranges',
    shape: ranged,
    to: vip,
    from: '192.168.60.10',
    code: 'source-range',
    answer: 'nothing',
  },
  { name: 'a source of the ranges', shape: ranged, to: vip, from: outside, code: 'served' },
  {
    name: 'the node, in no range',
    shape: ranged,
    to: vip,
    from: 'node',
    code: 'source-range',
    answer: 'nothing',
    says: 'KUBE-IPVS-OUT-FILTER',
  },
  {
    name: 'a range that the set lacks',
    shape: ranged,
    change: (s) => withoutEntries(s, 'loadBalancerSourceCIDR'),
    to: vip,
    from: outside,
    code: 'set-entry-missing',
    says: 'KUBE-LOAD-BALANCER-SOURCE-CIDR',
  },
  {
    name: 'a set without the cluster IP',
    change: (s) => withoutEntries(s, 'clusterIP'),
    to: clusterIP,
    from: pod,
    code: 'set-entry-missing',
    answer: 'refused',
    says: 'set KUBE-CLUSTER-IP lacks the entry 10.96.0.10,tcp:80',
  },
  {
    name: 'the same without objects',
    change: (s) => withoutEntries(s, 'clusterIP'),
    to: clusterIP,
    from: pod,
    code: 'set-entry-missing',
    answer: 'refused',
    blind: true,
  },
  {
    name: 'a set without the node port, so nothing is masqueraded',
    shape: remote,
    change: (s) => withoutEntries(s, 'nodePortTCP'),
    to: nodePort,
    from: outside,
    code: 'set-entry-missing',
    answer: 'nothing',
    says: 'KUBE-NODE-PORT-TCP',
  },
  {
    name: 'the jump to KUBE-SERVICES is gone',
    shape: remote,
    change: (s) => withoutRules(s, 'nat', 'PREROUTING', 'KUBE-SERVICES'),
    to: clusterIP,
    from: outside,
    code: 'rule-missing',
    answer: 'nothing',
  },
  { name: 'a port that no Service has', to: '10.96.0.10:22', from: pod, code: 'not-a-service-port', answer: 'refused' },

  {
    name: 'no endpoint',
    shape: { endpoints: [] },
    to: clusterIP,
    from: pod,
    code: 'rejected-no-endpoints',
    answer: 'refused',
    says: 'the Service has no endpoint',
  },
  {
    name: 'none is ready',
    shape: { endpoints: [endpoint('10.244.1.2', 'l')] },
    to: clusterIP,
    from: pod,
    code: 'rejected-no-endpoints',
    says: '10.244.1.2:8080 not ready',
  },
  {
    name: 'none is local, internal policy',
    shape: {
      endpoints: [there],
      ports: [port()],
      service: { type: 'ClusterIP', externalIPs: [], loadBalancerIPs: [], internalLocal: true },
    },
    to: clusterIP,
    from: pod,
    code: 'rejected-no-endpoints',
    says: 'not on this node',
  },
  {
    name: 'all of weight 0, without objects',
    change: (s) => weights(s, 0),
    to: clusterIP,
    from: pod,
    code: 'no-eligible-destination',
    answer: 'refused',
    blind: true,
  },
  {
    name: 'all of weight 0, though wanted',
    change: (s) => weights(s, 0),
    to: clusterIP,
    from: pod,
    code: 'destination-weight',
    answer: 'refused',
  },
  {
    name: 'destinations are gone',
    change: (s) => ({ ...s, servers: s.servers.map((one) => ({ ...one, destinations: [] })) }),
    to: clusterIP,
    from: pod,
    code: 'destination-missing',
    answer: 'refused',
  },
  {
    name: 'a destination that nobody wants',
    shape: lone,
    change: (s) => destinations(s, '10.244.1.77'),
    to: clusterIP,
    from: pod,
    code: 'destination-not-wanted',
  },
  {
    name: 'one more that nobody wants',
    change: (s) => destinations(s, '10.244.1.77', true),
    to: clusterIP,
    from: pod,
    code: 'partly-served',
  },
  {
    name: 'no virtual server',
    change: (s) => ({ ...s, servers: [] }),
    to: clusterIP,
    from: pod,
    code: 'virtual-server-missing',
    answer: 'refused',
  },
  {
    name: 'no IPVS',
    change: (s) => ({ ...s, servers: [], findings: ['the kernel has no IPVS: the module ip_vs is not loaded'] }),
    to: clusterIP,
    from: pod,
    code: 'ipvs-not-loaded',
  },
  {
    name: 'the address is not bound',
    change: (s) => withoutAddress(s, '10.96.0.10'),
    to: clusterIP,
    from: outside,
    code: 'address-missing',
    answer: 'leaves',
  },
  {
    name: 'the address is not bound, and there is no other route',
    change: (s) => withoutAddress({ ...s, routes: s.routes.slice(1) }, '10.96.0.10'),
    to: clusterIP,
    from: pod,
    code: 'address-missing',
    answer: 'unreachable',
  },
  {
    name: 'the address is not bound, the node asks: IPVS sees it in OUTPUT',
    change: (s) => withoutAddress(s, '10.96.0.10'),
    to: clusterIP,
    from: 'node',
    code: 'served',
  },

  {
    name: 'policy Local, no local endpoint, from outside',
    shape: local,
    to: vip,
    from: outside,
    code: 'no-local-endpoint',
    answer: 'nothing',
  },
  { name: 'policy Local, no local endpoint, from a pod', shape: local, to: vip, from: pod, code: 'served' },
  {
    name: 'policy Local, no local endpoint, strict',
    shape: { ...local, settings: { strictExternal: true } },
    to: vip,
    from: outside,
    code: 'no-local-endpoint',
    answer: 'refused',
  },
  {
    name: 'vs.conntrack off, a remote endpoint',
    shape: remote,
    change: (s) => withSysctl(s, 'net/ipv4/vs/conntrack', '0'),
    to: nodePort,
    from: outside,
    code: 'ipvs-conntrack-off',
    answer: 'nothing',
  },
  {
    name: 'vs.conntrack off, the node asks: what follows the first packet of the answer is rejected',
    change: (s) => withSysctl(s, 'net/ipv4/vs/conntrack', '0'),
    to: clusterIP,
    from: 'node',
    code: 'ipvs-conntrack-off',
    answer: 'nothing',
    says: 'a new one to netfilter',
  },
  {
    name: 'NOTRACK of somebody else',
    shape: remote,
    change: (s) => withRules(s, 'raw', 'PREROUTING', ['-p tcp -j CT --notrack']),
    to: nodePort,
    from: outside,
    code: 'not-tracked',
    answer: 'nothing',
  },
  {
    name: 'NOTRACK of somebody else where it is tracked already',
    shape: remote,
    change: (s) => withRules(s, 'raw', 'OUTPUT', ['-p tcp -j CT --notrack']),
    to: nodePort,
    from: outside,
    code: 'served',
    answer: 'answered',
  },
  {
    name: 'an ACCEPT of somebody else before masquerading',
    shape: remote,
    change: (s) => withRules(s, 'nat', 'POSTROUTING', ['-j ACCEPT']),
    to: nodePort,
    from: outside,
    code: 'dropped-by-foreign-rule',
    says: 'ends table nat before ours decide',
  },
  {
    name: 'forwarding off',
    change: (s) => withSysctl(s, 'net/ipv4/conf/cni0/forwarding', '0'),
    shape: lone,
    to: clusterIP,
    from: outside,
    code: 'ip-forward-off',
    answer: 'nothing',
  },
  {
    name: 'forwarding off, the node asks',
    change: (s) => withSysctl(s, 'net/ipv4/conf/cni0/forwarding', '0'),
    shape: lone,
    to: clusterIP,
    from: 'node',
    code: 'served',
  },
  {
    name: 'rp_filter',
    change: (s) =>
      withSysctl({ ...s, links: [...s.links, { name: 'eth1', kind: '' }] }, 'net/ipv4/conf/all/rp_filter', '1'),
    to: clusterIP,
    from: '192.168.60.9@eth1',
    code: 'source-rejected',
    answer: 'nothing',
  },
  {
    name: 'the same, loose',
    change: (s) =>
      withSysctl({ ...s, links: [...s.links, { name: 'eth1', kind: '' }] }, 'net/ipv4/conf/all/rp_filter', '2'),
    to: clusterIP,
    from: '192.168.60.9@eth1',
    code: 'served',
  },
  {
    name: 'a bridge without netfilter',
    shape: { endpoints: [here, alsoHere] },
    change: (s) => withSysctl(s, 'net/bridge/bridge-nf-call-iptables', '0'),
    to: clusterIP,
    from: pod,
    code: 'bridge-netfilter-off',
    answer: 'nothing',
  },
  {
    name: 'hairpin mode off',
    shape: lone,
    change: (s) => ({ ...s, sendsBack: false }),
    to: clusterIP,
    from: '10.244.1.2',
    code: 'hairpin-off',
    answer: 'nothing',
  },
  {
    name: 'hairpin mode of a port that is not known',
    shape: lone,
    change: (s) => ({ ...s, sendsBack: 'some ports of bridge cni0 are in hairpin mode' }),
    to: clusterIP,
    from: '10.244.1.2',
    code: 'cannot-tell',
    says: 'whether 10.244.1.2 gets its own packets back',
  },
  {
    name: 'a hairpin entry is missing',
    shape: lone,
    change: (s) => withoutEntries(s, 'loopBack'),
    to: clusterIP,
    from: '10.244.1.2',
    code: 'set-entry-missing',
    answer: 'nothing',
    says: 'KUBE-LOOP-BACK',
  },
  {
    name: 'no route to the endpoint',
    shape: remote,
    change: (s) => ({ ...s, routes: s.routes.slice(1, 3) }),
    to: clusterIP,
    from: pod,
    code: 'destination-unreachable',
    answer: 'unreachable',
  },
  {
    name: 'a destination by direct routing',
    shape: lone,
    change: (s) => ({
      ...s,
      servers: s.servers.map((one) => ({
        ...one,
        destinations: one.destinations.map((d) => ({ ...d, forwarding: 3 })),
      })),
    }),
    to: clusterIP,
    from: pod,
    code: 'not-masquerading',
    answer: 'unknown',
  },
  { name: 'from loopback', to: nodePort, from: '127.0.0.1', code: 'loopback-source', answer: 'nothing' },

  {
    name: 'a rule by chance',
    change: dropIn('-m statistic --mode random --probability 0.5 -j DROP'),
    to: clusterIP,
    from: pod,
    code: 'cannot-tell',
    says: 'rule 1 of filter INPUT',
  },
  {
    name: 'a module we do not know',
    change: dropIn('-m geoip --source-country XX -j DROP'),
    to: clusterIP,
    from: pod,
    code: 'cannot-tell',
    says: '-m geoip --source-country XX',
  },
  {
    name: 'a module we do not know, that does not matter',
    change: dropIn('-m geoip --source-country XX -j MARK --set-xmark 0x0/0x0'),
    to: clusterIP,
    from: pod,
    code: 'served',
  },
  {
    name: 'a target we do not know',
    change: dropIn('-j NFQUEUE --queue-num 0'),
    to: clusterIP,
    from: pod,
    code: 'cannot-tell',
    says: 'NFQUEUE',
  },
  {
    name: 'a rule that another match settles',
    change: dropIn('-s 10.9.0.0/16 -m geoip --source-country XX -j DROP'),
    to: clusterIP,
    from: pod,
    code: 'served',
  },

  {
    name: 'a process of the node',
    change: (s) => ({ ...s, sockets: ['TCP *:22'] }),
    to: '192.168.60.1:22',
    from: outside,
    code: 'local-socket',
    answer: 'answered',
  },
  { name: 'nothing listens', to: '192.168.60.1:23', from: outside, code: 'nothing-listens', answer: 'refused' },
  {
    name: 'an endpoint of the node itself',
    shape: { endpoints: [endpoint('192.168.60.1', 'rsl')] },
    change: (s) => ({ ...s, sockets: ['TCP 192.168.60.1:8080'] }),
    to: clusterIP,
    from: outside,
    code: 'served',
  },
  {
    name: 'an endpoint of the node itself that does not listen',
    shape: { endpoints: [endpoint('192.168.60.1', 'rsl')] },
    to: clusterIP,
    from: outside,
    code: 'endpoint-not-listening',
    answer: 'refused',
  },
  {
    name: 'a set that is full',
    change: (s) => ({
      ...withoutEntries(s, 'clusterIP'),
      rooms: new Map([['KUBE-CLUSTER-IP', { members: 9, size: 9 }]]),
    }),
    to: clusterIP,
    from: pod,
    code: 'set-full',
    answer: 'refused',
    says: 'lacks the entry 10.96.0.10,tcp:80, and is full: 9 entries of 9 at most',
  },
  {
    name: 'a set with room',
    change: (s) => ({
      ...withoutEntries(s, 'clusterIP'),
      rooms: new Map([['KUBE-CLUSTER-IP', { members: 8, size: 9 }]]),
    }),
    to: clusterIP,
    from: pod,
    code: 'set-entry-missing',
  },
  {
    name: 'a virtual server of a firewall mark',
    change: (s) => marked(s, 7),
    to: clusterIP,
    from: pod,
    code: 'taken-by-mark',
    answer: 'answered',
    says: 'firewall mark 0x7, set by rule 1 of mangle PREROUTING',
  },
  {
    name: 'the same, but masquerading makes it another mark',
    change: (s) => marked(s, 7),
    to: clusterIP,
    from: outside,
    code: 'served',
  },
  {
    name: 'the mark for masquerading is taken away',
    shape: remote,
    change: (s) => withRules(s, 'mangle', 'POSTROUTING', ['-j MARK --set-xmark 0x0/0xffffffff']),
    to: clusterIP,
    from: outside,
    code: 'mark-lost',
    answer: 'nothing',
    says: 'rule 1 of mangle POSTROUTING',
  },
  {
    name: 'client affinity, whose destination cannot be reached',
    shape: sticky,
    change: (s) => pinned(withRules(s, 'filter', 'OUTPUT', ['-d 10.244.2.2/32 -j DROP']), pod, '10.244.2.2:8080'),
    to: clusterIP,
    from: pod,
    code: 'dropped-by-foreign-rule',
    says: 'client affinity keeps 10.244.1.9 at 10.244.2.2:8080',
  },
  {
    name: 'client affinity of somebody else',
    shape: sticky,
    change: (s) => pinned(withRules(s, 'filter', 'OUTPUT', ['-d 10.244.2.2/32 -j DROP']), outside, '10.244.2.2:8080'),
    to: clusterIP,
    from: pod,
    code: 'partly-served',
  },
  {
    name: 'client affinity with a destination that is gone',
    shape: sticky,
    change: (s) => pinned(s, pod, '10.244.2.9:8080'),
    to: clusterIP,
    from: pod,
    code: 'served',
    says: 'one of 2 destinations',
  },
  {
    name: 'a flow of another time',
    shape: { ports: [port({ protocol: 'UDP' })] },
    change: (s) => ({ ...s, staleFlows: [stale(pod)] }),
    to: `${clusterIP}/UDP`,
    from: pod,
    code: 'stale-flow',
    says: '10.244.1.9:40404 to 10.96.0.10:80, answered by 10.244.1.99:8080',
  },
  {
    name: 'a flow of another time, of another client',
    shape: { ports: [port({ protocol: 'UDP' })] },
    change: (s) => ({ ...s, staleFlows: [stale(outside)] }),
    to: `${clusterIP}/UDP`,
    from: pod,
    code: 'served',
  },
  {
    name: 'the refusal is dropped',
    shape: { endpoints: [] },
    change: (s) => withRules(s, 'filter', 'OUTPUT', ['-p icmp -j DROP']),
    to: clusterIP,
    from: pod,
    code: 'rejected-no-endpoints',
    answer: 'nothing',
    says: 'the refusal itself is stopped by rule 1 of filter OUTPUT (-p icmp -j DROP)',
  },
  {
    name: 'a rule of another protocol does not drop the refusal',
    shape: { endpoints: [] },
    change: (s) => withRules(s, 'filter', 'OUTPUT', ['-p tcp -j DROP', '-m conntrack --ctstate NEW -j DROP']),
    to: clusterIP,
    from: pod,
    code: 'rejected-no-endpoints',
    answer: 'refused',
  },
  {
    name: 'a reset is dropped',
    change: (s) => withRules(s, 'filter', 'OUTPUT', ['-p tcp -m tcp --sport 23 -j DROP']),
    to: '192.168.60.1:23',
    from: outside,
    code: 'nothing-listens',
    answer: 'nothing',
  },
  {
    name: 'a datagram of the node, dropped before IPVS: EPERM',
    shape: { ports: [port({ protocol: 'UDP' })] },
    change: (s) => withRules(s, 'mangle', 'OUTPUT', ['-d 10.96.0.10/32 -j DROP']),
    to: `${clusterIP}/UDP`,
    from: 'node',
    code: 'dropped-by-foreign-rule',
    answer: 'unreachable',
  },
  {
    name: 'a datagram of the node, dropped after IPVS',
    shape: { ports: [port({ protocol: 'UDP' })] },
    change: (s) => withRules(s, 'mangle', 'OUTPUT', ['-d 10.244.0.0/16 -j DROP']),
    to: `${clusterIP}/UDP`,
    from: 'node',
    code: 'dropped-by-foreign-rule',
    answer: 'nothing',
  },
  { name: 'an address of nobody', to: '10.200.0.1:80', from: outside, code: 'not-local', answer: 'leaves' },
  {
    name: 'an address of nobody, no route',
    change: (s) => ({ ...s, routes: s.routes.slice(1) }),
    to: '10.200.0.1:80',
    from: 'node',
    code: 'no-route',
    answer: 'unreachable',
  },
]

/** A rule that sets a mark, and a virtual server of it. */
function marked(snapshot: Snapshot, mark: number): Snapshot {
  const rules = withRules(snapshot, 'mangle', 'PREROUTING', [`-d 10.96.0.10/32 -j MARK --set-xmark ${mark}/0xffffffff`])
  return { ...rules, marks: new Map([[mark, snapshot.servers[0]!]]) }
}

function pinned(snapshot: Snapshot, client: string, destination: string): Snapshot {
  return { ...snapshot, pinned: new Map([[`${clusterIP}/TCP ${client}`, destination]]) }
}

function stale(source: string): UdpFlow {
  return {
    source,
    sourcePort: 40404,
    destination: '10.96.0.10',
    destinationPort: 80,
    replySource: '10.244.1.99',
    replySourcePort: 8080,
    zone: 0,
    id: 1,
  }
}

function weights(snapshot: Snapshot, weight: number): Snapshot {
  const servers = snapshot.servers.map((one) => ({
    ...one,
    destinations: one.destinations.map((d) => ({ ...d, weight })),
  }))
  return { ...snapshot, servers }
}

function destinations(snapshot: Snapshot, address: string, beside = false): Snapshot {
  const servers = snapshot.servers.map((one) => {
    const other = one.destinations.map((d) => ({ ...d, address }))
    return { ...one, destinations: beside ? [...one.destinations, ...other.slice(0, 1)] : other }
  })
  return { ...snapshot, servers }
}

test.each(cases)('$name: $code', async ({ shape, change = asWanted, to, from, code, answer, says, blind }) => {
  const given = setUp(shape)
  const explanation = await explainOn(change(inSync(given)), given, { target: to, from }, blind)
  const text = explanationText(explanation)
  expect(explanation.verdict.code, text).toBe(code)
  if (answer !== undefined) expect(explanation.verdict.answer, text).toBe(answer)
  if (says !== undefined) expect(explanation.verdict.text).toContain(says)
  expect(text.trimEnd().split('\n').at(-1)).toBe(`verdict: ${code}: ${explanation.verdict.text}`)
  expect(JSON.parse(JSON.stringify(explanation)).verdict.code).toBe(code)
})
