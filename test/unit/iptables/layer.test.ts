import { describe, expect, test } from 'vitest'
import { FakeIptables } from '../../../src/iptables/fake-iptables.ts'
import { IptablesLayer } from '../../../src/iptables/layer.ts'
import { ownChains, tables } from '../../../src/iptables/rules.ts'
import type { Drop, RuleSettings } from '../../../src/iptables/rules.ts'
import { parseSave } from '../../../src/iptables/text.ts'
import { silentLog } from '../../../src/lib/log.ts'
import type { SetRole } from '../../../src/model/sets.ts'
import { goldenFile } from '../../golden/compare.ts'
import { roles, setName, pods, settings } from './names.ts'

const none = new Set<string>()
const drop: Drop = { address: '203.0.113.1', protocol: 'TCP', port: 80 }

function setUp(iptables = new FakeIptables({ sets: () => sets }), changes: Partial<RuleSettings> = {}) {
  let failures = 0
  const layer = new IptablesLayer({
    family: 'IPv4',
    iptables,
    log: silentLog,
    rules: settings('IPv4', changes),
    onRestoreFailure: () => failures++,
  })
  /** One pass as the driver does it. */
  const pass = async (nonEmpty: readonly SetRole[], drops: readonly Drop[] = []) => {
    layer.want(new Set(nonEmpty), drops, pods('IPv4'))
    const drift = await layer.resync()
    const added = await layer.add()
    const removed = added.broken ? undefined : await layer.remove(none)
    return { drift, added, removed }
  }
  return { layer, iptables, pass, failures: () => failures }
}

const sets = new Set(roles.map((role) => setName('IPv4', role)))
const text = async (fake: FakeIptables) => (await fake.save('nat')) + (await fake.save('filter'))
const masquerade = (fake: FakeIptables) => fake.rules('nat', 'KUBE-SERVICES').filter((rule) => rule.includes('CLUSTER'))

