import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { buildRules, conditionalRoles, ownChains, parseDropRule } from '../../../src/iptables/rules.ts'
import type { ChainSet, RuleFacts } from '../../../src/iptables/rules.ts'
import { parseSave, targetOf } from '../../../src/iptables/text.ts'
import { cidrText, parseCidr } from '../../../src/model/address.ts'
import type { Family } from '../../../src/model/address.ts'
import type { LocalDetector } from '../../../src/model/local-detector.ts'
import type { SetRole } from '../../../src/model/sets.ts'
import { diffLines, goldenCases, goldenFile, normaliseIptables } from '../../golden/compare.ts'
import { pods, roles, setName, settings } from './names.ts'

/** The rules as `iptables-save` would print them on a host without other rules. */
function printed(set: ChainSet): string {
  return ['nat', 'filter']
    .map((table) => {
      const chains = set.chains.filter((chain) => chain.table === table)
      const jumps = set.jumps.filter((jump) => jump.table === table).toReversed()
      const builtin =
        table === 'nat' ? ['PREROUTING', 'INPUT', 'OUTPUT', 'POSTROUTING'] : ['INPUT', 'FORWARD', 'OUTPUT']
      return [
        `*${table}`,
        ...builtin.map((name) => `:${name} ACCEPT [0:0]`),
        ...chains.map((chain) => `:${chain.name} - [0:0]`),
        ...jumps.map((jump) => `-A ${jump.from} ${jump.rule}`),
        ...chains.flatMap((chain) => chain.rules.map((rule) => `-A ${chain.name} ${rule}`)),
        'COMMIT',
      ].join('\n')
    })
    .join('\n')
}

interface Config {
  clusterCIDR?: string
  iptables?: { masqueradeAll?: boolean }
  detectLocalMode?: string
  detectLocal?: { bridgeInterface?: string; interfaceNamePrefix?: string }
}

function detectorOf(config: Config, family: Family): LocalDetector | undefined {
  if (config.detectLocalMode === 'BridgeInterface')
    return { kind: 'bridge', name: config.detectLocal!.bridgeInterface! }
  if (config.detectLocalMode === 'InterfaceNamePrefix')
    return { kind: 'prefix', name: config.detectLocal!.interfaceNamePrefix! }
  const cidr = (config.clusterCIDR ?? '')
    .split(',')
    .map(parseCidr)
    .find((one) => one?.family === family)
  return cidr && { kind: 'cidr', cidr: cidrText(cidr) }
}

describe.each(goldenCases())('golden case %s', (name) => {
  test.each(['IPv4', 'IPv6'] as const)('%s', (family) => {
    const dump = goldenFile(name, family === 'IPv4' ? 'iptables-save.txt' : 'ip6tables-save.txt')
    const config: Config = parse(goldenFile(name, 'kube-proxy-config.yaml'))
    const filled = new Set([...goldenFile(name, 'ipset-save.txt').matchAll(/^add (\S+) /gm)].map((match) => match[1]!))
    const nonEmpty = new Set(roles.filter((role) => filled.has(setName(family, role))))
    const outFilterDrops = (parseSave(dump).get('filter')?.get('KUBE-IPVS-OUT-FILTER')?.rules ?? [])
      .map(parseDropRule)
      .filter((drop) => drop !== undefined)
    const set = buildRules({
      ...settings(family, { masqueradeAll: config.iptables?.masqueradeAll ?? false }),
      localDetector: detectorOf(config, family),
      family,
      nonEmpty,
      outFilterDrops,
    })
    const kube = { kubeOnly: true }
    expect(dump).toContain('KUBE-SERVICES')
    expect(diffLines(normaliseIptables(dump, kube), normaliseIptables(printed(set), kube))).toEqual([])
  })
})

const all = new Set<SetRole>(roles)
const build = (changes: Partial<RuleFacts> = {}, nonEmpty: ReadonlySet<SetRole> = all) =>
  buildRules({
    ...settings('IPv4'),
    family: 'IPv4',
    localDetector: pods('IPv4'),
    nonEmpty,
    outFilterDrops: [],
    ...changes,
  })
const rulesOf = (set: ChainSet, table: string, name: string) =>
  set.chains.find((chain) => chain.table === table && chain.name === name)!.rules

const count = (set: ChainSet) => set.chains.flatMap((chain) => chain.rules).length

