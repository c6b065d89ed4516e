import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadConfig } from '../../../src/config/load.ts'
import type { ProxyConfig } from '../../../src/config/schema.ts'
import type { LinkFacts } from '../../../src/inspect/checks.ts'
import {
  examineMigration,
  formerMode,
  migrationChecks,
  type MigrationFacts,
} from '../../../src/inspect/migrate-checks.ts'
import { migrationText, traitsOf } from '../../../src/inspect/migrate.ts'
import { settingsToMigrate } from '../../../src/inspect/migration-settings.ts'
import { parseFlags } from '../../../src/cli/flags.ts'
import { parseCidr } from '../../../src/model/address.ts'

const config = (change: Partial<ProxyConfig> = {}): { readonly config: ProxyConfig } => ({
  config: { ...loadConfig({ flags: new Map([['proxy-mode', 'ipvs']]) }).config, ...change },
})
const link = (name: string, kind: string, address?: string, prefix = 24): LinkFacts => ({
  name,
  kind,
  addresses: address === undefined ? [] : [{ family: 'IPv4', address, prefix }],
})
const eth0 = link('eth0', '', '192.168.0.1')
const device = link('kube-ipvs0', 'dummy')
const nothing = { count: 0, nodePorts: [], affinity: [], externalLocal: [], announcers: [] }

/** A node with kube-proxy in IPVS mode, of which nothing is to be said but that. */
const quiet: MigrationFacts = {
  release: '6.1.0-42-amd64',
  scheduler: 'rr',
  excludeCIDRs: [],
  sysctls: new Map([
    ['net.ipv4.conf.all.arp_ignore', '0'],
    ['net.netfilter.nf_conntrack_count', '100'],
    ['net.netfilter.nf_conntrack_max', '1000'],
  ]),
  wrongSysctls: [],
  unread: new Map(),
  modules: new Set(['ip_vs', 'ip_vs_rr', 'ip_set', 'dummy']),
  servers: 10,
  destinations: 20,
  servedFamilies: new Set(['IPv4']),
  schedulersInUse: new Set(['rr']),
  sets: [],
  filter: new Map(),
  variant: 'nft',
  chainsOfOtherVariant: [],
  leftovers: [],
  links: [eth0, device],
  externalAddresses: [],
  serviceAddresses: new Set(['10.96.0.1']),
  clashes: [],
  driftCount: 0,
  unknownWanted: '',
  proxy: { mode: 'ipvs' },
  running: { isOurs: false, mode: 'ipvs', version: 'v1.36.2' },
  ...config(),
  settingsFrom: '/var/lib/kube-proxy/config.conf',
  settingsMode: 'ipvs',
  problems: [],
  services: { ...nothing, count: 3 },
  writers: ['kubelet', 'flannel'],
  available: new Map(),
}

const running = (mode: string): MigrationFacts['running'] => ({ isOurs: false, mode, version: 'v1.35.0' })
/** Of a mode that leaves IPVS alone. */
const from = (mode: 'iptables' | 'nftables'): Partial<MigrationFacts> => ({
  running: running(mode),
  servers: 0,
  destinations: 0,
  schedulersInUse: new Set(),
  links: [eth0],
  ...config({ 'ipvs.tcpTimeout': 7_500_000 }),
})
const some = (change: Partial<MigrationFacts['services']>): Pick<MigrationFacts, 'services'> => ({
  services: { ...nothing, ...change },
})
const inSubnet = { externalAddresses: ['192.168.0.200'] }
const cache = (address: string): LinkFacts => link('nodelocaldns', 'dummy', address, 32)

