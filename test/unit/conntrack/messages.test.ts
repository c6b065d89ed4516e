import { describe, expect, it } from 'vitest'
import type { UdpFlow } from '../../../src/conntrack/flows.ts'
import { KernelFlows } from '../../../src/conntrack/kernel-flows.ts'
import * as messages from '../../../src/conntrack/messages.ts'
import type { Family } from '../../../src/model/address.ts'
import { Writer } from '../../../src/netlink/attributes.ts'
import { Connection, type Message } from '../../../src/netlink/connection.ts'
import { row } from '../../contract/conntrack.ts'
import { fakeKernel, message, refusing, result, type FakeKernel } from '../netlink/fake-socket.ts'
import * as kernel from './kernel-bytes.ts'

const hex = (one: Message): string => {
  const writer = new Writer()
  one.write(writer)
  return writer.bytes().toString('hex')
}
const bytes = (text: string): Buffer => Buffer.from(text, 'hex')

const flows: [keyof typeof kernel.entries, UdpFlow][] = [
  ['nated', { ...row('10.244.0.9:40000 10.96.0.10:53 10.244.1.5:5353'), zone: 0, id: 0xb41a3f69 }],
  ['zone', { ...row('10.244.0.9:40001 10.96.0.10:53 10.96.0.10:53'), zone: 5, id: 0x4d6d92b8 }],
  ['originalZone', { ...row('10.244.0.9:40002 10.96.0.10:53 10.96.0.10:53'), zone: 7, id: 0xd4d2c9e1 }],
  ['IPv6', { ...row('[fd00:244::9]:40000 [fd00:96::10]:53 [fd00:244:1::5]:5353'), zone: 0, id: 0x2bcd622c }],
]

describe('messages', () => {
  it.each(flows)('%s is read, and removed in the bytes that the kernel knows', (name, flow) => {
    expect(messages.copyFlow(messages.decodeFlow(bytes(kernel.entries[name]))!)).toEqual(flow)
    const one = messages.removeMessage(flow)
    expect([one.type, hex(one)]).toEqual([0x102, kernel.removals[name]])
  })

  it.each(flows)('%s: what names it comes back as it was written', (name, flow) => {
    const { original, id, zone } = messages.entryAttributes.decode(bytes(kernel.removals[name]), 4)
    const seen = messages.entryAttributes.decode(bytes(kernel.entries[name]), 4)
    expect({ ...original, id, zone: zone ?? 0 }).toEqual({
      ip: seen.original?.ip,
      protocol: seen.original?.protocol,
      id: flow.id,
      zone: flow.zone,
    })
  })

  it('lists a family, with a wish for UDP alone', () => {
    expect(hex(messages.listMessage('IPv4', true))).toBe(kernel.lists.IPv4)
    expect(hex(messages.listMessage('IPv6', true))).toBe(kernel.lists.IPv6)
    expect(hex(messages.listMessage('IPv4', false))).toBe(kernel.lists.plainIPv4)
    expect(messages.listMessage('IPv4', true).type).toBe(0x101)
  })

  it('passes over what is not UDP', () => {
    expect(messages.decodeFlow(bytes(kernel.tcp))).toBeUndefined()
    expect(messages.decodeFlow(bytes('02000000'))).toBeUndefined()
  })

  it('reads one entry of any protocol with ports, who answers whom and whether it was answered', () => {
    expect(messages.decodeTracked(bytes(kernel.tcp))).toEqual({
      replySource: '10.96.0.10',
      replySourcePort: 53,
      replyDestination: '10.244.0.9',
      replyDestinationPort: 40000,
      isAnswered: false,
      mark: 0,
      expires: 299,
    })
    expect(messages.decodeTracked(bytes(kernel.entries.nated))).toMatchObject({
      replySource: '10.244.1.5',
      isAnswered: true,
    })
    expect(() => messages.decodeTracked(bytes('02000000'))).toThrow(/reply\.ip is missing/)
  })

  it.each(flows)('%s: a cut entry is refused', (name) => {
    const whole = bytes(kernel.entries[name])
    for (const end of [2, 6, 30, 55, whole.length - 10, whole.length - 5]) {
      expect(() => messages.decodeFlow(whole.subarray(0, end))).toThrow(/at byte/)
    }
  })

  const protocol = { number: 17, sourcePort: 1, destinationPort: 2 }
  const tuple = { ip: { ipv4Source: 1, ipv4Destination: 2 }, protocol }
  const whole = { original: tuple, reply: tuple, id: 1 }
  const incomplete: [string, Parameters<typeof messages.entryAttributes.encode>[0]][] = [
    ['original.ip', { ...whole, original: { protocol } }],
    ['original.ip.source', { ...whole, original: { ...tuple, ip: { ipv4Destination: 2 } } }],
    ['original.ip.destination', { ...whole, original: { ...tuple, ip: { ipv4Source: 1 } } }],
    ['original.protocol.sourcePort', { ...whole, original: { ...tuple, protocol: { number: 17 } } }],
    [
      'original.protocol.destinationPort',
      { ...whole, original: { ...tuple, protocol: { number: 17, sourcePort: 1 } } },
    ],
    ['reply.ip', { ...whole, reply: undefined }],
    ['reply.protocol.sourcePort', { ...whole, reply: { ip: tuple.ip } }],
    ['id', { ...whole, id: undefined }],
  ]
  it.each(incomplete)('an entry without %s is refused', (path, entry) => {
    const payload = Buffer.concat([bytes('02000000'), messages.entryAttributes.encode(entry)])
    expect(() => messages.copyFlow(messages.decodeFlow(payload)!)).toThrow(`conntrack entry: ${path} is missing`)
  })
})

