import { describe, expect, it } from 'vitest'
import { FakeFlows } from '../../../src/conntrack/fake-flows.ts'
import { KernelError } from '../../../src/lib/errors.ts'
import { flowsContract, row } from '../../contract/conntrack.ts'

describe('FakeFlows', () => {
  flowsContract(async () => {
    const flows = new FakeFlows()
    return {
      flows,
      insert: (...entries) => entries.forEach((entry) => flows.add(entry)),
      list: () => flows.dump(),
    }
  })

  it('answers and throws what the fault says', async () => {
    const flows = new FakeFlows()
    for (const port of [1, 2, 3]) flows.add(row(`10.0.0.1:${port} 10.96.0.1:53 10.0.1.1:53`))
    const found = await flows.select('IPv4', () => true)
    flows.fault = (_operation, object) =>
      object.startsWith('10.0.0.1:2 ') ? new KernelError(16, 'EBUSY', 'delete', 'flow') : undefined
    expect([...(await flows.remove(found))].map(([flow, error]) => [flow.sourcePort, error.errnoName])).toEqual([
      [2, 'EBUSY'],
    ])
    expect(flows.dump()).toEqual(['UDP 10.0.0.1:2 to 10.96.0.1:53, answered by 10.0.1.1:53'])
    flows.fault = () => new Error('socket gone')
    await expect(flows.remove(found)).rejects.toThrow('socket gone')
    await expect(flows.select('IPv4', () => true)).rejects.toThrow('socket gone')
    flows.close()
    expect([flows.calls[0], flows.calls.at(-1), flows.calls.length]).toEqual(['select IPv4', 'close', 7])
  })
})