const cases: readonly { name: string; change: Partial<MigrationFacts>; found: readonly string[] }[] = [
  { name: 'IPVS mode', change: {}, found: [] },
  { name: 'iptables mode', change: from('iptables'), found: [] },
  { name: 'nftables mode', change: from('nftables'), found: [] },
  { name: 'a node that has been moved', change: { running: { isOurs: true, mode: 'ipvs', version: '' } }, found: [] },
  {
    name: 'no proxy and no trace of one',
    change: { ...from('iptables'), running: undefined, settingsMode: '' },
    found: ['warning former-proxy'],
  },
  {
    name: 'a field that there is not',
    change: { problems: [{ path: 'ipvs.shceduler', reason: 'is no field' }] },
    found: ['error settings'],
  },
  { name: 'settings that nobody says', change: { settingsFrom: '' }, found: ['warning settings-unknown'] },
  { name: 'a ConfigMap of another mode', change: { settingsMode: 'iptables' }, found: ['info mode'] },
  { name: 'a ConfigMap without a mode', change: { settingsMode: '' }, found: [] },
  { name: 'health on loopback', change: config({ healthzBindAddress: '127.0.0.1:10256' }), found: ['error probes'] },
  { name: 'health on another port', change: config({ healthzBindAddress: '0.0.0.0:9999' }), found: ['error probes'] },
  { name: 'health switched off', change: config({ healthzBindAddress: '' }), found: ['error probes'] },
  { name: 'health on IPv6', change: config({ healthzBindAddress: '[::]:10256' }), found: [] },
  { name: 'no access to the objects', change: { unknownWanted: 'not known: 403' }, found: ['warning objects-unknown'] },
  {
    name: 'a kernel without IPVS',
    change: {
      ...from('iptables'),
      modules: new Set(),
      available: new Map([
        ['ip_vs', false],
        ['ip_vs_rr', true],
      ]),
    },
    found: ['error modules'],
  },
  {
    name: 'a scheduler that the kernel lacks',
    change: { scheduler: 'mh', available: new Map([['ip_vs_mh', false]]) },
    found: ['error modules'],
  },
  {
    name: 'a scheduler that is built in and in use',
    change: { modules: new Set(['ip_vs', 'ip_set', 'dummy']), available: new Map([['ip_vs_rr', false]]) },
    found: [],
  },
  { name: 'virtual servers of others', change: { ...from('iptables'), servers: 1 }, found: ['error foreign-servers'] },
  {
    name: 'virtual servers of others, with ranges left out',
    change: { ...from('iptables'), servers: 1, excludeCIDRs: [parseCidr('192.168.0.9/32')!] },
    found: ['warning foreign-servers'],
  },
  {
    name: 'node ports on loopback',
    change: { ...from('iptables'), ...some({ nodePorts: ['default/web'] }) },
    found: ['warning loopback-node-ports'],
  },
  {
    name: 'node ports on loopback switched off before',
    change: {
      ...from('iptables'),
      ...some({ nodePorts: ['default/web'] }),
      ...config({ 'ipvs.tcpTimeout': 1, 'iptables.localhostNodePorts': false }),
    },
    found: [],
  },
  {
    name: 'node ports of nftables mode',
    change: { ...from('nftables'), ...some({ nodePorts: ['default/web'] }) },
    found: ['warning node-port-addresses'],
  },
  {
    name: 'node ports of nftables mode, with addresses set',
    change: {
      ...from('nftables'),
      ...some({ nodePorts: ['default/web'] }),
      ...config({ 'ipvs.tcpTimeout': 1, nodePortAddresses: ['primary'] }),
    },
    found: [],
  },
  {
    name: 'the kernel’s idle timeout',
    change: { ...from('iptables'), ...config() },
    found: ['warning idle-connections'],
  },
  {
    name: 'affinity, from iptables mode',
    change: { ...from('iptables'), ...some({ affinity: ['a/b'] }) },
    found: ['info affinity'],
  },
  { name: 'affinity, from IPVS mode', change: some({ affinity: ['a/b'] }), found: [] },
  {
    name: 'externalTrafficPolicy Local, from nftables mode',
    change: { ...from('nftables'), ...some({ externalLocal: ['a/b'] }) },
    found: ['info external-local'],
  },
  {
    name: 'load balancer addresses in the node’s subnet, from iptables mode',
    change: { ...from('iptables'), ...inSubnet, ...some({ announcers: ['MetalLB'] }) },
    found: ['error strict-arp'],
  },
  { name: 'the same, from IPVS mode', change: inSubnet, found: ['warning strict-arp'] },
  { name: 'the same with strictARP', change: { ...inSubnet, ...config({ 'ipvs.strictARP': true }) }, found: [] },
  { name: 'load balancer addresses elsewhere', change: { externalAddresses: ['203.0.113.1'] }, found: [] },
  {
    name: 'NodeLocal DNSCache on the cluster IP',
    change: {
      ...from('iptables'),
      links: [eth0, cache('10.96.0.10')],
      clashes: [{ owner: 'kube-system/kube-dns', address: '10.96.0.10' }],
    },
    found: ['error node-local-dns'],
  },
  {
    name: 'NodeLocal DNSCache on its own address',
    change: { ...from('iptables'), links: [eth0, cache('169.254.20.10')] },
    found: [],
  },
  { name: 'Cilium', change: { writers: ['Cilium'] }, found: ['warning other-programs'] },
  { name: 'Calico', change: { writers: ['Calico', 'Docker'] }, found: ['info other-programs'] },
  {
    name: 'both variants of iptables',
    change: { chainsOfOtherVariant: ['nat KUBE-X'] },
    found: ['error iptables-variants'],
  },
]

describe('checks', () => {
  test.each(cases)('$name', ({ change, found }) => {
    const findings = examineMigration({ ...quiet, ...change })
    const told = findings.map(({ severity, id }) => `${severity} ${id}`)
    const always = found.includes('warning former-proxy') ? [] : ['info former-proxy']
    expect(told.sort()).toEqual([...found, ...always].sort())
    for (const { found: what, change: effect } of findings) expect([what, effect]).not.toContain('')
  })

  test('each has a case in which it finds something', () => {
    const found = new Set(cases.flatMap((one) => one.found.map((text) => text.split(' ')[1])))
    expect(migrationChecks.map(({ id }) => id).filter((id) => !found.has(id))).toEqual([])
  })

  test('what has to be done first stands in front', () => {
    const findings = examineMigration({ ...quiet, ...from('iptables'), ...inSubnet, ...config() })
    expect(findings.map(({ severity }) => severity)).toEqual(['error', 'warning', 'info'])
  })
})

