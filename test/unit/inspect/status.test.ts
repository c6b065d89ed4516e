import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, test } from 'vitest'
import { ownArguments, withDaemonFlags } from '../../../src/inspect/daemon-flags.ts'
import { ask, metricValues, proxyOfAnswers, readDaemon, urlOf } from '../../../src/inspect/daemon.ts'
import { differencesOf } from '../../../src/inspect/difference.ts'
import { diffResult, diffText } from '../../../src/inspect/diff.ts'
import { chainsOfOtherVariant } from '../../../src/inspect/facts.ts'
import { otherWriters, writerOf } from '../../../src/inspect/others.ts'
import { columns, counted, json } from '../../../src/inspect/output.ts'
import { orError, readPresent, readRules } from '../../../src/inspect/present.ts'
import { surveyServers } from '../../../src/inspect/servers.ts'
import { statusOf, statusText, type StatusFacts } from '../../../src/inspect/status.ts'
import { parseSave } from '../../../src/iptables/text.ts'
import { parseFlags } from '../../../src/cli/flags.ts'
import { endpoint, service, slice } from '../proxier/objects.ts'
import { presentOf, stand } from './stand.ts'

const tcp = { family: 'IPv4', protocol: 'TCP', address: '10.96.0.10', port: 80 } as const

const facts: StatusFacts = {
  node: 'node1',
  daemon: { answers: false, reason: 'ECONNREFUSED', healthy: undefined, lastSyncAge: {}, refused: {} },
  sysctls: [
    { name: 'net.ipv4.ip_forward', value: '0', wanted: '1', ok: false },
    { name: 'net.ipv4.vs.conn_reuse_mode', value: '1', wanted: '', ok: true },
  ],
  notes: ['Service default/odd: spec.ports[0].port is missing'],
}

const origin = { from: 'daemon', text: 'what the daemon says' } as const

