// The dumps of a real kube-proxy 1.36, walked: each of its virtual servers is what planning wants, and is reached.
import { expect, test } from 'vitest'
import { loadConfig } from '../../../src/config/load.ts'
import { portAt, type Cluster } from '../../../src/explain/cluster.ts'
import { explain } from '../../../src/explain/explain.ts'
import { snapshotState, type Snapshot } from '../../../src/explain/snapshot.ts'
import { explanationText } from '../../../src/explain/text.ts'
import { parseSave } from '../../../src/iptables/text.ts'
import type { ObservedDestination, ObservedServer } from '../../../src/ipvs/ipvs.ts'
import { translateEndpointSlice, translateNode, translateService } from '../../../src/kube/translate.ts'
import { canonicalAddress, familyOf, parseCidr, type Family, type Protocol } from '../../../src/model/address.ts'
import { serverKey } from '../../../src/model/virtual-server.ts'
import { settingsOf } from '../../../src/settings.ts'
import { goldenCases, goldenFile } from '../../golden/compare.ts'

function placeOf(text: string): { address: string; port: number } {
  const colon = text.lastIndexOf(':')
  const host = text.slice(0, colon).replace(/^\[|\]$/g, '')
  return { address: canonicalAddress(host)!, port: Number(text.slice(colon + 1)) }
}

/** Output of `ipvsadm -Sn`. */
function readServers(text: string): ObservedServer[] {
  const servers: { server: ObservedServer['server']; destinations: ObservedDestination[] }[] = []
  const protocols: Readonly<Record<string, Protocol>> = { '-t': 'TCP', '-u': 'UDP', '--sctp-service': 'SCTP' }
  for (const line of text.split('\n')) {
    const words = line.split(' ')
    const after = (option: string): string => words[words.indexOf(option) + 1] ?? ''
    const protocol = protocols[words[1] ?? '']
    if (protocol === undefined) continue
    if (words[0] === '-A') {
      const place = placeOf(words[2]!)
      const timeout = words.includes('-p') ? Number(after('-p')) : 0
      const flags = timeout > 0 ? 1 : 0
      const server = { family: familyOf(place.address), protocol, ...place, scheduler: after('-s'), flags, timeout }
      servers.push({ server, destinations: [] })
    } else {
      const destination = { ...placeOf(after('-r')), weight: Number(after('-w')), forwarding: 0 }
      servers.at(-1)!.destinations.push({ ...destination, activeConnections: 0, inactiveConnections: 0 })
    }
  }
  return servers
}

function readSets(text: string): Snapshot['sets'] {
  const sets = new Map<string, { type: string; entries: string[] }>()
  for (const line of text.split('\n')) {
    const [command, name = '', value = ''] = line.split(' ')
    if (command === 'create') sets.set(name, { type: value, entries: [] })
    else if (command === 'add') sets.get(name)!.entries.push(value)
  }
  return sets
}

function readAddresses(name: string, family: Family): Snapshot['addresses'] {
  const addresses = new Map<string, string>([
    ['127.0.0.1', 'lo'],
    ['::1', 'lo'],
    ['10.0.2.15', 'eth0'],
    ['fec0::15', 'eth0'],
    ['10.160.1.1', 'cni0'],
    ['fd00:10:160:1::1', 'cni0'],
  ])
  const words = goldenFile(name, 'ip-addr-kube-ipvs0.txt').split(/\s+/)
  for (const [i, word] of words.entries()) {
    if (/^inet6?$/.test(words[i - 1] ?? '')) addresses.set(canonicalAddress(word.split('/')[0]!)!, 'kube-ipvs0')
  }
  return new Map([...addresses].filter(([address]) => familyOf(address) === family))
}

