import type { Problem } from '../config/load.ts'
import { parseListen, type ProxyConfig } from '../config/schema.ts'
import { isLoopback } from '../model/address.ts'
import { modulesFor } from '../node/modules.ts'
import { connectedLink, checks as doctorChecks, type Facts, type Severity } from './checks.ts'
import type { RunningProxy } from './migration-settings.ts'

/** What of the cluster's Services decides how much of a change they see. */
export interface ServiceTraits {
  readonly count: number
  /** "namespace/name" of those with a node port, with client affinity, with externalTrafficPolicy Local. */
  readonly nodePorts: readonly string[]
  readonly affinity: readonly string[]
  readonly externalLocal: readonly string[]
  /** Who gives out load balancer addresses, by the annotations that it leaves. */
  readonly announcers: readonly string[]
}

/** What the checks look at: doctor's facts, read with the settings to come, and what is to be taken over. */
export interface MigrationFacts extends Facts {
  readonly running: RunningProxy | undefined
  readonly config: ProxyConfig
  readonly settingsFrom: string
  /** The mode that the settings name. */
  readonly settingsMode: string
  readonly problems: readonly Problem[]
  readonly services: ServiceTraits
  /** Programs that write rules on this node, by their chains. */
  readonly writers: readonly string[]
  /** Whether modprobe finds a module, by name; what it cannot tell is not in it. */
  readonly available: ReadonlyMap<string, boolean>
}

export interface Effect {
  /** error: to be done before; warning: somebody may miss it; info: good to know. */
  readonly severity: Severity
  readonly found: string
  /** What will change. */
  readonly change: string
  /** "" where there is nothing to do. */
  readonly todo: string
}

export interface MigrationCheck {
  readonly id: string
  readonly title: string
  readonly run: (facts: MigrationFacts) => readonly Effect[]
}

export interface MigrationFinding extends Effect {
  readonly id: string
  readonly title: string
}

type Former = 'ours' | 'ipvs' | 'iptables' | 'nftables' | 'unknown'

/** The mode that is left: as the running proxy says, else by what it left in the kernel, else as the settings name it. */
export function formerMode({ running, leftovers, servers, links, settingsMode }: MigrationFacts): Former {
  const known = (mode: string): Former | undefined =>
    mode === 'ipvs' || mode === 'iptables' || mode === 'nftables' ? mode : undefined
  if (running?.isOurs) return 'ours'
  const said = known(running?.mode ?? '')
  if (said !== undefined) return said
  if (leftovers.some((one) => one.startsWith('nftables table '))) return 'nftables'
  if (servers > 0 && links.some(({ name }) => name === 'kube-ipvs0')) return 'ipvs'
  if (leftovers.length > 0) return 'iptables'
  return known(settingsMode) ?? 'unknown'
}

/** From a mode without IPVS, as far as is known. */
const isNew = (facts: MigrationFacts): boolean => !['ours', 'ipvs'].includes(formerMode(facts))

/** Of manifests/base/daemonset.yaml. */
const probedPort = 10256

const none: readonly Effect[] = []
const one = (severity: Severity, found: string, change: string, todo = ''): readonly Effect[] => [
  { severity, found, change, todo },
]
const such = (names: readonly string[]): string =>
  `${names.length} ${names.length === 1 ? 'Service' : 'Services'}, such as ${names[0]!}`

/** What the kernel must have, as a module or built in. */
export function neededModules(scheduler: string): readonly string[] {
  return [...modulesFor(scheduler), 'dummy']
}

/** Programs that have to do with Services, by the names of otherWriters. */
const programs: Readonly<Record<string, Omit<Effect, 'found'>>> = {
  Cilium: {
    severity: 'warning',
    change: 'with kubeProxyReplacement it serves Services itself, before IPVS sees a packet',
    todo: 'find out: cilium-dbg status | grep KubeProxyReplacement; where it is True there is no kube-proxy to replace',
  },
  Calico: {
    severity: 'info',
    change:
      'Felix finds kube-ipvs0 and restarts itself into its own IPVS mode; policies for node ports go by its setting kubeNodePortRanges',
    todo: 'let kubeNodePortRanges be those of the API server',
  },
  Antrea: {
    severity: 'warning',
    change: 'AntreaProxy serves cluster IPs for pods itself, with proxyAll node ports, too',
    todo: 'with proxyAll there is no kube-proxy to replace',
  },
  'kube-router': {
    severity: 'warning',
    change: 'its service proxy, where it is on, writes virtual servers as well, and each removes those of the other',
    todo: 'run it with --run-service-proxy=false',
  },
  'OVN-Kubernetes': {
    severity: 'warning',
    change: 'it serves Services itself',
    todo: 'there is no kube-proxy to replace',
  },
}

