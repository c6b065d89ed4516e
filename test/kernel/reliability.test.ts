// Faults that only a real kernel, real tools or a real process can have; the others are made on the fakes (docs/reliability.md).
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { IptablesTool } from '../../src/iptables/restore.ts'
import { KernelIpvs } from '../../src/ipvs/kernel-ipvs.ts'
import { describeError } from '../../src/lib/errors.ts'
import { Connection, type Message } from '../../src/netlink/connection.ts'
import { protocols } from '../../src/netlink/header.ts'
import {
  Daemon,
  eventually,
  Namespace,
  nodeObject,
  root,
  run,
  serviceObject,
  sliceObject,
  temporaryFolder,
  unloadIpvs,
  writeManifest,
} from './lab.ts'

describe('netlink', () => {
  /** RTM_DELADDR of no link there is, made long: the kernel refuses it and repeats all of it in its answer. */
  const refusedMessage = (size: number): Message => ({
    type: 21,
    write: (writer) => {
      const at = writer.reserve(size)
      writer.buffer.fill(0, at, at + size)
      writer.buffer[at] = 2
      writer.buffer.writeUInt32LE(0x7fffffff, at + 4)
    },
  })

  test.each([
    ['many', 256, 400],
    ['large', 8, 16_000],
  ])('the answers to %s refused messages of one send have room in the receive buffer', async (_name, count, size) => {
    const connection = Connection.open(protocols.route)
    const results = await connection.batch(Array.from({ length: 4 * count }, () => refusedMessage(size)))
    expect(results.filter((result) => result !== 0)).toHaveLength(4 * count)
    connection.close()
  })

  test('an overrun ends the process, as a crash does: the library cannot tell it', async () => {
    // A thousand questions before the first answer is read. Where this one day prints, ENOBUFS has become an error like others.
    const script = `
      import { openRawSocket } from '${root}/src/netlink/socket.ts'
      const socket = openRawSocket(0)('requests', { message: () => {}, error: (error) => console.log(error.code) })
      const question = Buffer.from('20000000' + '12000500' + '01000000' + '00000000' + '00000000' + '01000000' + '0000000000000000', 'hex')
      for (let i = 0; i < 3000; i++) socket.send(Buffer.from(question))
      setTimeout(() => socket.close(), 500)`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    let printed = ''
    child.stdout.on('data', (chunk) => (printed += String(chunk)))
    expect([...((await once(child, 'exit')) as unknown[]), printed]).toEqual([null, 'SIGABRT', ''])
  })
})