describe('status', () => {
  test('counts both sides, names what is lacking for whom, and what drains', async () => {
    const { rig, wanted } = await stand({ services: [service()], slices: [slice([endpoint('10.0.0.1')])] })
    await rig.ipvs.apply([
      { kind: 'newDestination', server: tcp, destination: { address: '10.0.0.9', port: 8080, weight: 0 } },
    ])
    rig.ipvs.setConnections(tcp, { address: '10.0.0.9', port: 8080 }, 2, 3)
    await rig.ipset.remove({ name: 'KUBE-IPVS-IPS', type: 'hash:ip', family: 'IPv4', hashsize: 0, maxelem: 0 }, [
      '10.96.0.10',
    ])
    rig.iptables.rules('filter', 'INPUT').push('-p tcp --dport 22 -j ACCEPT')
    const tools = new Map([['IPv4', rig.iptables]] as const)
    const rules = await readRules(tools)
    const present = await presentOf(rig, wanted)
    const look = { family: 'IPv4', wanted, present, difference: differencesOf(wanted, present, []) } as const
    const status = statusOf({ origin, families: [look], rules, iptables: tools as never }, facts)

    const layer = (name: string) => status.families[0]!.layers.find((one) => one.layer === name)!
    expect(layer('ipvs')).toMatchObject({
      wanted: { server: 1, destination: 1 },
      present: { server: 1, destination: 2 },
      drift: 0,
    })
    expect(layer('ipset')).toMatchObject({ wanted: { entry: 2 }, present: { entry: 1 }, drift: 1 })
    expect(layer('dummy')).toMatchObject({ wanted: { address: 1 }, present: { address: 1 }, drift: 0 })
    expect(layer('iptables')).toMatchObject({ wanted: { chain: 11 }, present: { chain: 11 }, drift: 0 })
    expect(status.failing).toEqual([
      { object: 'default/web/TCP', reason: 'set entry 10.96.0.10 of set KUBE-IPVS-IPS missing' },
    ])
    expect(status.draining).toEqual([
      {
        family: 'IPv4',
        server: '10.96.0.10:80/TCP',
        address: '10.0.0.9',
        port: 8080,
        activeConnections: 2,
        inactiveConnections: 3,
      },
    ])
    expect(status.schedulers).toEqual({ rr: 1 })
    expect(status.others).toEqual([{ who: 'rules in built-in chains', chains: 0, rules: 1, tables: ['IPv4 filter'] }])
    expect(status.sets.find(({ set }) => set === 'KUBE-CLUSTER-IP')).toMatchObject({ members: 1, size: 65536 })

    const shown = statusText(status)
    expect(shown).toContain('does not answer, its last sync is unknown (ECONNREFUSED)')
    expect(shown).toMatch(/IPv4 +ipvs +1 server, 1 destination +1 server, 2 destinations +0\n/)
    expect(shown).toContain('Sysctls: 1 not as they should be')
    expect(shown).toContain('spec.ports[0].port is missing')
    expect(JSON.parse(json(status))).toMatchObject({ node: 'node1', draining: [{ activeConnections: 2 }] })
  })

  test('a layer that cannot be read is told, the others all the same', async () => {
    const { rig, wanted } = await stand({ services: [service()], slices: [] })
    const tools = new Map([['IPv4', rig.iptables]] as const)
    const rules = await readRules(tools)
    const servers = orError(() =>
      surveyServers(() => {
        throw new Error('ENOENT')
      }),
    )
    const present = await readPresent('IPv4', wanted, { rules, servers }, rig)
    const look = { family: 'IPv4', wanted, present, difference: differencesOf(wanted, present, []) } as const
    const status = statusOf({ origin, families: [look], rules, iptables: tools as never }, facts)
    expect(status.families[0]!.layers.map(({ layer, present: found }) => [layer, found !== undefined])).toEqual([
      ['ipset', true],
      ['iptables', true],
      ['ipvs', false],
      ['dummy', true],
    ])
    const result = diffResult('node1', { origin, families: [look] }, [])
    expect(result).toMatchObject({
      differs: true,
      differences: [],
      unread: { 'IPv4 ipvs': expect.stringContaining('modprobe ip_vs') },
    })
    expect(diffText(result)).toContain('Could not be read')
  })
})

test('where it is not known what is wanted, what stands is told', async () => {
  const { rig } = await stand({ services: [service()], slices: [slice([endpoint('10.0.0.1')])] })
  const present = await presentOf(rig, undefined)
  const look = {
    family: 'IPv4',
    wanted: undefined,
    present,
    difference: differencesOf(undefined, present, []),
  } as const
  const nobody = { from: 'nobody', text: 'not known: ECONNREFUSED' } as const
  const rules = await readRules(new Map([['IPv4', rig.iptables]] as const))
  const status = statusOf({ origin: nobody, families: [look], rules, iptables: new Map() }, facts)
  expect(status.families[0]!.layers).toMatchObject([
    { layer: 'ipset', wanted: undefined, present: { entry: 2 }, drift: undefined },
    { layer: 'iptables', wanted: undefined, present: { chain: 11 }, drift: undefined },
    { layer: 'ipvs', wanted: undefined, present: { server: 1, destination: 1 }, drift: undefined },
    { layer: 'dummy', wanted: undefined, present: { address: 1 }, drift: undefined },
  ])
  expect(statusText(status)).toMatch(/IPv4 +ipvs +\? +1 server, 1 destination +\?\n/)
  const result = diffResult('node1', { origin: nobody, families: [look] }, [])
  expect(result).toMatchObject({ differs: true, differences: [], unread: {} })
  expect(diffText(result)).toBe('It is not known what is wanted.\n\nWanted\n  not known: ECONNREFUSED\n')
})

