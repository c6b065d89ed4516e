import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { durationText, parseDuration } from '../../../src/config/duration.ts'
import { loadConfig, reportProblems } from '../../../src/config/load.ts'
import { externalForm } from '../../../src/config/external.ts'
import { fields } from '../../../src/config/schema.ts'

const header = 'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n'
const load = (file: string) => loadConfig({ file: header + file, flags: new Map() })
const messages = (file: string): string[] =>
  reportProblems('FILE', load(file).problems)
    .split('\n')
    .slice(1)
    .map((line) => line.trim())

describe('mistakes are told with path, value and what is allowed', () => {
  test.each([
    [
      'ipvs:\n  schedular: rr',
      ['ipvs.schedular: is no field of KubeProxyConfiguration v1alpha1; did you mean ipvs.scheduler?'],
    ],
    ['nonsenseOfAllKinds: 1', ['nonsenseOfAllKinds: is no field of KubeProxyConfiguration v1alpha1']],
    ['ipvs:\n  strictARP: "yes"', ['ipvs.strictARP: "yes" must be true or false']],
    ['ipvs: rr', ['ipvs: "rr" must be a map']],
    [
      'ipvs:\n  scheduler: Round Robin',
      [
        'ipvs.scheduler: "Round Robin" must be the name of a kernel scheduler, such as rr, wrr, lc, wlc, sh, dh, sed, nq, mh',
      ],
    ],
    ['ipvs:\n  syncPeriod: -1s', ['ipvs.syncPeriod: "-1s" must be a duration above 0, such as 30s']],
    ['ipvs:\n  syncPeriod: 30', ['ipvs.syncPeriod: 30 must be a duration above 0, such as 30s']],
    ['ipvs:\n  syncPeriod: 5s\n  minSyncPeriod: 6s', ['ipvs.minSyncPeriod: must not exceed ipvs.syncPeriod']],
    [
      'ipvs:\n  excludeCIDRs: [10.0.0.0/33]',
      ['ipvs.excludeCIDRs: ["10.0.0.0/33"] must be a list of CIDRs, such as [10.0.0.0/8]'],
    ],
    [
      'clusterCIDR: 10.0.0.0',
      ['clusterCIDR: "10.0.0.0" must be a CIDR, or two of different families with a comma between them'],
    ],
    [
      'clusterCIDR: 10.0.0.0/8,11.0.0.0/8',
      ['clusterCIDR: "10.0.0.0/8,11.0.0.0/8" must be a CIDR, or two of different families with a comma between them'],
    ],
    [
      'nodePortAddresses: [primary, 10.0.0.0/8]',
      ['nodePortAddresses: ["primary","10.0.0.0/8"] must be a list of CIDRs, or the single word primary'],
    ],
    ['iptables:\n  masqueradeBit: 32', ['iptables.masqueradeBit: 32 must be a whole number from 0 to 31']],
    ['mode: iptables', ['mode: "iptables" must be ipvs: this daemon has no other mode']],
    [
      'healthzBindAddress: localhost:1',
      ['healthzBindAddress: "localhost:1" must be IP:port with a port from 1 to 65535, or an IP'],
    ],
    ['detectLocalMode: BridgeInterface', ['detectLocal.bridgeInterface: is needed in detectLocalMode BridgeInterface']],
    [
      'bindAddress: here\nmode: x',
      [
        'bindAddress: "here" must be an IP address',
        'mode: "x" must be one of "", ipvs, iptables, nftables, kernelspace',
      ],
    ],
    [
      'ipvs.scheduler: rr',
      ['"ipvs.scheduler": is no field of KubeProxyConfiguration v1alpha1; did you mean ipvs.scheduler?'],
    ],
    ['ipvs: []', ['ipvs: [] must be a map']],
    ['ipvs:\n  strictARP: ""', ['ipvs.strictARP: "" must be true or false']],
    ['nodePortAddresses: {}', ['nodePortAddresses: {} must be a list of CIDRs, or the single word primary']],
    ['mode: *nothing', ['file: Unresolved alias (the anchor must be set before the alias): nothing']],
    ['mode: ipvs\nmode: ipvs', ['line 4: Map keys must be unique']],
    ['mode: [', ['line 3: Flow sequence in block collection must be sufficiently indented and end with a ]']],
  ])('%s', (file, want) => {
    expect(messages(file)).toEqual(want)
  })

  test('another kind of file', () => {
    const { problems } = loadConfig({ file: 'apiVersion: v1\nkind: Service', flags: new Map() })
    expect(problems.map(({ path }) => path)).toEqual(['apiVersion', 'kind'])
  })
})

