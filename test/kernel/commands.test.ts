import { spawnSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  Daemon,
  Namespace,
  nodeObject,
  program,
  serviceObject,
  sliceObject,
  temporaryFolder,
  writeManifest,
} from './lab.ts'

const nodeIP = '192.168.70.1'
const flags = [
  '--proxy-mode=ipvs',
  '--hostname-override=node1',
  '--cluster-cidr=10.244.0.0/16',
  '--ipvs-sync-period=1h',
  '--status-socket=/run/kube-ipvs-proxy-test/status.sock',
]

let node: Namespace
let folder: { path: string; remove: () => Promise<void> }

interface Ended {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs a command of the program in a namespace, with these arguments and no others. */
function bare(namespace: Namespace, ...args: string[]): Ended {
  const { status, stdout, stderr } = spawnSync(
    'ip',
    ['netns', 'exec', namespace.name, process.execPath, program, ...args],
    { encoding: 'utf8', maxBuffer: 64 << 20 },
  )
  return { status, stdout, stderr }
}

/** Runs a command of the program in the node. */
function command(name: string, ...args: string[]): Ended {
  return bare(node, name, `--manifests=${folder.path}`, ...flags, ...args)
}

interface Difference {
  readonly layer: string
  readonly kind: string
  readonly object: string
  readonly state: string
}

function diff(): { status: number | null; found: string[] } {
  const { status, stdout, stderr } = command('diff', '-o', 'json')
  if (stdout === '') throw new Error(stderr)
  const { differences, unread } = JSON.parse(stdout) as { differences: Difference[]; unread: Record<string, string> }
  expect(unread).toEqual({})
  return { status, found: differences.map(({ layer, kind, object, state }) => `${layer} ${kind} ${object} ${state}`) }
}

beforeAll(async () => {
  node = new Namespace('commands')
  node.ip(
    'link add eth0 type dummy',
    'link set eth0 up',
    `address add ${nodeIP}/24 dev eth0`,
    'address add fd00:70::1/64 dev eth0 nodad',
  )
  folder = await temporaryFolder()
  await writeManifest(folder.path, 'node.json', nodeObject('node1', nodeIP))
  await writeManifest(
    folder.path,
    'services.json',
    serviceObject({ name: 'web', clusterIP: '10.96.7.1', nodePort: 30070, spec: { sessionAffinity: 'ClientIP' } }),
    sliceObject('web', ['10.244.1.2', '10.244.1.3']),
    serviceObject({ name: 'dns', clusterIP: '10.96.7.2', port: 53, protocol: 'UDP' }),
    sliceObject('dns', ['10.244.1.4'], 5353, 'UDP'),
    serviceObject({ name: 'lone', clusterIP: 'fd00:96::7', spec: { ipFamilies: ['IPv6'] } }),
    {
      ...(serviceObject({ name: 'lb', clusterIP: '10.96.7.3' }) as object),
      spec: {
        type: 'LoadBalancer',
        clusterIP: '10.96.7.3',
        clusterIPs: ['10.96.7.3'],
        externalTrafficPolicy: 'Local',
        externalIPs: ['203.0.113.8'],
        loadBalancerSourceRanges: ['198.51.100.0/24'],
        healthCheckNodePort: 32170,
        ports: [{ port: 80, nodePort: 30071, protocol: 'TCP' }],
      },
      status: { loadBalancer: { ingress: [{ ip: '203.0.113.7' }] } },
    },
    sliceObject('lb', ['10.244.1.5']),
  )
  const daemon = new Daemon(node, [`--manifests=${folder.path}`, ...flags])
  await daemon.synced()
  // None of the commands needs it: what it has written stays.
  await daemon.stop()
})

afterAll(async () => {
  node.destroy()
  await folder.remove()
})

describe('diff', () => {
  test('finds nothing where the daemon has synced', () => {
    expect(diff()).toEqual({ status: 0, found: [] })
    const text = command('diff')
    expect(text).toMatchObject({ status: 0, stdout: expect.stringMatching(/^The kernel is as wanted\.\n/) })
  })

  const changes: readonly { name: string; tamper: string[]; found: string; undo: string[] }[] = [
    {
      name: 'a set entry',
      tamper: ['ipset', 'del', 'KUBE-CLUSTER-IP', '10.96.7.1,tcp:80'],
      found: 'ipset set entry 10.96.7.1,tcp:80 of set KUBE-CLUSTER-IP missing',
      undo: ['ipset', 'add', 'KUBE-CLUSTER-IP', '10.96.7.1,tcp:80'],
    },
    {
      name: 'an entry of IPv6',
      tamper: ['ipset', 'add', 'KUBE-6-CLUSTER-IP', 'fd00:96::8,tcp:80'],
      found: 'ipset set entry fd00:96::8,tcp:80 of set KUBE-6-CLUSTER-IP foreign',
      undo: ['ipset', 'del', 'KUBE-6-CLUSTER-IP', 'fd00:96::8,tcp:80'],
    },
    {
      name: 'a jump',
      tamper: ['iptables', '-t', 'nat', '-D', 'POSTROUTING', '1'],
      found: 'iptables rule jump from nat POSTROUTING to KUBE-POSTROUTING missing',
      undo: [
        'iptables',
        '-t',
        'nat',
        '-I',
        'POSTROUTING',
        '-m',
        'comment',
        '--comment',
        'kubernetes postrouting rules',
        '-j',
        'KUBE-POSTROUTING',
      ],
    },
    {
      name: 'a chain',
      tamper: ['iptables', '-t', 'nat', '-A', 'KUBE-MARK-MASQ', '-j', 'RETURN'],
      found: 'iptables chain chain KUBE-MARK-MASQ of table nat changed',
      undo: ['iptables', '-t', 'nat', '-D', 'KUBE-MARK-MASQ', '-j', 'RETURN'],
    },
    {
      name: 'a virtual server',
      tamper: ['ipvsadm', '-D', '-u', '10.96.7.2:53'],
      found: 'ipvs virtual server 10.96.7.2:53/UDP missing',
      undo: ['sh', '-c', 'ipvsadm -A -u 10.96.7.2:53 -s rr && ipvsadm -a -u 10.96.7.2:53 -r 10.244.1.4:5353 -m'],
    },
    {
      name: 'a scheduler',
      tamper: ['ipvsadm', '-E', '-t', '10.96.7.1:80', '-s', 'wrr', '-p', '10800'],
      found: 'ipvs virtual server 10.96.7.1:80/TCP changed',
      undo: ['ipvsadm', '-E', '-t', '10.96.7.1:80', '-s', 'rr', '-p', '10800'],
    },
    {
      name: 'a destination',
      tamper: ['ipvsadm', '-d', '-t', '10.96.7.1:80', '-r', '10.244.1.2:8080'],
      found: 'ipvs destination 10.244.1.2:8080 of virtual server 10.96.7.1:80/TCP missing',
      undo: ['ipvsadm', '-a', '-t', '10.96.7.1:80', '-r', '10.244.1.2:8080', '-m', '-w', '1'],
    },
    {
      name: 'a weight',
      tamper: ['ipvsadm', '-e', '-t', '10.96.7.1:80', '-r', '10.244.1.3:8080', '-m', '-w', '0'],
      found: 'ipvs weight 10.244.1.3:8080 of virtual server 10.96.7.1:80/TCP changed',
      undo: ['ipvsadm', '-e', '-t', '10.96.7.1:80', '-r', '10.244.1.3:8080', '-m', '-w', '1'],
    },
    {
      name: 'an address',
      tamper: ['ip', 'address', 'delete', '10.96.7.1/32', 'dev', 'kube-ipvs0'],
      found: 'dummy address 10.96.7.1 on kube-ipvs0 missing',
      undo: ['ip', 'address', 'add', '10.96.7.1/32', 'dev', 'kube-ipvs0'],
    },
  ]
  test('names all that somebody has changed, and nothing once it is put back', () => {
    for (const { tamper } of changes) node.run(tamper[0]!, ...tamper.slice(1))
    const { status, found } = diff()
    expect({ status, found: found.toSorted() }).toEqual({
      status: 1,
      found: changes.map((change) => change.found).toSorted(),
    })
    for (const { undo } of changes) node.run(undo[0]!, ...undo.slice(1))
    expect(diff()).toEqual({ status: 0, found: [] })
  })
})

test('status counts what stands, and says who else writes', () => {
  node.run('iptables', '-N', 'DOCKER-USER')
  node.run('ipvsadm', '-a', '-t', '10.96.7.1:80', '-r', '10.244.1.9:8080', '-m', '-w', '0')
  const { status, stdout } = command('status', '-o', 'json')
  expect(status).toBe(0)
  const told = JSON.parse(stdout) as Record<string, never> & {
    families: { family: string; layers: { layer: string; wanted: object; present: object; drift: number }[] }[]
  }
  const ipv4 = told.families.find(({ family }) => family === 'IPv4')!
  expect(ipv4.layers.find(({ layer }) => layer === 'ipvs')).toMatchObject({
    wanted: { server: 7, destination: 9 },
    present: { server: 7, destination: 10 },
    drift: 0,
  })
  for (const { layers } of told.families) for (const { drift } of layers) expect(drift).toBe(0)
  expect(told).toMatchObject({
    node: 'node1',
    daemon: { answers: false },
    wanted: { from: 'objects' },
    draining: [{ server: '10.96.7.1:80/TCP', address: '10.244.1.9' }],
    schedulers: { rr: 8 },
    others: [{ who: 'Docker', chains: 1 }],
  })
  expect(command('status').stdout).toMatch(/IPv4 +ipvs +7 servers, 9 destinations/)
  node.run('ipvsadm', '-d', '-t', '10.96.7.1:80', '-r', '10.244.1.9:8080')
  node.run('iptables', '-X', 'DOCKER-USER')
})

test('doctor finds traps in the real kernel', () => {
  const ids = (): string[] => {
    const { stdout } = command('doctor', '-o', 'json')
    return (JSON.parse(stdout) as { findings: { id: string; severity: string }[] }).findings.map(
      ({ id, severity }) => `${severity} ${id}`,
    )
  }
  expect(ids()).not.toContain('error vs-conntrack')
  node.sysctl('net.ipv4.vs.conntrack', 0)
  node.run('iptables', '-P', 'INPUT', 'DROP')
  node.run('iptables', '-t', 'nat', '-N', 'KUBE-SEP-AAAAAAAAAAAAAAAA')
  node.run('ip', 'address', 'add', '203.0.113.1/24', 'dev', 'eth0')
  expect(ids()).toEqual(
    expect.arrayContaining([
      'error vs-conntrack',
      'error input-drop',
      'warning leftovers',
      'warning strict-arp',
      'warning other-proxy',
    ]),
  )
  expect(command('doctor').status).toBe(1)
  node.sysctl('net.ipv4.vs.conntrack', 1)
  node.run('iptables', '-P', 'INPUT', 'ACCEPT')
  node.run('iptables', '-t', 'nat', '-X', 'KUBE-SEP-AAAAAAAAAAAAAAAA')
  node.run('ip', 'address', 'delete', '203.0.113.1/24', 'dev', 'eth0')
})

test('conns tells the connections of a Service', () => {
  // Nobody answers: the entry stays in SYN_SENT or SYN_RECV for a while.
  node.ip('route add default dev eth0')
  spawnSync('ip', ['netns', 'exec', node.name, 'curl', '-sS', '--max-time', '2', 'http://10.96.7.1/'])
  const { stdout } = command('conns', 'default/web', '-o', 'json')
  const { service, servers, connections } = JSON.parse(stdout) as {
    service: string
    servers: string[]
    connections: { state: string; address: string }[]
  }
  expect(service).toBe('default/web')
  expect(servers).toEqual(expect.arrayContaining(['10.96.7.1:80/TCP', `${nodeIP}:30070/TCP`]))
  expect(connections.length).toBeGreaterThan(0)
  expect(new Set(connections.map(({ address }) => address))).toEqual(new Set(['10.96.7.1']))
  expect(command('conns', 'default/nobody')).toMatchObject({ status: 1, stdout: '' })
})

test('support-bundle has all of it', () => {
  const path = join(folder.path, 'bundle.tar.gz')
  const { status, stdout, stderr } = command('support-bundle', path)
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  expect(stdout).toContain(path)
  expect(existsSync(path)).toBe(true)
  const names = node.run('tar', '-tzf', path).trim().split('\n')
  for (const name of [
    'configuration.json',
    'status.json',
    'diff.json',
    'doctor.json',
    'kernel/ipvsadm-Sn.txt',
    'kernel/ip_vs.txt',
    'kernel/ipset-save.txt',
    'kernel/iptables-save.txt',
    'kernel/ip-address.txt',
    'kernel/ip-rule.txt',
    'kernel/sysctl-net.txt',
    'node/modules.txt',
    // The daemon is not alive: its parts say so.
    'daemon/metrics.txt.failed.txt',
    'daemon/healthz.txt.failed.txt',
  ]) {
    expect(names).toContain(`support-bundle/${name}`)
  }
  const dumped = node.run('tar', '-xzOf', path, 'support-bundle/kernel/ipvsadm-Sn.txt').split('\n').sort()
  expect(dumped).toEqual(
    node
      .run('ipvsadm', '-Sn')
      .split('\n')
      .map((line) => line.trimEnd())
      .sort(),
  )
})

describe('without anybody who says what is wanted', () => {
  const nobody = ['--master=http://127.0.0.1:1', '--status-socket=', '--hostname-override=node1']

  test('status tells what stands', () => {
    const { status, stdout } = bare(node, 'status', '-o', 'json', ...nobody)
    expect(status).toBe(0)
    const told = JSON.parse(stdout) as { families: { layers: { layer: string; present: object }[] }[] }
    expect(told).toMatchObject({ wanted: { from: 'nobody', text: expect.stringContaining('ECONNREFUSED') } })
    const [ipv4] = told.families
    expect(ipv4!.layers.find(({ layer }) => layer === 'ipvs')!.present).toEqual({ server: 7, destination: 9 })
    for (const one of ipv4!.layers) expect(one).not.toHaveProperty('wanted')
  })

  test('diff and doctor say so, and end with 1', () => {
    expect(bare(node, 'diff', ...nobody)).toMatchObject({
      status: 1,
      stdout: expect.stringMatching(/^It is not known what is wanted\.\n/),
    })
    const { status, stdout } = bare(node, 'doctor', '-o', 'json', ...nobody)
    const ids = (JSON.parse(stdout) as { findings: { id: string }[] }).findings.map(({ id }) => id)
    expect({ status, ids }).toMatchObject({ status: 1, ids: expect.arrayContaining(['wanted-unknown', 'other-proxy']) })
  })
})

describe('with the daemon alive', () => {
  let daemon: Daemon
  const path = '/run/kube-ipvs-proxy-test/status.sock'

  beforeAll(async () => {
    daemon = new Daemon(node, [`--manifests=${folder.path}`, ...flags])
    await daemon.synced()
  })

  afterAll(async () => {
    await daemon.stop()
  })

  const differencesBy = (...args: string[]): { from: string; differences: unknown } => {
    const { stdout, stderr } = command('diff', '-o', 'json', ...args)
    if (stdout === '') throw new Error(stderr)
    const { wanted, differences } = JSON.parse(stdout) as { wanted: { from: string }; differences: unknown }
    return { from: wanted.from, differences }
  }

  test('its socket is for root alone', () => {
    expect((statSync(path).mode & 0o777).toString(8)).toBe('600')
  })

  test('what was changed by hand is the same to the daemon and to the objects', () => {
    const changes: [tamper: string, undo: string][] = [
      ['ipset del KUBE-CLUSTER-IP 10.96.7.1,tcp:80', 'ipset add KUBE-CLUSTER-IP 10.96.7.1,tcp:80'],
      ['ipset add KUBE-6-CLUSTER-IP fd00:96::8,tcp:80', 'ipset del KUBE-6-CLUSTER-IP fd00:96::8,tcp:80'],
      ['iptables -t nat -A KUBE-MARK-MASQ -j RETURN', 'iptables -t nat -D KUBE-MARK-MASQ -j RETURN'],
      ['ipvsadm -E -t 10.96.7.1:80 -s rr -p 60', 'ipvsadm -E -t 10.96.7.1:80 -s rr -p 10800'],
      ['ipvsadm -d -t 10.96.7.1:80 -r 10.244.1.2:8080', 'ipvsadm -a -t 10.96.7.1:80 -r 10.244.1.2:8080 -m -w 1'],
      ['ipvsadm -a -t 10.96.7.3:80 -r 10.9.9.9:1 -m -w 1', 'ipvsadm -d -t 10.96.7.3:80 -r 10.9.9.9:1'],
      ['ipvsadm -A -t [fd00:96::99]:80 -s rr', 'ipvsadm -D -t [fd00:96::99]:80'],
      ['ip address delete 10.96.7.1/32 dev kube-ipvs0', 'ip address add 10.96.7.1/32 dev kube-ipvs0'],
    ]
    node.run('sh', '-ec', changes.map(([tamper]) => tamper).join('\n'))
    const daemons = differencesBy()
    const own = differencesBy('--from-api')
    node.run('sh', '-ec', changes.map(([, undo]) => undo).join('\n'))
    expect([daemons.from, own.from]).toEqual(['daemon', 'objects'])
    expect(daemons.differences).toEqual(own.differences)
    expect(own.differences).toHaveLength(changes.length)
    expect(differencesBy()).toEqual({ from: 'daemon', differences: [] })
  })

  test('status and doctor hear it, too, and without any flag but the place of its socket', () => {
    const { stdout } = bare(node, 'status', '-o', 'json', `--status-socket=${path}`)
    expect(JSON.parse(stdout)).toMatchObject({
      node: 'node1',
      daemon: { answers: true, healthy: true, refused: { IPv4: 0, IPv6: 0 } },
      wanted: { from: 'daemon', text: expect.stringMatching(/^what the daemon says, last sync IPv4 \d+ s ago/) },
      drift: [],
    })
    const { findings } = JSON.parse(bare(node, 'doctor', '-o', 'json', `--status-socket=${path}`).stdout) as {
      findings: { id: string }[]
    }
    expect(findings.map(({ id }) => id)).not.toEqual(expect.arrayContaining(['other-proxy']))
  })

  test.each<{ name: string; args: string[]; why: string }>([
    { name: 'other settings', args: ['--ipvs-scheduler=lc'], why: 'the daemon has other settings: ipvs.scheduler' },
    { name: 'another socket', args: ['--status-socket=/run/nobody'], why: 'the daemon does not answer at /run/nobody' },
  ])('with $name what is wanted is worked out', ({ args, why }) => {
    const { stdout } = command('status', '-o', 'json', ...args)
    expect(JSON.parse(stdout)).toMatchObject({ wanted: { from: 'objects', text: expect.stringContaining(why) } })
  })

  test('a daemon of another network namespace is not believed', () => {
    const other = new Namespace('other')
    const { stdout } = bare(other, 'status', '-o', 'json', `--manifests=${folder.path}`, ...flags)
    other.destroy()
    expect(JSON.parse(stdout)).toMatchObject({
      wanted: { from: 'objects', text: expect.stringContaining('another network namespace') },
    })
  })
})