test.each<[string, Partial<MigrationFacts>]>([
  ['ours', { running: { isOurs: true, mode: 'ipvs', version: '' } }],
  ['nftables', { running: running('nftables'), leftovers: ['IPv4 nat: 3 chains'] }],
  ['ipvs', { running: undefined }],
  ['nftables', { running: undefined, leftovers: ['nftables table ip kube-proxy'] }],
  ['iptables', { running: undefined, servers: 0, leftovers: ['IPv4 nat: 3 chains'] }],
  ['iptables', { running: undefined, servers: 0, settingsMode: 'iptables' }],
  ['unknown', { running: undefined, servers: 0, settingsMode: '' }],
])('the former mode is %s', (mode, change) => {
  expect(formerMode({ ...quiet, ...change })).toBe(mode)
})

test('traits of Services', () => {
  const service = (name: string, spec: object, annotations?: object): unknown => ({
    metadata: { name, namespace: 'n', annotations },
    spec,
  })
  const services = [
    service('plain', { ports: [{ port: 80 }] }),
    service('node', { ports: [{ port: 80, nodePort: 30080 }] }),
    service('sticky', { sessionAffinity: 'ClientIP' }),
    service('local', { externalTrafficPolicy: 'Local' }, { 'metallb.universe.tf/ip-allocated-from-pool': 'p' }),
    service('odd', { ports: 'none' }, { 'example.org/x': 'y' }),
    null,
  ]
  expect(traitsOf(services)).toEqual({
    count: 6,
    nodePorts: ['n/node'],
    affinity: ['n/sticky'],
    externalLocal: ['n/local'],
    announcers: ['MetalLB'],
  })
})

describe('settings', () => {
  const golden = (name: string): string =>
    readFileSync(resolve(import.meta.dirname, '../../golden/01-base', name), 'utf8').replace(/^HTTP[^]*?\r?\n\r?\n/, '')
  const kubeProxy: Readonly<Record<string, string>> = {
    '/proxyMode': 'iptables',
    '/configz': golden('configz.json'),
    '/metrics': golden('metrics.txt'),
  }
  const answering = (answers: Readonly<Record<string, string>>) => (url: string) => {
    const body = answers[new URL(url).pathname]
    return body === undefined ? Promise.reject(new Error('refused')) : Promise.resolve({ status: 200, body })
  }
  const line = (...args: string[]): ReturnType<typeof parseFlags> => parseFlags(['migrate', 'check', ...args])

  test('are those that the kube-proxy says', async () => {
    const {
      config: found,
      from: where,
      mode,
      problems,
      running: proxy,
    } = await settingsToMigrate(await line(), answering(kubeProxy))
    expect(proxy).toEqual({ isOurs: false, mode: 'iptables', version: 'v1.36.2' })
    expect(where).toBe('the kube-proxy that runs here')
    expect([mode, found.mode]).toEqual(['ipvs', 'ipvs'])
    expect(found.clusterCIDR).toBe('10.160.0.0/11,fd00:10:160::/48')
    expect(problems).toEqual([])
  })

  test('of a file go before, with all its mistakes', async () => {
    const path = resolve(import.meta.dirname, '../../golden/24-strictarp/kube-proxy-config.yaml')
    const found = await settingsToMigrate(await line(`--config=${path}`, '--ipvs-scheduler=X'), answering(kubeProxy))
    expect(found.from).toBe(path)
    expect(found.config['ipvs.strictARP']).toBe(true)
    expect(found.problems.map((one) => one.path)).toEqual(['--ipvs-scheduler'])
  })

  test('are defaults where nobody answers', async () => {
    const found = await settingsToMigrate(await line(), answering({}))
    expect(found).toMatchObject({ from: '', mode: '', problems: [], running: undefined })
  })

  test('in the form of older releases are none', async () => {
    const older = { ...kubeProxy, '/configz': '{"kubeproxy.config.k8s.io":{"FeatureGates":{}}}' }
    expect((await settingsToMigrate(await line(), answering(older))).from).toBe('')
  })

  test('ours is known by its metrics', async () => {
    const ours = { '/proxyMode': 'ipvs', '/metrics': 'kube_ipvs_config_in_force 1\n' }
    expect((await settingsToMigrate(await line(), answering(ours))).running).toMatchObject({ isOurs: true })
  })
})

test('the text leaves out what there is nothing to do about', () => {
  const findings = examineMigration({ ...quiet, ...from('iptables'), ...config() })
  const text = migrationText({ node: 'n', settings: '', checks: 20, findings, notes: [] })
  expect(text).toContain('Node n: 20 checks, 2 findings\nSettings: defaults\n')
  expect(text.match(/^ {2}to do/gm)).toHaveLength(1)
})

test.each([
  [['migrate'], /migrate needs check/],
  [['migrate', 'now'], 'migrate: "now" must be check'],
])('refuses %s', async (args, message) => {
  await expect(parseFlags(args)).rejects.toThrow(message)
})
