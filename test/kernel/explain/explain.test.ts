// What `explain` says of a packet, and what becomes of the packet: in good order, broken by hand in ways whose cause it or
// `doctor` has to name, and at random.
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Finding } from '../../../src/inspect/checks.ts'
import { addressOf, families, otherClient, serviceAddress } from '../traffic/network.ts'
import { serviceObjects } from '../traffic/service.ts'
import { randomServices, runCampaign } from './campaign.ts'
import { ExplainLab } from './lab.ts'
import { probeOf, setUps, shapes, type Ask, type Name } from './set-ups.ts'

/** The beginning of a campaign that scripts/verify-long.sh runs whole. */
const campaign = { seed: 1, combinations: 60, perState: 10 }
const isWhole = process.env.EXPLAIN === 'whole'
const random = randomServices(campaign.seed, 10, 100)

let lab: ExplainLab
/** What doctor says in good order: nobody answers, for the daemon has ended, and some settings are not a namespace's. */
let before: readonly Finding[]

beforeAll(async () => {
  const all = [...Object.values(shapes), ...random]
  lab = await ExplainLab.start(all.flatMap((shape) => serviceObjects(shape)))
  before = await lab.doctor()
})

afterAll(() => lab?.end())

async function mistakes(asks: readonly Ask[]): Promise<string[]> {
  const probes = asks.map(probeOf)
  return lab.mistakes(probes, await lab.explain(probes))
}

const targets = ['clusterIP', 'loadBalancer', 'externalIP', 'node-a'] as const
const askers = ['client', 'a1', 'node-a', 'b1'] as const

/** The others are broken by themselves, or are among the random ones. */
const goodOrder: readonly Name[] = ['web', 'near', 'far', 'self', 'nobody', 'ranged', 'host', 'hostB']

test.each(goodOrder)('in good order: %s', async (to) => {
  const transports = 'ports' in shapes[to] ? (['TCP'] as const) : (['TCP', 'UDP'] as const)
  const asks = families.flatMap((family, f) =>
    transports.flatMap((transport, t) =>
      targets.flatMap((at, a) =>
        askers
          // The half: what one family is asked by TCP, the other is asked by UDP.
          .filter((_, i) => isWhole || (f + t + a + i) % 2 === 0)
          // What a pod of node-b asks of service addresses goes to node-b's own.
          .filter((from) => from !== 'b1' || at === 'node-a')
          .map((from): Ask => ({ from, to, at, transport, family })),
      ),
    ),
  )
  expect(await mistakes(asks)).toEqual([])
})

test.each(setUps)('$name', async ({ by, undo, asked, code, says = '', doctor }) => {
  lab.shell(by)
  try {
    if (asked !== undefined) {
      const probe = probeOf({ to: 'web', at: 'clusterIP', transport: 'TCP', family: 'IPv4', ...asked })
      const [only] = await lab.explain([probe])
      expect(only!.explanation.verdict.code, only!.text).toBe(code)
      expect(only!.text.split('\n').at(-2)).toContain(says)
      expect(await lab.mistakes([probe], [only!])).toEqual([])
    }
    if (doctor !== undefined) {
      const [id, found] = doctor
      const findings = await lab.doctor()
      const told = findings.filter((one) => one.id === id).map((one) => one.found)
      expect(told, JSON.stringify(findings)).toContainEqual(expect.stringContaining(found))
    }
  } finally {
    lab.shell(undo)
  }
})

test('there are more than thirty set-ups, and they leave nothing behind', async () => {
  expect(setUps.filter(({ code }) => code !== 'served').length).toBeGreaterThan(30)
  const asks = families.map((family): Ask => ({ from: 'client', to: 'web', at: 'clusterIP', transport: 'TCP', family }))
  const found = await lab.explain(asks.map(probeOf))
  expect(found.map(({ explanation }) => explanation.findings)).toEqual([[], []])
  expect(found.map(({ explanation }) => explanation.differences)).toEqual([[], []])
  expect(await lab.doctor()).toEqual(before)
})

test('a client is kept at a destination that it cannot reach any more', async () => {
  const ask: Ask = {
    from: 'client',
    to: 'sticky',
    at: 'clusterIP',
    transport: 'TCP',
    family: 'IPv4',
    source: otherClient.IPv4,
  }
  const probe = probeOf(ask)
  const [pod = ''] = (await lab.network.ask('client', probe)).split(' ')
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a pod says its name
  const kept = addressOf(pod as 'a1', 'IPv4')
  const rule = `OUTPUT -p tcp -d ${kept} --dport 8080 -j DROP`
  lab.shell([`iptables -I ${rule}`])
  try {
    const [only] = await lab.explain([probe])
    expect(only!.explanation.verdict).toMatchObject({ code: 'dropped-by-foreign-rule', answer: 'nothing' })
    expect(only!.explanation.verdict.text).toContain(`client affinity keeps ${otherClient.IPv4} at ${kept}:8080`)
    expect(await lab.mistakes([probe], [only!])).toEqual([])
  } finally {
    lab.shell([`iptables -D ${rule}`])
  }
})

test('a flow of another time goes past the service, and new ones do not', async () => {
  const source = addressOf('client', 'IPv4')
  const vip = serviceAddress('clusterIP', 1, 'IPv4')
  const probe = probeOf({ from: 'client', to: 'web', at: 'clusterIP', transport: 'UDP', family: 'IPv4', source })
  const rule = `-t nat %s PREROUTING -p udp -d ${vip} --dport 80 -j DNAT --to-destination 10.244.1.99:8080`
  const old = { transport: 'UDP', address: vip, port: 80, sourcePort: 40404, timeout: 1000 } as const
  lab.shell([`iptables ${rule.replace('%s', '-I')}`])
  await lab.network.ask('client', old)
  lab.shell([`iptables ${rule.replace('%s', '-D')}`])
  // It goes on to where nobody is.
  expect(await lab.network.ask('client', old)).toMatch(/timeout|EHOSTUNREACH/)
  const [only] = await lab.explain([probe])
  const { verdict, findings } = only!.explanation
  expect(verdict).toMatchObject({ code: 'stale-flow', advice: `conntrack -D -p udp -s ${source} -d ${vip} --dport 80` })
  expect(verdict.text).toContain(`${source}:40404 to ${vip}:80, answered by 10.244.1.99:8080`)
  expect(findings.join()).toContain('1 UDP flows')
  expect(await lab.mistakes([probe], [only!])).toEqual([])
})

test('random questions in random states', async () => {
  const result = await runCampaign(lab, random, campaign)
  console.log(JSON.stringify({ ...result, mistakes: result.mistakes.length }))
  expect(result.mistakes).toEqual([])
  expect(result.combinations).toBeGreaterThanOrEqual(campaign.combinations)
})
