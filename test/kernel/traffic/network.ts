import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { familyOf, type Family } from '../../../src/model/address.ts'
import { Agent, Daemon, eventually, Namespace, run, temporaryFolder, writeManifest } from '../lab.ts'

/*
 *              fabric (a bridge) ─ 192.168.60.0/24, fd60::/64
 *      ┌─────────────┼──────────────┐
 *   node-a .1     node-b .2      client .9 and .10
 *   cni0          cni0           routes service addresses to node-a
 *   a1 a2         b1 b2
 *   10.244.1.0/24 10.244.2.0/24
 */

export type Pod = 'a1' | 'a2' | 'b1' | 'b2'
export type NodeName = 'node-a' | 'node-b'
export type Actor = Pod | NodeName | 'client'

export const pods: readonly Pod[] = ['a1', 'a2', 'b1', 'b2']
export const nodes: readonly NodeName[] = ['node-a', 'node-b']
export const families: readonly Family[] = ['IPv4', 'IPv6']

export type Transport = 'TCP' | 'UDP' | 'SCTP'

type Pair = Readonly<Record<Family, string>>

const addresses: Readonly<Record<Actor, Pair>> = {
  'node-a': { IPv4: '192.168.60.1', IPv6: 'fd60::1' },
  'node-b': { IPv4: '192.168.60.2', IPv6: 'fd60::2' },
  client: { IPv4: '192.168.60.9', IPv6: 'fd60::9' },
  a1: { IPv4: '10.244.1.2', IPv6: 'fd44:1::2' },
  a2: { IPv4: '10.244.1.3', IPv6: 'fd44:1::3' },
  b1: { IPv4: '10.244.2.2', IPv6: 'fd44:2::2' },
  b2: { IPv4: '10.244.2.3', IPv6: 'fd44:2::3' },
}

/** The client's second address of each family. */
export const otherClient: Pair = { IPv4: '192.168.60.10', IPv6: 'fd60::a' }

/** Of a node: its address towards its pods. */
const bridges: Readonly<Record<NodeName, Pair>> = {
  'node-a': { IPv4: '10.244.1.1', IPv6: 'fd44:1::1' },
  'node-b': { IPv4: '10.244.2.1', IPv6: 'fd44:2::1' },
}

export const podCIDRs: Readonly<Record<NodeName, Pair>> = {
  'node-a': { IPv4: '10.244.1.0/24', IPv6: 'fd44:1::/64' },
  'node-b': { IPv4: '10.244.2.0/24', IPv6: 'fd44:2::/64' },
}

/** All pods' ranges, as the daemons are told. */
export const clusterCIDRs = '--cluster-cidr=10.244.0.0/16,fd44::/16'

/** Ranges of service addresses, as `Service` hands them out; nobody but nodes with a proxy knows them. */
const servicePrefixes = {
  clusterIP: { IPv4: '10.96.0.', IPv6: 'fd96::' },
  loadBalancer: { IPv4: '203.0.113.', IPv6: '2001:db8:1::' },
  externalIP: { IPv4: '198.51.100.', IPv6: '2001:db8:2::' },
} as const

export type ServiceAddress = keyof typeof servicePrefixes

export function addressOf(actor: Actor, family: Family): string {
  return addresses[actor][family]
}

export function bridgeOf(node: NodeName, family: Family): string {
  return bridges[node][family]
}

export function nodeOf(pod: Pod): NodeName {
  return pod.startsWith('a') ? 'node-a' : 'node-b'
}

/** An address of the Service with that number. */
export function serviceAddress(kind: ServiceAddress, number: number, family: Family): string {
  return `${servicePrefixes[kind][family]}${number.toString(family === 'IPv4' ? 10 : 16)}`
}

export interface Question {
  readonly transport: Transport
  readonly address: string
  readonly port: number
  readonly source?: string
  /** Of UDP; any where absent. */
  readonly sourcePort?: number
  /** Milliseconds until the answer is "timeout". */
  readonly timeout?: number
  /** Ends the connection by RST. */
  readonly reset?: boolean
}

/** Ports that every pod serves over each transport, and that nodes serve as any host does. */
export const podPorts = [8080, 8081] as const
export const hostPorts = [22, 10250] as const

