import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  Daemon,
  eventually,
  Namespace,
  nodeObject,
  run,
  serviceObject,
  sliceObject,
  temporaryFolder,
  writeManifest,
} from '../lab.ts'

const clusterIP = '10.96.10.10'
const nodeIP = '192.168.50.1'
const pods = ['10.244.1.2', '10.244.1.3']

/** A client, a node and two pods, each a namespace, joined by veth pairs; the daemon runs in the node. */
class Network {
  readonly client = new Namespace('client')
  readonly node = new Namespace('node')
  readonly pods = pods.map(() => new Namespace('pod'))
  readonly servers: ChildProcess[] = []

  constructor() {
    run(
      'ip',
      '-n',
      this.node.name,
      'link',
      'add',
      'eth0',
      'type',
      'veth',
      'peer',
      'name',
      'eth0',
      'netns',
      this.client.name,
    )
    this.node.ip(
      'link set eth0 up',
      `address add ${nodeIP}/24 dev eth0`,
      'link add cni0 type bridge',
      'link set cni0 up',
      'address add 10.244.1.1/24 dev cni0',
    )
    this.client.ip('link set eth0 up', 'address add 192.168.50.2/24 dev eth0', `route add 10.96.0.0/12 via ${nodeIP}`)
    for (const [i, pod] of this.pods.entries()) {
      run(
        'ip',
        '-n',
        this.node.name,
        'link',
        'add',
        `veth${i}`,
        'type',
        'veth',
        'peer',
        'name',
        'eth0',
        'netns',
        pod.name,
      )
      this.node.ip(`link set veth${i} master cni0 up`)
      pod.ip('link set eth0 up', `address add ${pods[i]}/24 dev eth0`, 'route add default via 10.244.1.1')
    }
  }

  /** Each pod echoes lines, its own address before them. */
  async serve(): Promise<void> {
    for (const [i, pod] of this.pods.entries()) {
      const server = pod.spawn(process.execPath, [
        '-e',
        `
        require('net').createServer((s) => { s.on('error', () => {}); s.on('data', (d) => s.write('${pods[i]} ' + d)) }).listen(8080, () => console.log('up'))`,
      ])
      this.servers.push(server)
      await once(server.stdout!, 'data')
    }
  }

  destroy(): void {
    for (const server of this.servers) server.kill('SIGKILL')
    for (const namespace of [this.client, this.node, ...this.pods]) namespace.destroy()
  }
}

/** A TCP connection from a namespace that stays open: each line is answered by the pod that holds it. */
class Connection {
  readonly #child: ChildProcess
  readonly #lines: string[] = []
  closed = false

