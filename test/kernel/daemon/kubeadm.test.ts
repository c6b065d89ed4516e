// The ConfigMap as kubeadm writes it and the account's files, each mounted as the kubelet does, against an API server that
// speaks TLS.
import { once } from 'node:events'
import { mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { ChildProcess } from 'node:child_process'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { makeCertificate } from '../../certificate.ts'
import type { Command, KubeObject } from '../../fake-apiserver/server.ts'
import { Daemon, Namespace, nodeObject, root, serviceObject, sliceObject, temporaryFolder } from '../lab.ts'

const mounts = { config: '/var/lib/kube-proxy', account: '/var/run/secrets/kubernetes.io/serviceaccount' }
const flags = ['--config=/var/lib/kube-proxy/config.conf', '--hostname-override=node1', '--proxy-mode=ipvs']

let node: Namespace
let folder: { path: string; remove: () => Promise<void> }
let server: ChildProcess
let daemon: Daemon

/** Files as the kubelet has them in a volume: links into a folder that is exchanged as a whole. */
function project(volume: string, files: Readonly<Record<string, string>>): void {
  const path = (...names: string[]): string => join(folder.path, volume, ...names)
  const version = `..${Date.now()}`
  mkdirSync(path(version), { recursive: true })
  for (const [name, text] of Object.entries(files)) writeFileSync(path(version, name), text)
  symlinkSync(version, path('..data_tmp'))
  renameSync(path('..data_tmp'), path('..data'))
}

function link(volume: string, names: readonly string[]): void {
  for (const name of names) symlinkSync(join('..data', name), join(folder.path, volume, name))
}

function tell(command: Command): unknown {
  const ask = ['-sS', '-k', '-d', JSON.stringify(command), 'https://127.0.0.1:6443/__control']
  return JSON.parse(node.run('curl', ...ask))
}

beforeAll(async () => {
  node = new Namespace('kubeadm')
  node.ip('link add eth0 type dummy', 'link set eth0 up', 'address add 192.168.60.1/24 dev eth0')
  folder = await temporaryFolder()
  const { cert, key } = makeCertificate()
  const items = [
    nodeObject('node1', '192.168.60.1'),
    serviceObject({ name: 'web', clusterIP: '10.96.1.1' }),
    sliceObject('web', ['10.244.1.2']),
  ]
  const files = { 'objects.json': JSON.stringify({ kind: 'List', items }), 'tls.crt': cert, 'tls.key': key }
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder.path, name), text)
  const config = ['config.conf', 'kubeconfig.conf']
  project(
    'config',
    Object.fromEntries(config.map((name) => [name, readFileSync(join(root, 'test/kubeadm', name), 'utf8')])),
  )
  link('config', config)
  project('account', { 'ca.crt': cert, token: 'first' })
  link('account', ['ca.crt', 'token'])
  const of = (name: string): string => join(folder.path, name)
  server = node.spawn('node', [
    join(root, 'test/fake-apiserver/main.ts'),
    '--port=6443',
    `--objects=${of('objects.json')}`,
    `--cert=${of('tls.crt')}`,
    `--key=${of('tls.key')}`,
  ])
  await once(createInterface({ input: server.stdout! }), 'line')
  tell({ accept: ['first'] })
  // The mounts are the process's own: `ip netns exec` gives it a mount namespace.
  const lines = Object.entries(mounts).map(([name, place]) => `mkdir -p ${place}; mount --bind ${of(name)} ${place}`)
  daemon = new Daemon(node, flags, undefined, ['sh', '-ec', `${lines.join('\n')}\nexec "$@"`, 'mounted'])
})
afterAll(async () => {
  await daemon.stop()
  server.kill('SIGKILL')
  node.destroy()
  await folder.remove()
})

const servers = (): string => node.run('ipvsadm', '-Sn')

test('it starts and writes what the API server has', async () => {
  await daemon.synced(['IPv4'])
  expect(servers()).toContain('-a -t 10.96.1.1:80 -r 10.244.1.2:8080 -m -w 1')
})

test('a token that is exchanged is used, and nothing is lost over it', async () => {
  project('account', { 'ca.crt': readFileSync(join(folder.path, 'tls.crt'), 'utf8'), token: 'second' })
  tell({ accept: ['second'], disconnectAll: true })
  const later = [serviceObject({ name: 'later', clusterIP: '10.96.1.2' }), sliceObject('later', ['10.244.1.3'])]
  tell({ put: later as KubeObject[] })
  await expect
    .poll(servers, { timeout: 90_000, interval: 500 })
    .toContain('-a -t 10.96.1.2:80 -r 10.244.1.3:8080 -m -w 1')
  expect(servers()).toContain('-a -t 10.96.1.1:80 -r 10.244.1.2:8080 -m -w 1')
})