test('without anything all is at its default', () => {
  const { config, problems } = loadConfig({ flags: new Map() })
  expect(problems).toEqual([])
  for (const [path, { preset }] of Object.entries(fields)) expect(config).toHaveProperty([path], preset)
})

test('what kubeadm writes, all fields empty or zero, means the defaults', () => {
  const file = readFileSync(join(import.meta.dirname, '../../kubeadm/config.conf'), 'utf8')
  const { config, problems, notices } = loadConfig({ file, flags: new Map() })
  expect(problems).toEqual([])
  expect(notices).toEqual([])
  expect(config['ipvs.syncPeriod']).toBe(30_000)
  expect(config['ipvs.scheduler']).toBe('rr')
  expect(config['clientConnection.qps']).toBe(5)
  expect(config['clientConnection.burst']).toBe(10)
  expect(config.detectLocalMode).toBe('ClusterCIDR')
  expect(config['clientConnection.kubeconfig']).toBe('/var/lib/kube-proxy/kubeconfig.conf')
})

test.each(['01-base', '22-scheduler-wrr', '26-nodeportaddresses-primary', '29-detect-bridge'])(
  'reads the configuration of %s',
  (name) => {
    const file = readFileSync(join(import.meta.dirname, '../../golden', name, 'kube-proxy-config.yaml'), 'utf8')
    expect(loadConfig({ file, flags: new Map() }).problems).toEqual([])
  },
)

test.each([
  { name: 'gates in use', file: 'featureGates: {ComponentStatusz: false}', notices: [] },
  {
    name: 'gates',
    file: 'featureGates: {KubeProxyIPVS: true}',
    notices: ['feature gates are accepted and have no effect: KubeProxyIPVS'],
  },
])('notices: $name', ({ file, notices }) => {
  expect(load(`mode: ipvs\n${file}`).notices).toEqual(notices)
})

test('flags override the file, and which do is named', () => {
  const flags = new Map([
    ['ipvs-scheduler', 'wlc'],
    ['hostname-override', 'a'],
    ['ipvs-strict-arp', 'true'],
    ['v', '4'],
    ['healthz-port', '0'],
  ])
  const wanted = {
    'ipvs.scheduler': 'wlc',
    'ipvs.strictARP': true,
    hostnameOverride: 'a',
    'logging.verbosity': 4,
    healthzBindAddress: '',
  }
  expect(loadConfig({ flags }).config).toMatchObject(wanted)
  const file = `${header}mode: ipvs\nhostnameOverride: b\nipvs: {scheduler: sh}\nhealthzBindAddress: 1.2.3.4:1`
  const both = loadConfig({ file, flags })
  expect(both.config).toMatchObject(wanted)
  expect(both.notices).toEqual(['flags override the configuration file: --ipvs-scheduler'])
})

test.each([
  ['kubeIpvsProxy: {drainTimeout: 15m}', 'kubeIpvsProxy.drainTimeout', 900_000],
  ['kubeIpvsProxy: {strictExternalTrafficPolicy: true}', 'kubeIpvsProxy.strictExternalTrafficPolicy', true],
  ['kubeIpvsProxy: {connReuseMode: "1"}', 'kubeIpvsProxy.connReuseMode', '1'],
  ['showHiddenMetricsForVersion: "1.35"', 'showHiddenMetricsForVersion', '1.35'],
] as const)('reads %s', (text, path, value) => {
  const { config, problems } = load(`mode: ipvs\n${text}`)
  expect(problems).toEqual([])
  expect(config[path]).toBe(value)
})