  constructor(namespace: Namespace, address: string, port: number) {
    this.#child = spawn(
      'ip',
      [
        'netns',
        'exec',
        namespace.name,
        process.execPath,
        '-e',
        `
      const s = require('net').connect(${port}, '${address}', () => console.log('connected'))
      s.on('data', (d) => process.stdout.write(d)); s.on('close', () => process.exit(1)); s.on('error', (e) => console.log(e.code))
      process.stdin.on('data', (d) => s.write(d))`,
      ],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    )
    createInterface({ input: this.#child.stdout! }).on('line', (line) => this.#lines.push(line))
    this.#child.on('exit', () => (this.closed = true))
  }

  async line(what: RegExp): Promise<string> {
    return eventually(`connection to say ${String(what)}`, () => this.#lines.find((line) => what.test(line)) ?? '')
  }

  /** Sends a line and gives the answer. */
  async ask(text: string): Promise<string> {
    this.#child.stdin!.write(`${text}\n`)
    return this.line(new RegExp(`${text}$`))
  }

  end(): void {
    this.#child.kill('SIGKILL')
  }
}

let network: Network
let folder: { path: string; remove: () => Promise<void> }
let daemon: Daemon

function start(): Daemon {
  return new Daemon(network.node, [
    `--manifests=${folder.path}`,
    '--proxy-mode=ipvs',
    '--hostname-override=node1',
    '--cluster-cidr=10.244.0.0/16',
    '--ipvs-sync-period=3s',
    '-v=4',
  ])
}

beforeAll(async () => {
  network = new Network()
  folder = await temporaryFolder()
  await writeManifest(folder.path, 'node.json', nodeObject('node1', nodeIP))
  await writeManifest(folder.path, 'service.json', serviceObject({ name: 'web', clusterIP, nodePort: 30080 }))
  await writeManifest(folder.path, 'slice.json', sliceObject('web', pods))
  await network.serve()
  daemon = start()
  await daemon.synced()
})

afterAll(async () => {
  await daemon.stop()
  network.destroy()
  await folder.remove()
})

/** All that traffic to the Service stands on, as text. */
function state(): string {
  return [
    network.node.run('ipvsadm', '-Sn').split('\n').sort().join('\n'),
    network.node
      .run('ip', '-o', 'address', 'show')
      .split('\n')
      .filter((line) => line.includes('kube-ipvs0'))
      .sort()
      .join('\n'),
    network.node.run('ipset', 'save').split('\n').sort().join('\n'),
    network.node
      .run('iptables-save')
      .split('\n')
      .filter((line) => /^(-A|:KUBE)/.test(line))
      .map((line) => line.replace(/ \[\d+:\d+\]/, ''))
      .join('\n'),
  ].join('\n')
}

describe('a connection lives on', () => {
  test.each(['SIGTERM', 'SIGKILL'] as const)(
    'over %s and a new start; nothing in use is taken away in between',
    async (signal) => {
      const before = state()
      const connection = new Connection(network.client, clusterIP, 80)
      await connection.line(/connected/)
      const pod = (await connection.ask('one')).split(' ')[0]

      // Every change of addresses while the daemon ends and starts, as the kernel tells it.
      const events: string[] = []
      const monitor = network.node.spawn('ip', ['-o', 'monitor', 'address', 'link'])
      createInterface({ input: monitor.stdout! }).on('line', (line) => events.push(line))

      const ended = await daemon.stop(signal)
      expect(ended).toBe(signal === 'SIGTERM' ? 0 : 'SIGKILL')
      expect(await connection.ask('two')).toBe(`${pod} two`)
      expect(state()).toBe(before)

      daemon = start()
      const samples = new Set<string>()
      const sampling = setInterval(
        () => samples.add(network.node.run('ipvsadm', '-Sn').split('\n').sort().join('\n')),
        300,
      )
      await daemon.synced()
      clearInterval(sampling)
      expect(await connection.ask('three')).toBe(`${pod} three`)
      expect(connection.closed).toBe(false)
      connection.end()
      monitor.kill()

      expect(state()).toBe(before)
      expect([...samples].filter((sample) => !before.startsWith(sample))).toEqual([])
      expect(events.filter((line) => line.includes('kube-ipvs0'))).toEqual([])
      // What the kernel had was right: nothing at all was written.
      expect(daemon.lines.filter(({ msg }) => msg === 'Kernel state written')).toEqual([])
    },
  )
})

describe('state changed by hand is back within a period, with one log line', () => {
  test.each<{ name: string; tamper: [string, ...string[]]; kind: string }>([
    { name: 'a virtual server deleted', tamper: ['ipvsadm', '-D', '-t', `${clusterIP}:80`], kind: 'virtual server' },
    {
      name: 'a virtual server changed',
      tamper: ['ipvsadm', '-E', '-t', `${clusterIP}:80`, '-s', 'wrr'],
      kind: 'virtual server',
    },
    {
      name: 'a destination deleted',
      tamper: ['ipvsadm', '-d', '-t', `${clusterIP}:80`, '-r', `${pods[0]}:8080`],
      kind: 'destination',
    },
    {
      name: 'a foreign destination',
      tamper: ['ipvsadm', '-a', '-t', `${clusterIP}:80`, '-r', '10.244.1.99:8080', '-m'],
      kind: 'destination',
    },
    {
      name: 'a weight changed',
      tamper: ['ipvsadm', '-e', '-t', `${clusterIP}:80`, '-r', `${pods[0]}:8080`, '-m', '-w', '0'],
      kind: 'weight',
    },
    {
      name: 'an address deleted',
      tamper: ['ip', 'address', 'delete', `${clusterIP}/32`, 'dev', 'kube-ipvs0'],
      kind: 'address',
    },
    {
      name: 'a foreign address',
      tamper: ['ip', 'address', 'add', '10.96.77.77/32', 'dev', 'kube-ipvs0'],
      kind: 'address',
    },
    {
      name: 'a set entry deleted',
      tamper: ['ipset', 'del', 'KUBE-CLUSTER-IP', `${clusterIP},tcp:80`],
      kind: 'set entry',
    },
    { name: 'a foreign set entry', tamper: ['ipset', 'add', 'KUBE-NODE-PORT-TCP', '31999'], kind: 'set entry' },
    { name: 'a rule deleted', tamper: ['iptables', '-t', 'nat', '-D', 'KUBE-SERVICES', '1'], kind: 'chain' },
    { name: 'a jump deleted', tamper: ['iptables', '-t', 'nat', '-D', 'PREROUTING', '1'], kind: 'rule' },
    { name: 'a chain flushed', tamper: ['iptables', '-t', 'filter', '-F', 'KUBE-IPVS-FILTER'], kind: 'chain' },
    {
      name: 'a chain deleted',
      tamper: ['sh', '-c', 'iptables -F KUBE-IPVS-OUT-FILTER; iptables -D OUTPUT 1; iptables -X KUBE-IPVS-OUT-FILTER'],
      kind: 'chain',
    },
    { name: 'the device deleted', tamper: ['ip', 'link', 'delete', 'kube-ipvs0'], kind: 'device' },
  ])('$name', async ({ name, tamper, kind }) => {
    const strip = (text: string): string => text.replace(/^\d+: /gm, '')
    const before = strip(state())
    const seen = daemon.lines.length
    network.node.run(...tamper)
    // No look at the state in between: the repair may be quicker. The line tells that there was something to repair.
    const repair = await daemon.said('Kernel state was changed by someone else', { kind }, seen)
    expect(repair.family).toBe('IPv4')
    await eventually('the state to be as before', () => strip(state()) === before)
    // The next whole check finds nothing more.
    await daemon.said('Pass ended', { family: 'IPv4', reason: 'period' }, daemon.lines.length)
    const lines = daemon.lines.slice(seen).filter(({ msg }) => msg.includes('changed by someone else'))
    // A chain goes only with the jump to it: two things were changed by hand then.
    expect(lines.map(({ family }) => family)).toEqual(name === 'a chain deleted' ? ['IPv4', 'IPv4'] : ['IPv4'])
  })
})

describe('traffic follows the EndpointSlice', () => {
  test('a connection to a removed endpoint drains, new ones go elsewhere; the endpoint returns in place', async () => {
    const connection = new Connection(network.client, clusterIP, 80)
    await connection.line(/connected/)
    const held = (await connection.ask('hello')).split(' ')[0]!
    const other = pods.find((pod) => pod !== held)!
    const weights = (): string =>
      network.node
        .run('ipvsadm', '-Sn')
        .split('\n')
        .filter((line) => line.startsWith(`-a -t ${clusterIP}:80`))
        .map((line) => line.replace(/.*-r (\S+) .*-w (\d)/, '$1 $2'))
        .sort()
        .join(', ')

    await writeManifest(folder.path, 'slice.json', sliceObject('web', [other]))
    await eventually(
      'the endpoint to drain',
      () => weights() === [`${held}:8080 0`, `${other}:8080 1`].sort().join(', '),
    )
    expect(await connection.ask('still')).toBe(`${held} still`)
    const next = new Connection(network.client, clusterIP, 80)
    expect(await next.ask('new')).toBe(`${other} new`)

    await writeManifest(folder.path, 'slice.json', sliceObject('web', pods))
    await eventually(
      'the endpoint to be back',
      () =>
        weights() ===
        pods
          .map((pod) => `${pod}:8080 1`)
          .sort()
          .join(', '),
    )
    expect(await connection.ask('again')).toBe(`${held} again`)
    connection.end()
    next.end()
  })

  test('the node port answers from outside the node', async () => {
    const connection = new Connection(network.client, nodeIP, 30080)
    expect(await connection.ask('hi')).toMatch(/^10\.244\.1\.[23] hi$/)
    connection.end()
  })
})