describe('the daemon', () => {
  const metrics = [
    '# HELP kubeproxy_sync_proxy_rules_last_timestamp_seconds The last time',
    'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1000.5',
    'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv6"} 990',
    'kubeproxy_sync_proxy_rules_last_timestamp_seconds_other 5',
    'kube_ipvs_refused_service_ports{ip_family="IPv4"} 2',
    'kube_ipvs_config_in_force 1',
  ].join('\n')
  const answer = (body: string, status = 200) => ({ status, body })
  const silent = new Error('ECONNREFUSED')

  test('tells the age of its last sync and what was refused', () => {
    const healthz = answer('{"healthy":false,"reason":"IPv4: a sync is overdue"}', 503)
    expect(readDaemon({ metrics: answer(metrics), healthz, proxyMode: answer('ipvs') }, 1_010_000)).toEqual({
      answers: true,
      reason: 'IPv4: a sync is overdue',
      healthy: false,
      lastSyncAge: { IPv4: 10, IPv6: 20 },
      refused: { IPv4: 2 },
    })
  })

  test.each([
    { metrics: answer(metrics), proxyMode: answer('ipvs'), proxy: 'ours' },
    { metrics: answer('kubeproxy_x 1'), proxyMode: answer('iptables\n'), proxy: { mode: 'iptables' } },
    { metrics: answer('kubeproxy_x 1'), proxyMode: silent, proxy: { mode: '' } },
    { metrics: silent, proxyMode: silent, proxy: 'none' },
  ])('is $proxy', ({ metrics, proxyMode, proxy }) => {
    expect(proxyOfAnswers({ metrics, proxyMode, healthz: silent })).toEqual(proxy)
  })

  test('values of one metric', () => {
    expect([...metricValues(metrics, 'kube_ipvs_config_in_force')]).toEqual([['', 1]])
    expect(metricValues(metrics, 'kubeproxy_sync_proxy_rules_last_timestamp_seconds').size).toBe(2)
  })

  test.each([
    ['127.0.0.1:10249', 'http://127.0.0.1:10249'],
    ['0.0.0.0:1234', 'http://127.0.0.1:1234'],
    ['[::]:10249', 'http://[::1]:10249'],
    ['10.0.0.1', 'http://10.0.0.1:99'],
    ['', undefined],
  ])('%s is asked at %s', (bind, url) => {
    expect(urlOf(bind, 99)).toBe(url)
  })

  test('is asked over HTTP', async () => {
    const server = createServer((request, response) => {
      response.statusCode = 503
      response.end(`you asked ${request.url}`)
    })
    await new Promise<void>((up) => server.listen(0, '127.0.0.1', up))
    const { port } = server.address() as AddressInfo
    expect(await ask(`http://127.0.0.1:${port}/healthz`)).toEqual({ status: 503, body: 'you asked /healthz' })
    await new Promise((down) => server.close(down))
    await expect(ask(`http://127.0.0.1:${port}/healthz`)).rejects.toThrow('ECONNREFUSED')
  })
})

describe('flags of the daemon in the same container', () => {
  const cmdline = (...words: string[]): string => words.map((word) => `${word}\0`).join('')
  const daemon = cmdline(
    '/usr/bin/node',
    '--v8-pool-size=1',
    '/opt/x/dist/kube-ipvs-proxy.cjs',
    '--config=/c',
    '--hostname-override=n',
  )

  test.each([
    [daemon, ['--config=/c', '--hostname-override=n']],
    [cmdline('node', '/work/src/main.ts', '-v=2'), ['-v=2']],
    [cmdline('/sbin/init'), undefined],
    [cmdline('vim', 'kube-ipvs-proxy.yaml'), undefined],
    ['', undefined],
  ])('%j', (text, args) => {
    expect(ownArguments(text)).toEqual(args)
  })

  test('are taken where none are given, and left where some are', async () => {
    const read = (): string => daemon
    const bare = await withDaemonFlags(await parseFlags(['diff', '-o', 'json']), read)
    expect(bare).toMatchObject({ operation: 'command', config: '/c', command: { name: 'diff', output: 'json' } })
    expect(bare.flags.get('hostname-override')).toBe('n')
    const own = await withDaemonFlags(await parseFlags(['diff', '--manifests=/m']), read)
    expect(own).toMatchObject({ manifests: '/m', config: undefined })
  })
})

