import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
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
  unloadIpvs,
  writeManifest,
} from '../lab.ts'

let namespace: Namespace
let folder: { path: string; remove: () => Promise<void> }

beforeAll(async () => {
  namespace = new Namespace('bad')
  folder = await temporaryFolder()
  namespace.ip('link add eth0 type dummy', 'link set eth0 up', 'address add 192.168.70.1/24 dev eth0')
  await writeManifest(folder.path, 'node.json', nodeObject('node1', '192.168.70.1'))
})

afterAll(async () => {
  namespace.destroy()
  await folder.remove()
})

const config = (text: string): string =>
  `apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n${text}\n`

describe('a start that cannot be ends with one clear error', () => {
  test.each([
    {
      name: 'unknown field',
      file: 'ipvs: {shceduler: rr}',
      code: 1,
      says: /ipvs\.shceduler: is no field .*did you mean ipvs\.scheduler\?/,
    },
    { name: 'wrong type', file: 'ipvs: {strictARP: 1}', code: 1, says: /ipvs\.strictARP: 1 must be true or false/ },
    {
      name: 'invalid CIDR',
      file: 'clusterCIDR: 10.0.0.0/99',
      code: 1,
      says: /clusterCIDR: "10\.0\.0\.0\/99" must be a CIDR/,
    },
    {
      name: 'unknown scheduler',
      file: 'ipvs: {scheduler: nosuch}',
      code: 3,
      says: /ipvs\.scheduler: the kernel has no scheduler "nosuch".*modprobe ip_vs_nosuch/,
    },
  ])('$name', async ({ file, code, says }) => {
    const path = join(folder.path, 'config.conf')
    await writeFile(path, config(file))
    const daemon = new Daemon(namespace, [`--config=${path}`, `--manifests=${folder.path}`])
    expect(await daemon.exit).toBe(code)
    expect(daemon.text.join('\n')).toMatch(says)
  })

  test('unreadable kubeconfig', async () => {
    const daemon = new Daemon(namespace, ['--kubeconfig=/nonexistent/kubeconfig'])
    expect(await daemon.exit).toBe(1)
    expect(daemon.text.join('\n')).toMatch(/\/nonexistent\/kubeconfig.*ENOENT/)
  })

  test('no such folder of manifests', async () => {
    const daemon = new Daemon(namespace, ['--manifests=/nonexistent'])
    expect(await daemon.exit).toBe(1)
    expect(daemon.text.join('\n')).toMatch(/\/nonexistent/)
  })

  test('without the right to administer the network', async () => {
    // Still uid 0, which may read the project wherever it lies; an empty bounding set leaves it no capability.
    const drop = ['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--ambient-caps=-all']
    const daemon = new Daemon(namespace, [`--manifests=${folder.path}`], process.env, drop)
    expect(await daemon.exit).toBe(3)
    expect(daemon.text.join('\n')).toMatch(/CAP_NET_ADMIN.*run it as root/)
  })

  test('a kernel without ip_vs', async () => {
    // The module loader is switched off and ip_vs taken out: what a kernel without it looks like.
    const loader = run('sysctl', '-n', 'kernel.modprobe').trim()
    try {
      await unloadIpvs()
      expect(existsSync('/proc/net/ip_vs')).toBe(false)
      execFileSync('sysctl', ['-qw', 'kernel.modprobe=/bin/false'])
      const daemon = new Daemon(namespace, [`--manifests=${folder.path}`])
      expect(await daemon.exit).toBe(3)
      expect(daemon.text.join('\n')).toMatch(/IPVS is not available in this kernel.*modprobe ip_vs/)
    } finally {
      execFileSync('sysctl', ['-qw', `kernel.modprobe=${loader}`])
      run('modprobe', 'ip_vs')
    }
  })
})

test('an API server that cannot be reached: it keeps trying, and /healthz tells', async () => {
  const daemon = new Daemon(namespace, ['--master=http://127.0.0.1:1', '--hostname-override=node1'])
  try {
    const answer = await eventually('/healthz to name the reason', () => {
      try {
        const text = namespace.run('curl', '-s', '--max-time', '5', 'http://127.0.0.1:10256/healthz')
        return text.includes('ECONNREFUSED') ? text : ''
      } catch {
        return ''
      }
    })
    expect(JSON.parse(answer)).toMatchObject({
      healthy: false,
      reason: expect.stringMatching(/waiting for services.*127\.0\.0\.1:1/),
    })
    expect(daemon.exited).toBe(false)
  } finally {
    await daemon.stop()
  }
})

