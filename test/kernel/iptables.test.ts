import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { IptablesLayer } from '../../src/iptables/layer.ts'
import { IptablesTool } from '../../src/iptables/restore.ts'
import { jumps, ownChains, tables } from '../../src/iptables/rules.ts'
import type { Drop } from '../../src/iptables/rules.ts'
import { parseSave } from '../../src/iptables/text.ts'
import { describeError } from '../../src/lib/errors.ts'
import { silentLog } from '../../src/lib/log.ts'
import { runCommand } from '../../src/lib/process.ts'
import type { Family } from '../../src/model/address.ts'
import { roles, setName, pods, settings, setType } from '../unit/iptables/names.ts'

const none = new Set<string>()

async function run(command: string, ...args: string[]): Promise<string> {
  const result = await runCommand(command, args)
  if (result.code !== 0) throw new Error(`${command} ${args.join(' ')}: ${result.stderr}`)
  return result.stdout
}

const cases = (['-nft', '-legacy'] as const).flatMap((infix) =>
  (['IPv4', 'IPv6'] as const).map((family) => [infix, family] as const),
)

describe.each(cases)('iptables%s, %s', (infix, family: Family) => {
  const command = `${family === 'IPv4' ? 'iptables' : 'ip6tables'}${infix}`
  const drops: readonly Drop[] = (['TCP', 'UDP', 'SCTP'] as const).map((protocol, i) => ({
    address: family === 'IPv4' ? '203.0.113.1' : '2001:db8::1',
    protocol,
    port: 80 + i,
  }))
  let tool: IptablesTool
  let layer: IptablesLayer
  const newLayer = () =>
    new IptablesLayer({
      family,
      iptables: tool,
      log: silentLog,
      rules: settings(family, { randomFully: tool.randomFully }),
    })
  const pass = async () => {
    const drift = await layer.resync()
    const added = await layer.add()
    expect(added.broken && describeError(added.broken)).toBeUndefined()
    return { drift, applied: added.applied + (await layer.remove(none)).applied }
  }
  const saved = async () =>
    new Map(await Promise.all(tables.map(async (t) => [t, parseSave(await tool.save(t)).get(t)] as const)))

  beforeAll(async () => {
    tool = await IptablesTool.open(family, { infix, reason: 'test' })
    for (const role of roles) {
      const type = setType(role)
      const options = type === 'bitmap:port' ? ['range', '0-65535'] : ['family', family === 'IPv4' ? 'inet' : 'inet6']
      await run('ipset', 'create', '-exist', setName(family, role), type, ...options)
    }
    layer = newLayer()
    layer.want(new Set(roles), drops, pods(family))
  })

  afterAll(async () => {
    await layer.cleanup()
    for (const role of roles) await run('ipset', 'destroy', setName(family, role))
  })

  test('says what it is', () => expect(tool.variant).toBe(infix.slice(1)))

  test('all rules, then nothing to do; a new process adopts them', async () => {
    expect(await pass()).toEqual({ drift: [], applied: 20 })
    expect(await pass()).toEqual({ drift: [], applied: 0 })
    layer = newLayer()
    layer.want(new Set(roles), drops, pods(family))
    expect(await pass()).toEqual({ drift: [], applied: 0 })
  })

  test('tampering is repaired and told', async () => {
    await run(command, '-w', '-t', 'nat', '-F', 'KUBE-SERVICES')
    await run(command, '-w', '-t', 'filter', '-D', 'INPUT', '1')
    const { drift, applied } = await pass()
    expect(drift.map((one) => `${one.object} ${one.state}`)).toEqual([
      'chain KUBE-SERVICES of table nat changed',
      'jump from filter INPUT to KUBE-IPVS-FILTER missing',
    ])
    expect(applied).toBe(2)
    expect(await pass()).toEqual({ drift: [], applied: 0 })
  })

  test('a rule of a missing set is refused with the line', async () => {
    const input = '*nat\n:KUBE-MARK-MASQ - [0:0]\n-A KUBE-MARK-MASQ -m set --match-set NO-SUCH dst -j RETURN\nCOMMIT\n'
    await expect(tool.restore(input)).rejects.toThrow('NO-SUCH')
    expect(await pass()).toEqual({ drift: [], applied: 0 })
  })

  test('cleanup leaves nothing of ours and all of others', async () => {
    await run(command, '-w', '-t', 'filter', '-A', 'INPUT', '-i', 'nosuch0', '-j', 'DROP')
    expect(await layer.cleanup()).toEqual([])
    const left = await saved()
    for (const table of tables) for (const name of ownChains[table]) expect(left.get(table)?.has(name)).toBe(false)
    for (const jump of jumps) expect(left.get(jump.table)?.get(jump.from)?.rules.join() ?? '').not.toContain(jump.to)
    expect(left.get('filter')?.get('INPUT')?.rules).toContain('-i nosuch0 -j DROP')
    await run(command, '-w', '-t', 'filter', '-D', 'INPUT', '-i', 'nosuch0', '-j', 'DROP')
  })
})
