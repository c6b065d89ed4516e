import { execFileSync } from 'node:child_process'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Daemon, Namespace, nodeObject, serviceObject, sliceObject, temporaryFolder, writeManifest } from '../lab.ts'

// Two nodes on one kernel, as kind makes them; or a node beside Docker Swarm, which has IPVS in namespaces of its own.
let node: Namespace
let other: Namespace
let folder: { path: string; remove: () => Promise<void> }
let daemon: Daemon

beforeAll(async () => {
  node = new Namespace('node')
  other = new Namespace('other')
  node.ip('link add eth0 type dummy', 'link set eth0 up', 'address add 192.168.50.1/24 dev eth0')
  const servers = Array.from({ length: 200 }, (_, i) => `-A -t 10.97.0.${i + 1}:80 -s rr\n`)
  execFileSync('ip', ['netns', 'exec', other.name, 'ipvsadm', '-R'], { input: servers.join('') })
  folder = await temporaryFolder()
  const names = Array.from({ length: 100 }, (_, i) => ({ name: `s${i}`, clusterIP: `10.96.0.${i + 1}` }))
  const objects = names.flatMap((one) => [serviceObject(one), sliceObject(one.name, ['10.244.1.2'])])
  await writeManifest(folder.path, 'objects.json', nodeObject('node1', '192.168.50.1'), ...objects)
  daemon = new Daemon(node, [
    `--manifests=${folder.path}`,
    '--proxy-mode=ipvs',
    '--hostname-override=node1',
    '--ipvs-sync-period=2s',
    '-v=4',
  ])
  await daemon.synced(['IPv4'])
})

afterAll(async () => {
  await daemon?.stop()
  for (const namespace of [node, other]) namespace?.destroy()
  await folder?.remove()
})

// From 64 virtual servers on the daemon reads destinations out of /proc/net/ip_vs, from which Linux 6.1 leaves servers out
// when another namespace has some, too. Those must not look as if they had no destinations.
test('virtual servers in another network namespace are not taken for drift', async () => {
  await daemon.said('Pass ended', { family: 'IPv4', reason: 'period' }, daemon.lines.length)
  await daemon.said('Pass ended', { family: 'IPv4' }, daemon.lines.length)
  const wrong = daemon.lines.filter(({ msg }) => /changed by someone else|refused/.test(msg))
  expect(wrong.slice(0, 5)).toEqual([])
})
