import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cp, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Agent, Daemon, Namespace, root, run, temporaryFolder } from '../lab.ts'

/*
 * The machine that test/golden was made on, with a client and real pods:
 *
 *          fabric (a bridge) ─ 10.0.2.0/24
 *      ┌─────────┼────────────────┐
 *  client .9 to .11  node .15  another node .3
 *              cni0 10.160.1.1  10.160.2.21 and .22, its pods
 *              10.160.1.11
 */

export interface Target {
  readonly protocol: 'TCP' | 'UDP'
  readonly address: string
  readonly port: number
}

/** What clients have seen: see load.mjs. */
export interface Seen {
  readonly opened: number
  readonly exchanged: number
  readonly asked: number
  readonly answered: number
  readonly failures: readonly string[]
}

const program = join(import.meta.dirname, 'load.mjs')

const farPods = ['10.160.2.21', '10.160.2.22']
const nearPod = '10.160.1.11'
/** Enough that within the five minutes of a connection over UDP no port comes round. */
const clients = ['10.0.2.9', '10.0.2.10', '10.0.2.11']

/** Modes of kube-proxy; the state that others than IPVS leave is at hand for 06-nodeport-udp-sctp. */
export type Mode = 'ipvs' | 'iptables' | 'nftables'

export class Machine {
  readonly node = new Namespace('node')
  readonly #others = {
    fabric: new Namespace('fabric'),
    client: new Namespace('client'),
    near: new Namespace('near'),
    far: farPods.map(() => new Namespace('far')),
  }
  readonly #programs: Agent<unknown>[] = []
  readonly #golden: string
  #folder!: { path: string; remove: () => Promise<void> }
  #client!: Agent<unknown>
  daemon: Daemon | undefined
  readonly #daemons: Daemon[] = []

  private constructor(golden: string) {
    this.#golden = join(root, 'test/golden', golden)
  }

  /** Stands with the state that kube-proxy left in that case of test/golden, its objects and configuration at hand. */
  static async withStateOf(golden: string, ports: readonly number[], mode: Mode = 'ipvs'): Promise<Machine> {
    const machine = new Machine(golden)
    machine.#build()
    machine.#restore(mode)
    machine.#folder = await temporaryFolder()
    await mkdir(machine.#objects)
    await cp(join(machine.#golden, 'objects.json'), join(machine.#objects, 'objects.json'))
    await machine.configure('')
    await machine.#serve(ports)
    return machine
  }

  /** Writes the case's configuration with further lines; a daemon that runs follows. */
  async configure(lines: string): Promise<void> {
    const config = this.#read('kube-proxy-config.yaml')
    await writeFile(join(this.#folder.path, 'config.yaml'), `${config}\n${lines}\n`)
  }

  async startDaemon(): Promise<void> {
    this.daemon = new Daemon(this.node, [
      `--config=${join(this.#folder.path, 'config.yaml')}`,
      `--manifests=${this.#objects}`,
      '--hostname-override=vm1',
      '-v=2',
    ])
    this.#daemons.push(this.daemon)
    await this.daemon.synced()
  }

  /** What any of the daemons has said from so many milliseconds before that time to as many after it. */
  saidAround(time: string, milliseconds: number): readonly string[] {
    const isNear = (other: unknown): boolean => Math.abs(Date.parse(String(other)) - Date.parse(time)) <= milliseconds
    return this.#daemons
      .flatMap(({ lines }) => lines)
      .filter((line) => isNear(line.time))
      .map((line) => JSON.stringify(line))
  }

  load(targets: readonly Target[], long: number, rate: number): Promise<unknown> {
    return this.#client.order({ op: 'load', addresses: clients, targets, long, rate })
  }

  async report(): Promise<Seen> {
    return (await this.#client.order({ op: 'report' })) as Seen
  }

  async endLoad(): Promise<Seen> {
    return (await this.#client.order({ op: 'end' })) as Seen
  }

  async destroy(): Promise<void> {
    await this.daemon?.stop('SIGKILL')
    for (const agent of this.#programs) agent.end()
    const { fabric, client, near, far } = this.#others
    for (const namespace of [this.node, fabric, client, near, ...far]) namespace.destroy()
    await this.#folder.remove()
  }

  get #objects(): string {
    return join(this.#folder.path, 'objects')
  }

  #read(file: string): string {
    return readFileSync(join(this.#golden, file), 'utf8')
  }

  #build(): void {
    const { fabric, client, near, far } = this.#others
    const plug = (namespace: Namespace, link: string, elsewhere: Namespace, bridge: string, port: string): void => {
      run('ip', 'link', 'add', link, 'netns', namespace.name, 'type', 'veth', 'peer', port, 'netns', elsewhere.name)
      run('ip', '-n', elsewhere.name, 'link', 'set', port, 'master', bridge, 'up')
      namespace.ip(`link set ${link} up`)
    }
    fabric.ip('link add net type bridge', 'link set net up')
    plug(this.node, 'eth0', fabric, 'net', 'node')
    this.node.ip(
      'address add 10.0.2.15/24 dev eth0',
      'address add fec0::15/64 dev eth0 nodad',
      'link add cni0 type bridge',
      'link set cni0 up',
      'address add 10.160.1.1/24 dev cni0',
      'address add fd00:10:160:1::1/64 dev cni0 nodad',
      'link add dummy0 type dummy',
    )
    plug(client, 'eth0', fabric, 'net', 'client')
    client.ip(
      ...clients.map((address) => `address add ${address}/24 dev eth0`),
      ...['10.96.0.0/12', '203.0.113.0/24'].map((range) => `route add ${range} via 10.0.2.15`),
    )
    plug(near, 'eth0', this.node, 'cni0', 'veth11')
    near.ip(`address add ${nearPod}/24 dev eth0`, 'route add default via 10.160.1.1')
    // The other node is no more than a place where its pods are: one namespace for each, reached through the fabric.
    for (const [i, pod] of far.entries()) {
      plug(pod, 'eth0', fabric, 'net', `far${i}`)
      pod.ip(`address add 10.0.2.${3 + i}/24 dev eth0`, `address add ${farPods[i]}/32 dev eth0`)
      this.node.ip(`route add ${farPods[i]} via 10.0.2.${3 + i}`)
      pod.ip('route add 10.160.1.0/24 via 10.0.2.15')
    }
  }

  /** As kube-proxy left it; the sets' and rules' order is that of its own start. */
  #restore(mode: Mode): void {
    const feed = (input: string, command: string, ...args: string[]): void => {
      execFileSync('ip', ['netns', 'exec', this.node.name, command, ...args], {
        input,
        stdio: ['pipe', 'ignore', 'pipe'],
      })
    }
    this.node.run('sysctl', '-qw', 'net.ipv4.ip_forward=1')
    if (mode === 'nftables') return feed(this.#read('nftables-mode.txt'), 'nft', '-f', '-')
    if (mode === 'iptables') {
      // Its counters of packets would have to be made by a tool of their own.
      return feed(this.#read('iptables-mode.txt').replaceAll(/ -m nfacct --nfacct-name +\S+/g, ''), 'iptables-restore')
    }
    this.node.ip('link add kube-ipvs0 type dummy')
    const addresses = [...this.#read('ip-addr-kube-ipvs0.txt').matchAll(/inet6? (\S+)/g)].map(([, address]) => address!)
    for (const address of addresses.filter((one) => !one.startsWith('fe80'))) {
      this.node.ip(`address add ${address} dev kube-ipvs0${address.includes(':') ? ' nodad' : ''}`)
    }
    feed(this.#read('ipset-save.txt').replaceAll(/ initval \S+/g, ''), 'ipset', 'restore')
    feed(this.#read('ipvsadm-Sn.txt'), 'ipvsadm', '-R')
    feed(this.#read('iptables-save.txt'), 'iptables-restore')
    feed(this.#read('ip6tables-save.txt'), 'ip6tables-restore')
    const found = new Map(
      this.#read('sysctls.txt')
        .split('\n')
        .map((line) => line.split(' = ') as [string, string]),
    )
    for (const name of ['net.ipv4.vs.conntrack', 'net.ipv4.vs.expire_nodest_conn']) {
      this.node.run('sysctl', '-qw', `${name}=${found.get(name)!}`)
    }
  }

  async #serve(ports: readonly number[]): Promise<void> {
    const start = (namespace: Namespace): Agent<unknown> => {
      const agent = new Agent(namespace, program)
      this.#programs.push(agent)
      return agent
    }
    const { client, near, far } = this.#others
    this.#client = start(client)
    const addresses = [nearPod, ...farPods]
    await Promise.all(
      [near, ...far].map((namespace, i) => {
        return start(namespace).order({ op: 'serve', name: `pod${i}`, address: addresses[i], ports })
      }),
    )
  }
}