test('iptables: the lock is held for longer than is waited; the error says who to look for, and afterwards it works', async () => {
  const tool = await IptablesTool.open('IPv4', { infix: '-legacy', reason: 'test' })
  const holder = spawn('flock', ['/run/xtables.lock', 'sh', '-c', 'echo held; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  })
  await once(holder.stdout, 'data')
  const input = '*nat\n:KUBE-TEST - [0:0]\n-X KUBE-TEST\nCOMMIT\n'
  try {
    const error: unknown = await tool.restore(input).catch((reason: unknown) => reason)
    expect(describeError(error)).toMatch(/iptables-legacy-restore exited with 4: .*xtables lock.* — .*lslocks/s)
  } finally {
    process.kill(-holder.pid!, 'SIGKILL')
  }
  await eventually('the lock to be free', () =>
    tool.restore(input).then(
      () => true,
      () => false,
    ),
  )
})

test('ip_vs is unloaded: the next call loads it, under whatever number, and says that its settings are gone', async () => {
  let reloads = 0
  const ipvs = await KernelIpvs.open()
  ipvs.reloaded = () => void reloads++
  try {
    expect(await ipvs.listServers()).toEqual([])
    await unloadIpvs()
    expect(await ipvs.listServers()).toEqual([])
    const id = { family: 'IPv4', protocol: 'TCP', address: '198.51.100.1', port: 80 } as const
    const server = { ...id, scheduler: 'rr', flags: 0, timeout: 0 }
    await unloadIpvs()
    const [refusal] = await ipvs.apply([
      { kind: 'newServer', server },
      { kind: 'deleteServer', server },
    ])
    expect(refusal).toBeUndefined()
    expect(reloads).toBe(2)
  } finally {
    ipvs.close()
    run('modprobe', 'ip_vs')
  }
})

describe('read-only /proc/sys', () => {
  const readOnly = [
    'sh',
    '-c',
    'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"',
    'sh',
  ]
  let namespace: Namespace
  beforeAll(() => {
    namespace = new Namespace('readonly')
  })
  afterAll(() => namespace.destroy())

  test('what is wrong there ends the start with the command that sets it', async () => {
    const refused = new Daemon(namespace, ['--init-only'], process.env, readOnly)
    expect(await refused.exit).toBe(3)
    expect(refused.text.join('\n')).toMatch(
      /cannot set sysctl net\/ipv4\/vs\/conntrack to 1: EROFS.*sysctl -w net\.ipv4\.vs\.conntrack=1/,
    )
    // Those of conntrack, which come first, are only told.
    expect(refused.lines.some(({ msg }) => msg.includes('A conntrack setting cannot be written'))).toBe(true)
  })
})

describe('the daemon', () => {
  let node: Namespace
  let folder: { path: string; remove: () => Promise<void> }
  let daemon: Daemon
  const clusterIP = '10.96.12.1'

  beforeAll(async () => {
    node = new Namespace('faults')
    folder = await temporaryFolder()
    node.ip('link add eth0 type dummy', 'link set eth0 up', 'address add 192.168.72.1/24 dev eth0')
    await writeManifest(folder.path, 'node.json', nodeObject('node1', '192.168.72.1'))
    const web = serviceObject({ name: 'web', clusterIP, nodePort: 30080 })
    await writeManifest(folder.path, 'web.json', web, sliceObject('web', ['10.244.1.2']))
    daemon = new Daemon(node, [
      `--manifests=${folder.path}`,
      '--proxy-mode=ipvs',
      '--hostname-override=node1',
      '--cluster-cidr=10.244.0.0/16',
      '--ipvs-sync-period=1s',
      '-v=2',
    ])
    await daemon.synced()
  })
  afterAll(async () => {
    await daemon.stop()
    node.destroy()
    await folder.remove()
  })

  const ask = (path: string, port: number): string => {
    try {
      return node.run('curl', '-s', '--max-time', '1', `http://127.0.0.1:${port}${path}`)
    } catch {
      return 'no answer'
    }
  }
  const value = (series: string): number =>
    Number(new RegExp(`^${series}\\S* (\\d+)$`, 'm').exec(ask('/metrics', 10249))?.[1] ?? 0)
  const servers = (): string => node.run('ipvsadm', '-Sn').split('\n').sort().join('\n')

  test('its device renamed: it gets its name back with all addresses; no address is taken for the node’s', async () => {
    const before = [node.run('ip', '-o', 'address', 'show', 'kube-ipvs0'), servers()]
    const seen = daemon.lines.length
    node.run('ip', 'link', 'set', 'kube-ipvs0', 'name', 'elsewhere')
    const line = await daemon.said('Kernel state was changed by someone else', { kind: 'device' }, seen)
    expect(line.object).toBe('kube-ipvs0, which had become elsewhere')
    // With the number of the device: it is the same one.
    expect([node.run('ip', '-o', 'address', 'show', 'kube-ipvs0'), servers()]).toEqual(before)
    expect(node.run('ip', '-o', 'link')).not.toContain('elsewhere')
  })

  test('its event loop stands still: /livez has no answer, which is what the kubelet sees; afterwards it is told', async () => {
    const stalls = value('kube_ipvs_event_loop_stalls_total')
    const seen = daemon.lines.length
    daemon.signal('SIGSTOP')
    try {
      expect(ask('/livez', 10256)).toBe('no answer')
      await new Promise((wake) => setTimeout(wake, 6500))
    } finally {
      daemon.signal('SIGCONT')
    }
    const line = await daemon.said('The event loop stood still', {}, seen)
    expect(line.milliseconds).toBeGreaterThan(5000)
    expect(await eventually('/livez to answer', () => ask('/livez', 10256).includes('"healthy":true'))).toBe(true)
    await eventually('the count', () => value('kube_ipvs_event_loop_stalls_total') > stalls)
  })

  test('another process flushes a chain all the time: told once, repaired less and less; whole again when it ends', async () => {
    const seen = daemon.lines.length
    const flush = 'while :; do iptables -w -t nat -F KUBE-SERVICES; sleep 0.3; done'
    const rival = node.spawn('sh', ['-c', flush])
    try {
      const told = await daemon.said('again and again', {}, seen)
      expect(told).toMatchObject({ level: 'error', object: 'chain KUBE-SERVICES of table nat', repairs: 5 })
      await eventually('a repair to be put off', () => value('kube_ipvs_drift_held_back_total') > 0)
    } finally {
      rival.kill('SIGKILL')
    }
    await eventually('the chain to be whole', () =>
      node.run('iptables', '-t', 'nat', '-S', 'KUBE-SERVICES').includes('KUBE-CLUSTER-IP'),
    )
    expect(ask('/livez', 10256)).toContain('"healthy":true')
  })
})
