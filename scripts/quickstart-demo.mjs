// A client, a node and three pods as network namespaces; the real daemon in the node; 30 requests to the ClusterIP, some
// to the NodePort from outside; then an endpoint goes and comes back, and traffic follows. Ends with 0 when all held.
// QUICKSTART_PROGRAM: what to start instead of bin/kube-ipvs-proxy.
import { execFileSync, spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'

const root = resolve(import.meta.dirname, '..')
const prefix = `kq${process.pid}`
const name = (role) => `${prefix}-${role}`
const pods = ['10.244.1.2', '10.244.1.3', '10.244.1.4']
const nodeIP = '192.168.50.1'
const clusterIP = '10.96.10.10'
const children = []
const folder = mkdtempSync(join(tmpdir(), 'kube-ipvs-proxy-'))

const say = (text) => console.log(`\n## ${text}`)
const run = (command, ...args) =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
const inside = (role, command, ...args) => run('ip', 'netns', 'exec', name(role), command, ...args)
const start = (role, args, stderr = 'inherit') => {
  const child = spawn('ip', ['netns', 'exec', name(role), ...args], { stdio: ['ignore', 'pipe', stderr] })
  children.push(child)
  return child
}
const ip = (role, ...lines) =>
  execFileSync('ip', ['-n', name(role), '-batch', '-'], {
    input: lines.join('\n'),
    stdio: ['pipe', 'ignore', 'inherit'],
  })

function buildNetwork() {
  for (const role of ['client', 'node', 'pod1', 'pod2', 'pod3']) {
    run('ip', 'netns', 'add', name(role))
    ip(role, 'link set lo up')
  }
  run('ip', '-n', name('node'), 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name('client'))
  ip(
    'node',
    'link set eth0 up',
    `address add ${nodeIP}/24 dev eth0`,
    'link add cni0 type bridge',
    'link set cni0 up',
    'address add 10.244.1.1/24 dev cni0',
  )
  ip('client', 'link set eth0 up', 'address add 192.168.50.2/24 dev eth0', `route add 10.96.0.0/12 via ${nodeIP}`)
  pods.forEach((address, i) => {
    const role = `pod${i + 1}`
    run(
      'ip',
      '-n',
      name('node'),
      'link',
      'add',
      `veth${i}`,
      'type',
      'veth',
      'peer',
      'name',
      'eth0',
      'netns',
      name(role),
    )
    ip('node', `link set veth${i} master cni0 up`)
    ip(role, 'link set eth0 up', `address add ${address}/24 dev eth0`, 'route add default via 10.244.1.1')
  })
}

/** Resolves at the first line of output that matches. */
function line(child, stream, what) {
  return new Promise((found, failed) => {
    createInterface({ input: child[stream] }).on('line', (text) => {
      if (what.test(text)) found(text)
      else if (stream === 'stderr' && /"level":"(error|fatal)"|^kube-ipvs-proxy:/.test(text)) console.log(text)
    })
    setTimeout(() => failed(new Error(`waited 60 s for ${what}`)), 60_000).unref()
    child.on('exit', (code) => failed(new Error(`ended with ${code} before it said ${what}`)))
  })
}

async function startPods() {
  for (const [i, address] of pods.entries()) {
    const program = `require('http').createServer((q, r) => { r.setHeader('Connection', 'close'); r.end('pod${i + 1} ${address}\\n') }).listen(8080, () => console.log('up'))`
    await line(start(`pod${i + 1}`, [process.execPath, '-e', program]), 'stdout', /up/)
  }
}

/** One curl process, a new connection for each request; answers how many each pod gave. */
function request(address, port, count) {
  const url = `http://${address}:${port}/`
  const text = inside('client', 'curl', '-sS', '--max-time', '20', ...Array.from({ length: count }, () => url))
  const answers = {}
  for (const answer of text.trim().split('\n')) answers[answer] = (answers[answer] ?? 0) + 1
  console.log(`curl ${url} × ${count}`)
  for (const [who, times] of Object.entries(answers)) console.log(`  ${String(times).padStart(3)} × ${who}`)
  return pods.map((pod, i) => answers[`pod${i + 1} ${pod}`] ?? 0)
}

function expect(what, got, wanted) {
  if (JSON.stringify(got) !== JSON.stringify(wanted)) throw new Error(`${what}: wanted ${wanted}, got ${got}`)
}

/** Until the virtual server has so many destinations of weight 1. */
async function destinations(count) {
  for (let i = 0; i < 100; i++) {
    const lines = inside('node', 'ipvsadm', '-Sn').split('\n')
    if (lines.filter((text) => text.startsWith(`-a -t ${clusterIP}:80`) && text.endsWith('-w 1')).length === count)
      return
    await new Promise((wake) => setTimeout(wake, 200))
  }
  throw new Error(`the virtual server did not come to have ${count} destinations`)
}

async function main() {
  say('a client, a node and three pods, each a network namespace')
  buildNetwork()
  await startPods()
  console.log(`client 192.168.50.2 — node ${nodeIP} — pods ${pods.join(', ')}`)

  say('kube-ipvs-proxy starts in the node, fed from examples/quickstart')
  cpSync(join(root, 'examples/quickstart'), folder, { recursive: true })
  const program = process.env.QUICKSTART_PROGRAM ?? join(root, 'bin/kube-ipvs-proxy')
  const args = ['--manifests', folder, '--proxy-mode=ipvs', '--hostname-override=node1', '--cluster-cidr=10.244.0.0/16']
  console.log(`bin/kube-ipvs-proxy ${args.join(' ').replace(folder, 'examples/quickstart')}`)
  const began = performance.now()
  const daemon = start('node', [program, ...args, '-v=2'], 'pipe')
  console.log(await line(daemon, 'stderr', /"family":"IPv4".*In sync for the first time/))
  console.log(`in sync ${((performance.now() - began) / 1000).toFixed(1)} s after its start`)

  say('30 requests from the client to the ClusterIP, scheduler rr')
  expect('shares of the pods', request(clusterIP, 80, 30), [10, 10, 10])

  say('6 requests from outside the node to its NodePort')
  expect('shares of the pods', request(nodeIP, 30080, 6), [2, 2, 2])

  say('virtual servers, sets and addresses in the node’s kernel')
  console.log(inside('node', 'ipvsadm', '-Ln'))
  console.log(
    inside('node', 'ipset', 'save')
      .split('\n')
      .filter((text) => text.startsWith('add '))
      .join('\n'),
  )
  console.log(inside('node', 'ip', '-brief', 'address', 'show', 'kube-ipvs0'))

  const file = join(folder, 'web.yaml')
  const whole = readFileSync(file, 'utf8')
  say('pod3 leaves the EndpointSlice')
  writeFileSync(file, whole.replace('  - addresses: [10.244.1.4]\n', ''))
  await destinations(2)
  expect('shares of the pods', request(clusterIP, 80, 10), [5, 5, 0])

  say('pod3 comes back')
  writeFileSync(file, whole)
  await destinations(3)
  expect('shares of the pods', request(clusterIP, 80, 30), [10, 10, 10])

  say('done: the kernel forwards as Services and EndpointSlices say')
}

try {
  await main()
} catch (error) {
  console.error(`quickstart: ${error.message}`)
  process.exitCode = 1
} finally {
  for (const child of children) child.kill()
  await Promise.all(
    children.map((child) => child.exitCode ?? child.signalCode ?? new Promise((ended) => child.on('exit', ended))),
  )
  for (const role of ['client', 'node', 'pod1', 'pod2', 'pod3']) {
    try {
      execFileSync('ip', ['netns', 'delete', name(role)], { stdio: 'ignore' })
    } catch {
      // It was never made.
    }
  }
  rmSync(folder, { recursive: true, force: true })
}
