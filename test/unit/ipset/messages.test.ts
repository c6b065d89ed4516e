import { describe, expect, it } from 'vitest'
import { withHash, withoutHash } from '../../../src/lib/digest.ts'
import { allRoles, setComment, setSpec } from '../../../src/ipset/catalogue.ts'
import { canonicalEntry, entryHash, entryText, parseEntry } from '../../../src/ipset/entries.ts'
import type { SetSpec } from '../../../src/ipset/ipset.ts'
import { KernelIpset } from '../../../src/ipset/kernel-ipset.ts'
import * as messages from '../../../src/ipset/messages.ts'
import type { Family } from '../../../src/model/address.ts'
import type { SetType } from '../../../src/model/sets.ts'
import { Writer } from '../../../src/netlink/attributes.ts'
import { Connection, type Message } from '../../../src/netlink/connection.ts'
import { readEcho } from '../../../src/netlink/header.ts'
import { fakeKernel, received, refusing, result } from '../netlink/fake-socket.ts'
import * as kernel from './kernel-bytes.ts'

const bytes = (text: string | undefined): Buffer => Buffer.from(text ?? '', 'hex')

function hex(one: Message): string {
  const writer = new Writer()
  one.write(writer)
  return writer.bytes().toString('hex')
}

function spec(name: string, type: SetType, family: Family): SetSpec {
  return { name, type, family, hashsize: 1024, maxelem: 65536 }
}

/** The sets that the kernel-bytes are of: spec, revision, entries as added. */
const sets: [string, SetSpec, number, string[]][] = [
  ['IPv4', '10.96.0.1', '10.1.0.0/16'] as const,
  ['IPv6', 'fd00::1', 'fd01::/64'] as const,
].flatMap(([family, ip, net]): [string, SetSpec, number, string[]][] => [
  [`hash:ip${family}`, spec(`hash:ip${family}`, 'hash:ip', family), 5, [ip]],
  [
    `hash:ip,port${family}`,
    spec(`hash:ip,port${family}`, 'hash:ip,port', family),
    6,
    [`${ip},tcp:443`, `${ip},sctp:5`],
  ],
  [`hash:ip,port,ip${family}`, spec(`hash:ip,port,ip${family}`, 'hash:ip,port,ip', family), 6, [`${ip},udp:53,${ip}`]],
  [
    `hash:ip,port,net${family}`,
    spec(`hash:ip,port,net${family}`, 'hash:ip,port,net', family),
    8,
    [`${ip},tcp:80,${net}`, `${ip},tcp:80,${ip}`],
  ],
])
sets.push(['bm', spec('bm', 'bitmap:port', 'IPv4'), 3, ['30080', '30081']])

describe('messages', () => {
  it('each entry has a hash of its own, whatever the order', () => {
    const hashes = [
      ['10.96.0.1,tcp:80', '10.96.0.1,tcp:81', '10.96.0.1,udp:80', '10.96.0.80,tcp:1', '10.96.0.2,tcp:80'],
      ['10.96.0.1,tcp:443', '10.96.1.0,tcp:443', '10.0.96.1,tcp:443', 'no entry'],
    ].map((entries) => entries.map((entry) => entryHash(spec('s', 'hash:ip,port', 'IPv4'), entry)))
    expect(new Set(hashes.flat()).size).toBe(9)
    const sums = [hashes.flat(), hashes.flat().toReversed()].map((list) => list.reduce(withHash, 0))
    expect(sums[0]).toBe(sums[1])
    expect(hashes.flat().reduce(withoutHash, sums[0]!)).toBe(0)
  })

  it.each(sets)(
    '%s is created, filled and listed in the bytes that the kernel knows',
    async (name, set, revision, entries) => {
      expect(hex(messages.createMessage(set, revision))).toBe(kernel.creates[name])
      expect(hex(messages.changeEntriesMessage('add', set, entries))).toBe(kernel.adds[name])
      const found = await messages.decodeSet([bytes(kernel.listings[name])], entryText)
      expect(found?.entries.toSorted()).toEqual(entries.toSorted())
      const room = set.type === 'bitmap:port' ? undefined : { members: entries.length, size: set.maxelem }
      expect(messages.roomOf(bytes(kernel.listings[name]))).toEqual(room)
      const sizes = set.type === 'bitmap:port' ? { hashsize: 0, maxelem: 0 } : {}
      expect(found?.spec).toEqual({ ...set, ...sizes })
      expect(found?.references).toBe(0)
      const survey = new messages.SetSurvey()
      survey.take(received(bytes(kernel.listings[name])))
      const sum = entries.reduce((total, entry) => withHash(total, entryHash(set, entry)), 0)
      expect(survey.digest).toEqual({ spec: found?.spec, sum, count: entries.length })
    },
  )

  it.each(sets)('%s: a cut listing is refused', (name) => {
    const whole = bytes(kernel.listings[name])
    for (const end of [2, 6, whole.length - 60, whole.length - 13, whole.length - 5]) {
      expect(() => messages.decodeCommand(whole.subarray(0, end))).toThrow(/at byte/)
    }
  })

  it('reads the answers about protocol and revisions', () => {
    expect(messages.decodeCommand(bytes(kernel.protocolAnswer))).toMatchObject({ protocol: 7, protocolMin: 6 })
    expect(messages.decodeCommand(bytes(kernel.typeAnswer))).toMatchObject({ revision: 5, protocolMin: 0 })
  })

  it('finds the bad entry in an error', () => {
    expect(messages.failedLine(readEcho(bytes(kernel.fullError)))).toBe(5)
    expect(messages.failedLine(Buffer.alloc(0))).toBe(0)
  })

  it.each(['IPv4', 'IPv6'] as const)('a full message stays below the limits, %s', (family) => {
    const set = spec('a', 'hash:ip,port,net', family)
    const entry = family === 'IPv4' ? '10.0.0.1,tcp:1,10.0.0.0/8' : 'fd00::1,tcp:1,fd00::/8'
    const many = Array.from({ length: messages.entriesPerMessage(set) }, () => entry)
    expect(hex(messages.changeEntriesMessage('add', set, many)).length / 2).toBeLessThan(65536)
  })
})

