import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { ChildProcess } from 'node:child_process'
import type { Command } from '../../fake-apiserver/server.ts'
import { Daemon, Namespace, nodeObject, root, serviceObject, sliceObject, temporaryFolder } from '../lab.ts'

/** The fake API server's. */
export const port = 6443

/** What the fake API server has seen. */
export interface Told {
  readonly events: readonly Record<string, unknown>[]
}

/** A namespace with the fake API server and the real daemon, which follows it by a kubeconfig like kubeadm's. */
export class Cluster {
  readonly namespace = new Namespace('api')
  readonly folder: { path: string; remove: () => Promise<void> }
  daemon!: Daemon
  #server!: ChildProcess

  private constructor(folder: Cluster['folder']) {
    this.folder = folder
  }

  /** `prepare` may write into the folder and the namespace before the daemon starts; it answers further flags. */
  static async start(prepare: (cluster: Cluster) => Promise<readonly string[]> = async () => []): Promise<Cluster> {
    const cluster = new Cluster(await temporaryFolder())
    await cluster.#start(prepare)
    return cluster
  }

  async #start(prepare: (cluster: Cluster) => Promise<readonly string[]>): Promise<void> {
    this.namespace.ip('link add eth0 type dummy', 'link set eth0 up', 'address add 192.168.60.1/24 dev eth0')
    const path = (name: string): string => join(this.folder.path, name)
    const items = [
      nodeObject('node1', '192.168.60.1'),
      serviceObject({ name: 'web', clusterIP: '10.96.1.1' }),
      sliceObject('web', ['10.244.1.2']),
    ]
    await writeFile(path('objects.json'), JSON.stringify({ kind: 'List', items }))
    await writeFile(path('token'), 'first')
    await writeFile(
      path('kubeconfig'),
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Config',
        clusters: [{ name: 'default', cluster: { server: `http://127.0.0.1:${port}` } }],
        contexts: [{ name: 'default', context: { cluster: 'default', user: 'default' } }],
        users: [{ name: 'default', user: { tokenFile: path('token') } }],
        'current-context': 'default',
      }),
    )
    const script = join(root, 'test/fake-apiserver/main.ts')
    this.#server = this.namespace.spawn('node', [script, '--port', String(port), '--objects', path('objects.json')])
    await once(createInterface({ input: this.#server.stdout! }), 'line')
    this.tell({ accept: ['first'] })
    const flags = await prepare(this)
    this.daemon = new Daemon(this.namespace, [
      `--kubeconfig=${path('kubeconfig')}`,
      '--proxy-mode=ipvs',
      '--hostname-override=node1',
      '-v=2',
      ...flags,
    ])
    await this.daemon.synced(['IPv4'])
  }

  tell(command: Command): Told {
    const answer = this.namespace.run(
      'curl',
      '-sS',
      '--max-time',
      '20',
      '-d',
      JSON.stringify(command),
      `http://127.0.0.1:${port}/__control`,
    )
    return JSON.parse(answer) as Told
  }

  /** What the kernel has, as text. */
  async state(): Promise<string> {
    return [
      ...(await this.namespace.servers()).split('\n').sort(),
      ...this.namespace
        .run('ipset', 'save')
        .split('\n')
        .filter((line) => line.startsWith('add '))
        .sort(),
      ...this.namespace.run('ip', '-o', 'address', 'show', 'kube-ipvs0').split('\n'),
    ].join('\n')
  }

  async stop(): Promise<void> {
    await this.daemon.stop()
    this.#server.kill('SIGKILL')
    this.namespace.destroy()
    await this.folder.remove()
  }
}