describe('iptables layer', () => {
  test('first pass writes all in one restore, the second nothing', async () => {
    const { iptables, pass } = setUp()
    const first = await pass(['clusterIP'])
    expect(first).toMatchObject({ drift: [], added: { applied: 20 }, removed: { applied: 0 } })
    expect(iptables.rules('filter', 'INPUT').map((rule) => rule.split(' ').at(-1))).toEqual([
      'KUBE-IPVS-FILTER',
      'KUBE-PROXY-FIREWALL',
      'KUBE-NODE-PORT',
    ])
    expect(iptables.rules('filter', 'FORWARD').map((rule) => rule.split(' ').at(-1))).toEqual([
      'KUBE-PROXY-FIREWALL',
      'KUBE-FORWARD',
    ])
    expect(await pass(['clusterIP'])).toMatchObject({ drift: [], added: { applied: 0 } })
    expect(iptables.restores).toHaveLength(1)
  })

  test('equals the original', async () => {
    const { iptables, pass } = setUp()
    await pass(['clusterIP'])
    const golden = parseSave(goldenFile('01-base', 'iptables-save.txt'))
    for (const table of ['nat', 'filter'] as const)
      for (const [name, chain] of golden.get(table)!) expect(iptables.rules(table, name)).toEqual(chain.rules)
  })

  test('adopts what kube-proxy left without a write', async () => {
    const iptables = new FakeIptables({ sets: () => sets })
    const left = parseSave(goldenFile('07-lb-sourceranges', 'iptables-save.txt'))
    for (const table of tables) iptables.tables.set(table, left.get(table)!)
    const nonEmpty = roles.filter((role) =>
      goldenFile('07-lb-sourceranges', 'ipset-save.txt').includes(`add ${setName('IPv4', role)} `),
    )
    const { layer, pass } = setUp(iptables)
    const drops = [...iptables.rules('filter', 'KUBE-IPVS-OUT-FILTER')].map((rule) => ({
      address: / --vaddr (\S+)/.exec(rule)![1]!,
      protocol: 'TCP' as const,
      port: Number(/ --vport (\d+)/.exec(rule)![1]),
    }))
    expect(await pass(nonEmpty, drops)).toMatchObject({ added: { applied: 0 }, removed: { applied: 0 } })
    expect(iptables.restores).toEqual([])
    // What it left and nobody wants any more goes last.
    layer.want(new Set(), [], pods('IPv4'))
    expect(await layer.add()).toMatchObject({ applied: 0 })
    expect((await layer.remove(none)).applied).toBeGreaterThan(0)
    expect(masquerade(iptables)).toEqual([])
    expect(iptables.rules('filter', 'KUBE-IPVS-OUT-FILTER')).toEqual([])
  })

  describe('taking over from iptables mode', () => {
    const failed = new Set(['dummy'])
    const leads = (iptables: FakeIptables) =>
      iptables.rules('nat', 'KUBE-SERVICES').filter((rule) => / KUBE-SVC-/.test(rule)).length

    async function beside() {
      const iptables = new FakeIptables({ sets: () => sets })
      const left = parseSave(goldenFile('06-nodeport-udp-sctp', 'iptables-mode.txt'))
      for (const table of tables) iptables.tables.set(table, left.get(table)!)
      const one = setUp(iptables)
      one.layer.want(new Set(['clusterIP']), [], pods('IPv4'))
      await one.layer.resync()
      return { ...one, served: leads(iptables) }
    }

    test('its rules serve until all else stands, then ours take their place in one restore', async () => {
      const { layer, iptables, served } = await beside()
      expect(served).toBeGreaterThan(0)
      await layer.add()
      expect(leads(iptables)).toBe(served)
      expect(masquerade(iptables)).toEqual([])
      expect(iptables.rules('filter', 'KUBE-IPVS-FILTER').length).toBeGreaterThan(0)
      expect(await layer.resync()).toEqual([])
      expect(await layer.remove(none)).toMatchObject({ applied: 1 })
      expect(leads(iptables)).toBe(0)
      expect(masquerade(iptables)).toHaveLength(2)
      expect(iptables.restores.at(-1)).toMatch(/^\*nat\n:KUBE-SERVICES - \[0:0\]\n(-A KUBE-SERVICES .*\n)+COMMIT\n$/)
      expect(await layer.resync()).toEqual([])
      expect(await layer.add()).toMatchObject({ applied: 0 })
    })

    test.each([
      { name: 'while a layer has failed', held: none, fails: failed, taken: 0 },
      { name: 'not for an entry that the kernel refuses', held: new Set(['default/x:http']), fails: none, taken: 1 },
    ])('they go on serving $name', async ({ held, fails, taken }) => {
      const { layer, iptables, served } = await beside()
      await layer.add()
      expect(await layer.remove(held, fails)).toMatchObject({ applied: taken })
      expect(leads(iptables)).toBe(taken === 1 ? 0 : served)
      await layer.add()
      expect(await layer.remove(none)).toMatchObject({ applied: 1 - taken })
      expect(leads(iptables)).toBe(0)
    })

    test('where they come back into the chain that has been ours, that is drift', async () => {
      const { layer, iptables } = await beside()
      await layer.add()
      await layer.remove(none)
      iptables.rules('nat', 'KUBE-SERVICES').push('-d 10.96.0.9/32 -j KUBE-SVC-2MBSHUE5GJKPO227')
      expect((await layer.resync()).map(({ object }) => object)).toEqual(['chain KUBE-SERVICES of table nat'])
      expect(await layer.add()).toMatchObject({ applied: 1 })
      expect(leads(iptables)).toBe(0)
    })
  })

  test('rules come with add and go with remove, touching only their chains', async () => {
    const { layer, iptables, pass } = setUp()
    await pass(['clusterIP'])
    layer.want(new Set(['nodePortTCP']), [drop], pods('IPv4'))
    expect(await layer.add()).toMatchObject({ applied: 2 })
    expect(masquerade(iptables)).toHaveLength(2)
    expect(iptables.rules('nat', 'KUBE-NODE-PORT')).toHaveLength(1)
    expect(await layer.remove(new Set(['default/x:http']))).toMatchObject({ applied: 0 })
    expect(masquerade(iptables)).toHaveLength(2)
    expect(await layer.remove(none)).toMatchObject({ applied: 1 })
    expect(masquerade(iptables)).toEqual([])
    expect(iptables.restores.at(-1)).toMatch(/^\*nat\n:KUBE-SERVICES - \[0:0\]\n(-A KUBE-SERVICES .*\n)+COMMIT\n$/)
    layer.want(new Set(['nodePortTCP']), [], pods('IPv4'))
    await layer.add()
    expect(iptables.rules('filter', 'KUBE-IPVS-OUT-FILTER')).toHaveLength(1)
    await layer.remove(none)
    expect(iptables.rules('filter', 'KUBE-IPVS-OUT-FILTER')).toEqual([])
  })

  test('remove does not grow: it may run while sets are missing', async () => {
    const { layer, iptables, pass } = setUp()
    await pass(['clusterIP'])
    layer.want(new Set(['nodePortTCP']), [], pods('IPv4'))
    await layer.remove(none)
    expect(masquerade(iptables)).toEqual([])
    expect(iptables.rules('nat', 'KUBE-NODE-PORT')).toEqual([])
  })

  test('tampering is repaired and told', async () => {
    const { iptables, pass } = setUp()
    await pass(['clusterIP'])
    const before = await text(iptables)
    iptables.rules('nat', 'KUBE-SERVICES').length = 0
    iptables.rules('nat', 'OUTPUT').length = 0
    iptables.rules('filter', 'OUTPUT').push(iptables.rules('filter', 'OUTPUT')[0]!)
    iptables.rules('filter', 'FORWARD').splice(0)
    iptables.tables.get('filter')!.delete('KUBE-FORWARD')
    const { drift, added } = await pass(['clusterIP'])
    expect(drift.map((one) => [one.kind, one.object, one.state])).toEqual([
      ['chain', 'chain KUBE-SERVICES of table nat', 'changed'],
      ['chain', 'chain KUBE-FORWARD of table filter', 'missing'],
      ['rule', 'jump from nat OUTPUT to KUBE-SERVICES', 'missing'],
      ['rule', 'jump from filter FORWARD to KUBE-FORWARD', 'missing'],
      ['rule', 'jump from filter FORWARD to KUBE-PROXY-FIREWALL', 'missing'],
      ['rule', 'jump from filter OUTPUT to KUBE-IPVS-OUT-FILTER', 'changed'],
    ])
    expect(added.applied).toBe(6)
    expect((await text(iptables)).split('\n').toSorted()).toEqual(before.split('\n').toSorted())
    expect(await pass(['clusterIP'])).toMatchObject({ drift: [], added: { applied: 0 } })
  })

  test('foreign rules and chains stay, also above our jumps', async () => {
    const { iptables, pass } = setUp()
    await pass([])
    iptables.rules('filter', 'INPUT').unshift('-s 192.0.2.0/24 -j DROP')
    iptables.tables.get('filter')!.set('FOREIGN', { policy: '-', rules: ['-j DROP'] })
    const before = await text(iptables)
    expect(await pass([])).toMatchObject({ drift: [], added: { applied: 0 } })
    expect(await text(iptables)).toBe(before)
  })

  test('another way of printing a rule is learnt, not written again', async () => {
    const { iptables, pass } = setUp()
    iptables.print = (rule) => rule.replace('--ctstate RELATED,ESTABLISHED', '--ctstate ESTABLISHED,RELATED')
    await pass(['clusterIP'])
    expect(await pass(['clusterIP'])).toMatchObject({ drift: [], added: { applied: 0 } })
    expect(iptables.restores).toHaveLength(1)
  })

  test('another way of printing a jump does not add one with every pass', async () => {
    const { iptables, pass } = setUp()
    iptables.print = (rule) => rule.replace('"kubernetes service portals"', '"portals"')
    await pass([])
    expect(await pass([])).toMatchObject({ drift: [], added: { applied: 0 } })
    expect(iptables.rules('nat', 'OUTPUT')).toHaveLength(1)
  })

  test('a failed restore is broken, counted, and done by the next pass', async () => {
    const { iptables, pass, failures } = setUp()
    iptables.fault = (operation) => (operation === 'restore' ? new Error('line 3 failed') : undefined)
    const { added } = await pass(['clusterIP'])
    expect(added.broken?.message).toBe('line 3 failed')
    expect(failures()).toBe(1)
    iptables.fault = undefined
    expect(await pass(['clusterIP'])).toMatchObject({ drift: [], added: { applied: 20 } })
  })

  test('a missing set breaks its table only', async () => {
    const iptables = new FakeIptables({ sets: () => new Set(['KUBE-CLUSTER-IP']) })
    const { added } = await setUp(iptables).pass(['clusterIP'])
    expect(added.broken?.message).toContain('does not exist')
    expect(masquerade(iptables)).toHaveLength(2)
  })

  test('a failing save rejects resync', async () => {
    const { iptables, layer } = setUp()
    iptables.fault = (operation) => (operation === 'save' ? new Error('gone') : undefined)
    await expect(layer.resync()).rejects.toThrow('gone')
    expect((await layer.add()).broken?.message).toBe('gone')
  })

  test('cleanup leaves nothing of ours and all of others', async () => {
    const { iptables, layer, pass } = setUp()
    const before = await text(iptables)
    await pass(roles, [drop])
    iptables.rules('filter', 'INPUT').push('-s 192.0.2.0/24 -j DROP')
    expect(await layer.cleanup()).toEqual([])
    expect(iptables.rules('filter', 'INPUT')).toEqual(['-s 192.0.2.0/24 -j DROP'])
    iptables.rules('filter', 'INPUT').pop()
    expect(await text(iptables)).toBe(before)
    expect(await layer.cleanup()).toEqual([])
    expect(iptables.restores).toHaveLength(2)
    expect((await pass([])).added.applied).toBe(20)
  })

  test('cleanup keeps a chain that a foreign rule leads to', async () => {
    const { iptables, layer, pass } = setUp()
    await pass([])
    iptables.tables.get('nat')!.set('FOREIGN', { policy: '-', rules: ['-j KUBE-MARK-MASQ'] })
    expect(await layer.cleanup()).toEqual(['nat KUBE-MARK-MASQ'])
    expect(iptables.rules('nat', 'KUBE-MARK-MASQ')).toEqual([])
    expect(iptables.rules('nat', 'FOREIGN')).toEqual(['-j KUBE-MARK-MASQ'])
    expect(ownChains.nat.filter((name) => iptables.tables.get('nat')!.has(name))).toEqual(['KUBE-MARK-MASQ'])
  })
})