describe('entries', () => {
  const same: [SetType, Family, string][] = [
    ['hash:ip', 'IPv4', '10.0.0.1'],
    ['hash:ip,port', 'IPv6', 'fd00::1,udp:0'],
    ['hash:ip,port,net', 'IPv4', '10.0.0.1,sctp:65535,10.0.0.0/31'],
    ['bitmap:port', 'IPv6', '65535'],
  ]
  it.each(same)('%s %s %s stays as it is', (type, family, text) => {
    expect(canonicalEntry({ type, family }, text)).toBe(text)
  })

  const other: [SetType, Family, string, string][] = [
    ['hash:ip,port,net', 'IPv4', '10.0.0.1,tcp:80,192.0.2.7/32', '10.0.0.1,tcp:80,192.0.2.7'],
    ['hash:ip,port,net', 'IPv6', 'fd00::1,tcp:80,fd00::7/128', 'fd00::1,tcp:80,fd00::7'],
    ['hash:ip,port,net', 'IPv4', '10.0.0.1,tcp:80,10.1.2.3/16', '10.0.0.1,tcp:80,10.1.0.0/16'],
    ['hash:ip', 'IPv6', 'FD00:0::1', 'fd00::1'],
  ]
  it.each(other)('%s %s %s is listed as %s', (type, family, text, listed) => {
    expect(canonicalEntry({ type, family }, text)).toBe(listed)
  })

  const none: [SetType, Family, string][] = [
    ['hash:ip', 'IPv4', 'fd00::1'],
    ['hash:ip', 'IPv6', '10.0.0.1'],
    ['hash:ip', 'IPv4', '10.0.0.1,tcp:80'],
    ['hash:ip,port', 'IPv4', '10.0.0.1'],
    ['hash:ip,port', 'IPv4', '10.0.0.1,icmp:1'],
    ['hash:ip,port', 'IPv4', '10.0.0.1,tcp:65536'],
    ['hash:ip,port', 'IPv4', '10.0.0.1,tcp'],
    ['hash:ip,port,ip', 'IPv4', '10.0.0.1,tcp:1,fd00::1'],
    ['hash:ip,port,net', 'IPv4', '10.0.0.1,tcp:1,10.0.0.0/33'],
    ['hash:ip,port', 'IPv4', '10.0.0,tcp:1'],
    ['hash:ip,port', 'IPv4', '10.0.0.1,tcp:-1'],
    ['hash:ip,port', 'IPv4', '10.0.0.1,foo:1'],
    ['hash:ip,port,ip', 'IPv4', '10.0.0,tcp:1,10.0.0.1'],
    ['hash:ip,port,ip', 'IPv4', '10.0.0.1,tcp:1,10.0.0'],
    ['hash:ip,port,ip', 'IPv4', '10.0.0.1,foo:1,10.0.0.1'],
    ['hash:ip,port,ip', 'IPv4', '10.0.0.1,tcp:65536,10.0.0.1'],
    ['hash:ip,port,net', 'IPv4', '10.0.0,tcp:1,10.0.0.0/8'],
    ['hash:ip,port,net', 'IPv4', '10.0.0.1,tcp:-1,10.0.0.0/8'],
    ['hash:ip,port,net', 'IPv4', '10.0.0.1,foo:1,10.0.0.0/8'],
    ['bitmap:port', 'IPv4', '65536'],
    ['bitmap:port', 'IPv4', '-1'],
    ['bitmap:port', 'IPv4', ''],
  ]
  it.each(none)('%s %s has no entry "%s"', (type, family, text) => {
    expect(parseEntry({ type, family }, text)).toBeUndefined()
  })
})