/** A kernel whose dumps are given one after the other: entries, then how it ends. */
function dumping(...dumps: { entries?: string[]; errno?: number; flags?: number }[]): FakeKernel {
  return fakeKernel(([one]) => {
    const { entries = [], errno = 0, flags = 0 } = dumps.shift() ?? {}
    const parts = entries.map((entry) => message(0x100, one!.sequence, bytes(entry), 2))
    return [...parts, result(3, one!.sequence, errno, 2 | flags)]
  })
}
const opened = (fake: FakeKernel): KernelFlows => new KernelFlows(() => new Connection(fake.open))
const asked = (fake: FakeKernel): string[] => fake.sends.map(({ messages: [one] }) => one!.payload.toString('hex'))

describe('KernelFlows', () => {
  const { nated, zone, originalZone } = kernel.entries

  it('answers an entry once that a dump shows twice', async () => {
    const fake = dumping({ entries: [nated, zone, nated] })
    const found = await opened(fake).select('IPv4', (flow) => flow.destination === '10.96.0.10')
    expect(found).toEqual([flows[0]![1], flows[1]![1]])
    expect(asked(fake)).toEqual([kernel.lists.IPv4])
  })

  const interruptions: [string, { errno?: number; flags?: number }][] = [
    ['the flag', { flags: 0x10 }],
    ['EINTR', { errno: 4 }],
  ]
  it.each(interruptions)('repeats an interrupted dump (%s) and takes what all have shown', async (_how, end) => {
    const fake = dumping({ entries: [nated], ...end }, { entries: [zone] })
    expect(await opened(fake).select('IPv4', () => true)).toEqual([flows[0]![1], flows[1]![1]])
    expect(fake.sends).toHaveLength(2)
  })

  it('repeats it twice at most', async () => {
    const fake = dumping(
      { entries: [nated], flags: 0x10 },
      { entries: [zone], flags: 0x10 },
      { entries: [nated, originalZone], flags: 0x10 },
    )
    const found = await opened(fake).select('IPv4', () => true)
    expect(found.map(({ sourcePort }) => sourcePort)).toEqual([40000, 40001, 40002])
    expect(fake.sends).toHaveLength(3)
  })

  it.each([95, 22])('does without the filter, and goes on so, where it is refused (errno %i)', async (errno) => {
    const fake = dumping({ errno }, { entries: [kernel.tcp, nated] }, { entries: [kernel.tcp, nated] })
    const kernelFlows = opened(fake)
    const { IPv4, plainIPv4 } = kernel.lists
    expect(await kernelFlows.select('IPv4', () => true)).toEqual([flows[0]![1]])
    expect(await kernelFlows.select('IPv4', () => true)).toEqual([flows[0]![1]])
    expect(asked(fake)).toEqual([IPv4, plainIPv4, plainIPv4])
  })

  const errors: [number, Family, string][] = [
    [22, 'IPv4', 'list UDP flows of IPv4: EINVAL (modprobe nf_conntrack_netlink)'],
    [1, 'IPv6', 'list UDP flows of IPv6: EPERM (needs the capability CAP_NET_ADMIN)'],
  ]
  it.each(errors)('says what errno %i means for the list', async (errno, family, text) => {
    const fake = fakeKernel(([one]) => [result(2, one!.sequence, errno)])
    await expect(opened(fake).select(family, () => true)).rejects.toThrow(text)
  })

  it('gives each refusal to its flow; absent is success', async () => {
    const many = Array.from({ length: 300 }, (_, id) => ({ ...flows[0]![1], id }))
    const fake = fakeKernel(
      refusing(({ payload }) => {
        const { id } = messages.entryAttributes.decode(payload, 4)
        return id === 100 ? 2 : id === 200 ? 16 : id === 299 ? 1 : 0
      }),
    )
    const refused = await opened(fake).remove(many)
    const what = 'delete UDP flow from 10.244.0.9:40000 to 10.96.0.10:53, answered by 10.244.1.5:5353'
    expect([...refused].map(([flow, error]) => [flow.id, error.message])).toEqual([
      [200, `${what}: EBUSY (it is offloaded to a flow table, and this kernel lets it end by itself)`],
      [299, `${what}: EPERM (needs the capability CAP_NET_ADMIN)`],
    ])
    expect(fake.sends.map((send) => send.messages.length)).toEqual([256, 44])
  })
})
