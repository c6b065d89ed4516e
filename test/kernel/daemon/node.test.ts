import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Daemon, eventually, Namespace, nodeObject, serviceObject, sliceObject, temporaryFolder } from '../lab.ts'
import { Cluster } from './cluster.ts'

const config = (extra: Record<string, unknown> = {}): string =>
  JSON.stringify({
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    mode: 'ipvs',
    clusterCIDR: '10.244.0.0/16',
    // Long enough that nothing here is the periodic check's doing.
    ipvs: { syncPeriod: '1h' },
    ...extra,
  })

const leftover = `*nat
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment "kube-system/kube-dns:dns cluster IP" -m udp --dport 53 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns -> 10.244.0.2:53" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p udp -m udp -j DNAT --to-destination 10.244.0.2:53
COMMIT
*filter
:KUBE-SERVICES - [0:0]
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
COMMIT
`

let cluster: Cluster
const path = (): string => join(cluster.folder.path, 'config.conf')
const run = (...command: [string, ...string[]]): string => cluster.namespace.run(...command)
const reasons = (): unknown[] => cluster.tell({}).events.map(({ reason }) => reason)

beforeAll(async () => {
  cluster = await Cluster.start(async ({ namespace, folder }) => {
    await writeFile(
      join(folder.path, 'config.conf'),
      config({ clientConnection: { kubeconfig: join(folder.path, 'kubeconfig') } }),
    )
    execFileSync('ip', ['netns', 'exec', namespace.name, 'iptables-restore', '--noflush'], { input: leftover })
    return [`--config=${join(folder.path, 'config.conf')}`, '-v=4']
  })
  // What the Services of this file send somewhere has somewhere to go.
  run('ip', 'route', 'add', '10.244.0.0/16', 'dev', 'eth0')
})
afterAll(() => cluster.stop())

test('what iptables mode left is removed once our own rules stand', async () => {
  const line = await cluster.daemon.said('Removed what another mode of kube-proxy left', { family: 'IPv4' })
  expect(String(line.removed).split(', ').sort()).toEqual([
    '1 × KUBE-SEP-* of table nat',
    '1 × KUBE-SERVICES of table filter',
    '1 × KUBE-SVC-* of table nat',
  ])
  const saved = run('iptables-save')
  expect(saved).not.toMatch(/KUBE-SVC-|KUBE-SEP-/)
  expect(saved).toContain(':KUBE-KUBELET-CANARY')
  expect(saved).toMatch(/-A PREROUTING .* -j KUBE-SERVICES/)
  expect(saved.match(/^:KUBE-SERVICES/gm)).toHaveLength(1)
})

test('node ports follow the node’s addresses at once', async () => {
  cluster.tell({
    put: [
      serviceObject({ name: 'np', clusterIP: '10.96.1.2', nodePort: 30080 }),
      sliceObject('np', ['10.244.1.2']),
    ] as never,
  })
  const servers = (): string => run('ipvsadm', '-Sn')
  await eventually('the node port', () => servers().includes('192.168.60.1:30080'))
  run('ip', 'address', 'add', '192.168.61.1/24', 'dev', 'eth0')
  await eventually('the node port on the new address', () => servers().includes('192.168.61.1:30080'))
  run('ip', 'address', 'delete', '192.168.61.1/24', 'dev', 'eth0')
  await eventually('the node port to be gone there', () => !servers().includes('192.168.61.1:30080'))
  expect(servers()).toContain('192.168.60.1:30080')
})

