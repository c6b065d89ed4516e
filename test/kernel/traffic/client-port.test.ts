import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually, Namespace, run } from '../lab.ts'

// IPVS alone, without a daemon: what any proxy that uses it has to live with (docs/packet-path.md).
let node: Namespace
let client: Namespace
let pod: Namespace
let server: ChildProcess
const clients: ChildProcess[] = []

beforeAll(async () => {
  node = new Namespace('node')
  client = new Namespace('client')
  pod = new Namespace('pod')
  run('ip', 'link', 'add', 'eth0', 'netns', client.name, 'type', 'veth', 'peer', 'eth0', 'netns', node.name)
  run('ip', 'link', 'add', 'eth0', 'netns', pod.name, 'type', 'veth', 'peer', 'cni0', 'netns', node.name)
  node.ip(
    'link set eth0 up',
    'address add 192.168.50.1/24 dev eth0',
    'link set cni0 up',
    'address add 10.244.1.1/24 dev cni0',
    'address add 10.96.0.1/32 dev lo',
    'address add 10.96.0.2/32 dev lo',
  )
  node.sysctl('net.ipv4.ip_forward', 1)
  client.ip('link set eth0 up', 'address add 192.168.50.9/24 dev eth0', 'route add 10.96.0.0/16 via 192.168.50.1')
  pod.ip('link set eth0 up', 'address add 10.244.1.2/24 dev eth0', 'route add default via 10.244.1.1')
  for (const address of ['10.96.0.1:80', '10.96.0.2:80']) {
    node.run('ipvsadm', '-A', '-t', address, '-s', 'rr')
    node.run('ipvsadm', '-a', '-t', address, '-r', '10.244.1.2:8080', '-m')
  }
  server = pod.spawn('socat', ['TCP-LISTEN:8080,fork,reuseaddr', 'EXEC:cat'])
  await eventually('the server to listen', () => pod.run('ss', '-ltn').includes(':8080'))
})

afterAll(() => {
  for (const one of [server, ...clients]) one?.kill('SIGKILL')
  for (const namespace of [node, client, pod]) namespace?.destroy()
})

/** A connection that stays, from a port of the client: says a word and gives what has come back within `limit`. */
function connectTo(address: string, from: number): (word: string, limit: number) => Promise<string> {
  const args = ['netns', 'exec', client.name, 'socat', '-', `TCP:${address}:80,sourceport=${from},reuseaddr`]
  const child = spawn('ip', args, { stdio: ['pipe', 'pipe', 'ignore'] })
  clients.push(child)
  return async (word, limit) => {
    child.stdin.write(`${word}\n`)
    try {
      const [data] = (await once(child.stdout, 'data', { signal: AbortSignal.timeout(limit) })) as [Buffer]
      return String(data).trim()
    } catch {
      return ''
    }
  }
}

// ip_vs_conn_out_get (net/netfilter/ipvs/ip_vs_conn.c) looks an answer up by protocol, server and client: the newer one is
// found, whether netfilter tracks IPVS's connections or not.
test.each([
  { conntrack: 0, masquerade: false, from: 4242 },
  { conntrack: 1, masquerade: true, from: 4243 },
  { conntrack: 1, masquerade: false, from: 4244 },
])(
  'one port of a client, two virtual servers, one server: the older connection hears nothing more (vs.conntrack $conntrack, masquerade: $masquerade)',
  async ({ conntrack, masquerade, from }) => {
    node.sysctl('net.ipv4.vs.conntrack', conntrack)
    node.run('iptables', '-t', 'nat', '-F', 'POSTROUTING')
    if (masquerade)
      node.run('iptables', '-t', 'nat', '-A', 'POSTROUTING', '-o', 'cni0', '-j', 'MASQUERADE', '--random-fully')
    const older = connectTo('10.96.0.1', from)
    expect(await older('one', 20_000)).toBe('one')
    const newer = connectTo('10.96.0.2', from)
    expect(await newer('two', 20_000)).toBe('two')
    expect(await older('three', 3000)).toBe('')
    expect(await newer('four', 20_000)).toBe('four')
  },
)
