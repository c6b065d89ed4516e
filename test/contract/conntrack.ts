import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { NewFlow } from '../../src/conntrack/fake-flows.ts'
import { flowText, type Flows, type UdpFlow } from '../../src/conntrack/flows.ts'
import type { Family } from '../../src/model/address.ts'

/** A connection table that a test can fill and look into without the Flows it proves. */
export interface FlowTable<F extends Flows = Flows> {
  readonly flows: F
  insert(...entries: NewFlow[]): void
  /** All UDP and TCP entries as FakeFlows.dump gives them. */
  list(): string[]
}

/** A flow as a table's row: "10.0.0.9:4000 10.96.0.10:53 10.0.1.5:5353". */
export function row(text: string, rest: Partial<NewFlow> = {}): NewFlow {
  const ends = text.split(' ').map((end) => {
    const colon = end.lastIndexOf(':')
    return { address: end.slice(0, colon).replaceAll(/[[\]]/g, ''), port: Number(end.slice(colon + 1)) }
  })
  const [source, destination, reply] = [ends[0]!, ends[1]!, ends[2]!]
  return {
    source: source.address,
    sourcePort: source.port,
    destination: destination.address,
    destinationPort: destination.port,
    replySource: reply.address,
    replySourcePort: reply.port,
    ...rest,
  }
}

const v4 = {
  nated: '10.244.0.9:40000 10.96.0.10:53 10.244.1.5:5353',
  plain: '10.244.0.9:40001 10.96.0.10:53 10.96.0.10:53',
  other: '10.244.0.9:40002 255.255.255.254:65535 192.0.2.1:1',
}
const v6 = {
  nated: '[fd00:244::9]:40000 [fd00:96::10]:53 [fd00:244:1::5]:5353',
  plain: '[fd00:244::9]:40001 [fd00:96::10]:53 [fd00:96::10]:53',
  other: '[2001:db8:0:1:1:1:1:1]:40002 [fd00::ffff]:65535 [fd00::1]:1',
}
const rows: readonly [Family, typeof v4, Family][] = [
  ['IPv4', v4, 'IPv6'],
  ['IPv6', v6, 'IPv4'],
]

function text(line: string): string {
  return flowText({ ...row(line), zone: 0, id: 0 })
}

/** What every Flows does. `make` gives an empty table. */
export function flowsContract<F extends Flows>(make: () => Promise<FlowTable<F>>): void {
  let table: FlowTable<F>
  let flows: F
  beforeEach(async () => {
    table = await make()
    flows = table.flows
  })
  afterEach(() => flows.close())

  const all = (family: Family): Promise<readonly UdpFlow[]> => flows.select(family, () => true)

  describe.each(rows)('%s', (family, lines, otherFamily) => {
    it('finds nothing in an empty table', async () => {
      expect(await all(family)).toEqual([])
      expect(await flows.remove([])).toEqual(new Map())
    })

    it('reads flows, translated and not, and none of another protocol or family', async () => {
      table.insert(...Object.values(lines).map((line) => row(line)), row(lines.nated, { protocol: 'TCP' }))
      const found = await all(family)
      expect(found.map(({ id: _id, ...rest }) => rest)).toEqual(
        expect.arrayContaining(Object.values(lines).map((line) => ({ ...row(line), zone: 0 }))),
      )
      expect(found).toHaveLength(3)
      expect(new Set(found.map(({ id }) => id)).size).toBe(3)
      expect(await all(otherFamily)).toEqual([])
    })

    it('answers what is wanted', async () => {
      table.insert(...Object.values(lines).map((line) => row(line)))
      const asked: string[] = []
      const found = await flows.select(family, (flow) => {
        asked.push(flowText(flow))
        return flow.destinationPort === 53 && flow.replySource !== flow.destination
      })
      expect(asked.toSorted()).toEqual(Object.values(lines).map(text).toSorted())
      expect(found.map(flowText)).toEqual([text(lines.nated)])
    })

    it('removes what it is told to, and nothing else', async () => {
      table.insert(...Object.values(lines).map((line) => row(line)), row(lines.nated, { protocol: 'TCP' }))
      expect(await flows.remove(await flows.select(family, (flow) => flow.sourcePort !== 40001))).toEqual(new Map())
      expect(table.list()).toEqual([`TCP ${text(lines.nated)}`, `UDP ${text(lines.plain)}`])
    })

    it('takes the absent for removed', async () => {
      table.insert(row(lines.nated))
      const found = await all(family)
      expect(await flows.remove(found)).toEqual(new Map())
      expect(await flows.remove(found)).toEqual(new Map())
      expect(table.list()).toEqual([])
    })

    it('leaves another entry between the same addresses', async () => {
      table.insert(row(lines.nated))
      const earlier = (await all(family)).map((flow) => ({ ...flow, id: (flow.id ^ 1) >>> 0 }))
      expect(await flows.remove(earlier)).toEqual(new Map())
      expect(table.list()).toEqual([`UDP ${text(lines.nated)}`])
    })

    it('tells the zones apart', async () => {
      table.insert(row(lines.nated), row(lines.nated, { zone: 5 }))
      const found = await all(family)
      expect(found.map(({ zone }) => zone).toSorted((a, b) => a - b)).toEqual([0, 5])
      expect(await flows.remove(found.filter(({ zone }) => zone === 5))).toEqual(new Map())
      expect(table.list()).toEqual([`UDP ${text(lines.nated)}`])
    })

    it('goes through more than one answer holds and removes more than one send does', async () => {
      const ports = Array.from({ length: 1500 }, (_, index) => 10_000 + index)
      table.insert(...ports.map((sourcePort) => ({ ...row(lines.nated), sourcePort })))
      const found = await all(family)
      expect(found.map(({ sourcePort }) => sourcePort).toSorted((a, b) => a - b)).toEqual(ports)
      expect(await flows.remove(found.slice(1))).toEqual(new Map())
      expect(table.list()).toHaveLength(1)
    })
  })
}
