import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { deviceName } from '../../../src/dummy/layer.ts'
import { readCluster } from '../../../src/inspect/cluster.ts'
import { Notes } from '../../../src/inspect/notes.ts'
import { makePlan, parseAddresses, planText } from '../../../src/inspect/plan.ts'
import { dispatchTo, WantedFamily } from '../../../src/inspect/wanted.ts'
import { setSpec } from '../../../src/ipset/catalogue.ts'
import { ProxyError } from '../../../src/lib/errors.ts'
import { familyOf } from '../../../src/model/address.ts'
import { destinationKey } from '../../../src/model/virtual-server.ts'
import { readConfig } from '../../../src/read-config.ts'
import { settingsOf } from '../../../src/settings.ts'
import { allBuckets } from '../../../src/wanted/routes.ts'
import {
  goldenCases,
  goldenFile,
  normaliseAddresses,
  normaliseIpset,
  normaliseIptables,
  normaliseIpvs,
} from '../../golden/compare.ts'

/** The machine the dumps were made on: see test/golden/README.md. */
const nodeAddresses = ['10.0.2.15', '10.160.1.1', 'fec0::15', 'fd00:10:160:1::1']

/** Differences from kube-proxy that we want: see docs/deviations.md. */
const deviations: Readonly<Record<string, readonly string[]>> = {
  '27-nodeportaddresses-lo': ['add KUBE-HEALTH-CHECK-NODE-PORT 32100'],
}

async function inFolder<T>(name: string, act: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'plan-'))
  try {
    writeFileSync(join(folder, 'objects.json'), goldenFile(name, 'objects.json'))
    return await act(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function settingsFor(name: string) {
  const line = { config: 'a file', flags: new Map() } as never
  return settingsOf(readConfig(line, goldenFile(name, 'kube-proxy-config.yaml')).config, 'vm1')
}

test.each(goldenCases())('%s: the plan is what kube-proxy wrote, and what the other commands want', async (name) => {
  const settings = settingsFor(name)
  const log = new Notes()
  await inFolder(name, async (manifests) => {
    const source = { manifests }
    const plan = await makePlan({ source, nodeName: 'vm1', settings, nodeAddresses, log })
    const text = (part: 'ipvsadm' | 'ipset' | 'iptables' | 'addresses', family?: string): string =>
      plan.families
        .filter((one) => family === undefined || one.family === family)
        .map((one) => one[part])
        .join('')
    expect({
      servers: normaliseIpvs(text('ipvsadm')),
      sets: normaliseIpset(text('ipset')).sort(),
      rules: normaliseIptables(text('iptables', 'IPv4'), { kubeOnly: true }),
      rules6: normaliseIptables(text('iptables', 'IPv6'), { kubeOnly: true }),
      addresses: normaliseAddresses(text('addresses')),
    }).toEqual({
      servers: normaliseIpvs(goldenFile(name, 'ipvsadm-Sn.txt')),
      sets: [...normaliseIpset(goldenFile(name, 'ipset-save.txt')), ...(deviations[name] ?? [])].sort(),
      rules: normaliseIptables(goldenFile(name, 'iptables-save.txt'), { kubeOnly: true }),
      rules6: normaliseIptables(goldenFile(name, 'ip6tables-save.txt'), { kubeOnly: true }),
      addresses: normaliseAddresses(goldenFile(name, 'ip-addr-kube-ipvs0.txt')),
    })

    const families = (['IPv4', 'IPv6'] as const).map((family) => {
      const own = nodeAddresses.filter((address) => familyOf(address) === family)
      return new WantedFamily({ family, settings, readNodeAddresses: () => Promise.resolve(own), log })
    })
    const listener = dispatchTo(families.map(({ family, proxier }) => [family, proxier]))
    await readCluster({ source, nodeName: 'vm1', log }, listener)
    for (const one of families) {
      const { sets, rules, family, ...parts } = await one.wanted(true)
      const servers = await parts.serversIn(allBuckets())
      const addresses = (await parts.allAddresses()).keys()
      const option = (protocol: string): string =>
        protocol === 'SCTP' ? '--sctp-service' : `-${protocol[0]!.toLowerCase()}`
      const lines = [...servers.values()].flatMap(({ server, destinations }) => {
        const at = `${option(server.protocol)} ${destinationKey(server)}`
        const persistence = server.timeout === 0 ? '' : ` -p ${server.timeout}`
        const flags = server.scheduler === 'mh' ? ' -b mh-port' : ''
        return [
          `-A ${at} -s ${server.scheduler}${persistence}${flags}`,
          ...[...destinations].map((to) => `-a ${at} -r ${destinationKey(to)} -m -w ${to.weight}`),
        ]
      })
      expect(lines.sort()).toEqual(normaliseIpvs(text('ipvsadm', family)))
      const entries: string[] = []
      for (const role of sets.keys()) {
        for (const entry of (await parts.entriesOf(role)).keys())
          entries.push(`add ${setSpec(role, family).name} ${entry}`)
      }
      expect(entries.sort()).toEqual(normaliseIpset(text('ipset', family)).filter((line) => line.startsWith('add ')))
      expect([...addresses].sort()).toEqual(
        normaliseAddresses(text('addresses', family))
          .map((address) => address.replace(/\/.*/, ''))
          .sort(),
      )
      const planned = normaliseIptables(text('iptables', family)).filter((line) => / KUBE-\S+ \d\d /.test(line))
      const wanted = ['*nat', ':X - [0:0]', 'COMMIT', '*filter', ':X - [0:0]', 'COMMIT']
      for (const { table, name: chain, rules: own } of rules.chains) {
        wanted.splice(
          wanted.indexOf('COMMIT', wanted.indexOf(`*${table}`)),
          0,
          `:${chain} - [0:0]`,
          ...own.map((rule) => `-A ${chain} ${rule}`),
        )
      }
      const written = normaliseIptables(wanted.join('\n')).filter((line) => / KUBE-\S+ \d\d /.test(line))
      expect(written).toEqual(planned)
    }
  })
})

test('node addresses are those of the Node object where none are given', async () => {
  await inFolder('05-nodeport-tcp', async (manifests) => {
    const log = new Notes()
    const options = { source: { manifests }, settings: settingsFor('05-nodeport-tcp'), nodeAddresses: undefined, log }
    const plan = await makePlan({ ...options, nodeName: 'vm1' })
    expect(plan.nodeAddresses).toContain('10.0.2.15')
    expect(log.lines).toEqual([])
    const stranger = await makePlan({ ...options, nodeName: 'nobody' })
    expect(stranger.nodeAddresses).toEqual([])
    expect(log.lines).toEqual(['There is no Node nobody: its zone, podCIDRs and addresses are not known'])
    const text = planText({ ...plan, notes: log.lines })
    for (const heading of [
      '# IPv4: ipvsadm -Sn',
      '# IPv6: ip6tables-save',
      `# IPv4: ip address show ${deviceName}`,
      'Notes',
    ]) {
      expect(text).toContain(`\n${heading}\n`)
    }
  })
})

test('addresses on the command line', () => {
  expect(parseAddresses(undefined)).toBeUndefined()
  expect(parseAddresses('10.0.0.1, FD00::1')).toEqual(['10.0.0.1', 'fd00::1'])
  expect(() => parseAddresses('10.0.0.1,eth0')).toThrow(ProxyError)
})