function snapshotOf(name: string, family: Family): Snapshot {
  const tables = parseSave(goldenFile(name, family === 'IPv4' ? 'iptables-save.txt' : 'ip6tables-save.txt'))
  return {
    family,
    ruleSets: [{ variant: 'nft', tables }],
    sets: readSets(goldenFile(name, 'ipset-save.txt')),
    servers: readServers(goldenFile(name, 'ipvsadm-Sn.txt')).filter(({ server }) => server.family === family),
    links: [
      { name: 'lo', kind: '' },
      { name: 'eth0', kind: '' },
      { name: 'cni0', kind: 'bridge' },
      { name: 'kube-ipvs0', kind: 'dummy' },
    ],
    addresses: readAddresses(name, family),
    routes:
      family === 'IPv4'
        ? [
            { to: '0.0.0.0/0', link: 'eth0', gateway: '10.0.2.2' },
            { to: '10.160.1.0/24', link: 'cni0' },
          ]
        : [
            { to: '::/0', link: 'eth0', gateway: 'fec0::2' },
            { to: 'fd00:10:160:1::/64', link: 'cni0' },
          ],
    sysctls: new Map([
      ['net/ipv4/vs/conntrack', '1'],
      ['net/bridge/bridge-nf-call-iptables', '1'],
      ['net/bridge/bridge-nf-call-ip6tables', '1'],
    ]),
    // The API server is the endpoint of the Service kubernetes.
    sockets: ['TCP *:6443'],
  }
}

function clusterOf(name: string): Cluster {
  const { items } = JSON.parse(goldenFile(name, 'objects.json')) as { items: { kind: string }[] }
  const ignore = (): void => {}
  const services = items.flatMap((item) => (item.kind === 'Service' ? (translateService(item, ignore) ?? []) : []))
  const slices = items.flatMap((item) =>
    item.kind === 'EndpointSlice' ? (translateEndpointSlice(item, 'vm1', ignore) ?? []) : [],
  )
  const nodes = items.flatMap((item) => (item.kind === 'Node' ? (translateNode(item, ignore) ?? []) : []))
  return {
    service: async (key) => services.find((one) => one.key === key),
    serviceAt: async (address, port, protocol) => {
      const isNode = ['10.0.2.15', '10.160.1.1', 'fec0::15', 'fd00:10:160:1::1'].includes(address)
      return services.find((one) => portAt(one, address, port, protocol, isNode) !== undefined)
    },
    slices: async (key) => slices.filter((one) => one.service === key),
    node: async () => nodes.find((one) => one.name === 'vm1'),
    podAddresses: async () => [],
  }
}

const rows = goldenCases().flatMap((name) => (['IPv4', 'IPv6'] as const).map((family) => ({ name, family })))

test.each(rows)('$name, $family', async ({ name, family }) => {
  const snapshot = snapshotOf(name, family)
  const cluster = clusterOf(name)
  const file = goldenFile(name, 'kube-proxy-config.yaml')
  const settings = settingsOf(loadConfig({ file, flags: new Map() }).config, 'vm1')
  for (const { server, destinations } of snapshot.servers) {
    const from = family === 'IPv4' ? '10.160.1.9' : 'fd00:10:160:1::9'
    const key = serverKey(server)
    const parts = { kernel: async () => snapshotState(snapshot), cluster, settings }
    const explanation = await explain({ target: key, from }, parts)
    const text = explanationText(explanation)
    expect(explanation.differences, text).toEqual([])
    expect(explanation.findings, text).toEqual([])
    const service = await cluster.serviceAt(server.address, server.port, server.protocol)
    const isVip = service!.loadBalancerIPs.includes(server.address)
    const isRanged = isVip && service!.sourceRanges.some((range) => parseCidr(range)!.family === family)
    const code = isRanged ? 'source-range' : destinations.length === 0 ? 'rejected-no-endpoints' : 'served'
    expect(explanation.verdict.code, text).toBe(code)
    const used = explanation.endpoints!.filter(({ isEligible }) => isEligible).map(({ endpoint }) => endpoint)
    expect(used).toHaveLength(destinations.length)
  }
})