test('UDP flows to an endpoint that is gone, or of a Service that is gone, are cleared', async () => {
  const service = serviceObject({ name: 'dns', clusterIP: '10.96.1.3', port: 53, protocol: 'UDP' })
  cluster.tell({ put: [service, sliceObject('dns', ['10.244.1.2', '10.244.1.3'], 5353, 'UDP')] as never })
  await eventually('the virtual server', () => run('ipvsadm', '-Sn').includes('-u 10.96.1.3:53'))
  // Two clients: round robin gives each endpoint one of them.
  const send = (port: number): void => {
    run('bash', '-c', `echo -n x | socat -u - UDP4-DATAGRAM:10.96.1.3:53,bind=192.168.60.1:${port} || true`)
  }
  send(40001)
  send(40002)
  const flows = (): string[] =>
    run('conntrack', '-L', '-p', 'udp', '--orig-dst', '10.96.1.3')
      .split('\n')
      .flatMap((line) => /sport=(4000\d) .*src=(10\.244\.1\.\d)/.exec(line)?.slice(1, 3).join(' ') ?? [])
      .sort()
  const before = flows()
  expect(before).toHaveLength(2)
  const gone = before.find((flow) => flow.endsWith('10.244.1.3'))!
  cluster.tell({ put: sliceObject('dns', ['10.244.1.2'], 5353, 'UDP') as never })
  await eventually('the flow to be gone', () => !flows().includes(gone))
  expect(flows()).toEqual(before.filter((flow) => flow !== gone))
  cluster.tell({ delete: ['Service', 'default/dns'] })
  await eventually('all flows to be gone', () => flows().length === 0)
})

test('healthCheckNodePort: 200 with a local ready endpoint, 503 without, closed with the Service', async () => {
  const service = serviceObject({
    name: 'lb',
    clusterIP: '10.96.1.4',
    spec: { type: 'LoadBalancer', externalTrafficPolicy: 'Local', healthCheckNodePort: 32100 },
  })
  const slice = (nodeName: string): unknown => ({
    ...(sliceObject('lb', []) as object),
    endpoints: [{ addresses: ['10.244.1.2'], nodeName, conditions: { ready: true } }],
  })
  const code = (): string =>
    run('sh', '-c', 'curl -s -o /dev/null -w "%{http_code}" --max-time 5 http://192.168.60.1:32100/ || true')
  cluster.tell({ put: [service, slice('node1')] as never })
  await eventually('200', () => code() === '200')
  cluster.tell({ put: slice('node2') as never })
  await eventually('503', () => code() === '503')
  cluster.tell({ delete: ['Service', 'default/lb'] })
  await eventually('nobody to listen', () => code() === '000')
})

test('a service address that is the node’s own is told as an Event', async () => {
  cluster.tell({
    put: serviceObject({ name: 'clash', clusterIP: '10.96.1.5', spec: { externalIPs: ['192.168.60.1'] } }) as never,
  })
  await eventually('the Event', () => reasons().includes('ServiceAddressIsNodeAddress'))
  const event = cluster.tell({}).events.find(({ reason }) => reason === 'ServiceAddressIsNodeAddress')
  expect(event).toMatchObject({ type: 'Warning', regarding: { kind: 'Node', name: 'node1' } })
  cluster.tell({ delete: ['Service', 'default/clash'] })
  // The next tests look whether the kernel's state stays as it is.
  await eventually(
    'the Service to be gone',
    async () => !/10\.96\.1\.5|192\.168\.60\.1,tcp:80/.test(await cluster.state()),
  )
})