test.each([
  ['0', 0, '0s'],
  ['30s', 30_000, '30s'],
  ['1h0m0s', 3_600_000, '1h0m0s'],
  ['1.5s', 1500, '1.5s'],
  ['250ms', 250, '250ms'],
  ['15m', 900_000, '15m0s'],
  ['-1s', -1000, undefined],
  ['30', undefined, undefined],
  ['s', undefined, undefined],
  ['', undefined, undefined],
])('duration %s', (text, milliseconds, canonical) => {
  expect(parseDuration(text)).toBe(milliseconds)
  if (canonical !== undefined) expect(durationText(milliseconds)).toBe(canonical)
})

test.each<{ flags: [string, string][]; want?: Record<string, unknown>; problems?: string[]; notices?: string[] }>([
  { flags: [['ipvs-scheduler', '']], want: { 'ipvs.scheduler': 'rr' } },
  { flags: [['detect-local-mode', '']], want: { detectLocalMode: 'ClusterCIDR' } },
  { flags: [['healthz-bind-address', '']], want: { healthzBindAddress: '' } },
  { flags: [['healthz-port', '0']], want: { healthzBindAddress: '', metricsBindAddress: '127.0.0.1:10249' } },
  {
    flags: [
      ['metrics-port', '99'],
      ['metrics-bind-address', '::1'],
    ],
    want: { metricsBindAddress: '[::1]:99' },
  },
  {
    flags: [['metrics-port', '99']],
    want: { metricsBindAddress: '127.0.0.1:10249' },
    notices: ['--metrics-port has no effect: the bind address has a port of its own'],
  },
  { flags: [['healthz-port', 'x']], problems: ['--healthz-port: "x" must be a port from 0 to 65535'] },
  { flags: [['masquerade-all', 'T']], want: { 'iptables.masqueradeAll': true } },
  { flags: [['masquerade-all', '0']], want: { 'iptables.masqueradeAll': false } },
  { flags: [['masquerade-all', 'ja']], problems: ['--masquerade-all: "ja" must be true or false'] },
  { flags: [['feature-gates', '']], want: { featureGates: {} } },
  {
    flags: [['feature-gates', 'A=true, B=false']],
    want: { featureGates: { A: true, B: false } },
    notices: ['feature gates are accepted and have no effect: A, B'],
  },
  {
    flags: [['feature-gates', 'A']],
    problems: ['--feature-gates: {"A":""} must be a map of gate names to true or false'],
  },
])('flags $flags', ({ flags, want = {}, problems = [], notices = [] }) => {
  const loaded = loadConfig({ flags: new Map([['proxy-mode', 'ipvs'], ...flags]) })
  expect(loaded.config).toMatchObject(want)
  expect(reportProblems('', loaded.problems).split('\n').slice(1)).toEqual(problems.map((line) => `  ${line}`))
  expect(loaded.notices).toEqual(notices)
})

test('the external form has every field of upstream’s /configz, and can be read again', () => {
  const golden = join(import.meta.dirname, '../../golden/01-base')
  const file = readFileSync(join(golden, 'kube-proxy-config.yaml'), 'utf8')
  const { config } = loadConfig({ file, flags: new Map() })
  const form = externalForm(config)
  expect(form.ipvs).toEqual({
    syncPeriod: '30s',
    minSyncPeriod: '0s',
    scheduler: 'rr',
    excludeCIDRs: [],
    strictARP: false,
    tcpTimeout: '0s',
    tcpFinTimeout: '0s',
    udpTimeout: '0s',
  })
  const text = readFileSync(join(golden, 'configz.json'), 'utf8')
  const theirs = (JSON.parse(text) as Record<string, Record<string, unknown>>)['kubeproxy.config.k8s.io']!
  for (const [key, value] of Object.entries(theirs)) {
    expect(form).toHaveProperty([key])
    if (typeof value !== 'object' || value === null) continue
    for (const inner of Object.keys(value)) expect(form).toHaveProperty([key, inner])
  }
  expect(loadConfig({ file: JSON.stringify(form), flags: new Map() })).toMatchObject({ config, problems: [] })
})