describe('rules', () => {
  test('every chain is ours, every rule leads to something, jumps lead to our chains', () => {
    const set = build()
    for (const table of ['nat', 'filter'] as const)
      expect(set.chains.filter((chain) => chain.table === table).map((chain) => chain.name)).toEqual(ownChains[table])
    for (const chain of set.chains) for (const rule of chain.rules) expect(targetOf(rule)).toBeDefined()
    for (const jump of set.jumps) expect(ownChains[jump.table]).toContain(jump.to)
  })

  test.each(conditionalRoles)('%s: a rule only while the set has entries', (role) => {
    expect(count(build({}, new Set([role])))).toBeGreaterThan(count(build({}, new Set())))
  })

  test.each([
    [{ masqueradeAll: true }, ' dst,dst -j KUBE-MARK-MASQ', ''],
    [{ localDetector: undefined }, ' src,dst -j KUBE-MARK-MASQ', ''],
    [{ localDetector: { kind: 'cidr', cidr: '10.1.2.3/16' } }, ' dst,dst -j KUBE-MARK-MASQ', '! -s 10.1.0.0/16 '],
    [{ localDetector: { kind: 'bridge', name: 'cni0' } }, ' dst,dst -j KUBE-MARK-MASQ', '! -i cni0 '],
    [{ localDetector: { kind: 'prefix', name: 'veth' } }, ' dst,dst -j KUBE-MARK-MASQ', '! -i veth+ '],
  ] as const)('masquerading of cluster IPs: %j', (changes, end, start) => {
    const rule = rulesOf(build(changes, new Set(['clusterIP'])), 'nat', 'KUBE-SERVICES')[1]!
    expect(rule.endsWith(`KUBE-CLUSTER-IP${end}`)).toBe(true)
    expect(rule.startsWith(`${start}-m comment`)).toBe(true)
  })

  test('source ranges: networks before the node itself, then everything is dropped', () => {
    const rules = rulesOf(build(), 'filter', 'KUBE-SOURCE-RANGES-FIREWALL')
    expect(rules.map(targetOf)).toEqual(['RETURN', 'RETURN', 'DROP'])
    expect(rules[0]).toContain('KUBE-LOAD-BALANCER-SOURCE-CIDR dst,dst,src')
    expect(rules[1]).toContain('KUBE-LOAD-BALANCER-SOURCE-IP dst,dst,src')
  })

  test.each([
    [{ kind: 'cidr', cidr: '10.1.0.0/16' }, '! -s 10.1.0.0/16'],
    [{ kind: 'bridge', name: 'cni0' }, '! -i cni0'],
    [{ kind: 'prefix', name: 'veth' }, '! -i veth+'],
    [undefined, undefined],
  ] as const)('who is no pod is refused where there is no local endpoint: %j', (localDetector, start) => {
    const set = build({ localDetector }, new Set(['externalNoLocal']))
    const found = rulesOf(set, 'filter', 'KUBE-IPVS-FILTER').filter((rule) => rule.includes('KUBE-EXTERNAL-NO-LOCAL'))
    expect(found.length).toBe(start === undefined ? 0 : 1)
    if (start === undefined) return
    expect(found[0]).toContain(`${start} -m conntrack --ctstate NEW `)
    expect(found[0]).toMatch(/KUBE-EXTERNAL-NO-LOCAL dst,dst -j REJECT --reject-with icmp-port-unreachable$/)
    // Before the first rule that lets a service address pass.
    expect(rulesOf(set, 'filter', 'KUBE-IPVS-FILTER').indexOf(found[0]!)).toBe(0)
  })

  test.each([
    [0, '0x1'],
    [14, '0x4000'],
    [31, '0x80000000'],
  ])('mark bit %i is %s', (masqueradeBit, mark) => {
    const set = build({ masqueradeBit, randomFully: false })
    expect(rulesOf(set, 'nat', 'KUBE-MARK-MASQ')).toEqual([`-j MARK --set-xmark ${mark}/${mark}`])
    expect(rulesOf(set, 'nat', 'KUBE-POSTROUTING').slice(1)).toEqual([
      `-m mark ! --mark ${mark}/${mark} -j RETURN`,
      `-j MARK --set-xmark ${mark}/0x0`,
      '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE',
    ])
  })

  test.each([
    ['IPv4', { address: '203.0.113.1', protocol: 'TCP', port: 80 }, '-s 203.0.113.1/32 -m ipvs --vproto 6 '],
    ['IPv6', { address: '2001:db8::1', protocol: 'SCTP', port: 9 }, '-s 2001:db8::1/128 -m ipvs --vproto 132 '],
  ] as const)('drops of %s, each once, and back', (family, drop, start) => {
    const set = build({ family, localDetector: pods(family), outFilterDrops: [drop, { ...drop }] })
    const [rule, ...more] = rulesOf(set, 'filter', 'KUBE-IPVS-OUT-FILTER')
    expect(more).toEqual([])
    expect(rule).toBe(`${start}--vaddr ${drop.address} --vport ${drop.port} -j DROP`)
    expect(parseDropRule(rule!)).toEqual(drop)
    expect(parseDropRule('-j DROP')).toBeUndefined()
  })
})