describe('others', () => {
  test.each([
    ['KUBE-ROUTER-INPUT', 'kube-router'],
    ['KUBE-POD-FW-ABC', 'kube-router'],
    ['KUBE-SEP-ABC', 'kube-proxy in iptables mode'],
    ['KUBE-KUBELET-CANARY', 'kubelet'],
    ['CILIUM_INPUT', 'Cilium'],
    ['OLD_CILIUM_INPUT', 'Cilium'],
    ['cali-INPUT', 'Calico'],
    ['FLANNEL-POSTRTG', 'flannel'],
    ['CNI-HOSTPORT-DNAT', 'CNI plugins'],
    ['CNI-0123456789abcdef01234567', 'CNI plugins'],
    ['DOCKER-USER', 'Docker'],
    ['ufw-before-input', 'ufw'],
    ['ufw6-user-input', 'ufw'],
    ['IN_public_allow', 'firewalld'],
    ['INPUT_ZONES', 'firewalld'],
    ['f2b-sshd', 'fail2ban'],
    ['my-chain', 'others'],
  ])('chain %s is of %s', (chain, who) => {
    expect(writerOf(chain)).toBe(who)
  })

  test('are counted by table; jumps to their chains are theirs, our own chains nobody’s', () => {
    const tables = parseSave(
      `*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:DOCKER - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A PREROUTING -j DOCKER
-A PREROUTING -p tcp -j DNAT --to-destination 10.0.0.1
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:INPUT ACCEPT [0:0]
:DOCKER - [0:0]
COMMIT`,
    )
    const rules = new Map([['IPv4', tables]]) as never
    expect(otherWriters(rules)).toEqual([
      { who: 'rules in built-in chains', chains: 0, rules: 1, tables: ['IPv4 nat'] },
      { who: 'Docker', chains: 2, rules: 1, tables: ['IPv4 nat', 'IPv4 filter'] },
    ])
  })

  test.each([
    { variant: 'nft', names: 'nat\n', asked: ['iptables-legacy-save nat', 'ip6tables-legacy-save nat'] },
    { variant: 'nft', names: '', asked: [] },
    {
      variant: 'legacy',
      names: '',
      asked: [
        'iptables-nft-save nat',
        'iptables-nft-save filter',
        'ip6tables-nft-save nat',
        'ip6tables-nft-save filter',
      ],
    },
  ] as const)(
    'the other variant of $variant is asked only for tables that are there',
    async ({ variant, names, asked }) => {
      const calls: string[] = []
      const found = await chainsOfOtherVariant(
        variant,
        (command, args) => {
          calls.push(`${command} ${args[1]}`)
          return Promise.resolve({
            code: 0,
            stdout: ':KUBE-SERVICES - [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\n',
            stderr: '',
          })
        },
        () => names,
      )
      expect(calls).toEqual(asked)
      expect(found).toEqual(
        asked.length === 0 ? [] : [...new Set(asked.map((call) => `${call.split(' ')[1]} KUBE-SERVICES`))],
      )
    },
  )
})

test('columns are aligned, and a remark widens none', () => {
  expect(columns([['a', 'bb', 'c'], ['aaa', 'b', ''], ['a long remark that stands alone']], '  ')).toBe(
    '  a    bb  c\n  aaa  b\n  a long remark that stands alone\n',
  )
})

test.each([
  [1, 'entry', '1 entry'],
  [2, 'entry', '2 entries'],
  [0, 'address', '0 addresses'],
  [3, 'server', '3 servers'],
])('%d %s', (count, noun, text) => {
  expect(counted(count, noun)).toBe(text)
})
