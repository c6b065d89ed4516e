import type { InterfaceAddress } from '../dummy/dummy.ts'
import { deviceName } from '../dummy/layer.ts'
import { targetOf, type SavedTable } from '../iptables/text.ts'
import { cidrContains, cidrText, parseCidr, type Cidr, type Family } from '../model/address.ts'
import type { SetFill } from './status.ts'

export type Severity = 'error' | 'warning' | 'info'

/** A link of the node with its addresses. */
export interface LinkFacts {
  readonly name: string
  /** "dummy", "bridge", "vxlan", …; "" for plain devices. */
  readonly kind: string
  readonly addresses: readonly Pick<InterfaceAddress, 'family' | 'address' | 'prefix'>[]
}

/** What the checks look at; read once, so that a check is a pure function. */
export interface Facts {
  /** Kernel release as uname has it. */
  readonly release: string
  readonly scheduler: string
  readonly excludeCIDRs: readonly Cidr[]
  /** Values by name, "net.ipv4.ip_forward"; one that the kernel does not have is not in it. */
  readonly sysctls: ReadonlyMap<string, string>
  /** What the daemon sets and finds otherwise: name, value, wanted. */
  readonly wrongSysctls: readonly { readonly name: string; readonly value: string; readonly wanted: string }[]
  /** Layers that could not be read, and why. */
  readonly unread: ReadonlyMap<string, string>
  /** Names of loaded modules, "ip_vs_rr"; built-in ones may be missing. */
  readonly modules: ReadonlySet<string>
  /** Virtual servers and destinations in the kernel, both families. */
  readonly servers: number
  readonly destinations: number
  readonly servedFamilies: ReadonlySet<Family>
  readonly schedulersInUse: ReadonlySet<string>
  readonly sets: readonly SetFill[]
  /** Table filter by family. */
  readonly filter: ReadonlyMap<Family, SavedTable>
  /** "nft" or "legacy"; KUBE- chains of the variant that is not in use. */
  readonly variant: string
  readonly chainsOfOtherVariant: readonly string[]
  /** What another mode of kube-proxy left, as text. */
  readonly leftovers: readonly string[]
  readonly links: readonly LinkFacts[]
  /** External and load balancer addresses that are bound here. */
  readonly externalAddresses: readonly string[]
  /** Service addresses, all of them. */
  readonly serviceAddresses: ReadonlySet<string>
  readonly clashes: readonly { readonly owner: string; readonly address: string }[]
  readonly driftCount: number
  /** Why it is not known what is wanted; "" where it is. */
  readonly unknownWanted: string
  /** What answers at the daemon's metrics address. */
  readonly proxy: 'ours' | 'none' | { readonly mode: string }
}

export interface Found {
  readonly severity: Severity
  readonly found: string
  readonly fix: string
}

export interface Check {
  readonly id: string
  readonly title: string
  /** Why it matters. */
  readonly why: string
  readonly run: (facts: Facts) => readonly Found[]
}

export interface Finding extends Found {
  readonly id: string
  readonly title: string
  readonly why: string
}

/** Major and minor of "6.1.0-42-amd64" as one number: 6001. */
export function kernelNumber(release: string): number {
  const [major = 0, minor = 0] = release.split(/[.-]/).map(Number)
  return major * 1000 + minor
}

const none: readonly Found[] = []
const one = (severity: Severity, found: string, fix: string): readonly Found[] => [{ severity, found, fix }]
const listed = (words: readonly string[], most = 5): string =>
  words.length > most ? `${words.slice(0, most).join(', ')} and ${words.length - most} more` : words.join(', ')

/** Virtual servers and destinations from which on estimating all of them is felt as latency before Linux 6.2. */
const manyToEstimate = 2000
/** A set of so many members cannot be made larger. */
const mostMembers = 2 ** 24

