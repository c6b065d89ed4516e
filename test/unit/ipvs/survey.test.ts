import { describe, expect, it } from 'vitest'
import { serverKey, type KnownServer, type ObservedServer } from '../../../src/ipvs/ipvs.ts'
import type { ProcFile } from '../../../src/ipvs/proc-file.ts'
import { Survey, type Findings } from '../../../src/ipvs/survey.ts'
import { familyOf, type Family } from '../../../src/model/address.ts'
import { DestinationList } from '../../../src/model/destination-list.ts'
import { procText } from '../inspect/stand.ts'

/** A virtual server of one destination. */
function make(address: string, change: { weight?: number; scheduler?: string; port?: number } = {}): ObservedServer {
  const family = familyOf(address)
  const { weight = 1, scheduler = 'rr', port = 80 } = change
  return {
    server: { family, protocol: 'TCP', address, port, scheduler, flags: 0, timeout: 0 },
    destinations: [
      {
        address: family === 'IPv4' ? '10.244.0.1' : 'fd00:1::1',
        port: 8080,
        weight,
        forwarding: 0,
        activeConnections: 1,
        inactiveConnections: 10,
      },
    ],
  }
}

function known(servers: readonly ObservedServer[]): Map<Family, Map<string, KnownServer>> {
  const families = new Map<Family, Map<string, KnownServer>>([
    ['IPv4', new Map()],
    ['IPv6', new Map()],
  ])
  for (const { server, destinations } of servers)
    families.get(server.family)!.set(serverKey(server), { server, destinations: DestinationList.of(destinations) })
  return families
}

/** A file that gives a server at a time, each after some milliseconds of a core. */
function fileOf(servers: readonly ObservedServer[], takes: number) {
  const pages = servers.map((one) => procText([one]))
  const state = { opened: 0, closed: 0, read: 0 }
  const open = (): ProcFile => {
    state.opened++
    let at = 0
    return {
      read: (buffer) => {
        for (const end = performance.now() + takes; performance.now() < end;);
        if (at === pages.length) return 0
        state.read++
        return buffer.write(pages[at++]!, 'latin1')
      },
      close: () => void state.closed++,
    }
  }
  return { state, open }
}

const four = Array.from({ length: 10 }, (_, i) => make(`10.96.0.${i + 1}`))
const six = Array.from({ length: 10 }, (_, i) => make(`fd00::${i + 1}`))
const addresses = (found: readonly { address: string }[]): string[] => found.map(({ address }) => address)