describe('the configuration file', () => {
  const change = (extra: Record<string, unknown>): Promise<void> =>
    writeFile(path(), config({ clientConnection: { kubeconfig: join(cluster.folder.path, 'kubeconfig') }, ...extra }))

  test.each<{ name: string; extra: Record<string, unknown>; says: RegExp }>([
    { name: 'a wrong field', extra: { masqueradeAl: true }, says: /masqueradeAl/ },
    { name: 'a scheduler that the kernel lacks', extra: { ipvs: { scheduler: 'nosuch' } }, says: /nosuch/ },
    {
      name: 'a range of no family of this node',
      extra: { ipvs: { excludeCIDRs: ['10.0.0.0/99'] } },
      says: /excludeCIDRs/,
    },
  ])('$name: reported by log, metric and Event; what was in force stays', async ({ extra, says }) => {
    const seen = cluster.daemon.lines.length
    const before = await cluster.state()
    const rejected = reasons().filter((reason) => reason === 'ConfigRejected').length
    await change(extra)
    const line = await cluster.daemon.said('The changed configuration is not put in force', {}, seen)
    expect(line.error).toMatch(says)
    await eventually('the Event', () => reasons().filter((reason) => reason === 'ConfigRejected').length > rejected)
    const metrics = run('curl', '-s', 'http://127.0.0.1:10249/metrics')
    expect(metrics).toMatch(/^kube_ipvs_config_in_force 0$/m)
    expect(await cluster.state()).toBe(before)
  })

  test('a good one is put in force in the same process, and the kernel’s working state is not touched', async () => {
    const before = await cluster.state()
    const seen = cluster.daemon.lines.length
    const monitor = cluster.namespace.spawn('ip', ['monitor', 'address', 'link'])
    const events: string[] = []
    monitor.stdout!.on('data', (chunk) => events.push(String(chunk)))
    await change({ iptables: { masqueradeAll: true } })
    await cluster.daemon.said('The configuration has changed', {}, seen)
    await cluster.daemon.said('In sync for the first time', { family: 'IPv4' }, seen)
    monitor.kill()
    expect(cluster.daemon.exited).toBe(false)
    expect(run('iptables-save', '-t', 'nat')).toMatch(
      /-A KUBE-SERVICES -m comment [^\n]*KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ/,
    )
    expect(await cluster.state()).toBe(before)
    expect(events.join('')).not.toContain('kube-ipvs0')
    const written = cluster.daemon.lines.slice(seen).filter(({ msg }) => msg === 'Kernel state written')
    expect(written.map(({ ipvs, ipset, dummy }) => [ipvs, ipset, dummy])).toEqual(
      written.map(() => [undefined, undefined, undefined]),
    )
    expect(run('curl', '-s', 'http://127.0.0.1:10249/metrics')).toMatch(/^kube_ipvs_config_in_force 1$/m)
    expect(JSON.parse(run('curl', '-s', 'http://127.0.0.1:10249/configz'))).toMatchObject({
      'kubeproxy.config.k8s.io': { iptables: { masqueradeAll: true } },
    })
    // The new session hears of changes.
    cluster.tell({
      put: [nodeObject('node1', '192.168.60.1'), serviceObject({ name: 'late', clusterIP: '10.96.1.9' })] as never,
    })
    await eventually('the new Service', () => run('ipvsadm', '-Sn').includes('10.96.1.9:80'))
  })
})

describe('operations that end', () => {
  let namespace: Namespace
  let folder: { path: string; remove: () => Promise<void> }
  beforeAll(async () => {
    namespace = new Namespace('ops')
    folder = await temporaryFolder()
    await writeFile(join(folder.path, 'config.conf'), config({ ipvs: { scheduler: 'sh', strictARP: true } }))
  })
  afterAll(async () => {
    namespace.destroy()
    await folder.remove()
  })

  test('--init-only sets what the node needs and writes no state', async () => {
    const daemon = new Daemon(namespace, [`--config=${join(folder.path, 'config.conf')}`, '--init-only'])
    expect(await daemon.exit).toBe(0)
    const values = [
      'net.ipv4.vs.conntrack',
      'net.ipv4.ip_forward',
      'net.ipv4.conf.all.arp_ignore',
      'net.ipv4.conf.all.arp_announce',
    ]
    expect(values.map((name) => namespace.run('sysctl', '-n', name).trim())).toEqual(['1', '1', '1', '2'])
    expect(namespace.run('ipvsadm', '-Sn')).toBe('')
    expect(namespace.run('ipset', 'list', '-n')).toBe('')
    expect(namespace.run('ip', '-o', 'link')).not.toContain('kube-ipvs0')
    // Conntrack's limits belong to the initial namespace: told, not fatal.
    await daemon.said('A conntrack setting cannot be written')
  })

  test('--write-config-to writes the effective configuration, which reads back as the same', async () => {
    const [first, second] = [join(folder.path, 'first.yaml'), join(folder.path, 'second.yaml')]
    const write = async (from: string, to: string): Promise<void> => {
      const daemon = new Daemon(namespace, [`--config=${from}`, `--write-config-to=${to}`])
      expect(await daemon.exit, daemon.text.join('\n')).toBe(0)
    }
    await write(join(folder.path, 'config.conf'), first)
    await write(first, second)
    const text = readFileSync(first, 'utf8')
    expect(text).toMatch(/^ {2}scheduler: sh$/m)
    expect(text).toMatch(/^ {2}strictARP: true$/m)
    expect(readFileSync(second, 'utf8')).toBe(text)
  })
})
