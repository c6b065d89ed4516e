import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { ApiServer, ask, root } from './daemon.ts'
import { clusterIP, clusterOf, endpointIP, sliceOf } from './objects.ts'

/**
 * One cold start and some changed endpoints of any program with kube-proxy's configuration and metrics, kube-proxy itself
 * among them, in a network namespace of its own; prints a line of JSON. In the guest:
 *   bash scripts/guest.sh -m 6000 -t 3000 -- node test/bench/peer.ts [--program kube-proxy] [--mode ipvs] [--services N]
 *     [--endpoints M] [--changes N]
 * Without --program it is ours. Changes are looked for in IPVS, so only of mode ipvs.
 */
const { values } = parseArgs({
  options: {
    program: { type: 'string', default: join(root, 'bin/kube-ipvs-proxy') },
    mode: { type: 'string', default: 'ipvs' },
    services: { type: 'string', default: '1000' },
    endpoints: { type: 'string', default: '10' },
    changes: { type: 'string', default: '20' },
    inside: { type: 'boolean', default: false },
  },
})
const { program, mode } = values
const [services, endpoints, changes] = [values.services, values.endpoints, values.changes].map(Number) as [
  number,
  number,
  number,
]

if (!values.inside) {
  const namespace = 'peer'
  const ip = (...args: string[]): void => void execFileSync('ip', ['-n', namespace, ...args])
  execFileSync('ip', ['netns', 'add', namespace])
  ip('link', 'set', 'lo', 'up')
  ip('link', 'add', 'eth0', 'type', 'dummy')
  ip('link', 'set', 'eth0', 'up')
  ip('address', 'add', '192.168.60.1/24', 'dev', 'eth0')
  ip('route', 'add', 'default', 'via', '192.168.60.2')
  const words = [process.execPath, import.meta.filename, ...process.argv.slice(2), '--inside']
  execFileSync('ip', ['netns', 'exec', namespace, ...words], { stdio: 'inherit' })
  process.exit()
}

const folder = mkdtempSync(join(tmpdir(), 'peer-'))
const objects = join(folder, 'objects.json')
writeFileSync(objects, JSON.stringify({ kind: 'List', items: [...clusterOf({ services, endpoints })] }))
const api = await ApiServer.start(objects)
const kubeconfig = join(folder, 'kubeconfig')
writeFileSync(
  kubeconfig,
  JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'bench', cluster: { server: api.url } }],
    contexts: [{ name: 'bench', context: { cluster: 'bench', user: 'bench' } }],
    users: [{ name: 'bench', user: {} }],
    'current-context': 'bench',
  }),
)
const config = join(folder, 'config')
const json = 'application/json'
writeFileSync(
  config,
  JSON.stringify({
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    mode,
    clusterCIDR: '10.128.0.0/9',
    // A network namespace has none of these of its own.
    conntrack: { maxPerCore: 0, min: 0 },
    clientConnection: { kubeconfig, contentType: json, acceptContentTypes: json },
  }),
)

const child = spawn(program, [`--config=${config}`, '--hostname-override=node1'], {
  stdio: ['ignore', 'ignore', 'pipe'],
  env: { ...process.env, NODE_ENV: 'production' },
})
let said = ''
child.stderr.on('data', (chunk) => (said = (said + String(chunk)).slice(-4000)))

/** Seconds of the process and of its children that have ended. */
function cpu(): number {
  const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / 100
}

function megabytes(name: string): number {
  const status = readFileSync(`/proc/${child.pid}/status`, 'utf8')
  return Math.round(Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)![1]) / 1024)
}

/** Seconds of the first pass, by the program's own metric; undefined while it has not ended. */
async function firstPass(): Promise<number | undefined> {
  const text = await ask('http://127.0.0.1:10249/metrics').catch(() => '')
  const sum = /^kubeproxy_sync_proxy_rules_duration_seconds_sum\{ip_family="IPv4"\} (\S+)/m.exec(text)?.[1]
  return Number(sum ?? 0) || undefined
}

let first: number | undefined
while (first === undefined) {
  await sleep(500)
  if (child.exitCode !== null) throw new Error(`${program} ended with ${child.exitCode}: ${said}`)
  first = await firstPass()
}
const result: Record<string, unknown> = { mode, services, endpoints, firstPass: first, cpuSeconds: cpu() }
await sleep(5000)
Object.assign(result, { residentMB: megabytes('VmRSS'), peakMB: megabytes('VmHWM') })

/** Gone, or of weight 0 while it drains. */
function isOut(service: string, endpoint: string): boolean {
  const listing = execFileSync('ipvsadm', ['-Ln', '-t', service], { encoding: 'utf8' })
  const line = listing.split('\n').find((one) => one.includes(` ${endpoint} `))
  return line === undefined || /Masq\s+0\s/.test(line)
}

if (mode === 'ipvs' && changes > 0) {
  const before = cpu()
  const waits: number[] = []
  for (let i = 0; i < changes; i++) {
    const index = 1 + ((i * 37) % (services - 1))
    const began = performance.now()
    await api.tell({ put: [sliceOf(index, endpoints, 1)] })
    const gone = `${endpointIP(index, endpoints - 1, endpoints)}:8080`
    while (!isOut(`${clusterIP(index)}:80`, gone)) await sleep(20)
    waits.push(performance.now() - began)
    await sleep(300)
  }
  waits.sort((a, b) => a - b)
  Object.assign(result, {
    changes,
    p50Milliseconds: Math.round(waits[waits.length >> 1]!),
    cpuSecondsForEach: (cpu() - before) / changes,
  })
}
console.log(JSON.stringify(result))
child.kill('SIGKILL')
api.stop()
process.exit()