describe('catalogue', () => {
  it('has the 17 sets of kube-proxy and one of ours, IPv6 names cut to 31 characters', () => {
    expect(allRoles).toHaveLength(18)
    expect(setSpec('loadBalancerSourceCIDR', 'IPv6').name).toBe('KUBE-6-LOAD-BALANCER-SOURCE-CID')
    expect(setSpec('nodePortLocalSCTP', 'IPv6').name).toBe('KUBE-6-NODE-PORT-LOCAL-SCTP-HAS')
    expect(setSpec('clusterIP', 'IPv4')).toEqual(spec('KUBE-CLUSTER-IP', 'hash:ip,port', 'IPv4'))
    for (const family of ['IPv4', 'IPv6'] as const) {
      const names = allRoles.map((role) => setSpec(role, family).name)
      expect(new Set(names).size).toBe(18)
      expect(Math.max(...names.map((name) => name.length))).toBeLessThanOrEqual(31)
    }
    expect(setComment('healthCheckNodePort')).toBe('Kubernetes health check node port')
  })
})

describe('KernelIpset', () => {
  it('names each bad entry and goes on behind it, one entry a message', async () => {
    const bad = new Set(['10.0.0.2', '10.0.0.4'])
    const fake = fakeKernel((sent) =>
      sent.flatMap((one) => {
        const command = messages.decodeCommand(one.payload)
        const texts = (command.entries ?? []).map((entry) => entryText('hash:ip', entry))
        const line = texts.findIndex((text) => bad.has(text)) + 1
        if (line === 0) return (one.flags & 4) === 0 ? [] : [result(2, one.sequence, 0)]
        const echo = Buffer.concat([Buffer.alloc(20), messages.commandAttributes.encode({ ...command, line })])
        return [result(2, one.sequence, 4352, 0, echo)]
      }),
    )
    const ipset = new KernelIpset(() => new Connection(fake.open))
    const refused = await ipset.add(spec('a', 'hash:ip', 'IPv4'), [
      '10.0.0.1',
      '10.0.0.2',
      '10.0.0.3',
      '10.0.0.4',
      '10.0.0.5',
    ])
    expect([...refused].map(([entry, error]) => [entry, error.message])).toEqual(
      [...bad].map((entry) => [
        entry,
        `add entry ${entry} of set a: IPSET_ERR_HASH_FULL (the set holds its maximum of 65536 entries)`,
      ]),
    )
    expect(fake.sends.map((send) => send.messages.length)).toEqual([1, 3])
  })

  const errors: [string, number, (ipset: KernelIpset) => Promise<unknown>, string][] = [
    [
      'unknown type',
      4098,
      (i) => i.create(spec('a', 'hash:ip,port,net', 'IPv4')),
      'create set a: IPSET_ERR_FIND_TYPE (modprobe ip_set_hash_ipportnet)',
    ],
    ['busy', 4100, (i) => i.destroy('a'), 'destroy set a: IPSET_ERR_BUSY (rules or other sets still name it)'],
    ['no ipset', 22, (i) => i.protocol(), 'read ipset protocol: EINVAL (modprobe ip_set)'],
    ['no right', 1, (i) => i.names(), 'list names of sets: EPERM (needs the capability CAP_NET_ADMIN)'],
  ]
  it.each(errors)('%s (%i)', async (_what, errno, act, text) => {
    const ipset = new KernelIpset(() => new Connection(fakeKernel(refusing(() => errno)).open))
    await expect(act(ipset)).rejects.toThrow(text)
  })
})