export const checks: readonly Check[] = [
  {
    id: 'wanted-unknown',
    title: 'It is known what is wanted',
    why: 'without it nobody can tell drift, clashes of addresses, excludeCIDRs over Services and addresses from outside',
    run: ({ unknownWanted }) =>
      unknownWanted === ''
        ? none
        : one('error', `what is wanted is ${unknownWanted}`, 'start the daemon, or give access to the API server'),
  },
  {
    id: 'layer-unread',
    title: 'The kernel can do what is needed',
    why: 'without IPVS, ipset, iptables or the dummy device no Service is served',
    run: ({ unread }) =>
      [...unread].map(([layer, reason]) => ({
        severity: 'error',
        found: `${layer} could not be read: ${reason}`,
        fix: 'load the modules: modprobe -a ip_vs ip_set dummy; install the package iptables',
      })),
  },
  {
    id: 'scheduler-module',
    title: 'The scheduler is there',
    why: 'a virtual server of a scheduler that the kernel lacks is refused',
    run: ({ scheduler, modules, schedulersInUse, unread }) =>
      schedulersInUse.has(scheduler) || modules.has(`ip_vs_${scheduler}`) || unread.size > 0
        ? none
        : one(
            'warning',
            `no virtual server uses ${scheduler}, and ip_vs_${scheduler} is not among the loaded modules`,
            `modprobe ip_vs_${scheduler}, or choose another ipvs.scheduler; nothing to do where it is built in`,
          ),
  },
  {
    id: 'dummy-device',
    title: `${deviceName} is a dummy device`,
    why: 'service addresses are local only while they are on it, and CNIs tell IPVS mode by its name',
    run: ({ links }) => {
      const device = links.find(({ name }) => name === deviceName)
      if (device === undefined) {
        return one('error', `there is no ${deviceName}`, 'start the daemon, which makes it; modprobe dummy')
      }
      if (device.kind === 'dummy') return none
      const kind = device.kind || 'one without a kind'
      return one(
        'error',
        `${deviceName} is ${kind}`,
        `ip link delete ${deviceName}; the daemon makes it anew, with all addresses`,
      )
    },
  },
  {
    id: 'ip-forward',
    title: 'The node forwards packets',
    why: 'packets to endpoints on other nodes, and their answers, are forwarded',
    run: ({ sysctls, servedFamilies }) => [
      ...(sysctls.get('net.ipv4.ip_forward') === '0' && servedFamilies.has('IPv4')
        ? one('error', 'net.ipv4.ip_forward is 0', 'sysctl -w net.ipv4.ip_forward=1')
        : none),
      ...(sysctls.get('net.ipv6.conf.all.forwarding') === '0' && servedFamilies.has('IPv6')
        ? one('error', 'net.ipv6.conf.all.forwarding is 0', 'sysctl -w net.ipv6.conf.all.forwarding=1')
        : none),
    ],
  },
  {
    id: 'vs-conntrack',
    title: 'Connection tracking sees IPVS',
    why: 'masquerading happens in iptables, which does not see IPVS packets otherwise: answers go astray',
    run: ({ sysctls }) =>
      sysctls.get('net.ipv4.vs.conntrack') === '0'
        ? one('error', 'net.ipv4.vs.conntrack is 0', 'sysctl -w net.ipv4.vs.conntrack=1; find out who sets it to 0')
        : none,
  },
  {
    id: 'conn-reuse-mode',
    title: 'Reused source ports',
    why: 'below Linux 5.9 mode 1 delays such connections by a second, from there on mode 0 sends them to endpoints that are gone',
    run: ({ release, sysctls }) => {
      const mode = sysctls.get('net.ipv4.vs.conn_reuse_mode')
      const kernel = kernelNumber(release)
      if (mode === undefined || kernel < 4001) return none
      if (kernel < 5009 && mode !== '0') {
        return one(
          'warning',
          `net.ipv4.vs.conn_reuse_mode is ${mode} on Linux ${release}`,
          'set it to 0; where the distribution has the cure of 5.9, say so by kubeIpvsProxy.connReuseMode: "1"',
        )
      }
      if (kernel >= 5009 && mode === '0') {
        return one(
          'warning',
          `net.ipv4.vs.conn_reuse_mode is 0 on Linux ${release}`,
          'sysctl -w net.ipv4.vs.conn_reuse_mode=1, the default of this kernel',
        )
      }
      return none
    },
  },
  {
    id: 'estimation-cost',
    title: 'The cost of IPVS statistics',
    why: 'before Linux 6.2 one timer walks through all virtual servers and destinations every 2 s, with soft interrupts held off: latency of tens to hundreds of milliseconds',
    run: ({ release, sysctls, servers, destinations }) => {
      const count = servers + destinations
      const state = sysctls.get('net.ipv4.vs.run_estimation')
      if (kernelNumber(release) >= 6002 || count < manyToEstimate || state === '0') return none
      return one(
        'warning',
        `${count} virtual servers and destinations are estimated on Linux ${release}`,
        state === undefined
          ? 'use Linux 6.2 or newer: this kernel has no net.ipv4.vs.run_estimation to switch it off'
          : 'sysctl -w net.ipv4.vs.run_estimation=0 (rates of ipvsadm then stand still), or Linux 6.2 or newer',
      )
    },
  },
  {
    id: 'input-drop',
    title: 'The host’s own filter lets Services in',
    why: 'IPVS comes after the chain INPUT of table filter: what that drops never reaches a Service',
    run: ({ filter }) => [...filter].flatMap(([family, table]) => inputDrop(family, table)),
  },
  {
    id: 'set-full',
    title: 'Sets have room',
    why: 'what has no room in a set is not masqueraded or not admitted',
    run: ({ sets }) =>
      sets.flatMap(({ set, members, size }) => {
        if (members < 0.8 * size) return none
        const isLast = size >= mostMembers
        return one(
          isLast || members >= size ? 'error' : 'warning',
          `set ${set} has ${members} members of ${size} at most`,
          isLast
            ? 'it cannot grow further: have fewer service ports on this node'
            : 'the daemon puts a larger one in its place when it is full; look at its log if that failed',
        )
      }),
  },
  {
    id: 'conntrack-full',
    title: 'The connection tracking table has room',
    why: 'when it is full the kernel drops new connections, of Services and of all else',
    run: ({ sysctls }) => {
      const count = Number(sysctls.get('net.netfilter.nf_conntrack_count'))
      const most = Number(sysctls.get('net.netfilter.nf_conntrack_max'))
      // 0: no limit.
      if (!(most > 0) || !(count >= 0.8 * most)) return none
      return one(
        count >= 0.95 * most ? 'error' : 'warning',
        `${count} of ${most} entries are in use`,
        'raise conntrack.maxPerCore or conntrack.min in the configuration, and look for who makes so many: conntrack -L',
      )
    },
  },
  {
    id: 'strict-arp',
    title: 'ARP for load balancer addresses',
    why: 'each node has the address on its dummy device, and without arp_ignore all of them answer for it',
    run: ({ sysctls, links, externalAddresses }) => {
      if (sysctls.get('net.ipv4.conf.all.arp_ignore') !== '0') return none
      const caught = externalAddresses.filter((address) => connectedLink(links, address) !== undefined)
      if (caught.length === 0) return none
      return one(
        'warning',
        `arp_ignore is 0, and ${listed(caught)} lies in a subnet of this node's links`,
        'set ipvs.strictARP: true, which MetalLB in layer 2 mode and kube-vip need',
      )
    },
  },
  {
    id: 'iptables-variants',
    title: 'One variant of iptables',
    why: 'rules of both variants are in force at a time, and each tool sees only its own',
    run: ({ variant, chainsOfOtherVariant }) =>
      chainsOfOtherVariant.length === 0
        ? none
        : one(
            'error',
            `this node's variant is ${variant}, and the other one has ${listed(chainsOfOtherVariant)}`,
            `remove them with the tools of the other variant (iptables-${variant === 'nft' ? 'legacy' : 'nft'}), and let kubelet, CNI and proxy use one`,
          ),
  },
  {
    id: 'leftovers',
    title: 'Nothing left of other modes',
    why: 'rules of kube-proxy’s iptables or nftables mode answer for Services beside us, with endpoints of long ago',
    run: ({ leftovers }) =>
      leftovers.length === 0
        ? none
        : one('warning', listed(leftovers), 'the daemon removes them after its first sync; or kube-proxy --cleanup'),
  },
  {
    id: 'other-proxy',
    title: 'One proxy on the node',
    why: 'two of them write the same names in turns, and each removes what the other has made',
    run: ({ proxy }) => {
      if (proxy === 'ours') return none
      if (proxy === 'none') {
        return one(
          'warning',
          'no daemon answers at the metrics address',
          'is it running? kubectl -n kube-system get pods',
        )
      }
      return one(
        'error',
        `a kube-proxy of mode ${proxy.mode || 'unknown'} that is not ours answers at the metrics address`,
        'remove its DaemonSet or static pod from this node',
      )
    },
  },
  {
    id: 'rp-filter',
    title: 'Strict reverse path filter',
    why: 'a client that comes in by one link while its route is another is dropped, as are answers of IPVS over tunnels',
    run: ({ sysctls, links }) => {
      const strict = links.filter(({ name, addresses }) => {
        if (name === 'lo' || name === deviceName || !addresses.some(({ family }) => family === 'IPv4')) return false
        const own = Number(sysctls.get(`net.ipv4.conf.${name}.rp_filter`) ?? 0)
        return Math.max(own, Number(sysctls.get('net.ipv4.conf.all.rp_filter') ?? 0)) === 1
      })
      if (strict.length < 2) return none
      return one(
        'warning',
        `rp_filter is strict on ${listed(strict.map(({ name }) => name))}`,
        'sysctl -w net.ipv4.conf.all.rp_filter=2 (loose), where a node is reached by more than one link',
      )
    },
  },
  {
    id: 'bridge-nf',
    title: 'Bridged packets pass iptables',
    why: 'between two pods on one bridge the answer takes no other way: untranslated, the client does not know it',
    run: ({ sysctls, links }) => {
      const bridges = links.filter(({ name, kind }) => kind === 'bridge' && !/^(docker|virbr|br-|lxdbr)/.test(name))
      if (bridges.length === 0 || sysctls.get('net.bridge.bridge-nf-call-iptables') === '1') return none
      const state = sysctls.has('net.bridge.bridge-nf-call-iptables') ? '0' : 'absent'
      return one(
        'warning',
        `net.bridge.bridge-nf-call-iptables is ${state}, and there is ${listed(bridges.map(({ name }) => name))}`,
        'modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1, where pods hang on that bridge',
      )
    },
  },
  {
    id: 'address-clash',
    title: 'Service addresses are not the node’s',
    why: 'what listens on the node’s address and a Service’s port may be out of reach',
    run: ({ clashes }) =>
      clashes.map(({ owner, address }) => ({
        severity: 'warning',
        found: `${address} of ${owner} is an address of this node, too`,
        fix: 'give the Service, or the node, another address',
      })),
  },
  {
    id: 'exclude-cidrs',
    title: 'excludeCIDRs leave Services alone',
    why: 'what somebody else left at such an address is not repaired, and what is stale there stays',
    run: ({ excludeCIDRs, serviceAddresses }) =>
      excludeCIDRs.flatMap((cidr) => {
        const caught = [...serviceAddresses].filter((address) => cidrContains(cidr, address))
        if (caught.length === 0) return none
        return one(
          'warning',
          `ipvs.excludeCIDRs has ${cidrText(cidr)}, and Services have ${listed(caught)}`,
          'narrow ipvs.excludeCIDRs to what is not Kubernetes’ own',
        )
      }),
  },
  {
    id: 'sysctls',
    title: 'Settings of the daemon are in force',
    why: 'the daemon sets them at its start; somebody has changed them since, or it was not let',
    run: ({ wrongSysctls }) =>
      wrongSysctls.map(({ name, value, wanted }) => ({
        severity: 'warning',
        found: `${name} is ${value}, wanted ${wanted}`,
        fix: name.startsWith('/') ? `echo into ${name}, as root` : `sysctl -w ${name}=${wanted.replace('>= ', '')}`,
      })),
  },
  {
    id: 'drift',
    title: 'The kernel is as wanted',
    why: 'what differs is not served, or not as the cluster says',
    run: ({ driftCount }) =>
      driftCount === 0
        ? none
        : one(
            'warning',
            `${driftCount} things differ`,
            'see kube-ipvs-proxy diff; the daemon repairs them once a period',
          ),
  },
]