export const migrationChecks: readonly MigrationCheck[] = [
  {
    id: 'former-proxy',
    title: 'What is replaced',
    run: (facts) => {
      const { running } = facts
      const former = formerMode(facts)
      const who =
        running === undefined
          ? `no kube-proxy answers at the metrics address; what is left in the kernel looks like mode ${former}`
          : `kube-proxy ${running.version || 'of a version that it does not tell'} in mode ${running.mode || former}`
      switch (former) {
        case 'ours':
          return one('info', 'this node has been moved: kube-ipvs-proxy answers here', 'nothing')
        case 'ipvs':
          return one(
            'info',
            who,
            'virtual servers, sets, rules and addresses are taken over as they stand; docs/deviations.md has what differs',
          )
        case 'unknown':
          return one('warning', who, 'it cannot be said', 'start kube-proxy, or give --config')
        default:
          return one(
            'info',
            who,
            `its rules stay until ours stand, and are removed then; open connections stay with connection tracking`,
          )
      }
    },
  },
  {
    id: 'settings',
    title: 'The configuration is accepted',
    run: ({ problems, settingsFrom }) =>
      problems.map(({ path, reason }) => ({
        severity: 'error',
        found: `${path} ${reason}`,
        change: 'the daemon would not start: exit code 1',
        todo: `correct it in ${settingsFrom === '' ? 'the flags' : settingsFrom}, or in the ConfigMap that this is from`,
      })),
  },
  {
    id: 'settings-unknown',
    title: 'The configuration is known',
    run: ({ settingsFrom }) =>
      settingsFrom !== ''
        ? none
        : one(
            'warning',
            'no --config is given, and no kube-proxy here says what it has',
            'the other checks take the defaults',
            'give --config with the file of the ConfigMap kube-proxy',
          ),
  },
  {
    id: 'mode',
    title: 'The mode of the configuration',
    run: ({ settingsMode }) =>
      settingsMode === 'ipvs' || settingsMode === ''
        ? none
        : one(
            'info',
            `the configuration names mode ${settingsMode}`,
            'the flag --proxy-mode=ipvs of our DaemonSet goes before it, so the way back needs no edit',
          ),
  },
  {
    id: 'probes',
    title: 'The kubelet reaches the health server',
    run: ({ config }) => {
      const { host, port } = parseListen(config.healthzBindAddress, probedPort) ?? { host: '', port: 0 }
      if (port === probedPort && !isLoopback(host)) return none
      return one(
        'error',
        `healthzBindAddress is ${config.healthzBindAddress || 'switched off'}`,
        `the probes of our DaemonSet ask port ${probedPort} of the node: the kubelet would end the daemon again and again`,
        `leave healthzBindAddress at 0.0.0.0:${probedPort}, or give the probes its port`,
      )
    },
  },
  {
    id: 'objects-unknown',
    title: 'The Services are known',
    run: ({ unknownWanted }) =>
      unknownWanted === ''
        ? none
        : one(
            'warning',
            `what Services want is ${unknownWanted}`,
            'checks that look at Services find nothing',
            'give --kubeconfig, or run it as manifests/migrate-check.yaml does',
          ),
  },
  {
    id: 'modules',
    title: 'The kernel has what is needed',
    run: ({ available, modules, scheduler, schedulersInUse }) =>
      neededModules(scheduler).flatMap((name) => {
        const isThere = modules.has(name) || available.get(name) !== false
        if (isThere || schedulersInUse.has(name.replace('ip_vs_', ''))) return none
        return one(
          'error',
          `${name} is neither loaded nor found by modprobe`,
          'the daemon would not start: exit code 3',
          'install the kernel’s package of modules, or choose another ipvs.scheduler',
        )
      }),
  },
  {
    id: 'foreign-servers',
    title: 'Virtual servers of others',
    run: (facts) => {
      const { servers, excludeCIDRs } = facts
      if (!isNew(facts) || formerMode(facts) === 'unknown' || servers === 0) return none
      return one(
        excludeCIDRs.length === 0 ? 'error' : 'warning',
        `${servers} virtual servers stand, which kube-proxy in mode ${formerMode(facts)} has not made`,
        'those outside ipvs.excludeCIDRs that no Service wants are removed',
        'ipvsadm -Ln; put their addresses (kube-vip, keepalived) into ipvs.excludeCIDRs',
      )
    },
  },
  {
    id: 'loopback-node-ports',
    title: 'Node ports on 127.0.0.1',
    run: (facts) =>
      formerMode(facts) === 'iptables' &&
      facts.config['iptables.localhostNodePorts'] &&
      facts.services.nodePorts.length > 0
        ? one(
            'warning',
            `iptables.localhostNodePorts is true, and there are node ports: ${such(facts.services.nodePorts)}`,
            'node ports on 127.0.0.1 answer no more: IPVS cannot route from loopback',
            'ask the node’s own address; kubeproxy_iptables_localhost_nodeports_accepted_packets_total of kube-proxy tells whether anybody does',
          )
        : none,
  },
  {
    id: 'node-port-addresses',
    title: 'Where node ports answer',
    run: (facts) =>
      formerMode(facts) === 'nftables' &&
      facts.config.nodePortAddresses.length === 0 &&
      facts.services.nodePorts.length > 0
        ? one(
            'warning',
            'nodePortAddresses is empty, which in nftables mode means the node’s primary addresses',
            'node ports answer at every address of the node',
            'set nodePortAddresses: [primary]',
          )
        : none,
  },
  {
    id: 'idle-connections',
    title: 'Idle connections',
    run: (facts) =>
      isNew(facts) && facts.config['ipvs.tcpTimeout'] === 0
        ? one(
            'warning',
            'ipvs.tcpTimeout is 0, which keeps the kernel’s 15 minutes',
            'a TCP connection to a Service that is idle for longer is cut; connection tracking alone kept it for conntrack.tcpEstablishedTimeout',
            'set ipvs.tcpTimeout, for example to 2h5m, or have clients send keep-alives',
          )
        : none,
  },
  {
    id: 'affinity',
    title: 'Client affinity',
    run: (facts) =>
      isNew(facts) && facts.services.affinity.length > 0
        ? one(
            'info',
            `sessionAffinity ClientIP: ${such(facts.services.affinity)}`,
            'clients are given endpoints anew once, and their affinity may outlast its timeout while closed connections wait',
          )
        : none,
  },
  {
    id: 'external-local',
    title: 'externalTrafficPolicy Local',
    run: (facts) =>
      isNew(facts) && facts.services.externalLocal.length > 0
        ? one(
            'info',
            such(facts.services.externalLocal),
            'pods that ask a load balancer address get the endpoints of their node where there are some, not all; on a node without any, outside clients hang',
            'kubeIpvsProxy.strictExternalTrafficPolicy: true refuses them at once',
          )
        : none,
  },
  {
    id: 'strict-arp',
    title: 'ARP for load balancer addresses',
    run: (facts) => {
      const { config, sysctls, links, externalAddresses, services } = facts
      if (config['ipvs.strictARP'] || sysctls.get('net.ipv4.conf.all.arp_ignore') !== '0') return none
      const caught = externalAddresses.find((address) => connectedLink(links, address) !== undefined)
      if (caught === undefined) return none
      const by = services.announcers.length === 0 ? '' : ` (${services.announcers.join(', ')})`
      return one(
        isNew(facts) ? 'error' : 'warning',
        `${caught} lies in a subnet of this node’s links${by}, ipvs.strictARP is false and arp_ignore 0`,
        'every node has the address on kube-ipvs0, and answers ARP for it',
        'set ipvs.strictARP: true, which MetalLB in layer 2 mode and kube-vip need',
      )
    },
  },
  {
    id: 'node-local-dns',
    title: 'NodeLocal DNSCache',
    run: (facts) => {
      const cache = facts.links.find(({ name }) => name === 'nodelocaldns')
      if (cache === undefined || !isNew(facts)) return none
      const own = new Set(cache.addresses.map(({ address }) => address))
      const taken = facts.clashes.find(({ address }) => own.has(address))
      if (taken === undefined) return none
      return one(
        'error',
        `the cache listens on ${taken.address}, the cluster IP of ${taken.owner}`,
        'IPVS takes these queries before the cache sees them, and the cache has them untracked',
        'set the cache up for IPVS mode: on 169.254.20.10 alone, and that as clusterDNS of the kubelets',
      )
    },
  },
  {
    id: 'other-programs',
    title: 'Programs beside it',
    run: ({ writers }) =>
      writers.flatMap((who) => {
        const known = programs[who]
        return known === undefined ? none : [{ ...known, found: `${who} writes rules here` }]
      }),
  },
]

/** Of doctor's: what stands in the way here as there. */
const alsoDoctors: ReadonlySet<string> = new Set([
  'input-drop',
  'iptables-variants',
  'estimation-cost',
  'conntrack-full',
  'rp-filter',
  'bridge-nf',
  'exclude-cidrs',
])

const all: readonly MigrationCheck[] = [
  ...migrationChecks,
  ...doctorChecks
    .filter(({ id }) => alsoDoctors.has(id))
    .map(({ id, title, why, run }) => ({
      id,
      title,
      run: (facts: MigrationFacts) =>
        run(facts).map(({ severity, found, fix }) => ({ severity, found, change: why, todo: fix })),
    })),
]

export const migrationCheckCount = all.length

/** All findings, what has to be done first in front. */
export function examineMigration(facts: MigrationFacts): readonly MigrationFinding[] {
  const findings = all.flatMap(({ id, title, run }) => run(facts).map((effect) => ({ id, title, ...effect })))
  const order: readonly Severity[] = ['error', 'warning', 'info']
  return findings.sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity))
}