/** Two nodes with two pods each and a client, joined by a bridge; a daemon in each node, fed from one folder. */
export class Network {
  readonly #namespaces = new Map<Actor | 'fabric', Namespace>()
  readonly #agents = new Map<Actor, Agent<string>>()
  readonly daemons = new Map<NodeName, Daemon>()
  #folder: { path: string; remove: () => Promise<void> } | undefined

  /** Builds it, starts servers and daemons, and waits until the daemons have written what the objects want. */
  static async start(objects: readonly unknown[], flags: readonly string[] = []): Promise<Network> {
    const network = new Network()
    try {
      network.#build()
      network.#folder = await temporaryFolder()
      await network.write('nodes.json', ...nodes.map(nodeObject))
      await network.write('objects.json', ...objects)
      const served = network.#serve()
      for (const name of nodes) {
        const manifests = `--manifests=${network.#folder.path}`
        const args = [manifests, '--proxy-mode=ipvs', `--hostname-override=${name}`, clusterCIDRs]
        network.daemons.set(name, new Daemon(network.namespace(name), [...args, ...flags]))
      }
      await Promise.all([served, ...[...network.daemons.values()].map((daemon) => daemon.synced())])
    } catch (error) {
      await network.destroy()
      throw error
    }
    return network
  }

  namespace(name: Actor | 'fabric'): Namespace {
    return this.#namespaces.get(name)!
  }

  /** Where the daemons read their objects. */
  get folder(): string {
    return this.#folder!.path
  }

