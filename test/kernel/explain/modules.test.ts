// What `explain` and `doctor` say where modules of the kernel are missing: none is loaded by asking.
import { existsSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  Namespace,
  nodeObject,
  run,
  serviceObject,
  sliceObject,
  temporaryFolder,
  unloadIpvs,
  writeManifest,
} from '../lab.ts'
import { Explainer } from './lab.ts'

/** Nothing loads the modules that it names, nor is asked to. */
const refusal = '/etc/modprobe.d/explain-test.conf'
const nodeIP = '192.168.71.1'

let node: Namespace
let folder: { path: string; remove: () => Promise<void> }

beforeAll(async () => {
  await writeFile(refusal, 'install ip_vs /bin/false\ninstall ip_vs_sh /bin/false\n')
  await unloadIpvs()
  folder = await temporaryFolder()
  await writeManifest(folder.path, 'node.json', nodeObject('bare', nodeIP))
  const web = serviceObject({ name: 'web', clusterIP: '10.96.7.1' })
  await writeManifest(folder.path, 'services.json', web, sliceObject('web', ['10.244.1.2']))
  node = new Namespace('bare')
  node.ip('link add eth0 type dummy', 'link set eth0 up', `address add ${nodeIP}/24 dev eth0`)
  node.ip('link add kube-ipvs0 type dummy', 'address add 10.96.7.1/32 dev kube-ipvs0')
})

afterAll(async () => {
  node?.destroy()
  await folder?.remove()
  await rm(refusal, { force: true })
})

async function inspect<T>(flags: readonly string[], act: (explainer: Explainer) => Promise<T>): Promise<T> {
  const explainer = new Explainer(node, folder.path, 'bare', ...flags)
  try {
    return await act(explainer)
  } finally {
    explainer.end()
  }
}

test('without ip_vs', async () => {
  await inspect([], async (explainer) => {
    const [answer] = await explainer.explain([{ target: 'default/web', from: 'node' }])
    expect(answer!.explanation.verdict).toMatchObject({ code: 'ipvs-not-loaded', answer: 'refused' })
    expect(answer!.text).toContain('the module ip_vs is not loaded: there are no virtual servers')
    expect(answer!.text).toContain('modprobe ip_vs')
    const findings = await explainer.doctor()
    expect(findings[0]).toMatchObject({ id: 'layer-unread', severity: 'error' })
    expect(findings[0]!.found).toContain('ipvs')
    expect(findings[0]!.fix).toContain('modprobe -a ip_vs')
  })
  expect(existsSync('/proc/net/ip_vs')).toBe(false)
})

test('without the module of the scheduler', async () => {
  await writeFile(refusal, 'install ip_vs_sh /bin/false\n')
  run('modprobe', 'ip_vs')
  await inspect(['--ipvs-scheduler=sh'], async (explainer) => {
    const [answer] = await explainer.explain([{ target: 'default/web', from: 'node' }])
    expect(answer!.explanation.verdict.code).toBe('virtual-server-missing')
    const found = (await explainer.doctor()).filter(({ id }) => id === 'scheduler-module')
    expect(found).toEqual([
      expect.objectContaining({ found: expect.stringContaining('ip_vs_sh is not among the loaded') }),
    ])
  })
})