describe('bad objects', () => {
  test('each is told with file, document or field; everything else works', async () => {
    await writeManifest(
      folder.path,
      'good.json',
      serviceObject({ name: 'good', clusterIP: '10.96.2.1' }),
      sliceObject('good', ['10.244.1.2']),
    )
    await writeManifest(folder.path, 'invalid-ip.json', serviceObject({ name: 'invalid', clusterIP: '10.96.2.300' }))
    // One that names a Service that is not there, which is no mistake, and one that names none, which is.
    const nameless = sliceObject('nameless', ['10.244.1.8']) as { metadata: Record<string, unknown> }
    delete nameless.metadata.labels
    await writeManifest(folder.path, 'slices.json', sliceObject('orphan', ['10.244.1.9']), nameless)
    await writeFile(
      join(folder.path, 'later.yaml'),
      JSON.stringify(serviceObject({ name: 'later', clusterIP: '10.96.2.2' })),
    )
    const daemon = new Daemon(namespace, [`--manifests=${folder.path}`, '--hostname-override=node1', '-v=2'])
    const servers = (): string =>
      namespace
        .run('ipvsadm', '-Sn')
        .split('\n')
        .filter((line) => line.startsWith('-A'))
        .sort()
        .join('\n')
    try {
      await daemon.synced()
      const both = '-A -t 10.96.2.1:80 -s rr\n-A -t 10.96.2.2:80 -s rr'
      expect(servers()).toBe(both)
      const invalid = daemon.lines.find(
        (line) => line.level === 'error' && JSON.stringify(line).includes('10.96.2.300'),
      )
      expect(JSON.stringify(invalid)).toMatch(/default\/invalid.*clusterIP/)

      const unlabelled = daemon.lines.find(
        (line) => line.level === 'error' && JSON.stringify(line).includes('nameless-1'),
      )
      expect(JSON.stringify(unlabelled)).toMatch(/EndpointSlice default\/nameless-1.*kubernetes\.io\/service-name/)
      expect(daemon.lines.filter((line) => line.level === 'error').length).toBe(2)

      // A file that breaks: its last good objects stay in force.
      await writeFile(join(folder.path, 'later.yaml'), 'kind: Service\n  broken: [')
      const broken = await eventually('the broken file to be told', () =>
        daemon.lines.find((line) => line.level === 'error' && JSON.stringify(line).includes('later.yaml')),
      )
      expect(JSON.stringify(broken)).toMatch(/later\.yaml.*document 1/)
      await writeManifest(folder.path, 'more.json', serviceObject({ name: 'more', clusterIP: '10.96.2.3' }))
      await eventually('the other files to be read', () => servers() === `${both}\n-A -t 10.96.2.3:80 -s rr`)
    } finally {
      await daemon.stop()
    }
  })

  test('--cleanup takes away what is ours, and nothing else', async () => {
    namespace.run('ipvsadm', '-A', '-t', '203.0.113.5:80', '-s', 'rr')
    namespace.run('ipset', 'create', 'foreign', 'hash:ip')
    namespace.run('iptables', '-A', 'INPUT', '-s', '203.0.113.9', '-j', 'DROP')
    const cleanup = new Daemon(namespace, ['--cleanup'])
    expect(await cleanup.exit).toBe(0)
    expect(namespace.run('ipvsadm', '-Sn').trim()).toBe('-A -t 203.0.113.5:80 -s rr')
    expect(namespace.run('ipset', 'list', '-n').trim()).toBe('foreign')
    expect(
      namespace
        .run('iptables-save')
        .split('\n')
        .filter((line) => /KUBE|^-A/.test(line)),
    ).toEqual(['-A INPUT -s 203.0.113.9/32 -j DROP'])
    expect(namespace.run('ip6tables-save')).not.toContain('KUBE')
    expect(namespace.run('ip', '-brief', 'link')).not.toContain('kube-ipvs0')
    expect(await new Daemon(namespace, ['--cleanup']).exit).toBe(0)
  })
})