  /** Writes or replaces a manifest file; the daemons follow in their own time. */
  async write(file: string, ...objects: unknown[]): Promise<void> {
    await writeManifest(this.#folder!.path, file, ...objects)
  }

  async remove(file: string): Promise<void> {
    await rm(join(this.#folder!.path, file))
  }

  /** "POD CLIENT PORT" as the server says it; or "refused", "timeout", or another error by name. */
  ask(from: Actor, { transport, timeout = 10_000, ...rest }: Question): Promise<string> {
    const protocol = transport.toLowerCase()
    // The client has two addresses of a family. An SCTP socket not bound to one tells its peer all that its namespace
    // has: no NAT corrects them, and with those of kube-ipvs0 they soon fill more than a packet.
    const bound = from === 'client' || transport === 'SCTP'
    const source = bound ? { source: addressOf(from, familyOf(rest.address)) } : {}
    return this.#agents.get(from)!.order({ op: 'ask', protocol, timeout, ...source, ...rest })
  }

  /** Several at once; sorted, for which comes first is chance. */
  async askMany(from: Actor, count: number, question: Question): Promise<string[]> {
    return (await Promise.all(Array.from({ length: count }, () => this.ask(from, question)))).sort()
  }

  /** Asks until the answers are as wanted: for changes, which take their time and cut what is under way. */
  async becomes(from: Actor, question: Question, wanted: readonly string[]): Promise<void> {
    let last: string[] = []
    const text = [...wanted].sort().join()
    const what = () => `${from} asking ${JSON.stringify(question)} to get ${text}; it got ${last.join()}`
    try {
      await eventually(
        'it',
        async () => (last = await this.askMany(from, wanted.length, { timeout: 2000, ...question })).join() === text,
      )
    } catch {
      const logs = [...this.daemons].map(([name, { lines }]) => `${name}: ${JSON.stringify(lines.slice(-3))}`)
      throw new Error(`timed out waiting for ${what()}\n${logs.join('\n')}`)
    }
  }

  async destroy(): Promise<void> {
    await Promise.all([...this.daemons.values()].map((daemon) => daemon.stop()))
    for (const agent of this.#agents.values()) agent.end()
    for (const namespace of this.#namespaces.values()) namespace.destroy()
    await this.#folder?.remove()
  }

  #build(): void {
    for (const name of ['fabric', 'client', ...nodes, ...pods] as const) {
      this.#namespaces.set(name, new Namespace(name))
    }
    const { name: fabric } = this.namespace('fabric')
    run('modprobe', '-a', 'br_netfilter', 'sctp')
    this.namespace('fabric').ip('link add net type bridge', 'link set net up')
    for (const name of ['client', ...nodes] as const) this.#join(name, fabric, name, 'net')
    this.namespace('client').ip(...families.map((family) => `address add ${whole(otherClient[family])} dev eth0 nodad`))

    for (const node of nodes) {
      const other = node === 'node-a' ? 'node-b' : 'node-a'
      const namespace = this.namespace(node)
      namespace.ip(
        'link add cni0 type bridge',
        'link set cni0 up',
        ...families.map((family) => `address add ${prefixed(bridgeOf(node, family))} dev cni0 nodad`),
        ...families.map((family) => `route add ${podCIDRs[other][family]} via ${addressOf(other, family)}`),
      )
      // What a node of a cluster has anyway; the proxy itself sets net.ipv4.ip_forward alone. Without the limits of
      // ICMP a refusal may be silent.
      namespace.run(
        'sysctl',
        '-qw',
        'net.ipv6.conf.all.forwarding=1',
        'net.bridge.bridge-nf-call-iptables=1',
        'net.bridge.bridge-nf-call-ip6tables=1',
        'net.ipv4.icmp_ratelimit=0',
        'net.ipv6.icmp.ratelimit=0',
      )
    }
    for (const pod of pods) {
      const node = nodeOf(pod)
      this.#join(pod, this.namespace(node).name, pod, 'cni0')
      this.namespace(node).ip(`link set ${pod} type bridge_slave hairpin on`)
      this.namespace(pod).ip(...families.map((family) => `route add default via ${bridgeOf(node, family)}`))
    }
    this.namespace('client').ip(
      ...families.flatMap((family) => [
        ...Object.values(servicePrefixes).map(
          (prefixes) => `route add ${range(prefixes[family])} via ${addressOf('node-a', family)}`,
        ),
        ...nodes.map((node) => `route add ${podCIDRs[node][family]} via ${addressOf(node, family)}`),
      ]),
    )
  }

  /** An eth0 with the actor's addresses, its other end a port of a bridge elsewhere. */
  #join(name: Actor, elsewhere: string, port: string, bridge: string): void {
    const namespace = this.namespace(name)
    run('ip', 'link', 'add', 'eth0', 'netns', namespace.name, 'type', 'veth', 'peer', port, 'netns', elsewhere)
    run('ip', '-n', elsewhere, 'link', 'set', port, 'master', bridge, 'up')
    namespace.ip(
      'link set eth0 up',
      ...families.map((family) => `address add ${prefixed(addressOf(name, family))} dev eth0 nodad`),
    )
  }

  async #serve(): Promise<void> {
    const orders: Promise<string>[] = []
    for (const name of ['client', ...nodes, ...pods] as const) {
      const agent = new Agent<string>(this.namespace(name), join(import.meta.dirname, 'agent.mjs'), name)
      this.#agents.set(name, agent)
      const isPod = pods.some((pod) => pod === name)
      const ports = isPod ? podPorts : name === 'client' ? [] : [...hostPorts, 6443]
      const own = families.map((family) => addressOf(name, family))
      for (const port of ports) {
        for (const protocol of ['tcp', 'udp']) orders.push(agent.order({ op: 'serve', protocol, port }))
      }
      if (isPod) orders.push(agent.order({ op: 'serve', protocol: 'sctp', port: podPorts[0], addresses: own }))
    }
    const failed = (await Promise.all(orders)).filter((answer) => answer !== 'done')
    if (failed.length > 0) throw new Error(`servers did not start: ${failed.join('; ')}`)
  }
}

function prefixed(address: string): string {
  return `${address}/${address.includes(':') ? 64 : 24}`
}

/** A range of that address alone. */
export function whole(address: string): string {
  return `${address}/${address.includes(':') ? 128 : 32}`
}

/** The range of a prefix of servicePrefixes. */
function range(prefix: string): string {
  return prefix.includes(':') ? `${prefix}/112` : `${prefix}0/24`
}

function nodeObject(name: NodeName): unknown {
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name, labels: { 'topology.kubernetes.io/zone': `zone-of-${name}` } },
    spec: { podCIDRs: families.map((family) => podCIDRs[name][family]) },
    status: { addresses: families.map((family) => ({ type: 'InternalIP', address: addressOf(name, family) })) },
  }
}