/** All findings, errors first. */
export function examine(facts: Facts): readonly Finding[] {
  const findings = checks.flatMap(({ id, title, why, run }) =>
    run(facts).map((found) => ({ id, title, ...found, why })),
  )
  const order: readonly Severity[] = ['error', 'warning', 'info']
  return findings.sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity))
}

/** The link with a subnet that an address lies in; a subnet of one address is none. */
export function connectedLink(links: readonly LinkFacts[], address: string): LinkFacts | undefined {
  return links.find(
    ({ name, addresses }) =>
      name !== deviceName &&
      name !== 'lo' &&
      addresses.some((own) => own.prefix < 31 && cidrContains(parseCidr(`${own.address}/${own.prefix}`)!, address)),
  )
}

/** Whether the rule drops whatever comes to it. */
function dropsAll(rule: string): boolean {
  const bare = rule.replace(/-m comment --comment ("[^"]*"|\S+) ?/, '').replace(/ --reject-with \S+/, '')
  return bare === '-j DROP' || bare === '-j REJECT'
}

/** What a rule of INPUT admits that is no Service's: the node's own, and what is going on already. */
const admitsNoService = /(^| )-i lo( |$)|ESTABLISHED|-p (icmp|ipv6-icmp)( |$)/

function inputDrop(family: Family, table: SavedTable): readonly Found[] {
  const input = table.get('INPUT')
  if (input === undefined) return none
  const end = input.rules.findIndex(dropsAll)
  const isClosed = input.policy === 'DROP' || end >= 0
  if (!isClosed) return none
  const before = end < 0 ? input.rules : input.rules.slice(0, end)
  const accepts = before.filter((rule) => targetOf(rule) === 'ACCEPT' && !admitsNoService.test(rule))
  const isMeantForServices = (rule: string): boolean => / --match-set KUBE-|-m ipvs | -m mark /.test(` ${rule}`)
  const admitsAll = (rule: string): boolean => rule === '-j ACCEPT'
  if (accepts.some((rule) => isMeantForServices(rule) || admitsAll(rule))) return none
  const how = input.policy === 'DROP' ? 'has the policy DROP' : `ends in "${input.rules[end]}"`
  const chains = before.map(targetOf).filter((name) => name !== undefined && table.get(name)?.policy === '-')
  const foreign = chains.filter((name) => !name!.startsWith('KUBE-'))
  const maybe = accepts.length > 0 || foreign.length > 0
  return one(
    maybe ? 'warning' : 'error',
    `${family}: INPUT of table filter ${how}${maybe ? ', and it is not plain that what it accepts covers Services' : ' and accepts no Service'}`,
    `accept them before: ${family === 'IPv4' ? 'iptables' : 'ip6tables'} -I INPUT -m set --match-set ${family === 'IPv4' ? 'KUBE-CLUSTER-IP' : 'KUBE-6-CLUSTER-IP'} dst,dst -j ACCEPT, likewise for load balancer, external and node port sets in use`,
  )
}
