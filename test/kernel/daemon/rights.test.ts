// The daemon under what the DaemonSet grants it, after the init container has had its turn.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ofKind, readManifests } from '../../unit/manifests/documents.ts'
import { Daemon, Namespace, nodeObject, program, serviceObject, sliceObject, temporaryFolder } from '../lab.ts'

const { spec: pod } = ofKind(readManifests('base/daemonset.yaml'), 'DaemonSet').spec.template
const capabilities = pod.containers[0]!.securityContext.capabilities!.add!.map((name) => `+${name.toLowerCase()}`)

/** As a runtime gives it: capabilities, no new privileges, a root to read, /proc/sys and /sys to read, one folder to write. */
const confined = [
  'sh',
  '-ec',
  [
    'mount -t tmpfs tmpfs /run/kube-ipvs-proxy',
    'mount --bind /proc/sys /proc/sys',
    'for place in /proc/sys /sys /run /; do mount -o remount,bind,ro $place; done',
    `exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,${capabilities.join(',')} -- "$@"`,
  ].join('\n'),
  'confined',
]

const iptablesMode = `*nat
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -d 10.96.7.1/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-ERIFXISQEP7F7OF4
COMMIT
`

let node: Namespace
let folder: { path: string; remove: () => Promise<void> }
let flags: readonly string[]
let daemon: Daemon | undefined

beforeAll(async () => {
  node = new Namespace('rights')
  node.ip('link add eth0 type dummy', 'link set eth0 up', 'address add 192.168.60.1/24 dev eth0')
  mkdirSync('/run/kube-ipvs-proxy', { recursive: true })
  folder = await temporaryFolder()
  const items = [
    nodeObject('node1', '192.168.60.1'),
    serviceObject({ name: 'web', clusterIP: '10.96.7.1' }),
    sliceObject('web', ['10.244.1.2']),
  ]
  writeFileSync(join(folder.path, 'objects.json'), JSON.stringify({ apiVersion: 'v1', kind: 'List', items }))
  flags = [`--manifests=${folder.path}`, '--hostname-override=node1', '--cluster-cidr=10.244.0.0/16', '-v=2']
})
afterAll(async () => {
  await daemon?.stop()
  node.destroy()
  await folder.remove()
})

test('migrate check knows the mode by what it left, and finds nothing in the way', () => {
  execFileSync('ip', ['netns', 'exec', node.name, 'iptables-restore', '--noflush'], { input: iptablesMode })
  const args = ['netns', 'exec', node.name, process.execPath, program, 'migrate', 'check', '-o', 'json', ...flags]
  const { status, stdout, stderr } = spawnSync('ip', args, { encoding: 'utf8' })
  const { findings } = JSON.parse(stdout) as { findings: { id: string; severity: string; found: string }[] }
  expect(findings.filter(({ severity }) => severity === 'error')).toEqual([])
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  expect(findings.find(({ id }) => id === 'former-proxy')!.found).toContain('mode iptables')
})

test('without the init container it says what is missing', async () => {
  const alone = new Daemon(node, flags, undefined, confined)
  expect(await alone.exit).toBe(3)
  expect(alone.text.join('\n')).toMatch(/cannot set sysctl net\/ipv4\/vs\/conntrack to 1.*EROFS/)
})

test('after it everything is written, and the commands are answered', async () => {
  const init = new Daemon(node, [...flags, '--init-only'])
  expect(await init.exit, init.text.join('\n')).toBe(0)
  daemon = new Daemon(node, flags, undefined, confined)
  await daemon.synced(['IPv4'])
  expect(node.run('ipvsadm', '-Sn')).toContain('-a -t 10.96.7.1:80 -r 10.244.1.2:8080 -m -w 1')
  expect(node.run('iptables-save', '-t', 'nat')).toContain('--match-set KUBE-CLUSTER-IP dst,dst')
  expect(node.run('ip', '-o', 'address', 'show', 'kube-ipvs0')).toContain('10.96.7.1/32')
  // What is beyond it is told and left alone; there is nothing else of the kind.
  const errors = daemon.lines.filter(({ level }) => level === 'error')
  expect(errors).toEqual([])
})