describe('Survey', () => {
  const foreign = make('10.96.7.7')
  it.each<[string, ObservedServer[], string[]]>([
    ['what is as known', four, []],
    ['another weight', four.with(3, make('10.96.0.4', { weight: 2 })), ['10.96.0.4']],
    ['another scheduler', four.with(0, make('10.96.0.1', { scheduler: 'lc' })), ['10.96.0.1']],
    [
      'a destination more',
      four.with(9, { ...four[9]!, destinations: [...four[9]!.destinations, ...four[8]!.destinations] }),
      ['10.96.0.10'],
    ],
    ['no destination', four.with(9, { ...four[9]!, destinations: [] }), ['10.96.0.10']],
    ['a server more', [...four.slice(0, 5), foreign, ...four.slice(5)], ['10.96.7.7']],
    ['two servers less', four.toSpliced(0, 1).toSpliced(4, 1), ['10.96.0.1', '10.96.0.6']],
    ['another port', four.with(2, make('10.96.0.3', { port: 81 })), ['10.96.0.3', '10.96.0.3']],
    ['nothing at all', [], addresses(four.map(({ server }) => server))],
  ])('finds %s', async (_name, servers, suspects) => {
    const survey = new Survey(known(four), {}, fileOf(servers, 0).open)
    await survey.goOn()
    const findings = await survey.take('IPv4')
    expect(addresses(findings.suspects)).toEqual(suspects)
    const count = servers.reduce((sum, one) => sum + one.destinations.length, 0)
    expect(findings.connections).toEqual({ active: count, inactive: 10 * count })
    expect(await survey.take('IPv6')).toEqual({ suspects: [], connections: { active: 0, inactive: 0 } })
  })

  it('tells what it has found part by part, and only at the end what is missing', async () => {
    const { open, state } = fileOf([make('10.96.0.1', { weight: 5 }), ...four.slice(2)], 4)
    const survey = new Survey(known(four), {}, open)
    const parts: Findings[] = []
    const read: number[] = []
    while (!survey.isOver) {
      await survey.goOn(10)
      parts.push(await survey.take('IPv4'))
      read.push(state.read)
    }
    expect(parts.length).toBeGreaterThan(2)
    expect(new Set(read).size).toBeGreaterThan(2)
    // How much of the file is read in 10 ms is the machine's affair.
    const before = parts.slice(0, -1)
    expect(addresses(before.flatMap(({ suspects }) => suspects))).toEqual(['10.96.0.1'])
    expect(before.every(({ connections }) => connections === undefined)).toBe(true)
    expect(addresses(parts.at(-1)!.suspects)).toEqual(['10.96.0.2'])
    expect(state).toEqual({ opened: 1, closed: 1, read: 9 })
  })

  it('knows of a server only what is known when it comes by', async () => {
    const families = known(four)
    const survey = new Survey(families, {}, fileOf(four.with(9, make('10.96.0.10', { weight: 9 })), 4).open)
    await survey.goOn(4)
    const changed = make('10.96.0.10', { weight: 9 })
    families.get('IPv4')!.set(serverKey(changed.server), {
      server: changed.server,
      destinations: DestinationList.of(changed.destinations),
    })
    await survey.goOn()
    expect((await survey.take('IPv4')).suspects).toEqual([])
  })

  it('serves both families with one reading, each once', async () => {
    const { open, state } = fileOf([...four.slice(1), ...six.slice(1)], 2)
    const survey = new Survey(known([...four, ...six]), {}, open)
    await Promise.all([survey.goOn(4), survey.goOn(4)])
    await Promise.all([survey.goOn(), survey.goOn()])
    expect(state).toEqual({ opened: 1, closed: 1, read: 18 })
    expect(addresses((await survey.take('IPv4')).suspects)).toEqual(['10.96.0.1'])
    expect([survey.isOverFor('IPv4'), survey.isOverFor('IPv6')]).toEqual([true, false])
    expect(addresses((await survey.take('IPv6')).suspects)).toEqual(['fd00::1'])
    expect(survey.isOverFor('IPv6')).toBe(true)
  })

  it('is of no use to the other family later where it was over at once', async () => {
    const survey = new Survey(known([...four, ...six]), {}, fileOf([...four, ...six], 0).open)
    await survey.goOn()
    expect(survey.isOverFor('IPv6')).toBe(false)
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(survey.isOverFor('IPv6')).toBe(true)
  })

  it('takes nothing for missing where the rest was not read', async () => {
    const { open, state } = fileOf(four, 4)
    const survey = new Survey(known(four), {}, open)
    await survey.goOn(4)
    survey.close()
    await survey.goOn()
    expect(await survey.take('IPv4')).toEqual({ suspects: [], connections: undefined })
    expect(survey.isOverFor('IPv4')).toBe(true)
    expect(state).toMatchObject({ opened: 1, closed: 1 })
  })

  it('is over where the file cannot be read', async () => {
    const { open, state } = fileOf(four, 0)
    const failing = (): ProcFile => ({
      ...open(),
      read: () => {
        throw new Error('EIO')
      },
    })
    const survey = new Survey(known(four), {}, failing)
    await expect(survey.goOn()).rejects.toThrow('EIO')
    expect(survey.isOverFor('IPv4')).toBe(true)
    expect(await survey.take('IPv4')).toEqual({ suspects: [], connections: undefined })
    expect(state.closed).toBe(1)
  })
})
