import { beforeEach, describe, expect, test } from 'vitest'
import { allRoles, isOnDemand, orderOfAdding, setSpec, temporaryName } from '../../../src/ipset/catalogue.ts'
import { FakeIpset } from '../../../src/ipset/fake-ipset.ts'
import { IpsetLayer } from '../../../src/ipset/layer.ts'
import { describeError, KernelError } from '../../../src/lib/errors.ts'
import { silentLog, type Log } from '../../../src/lib/log.ts'
import { Thrift } from '../../../src/lib/thrift.ts'
import type { SetRole } from '../../../src/model/sets.ts'

const none: ReadonlySet<string> = new Set()
const small = { hashsize: 64, maxelem: 4 }

let ipset: FakeIpset
let layer: IpsetLayer
let told: string[]

function make(sizes?: { hashsize: number; maxelem: number }, thrift?: Thrift): IpsetLayer {
  const log: Log = {
    ...silentLog,
    info: (text) => void told.push(text),
    warn: (text) => void told.push(text),
    error: (text) => void told.push(text),
  }
  const options = {
    family: 'IPv4',
    ipset,
    log,
    ownersOf: (_role: SetRole, entry: string) => [`owner of ${entry}`],
  } as const
  return new IpsetLayer({
    ...options,
    ...(sizes === undefined ? {} : { sizes }),
    ...(thrift === undefined ? {} : { thrift }),
  })
}

beforeEach(() => {
  ipset = new FakeIpset()
  told = []
  layer = make(small)
})

async function pass(): Promise<Map<string, Error>> {
  const added = await layer.add(none)
  const removed = await layer.remove(none)
  return new Map([...added.refused, ...removed.refused])
}

const clusterSpec = { ...setSpec('clusterIP', 'IPv4'), ...small }
const entry = (n: number): string => `10.96.0.${n},tcp:80`
const line = (): string => /^create KUBE-CLUSTER-IP .*$/m.exec(ipset.dump())![0]
const members = (name = 'KUBE-CLUSTER-IP'): string[] =>
  [...ipset.dump().matchAll(new RegExp(`^add ${name} (.*)$`, 'gm'))].map(([, text]) => text!)

function want(...numbers: number[]): void {
  for (const n of numbers) layer.want('clusterIP', entry(n))
}

test('the order of adding has every role once', () => {
  expect([...orderOfAdding].sort()).toEqual([...allRoles].sort())
})

describe('growth', () => {
  beforeEach(async () => {
    await layer.resync()
    want(1, 2, 3, 4)
    await pass()
  })

  test.each<[string, number[], string]>([
    ['full to the last', [], 'hashsize 64 maxelem 4'],
    ['one more', [5], 'hashsize 64 maxelem 8'],
    ['two more: room for a quarter more', [5, 6], 'hashsize 64 maxelem 8'],
    ['many more', Array.from({ length: 200 }, (_, i) => i + 5), 'hashsize 64 maxelem 256'],
    [
      'very many more: as many buckets as keep chains short',
      Array.from({ length: 250 }, (_, i) => i + 5),
      'hashsize 128 maxelem 512',
    ],
  ])('%s', async (_name, numbers, sizes) => {
    want(...numbers)
    expect(await pass()).toEqual(new Map())
    expect(line()).toBe(`create KUBE-CLUSTER-IP hash:ip,port family inet ${sizes}`)
    expect(members()).toHaveLength(4 + numbers.length)
    expect(ipset.dump()).not.toContain('TMP')
    expect(told).toHaveLength(numbers.length > 0 ? 1 : 0)
  })

  test('the live set is whole at every step, the old one or the new one', async () => {
    const steps: string[] = []
    ipset.fault = (operation) => {
      steps.push(`${operation} ${members().length}`)
      return undefined
    }
    want(5)
    await pass()
    expect(steps).toEqual(['destroy 4', 'create 4', ...Array.from({ length: 5 }, () => 'add 4'), 'swap 4', 'destroy 5'])
  })

  test.each(['create', 'add', 'swap'])('where %s fails the set is as it was, and the new entry waits', async (step) => {
    ipset.fault = (operation, object) =>
      operation === step && object.includes('TMP') ? new Error('cannot allocate memory') : undefined
    want(5)
    const refused = await pass()
    expect(refused.get(`owner of ${entry(5)}`)).toMatchObject({ errnoName: 'IPSET_ERR_HASH_FULL' })
    expect(refused.get(`owner of ${entry(5)}`)!.message).toMatch(/KUBE-CLUSTER-IP.*maximum of 4 entries/)
    expect(members()).toHaveLength(4)
    expect(ipset.dump()).not.toContain('TMP')
    ipset.fault = undefined
    expect(await pass()).toEqual(new Map())
    expect(members()).toHaveLength(5)
  })

  test('an entry that the kernel refuses does not keep the others from growing', async () => {
    ipset.fault = (operation, object) =>
      operation === 'add' && object.includes(entry(6)) ? new KernelError(22, 'EINVAL', 'add', object) : undefined
    want(5, 6, 7)
    const refused = await pass()
    expect([...refused.keys()]).toEqual([`owner of ${entry(6)}`])
    expect(members()).toHaveLength(6)
  })

  test('a set that rules name is swapped all the same', async () => {
    ipset.setReferences('KUBE-CLUSTER-IP', 3)
    want(5)
    expect(await pass()).toEqual(new Map())
    expect(members()).toHaveLength(5)
  })

  test('it does not shrink, and a new process keeps the size it finds', async () => {
    want(5)
    await pass()
    for (const n of [2, 3, 4, 5]) layer.unwant('clusterIP', entry(n))
    await pass()
    expect(line()).toContain('maxelem 8')
    layer = make(small)
    await layer.resync()
    want(1, 5, 6, 7, 8, 9, 10, 11)
    await pass()
    expect(line()).toContain('maxelem 8')
  })

  test('one that somebody made anew too small is grown', async () => {
    await ipset.destroy('KUBE-CLUSTER-IP')
    await ipset.create({ ...setSpec('clusterIP', 'IPv4'), maxelem: 2 })
    await layer.resync()
    expect(await pass()).toEqual(new Map())
    expect(members()).toHaveLength(4)
    expect(line()).toContain('maxelem 8')
  })

  test('what a killed process left half-made is destroyed at start and by the clean-up', async () => {
    const leave = () => ipset.create({ ...setSpec('clusterIP', 'IPv4'), name: temporaryName('KUBE-CLUSTER-IP') })
    await leave()
    layer = make()
    await layer.resync()
    expect(ipset.dump()).not.toContain('TMP')
    await leave()
    await layer.cleanup()
    expect(ipset.dump()).toBe('')
  })

  test('fill tells members and room', () => {
    expect([...layer.fill()].find(({ set }) => set === 'KUBE-CLUSTER-IP')).toEqual({
      set: 'KUBE-CLUSTER-IP',
      members: 4,
      size: 4,
    })
  })
})

describe('order', () => {
  /** Additions and removals in the order that the kernel saw them. */
  const changes = (): string[] =>
    ipset.calls.filter((call) => /^(add|remove) /.test(call)).map((call) => call.replace(/ [0-9].*$/, ''))

  test('an address with source ranges comes: the ranges, the firewall, what accepts it, then the refusal of all else', async () => {
    layer = make()
    await layer.resync()
    const vip = '203.0.113.1,tcp:80'
    layer.want('ipvsIPs', '203.0.113.1')
    layer.want('loadBalancer', vip)
    layer.want('loadBalancerLocal', vip)
    layer.want('loadBalancerFirewall', vip)
    layer.want('loadBalancerSourceCIDR', `${vip},10.0.0.0/8`)
    layer.want('loadBalancerSourceIP', `${vip},203.0.113.1`)
    await pass()
    const added = [
      'add KUBE-LOAD-BALANCER-SOURCE-CIDR',
      'add KUBE-LOAD-BALANCER-SOURCE-IP',
      'add KUBE-LOAD-BALANCER-FW',
      'add KUBE-LOAD-BALANCER-LOCAL',
      'add KUBE-LOAD-BALANCER',
      'add KUBE-IPVS-IPS',
    ]
    expect(changes()).toEqual(added)
    ipset.calls.length = 0
    layer.unwant('ipvsIPs', '203.0.113.1')
    for (const role of ['loadBalancer', 'loadBalancerLocal', 'loadBalancerFirewall'] as const) layer.unwant(role, vip)
    layer.unwant('loadBalancerSourceCIDR', `${vip},10.0.0.0/8`)
    layer.unwant('loadBalancerSourceIP', `${vip},203.0.113.1`)
    await pass()
    expect(changes()).toEqual(added.toReversed().map((call) => call.replace('add', 'remove')))
  })

  test('other ranges: at no step is anybody let in who neither may nor might, nor refused who may and might', async () => {
    layer = make()
    await layer.resync()
    const vip = '203.0.113.1,tcp:80'
    const [before, after] = [
      ['10.0.0.0/8', '172.16.0.0/12'],
      ['172.16.0.0/12', '192.168.0.0/16'],
    ]
    layer.want('loadBalancerFirewall', vip)
    for (const range of before) layer.want('loadBalancerSourceCIDR', `${vip},${range}`)
    await pass()
    const seen: string[][] = []
    const look = (): void =>
      void seen.push(members('KUBE-LOAD-BALANCER-SOURCE-CIDR').map((text) => text.slice(vip.length + 1)))
    ipset.fault = () => {
      look()
      return undefined
    }
    for (const range of before) layer.unwant('loadBalancerSourceCIDR', `${vip},${range}`)
    for (const range of after) layer.want('loadBalancerSourceCIDR', `${vip},${range}`)
    await pass()
    look()
    expect(seen.length).toBeGreaterThan(2)
    for (const ranges of seen) {
      expect(ranges).toContain('172.16.0.0/12')
      expect(ranges.filter((range) => !before.includes(range) && !after.includes(range))).toEqual([])
      expect(members('KUBE-LOAD-BALANCER-FW')).toEqual([vip])
    }
    expect(seen.at(-1)).toEqual(after)
  })
})

describe('a set of ours that has another type', () => {
  const wrong = { ...setSpec('nodePortTCP', 'IPv4'), name: 'KUBE-CLUSTER-IP' }

  test('is replaced where no rule names it, and told', async () => {
    await ipset.create(wrong)
    want(1)
    await layer.resync()
    expect(told).toEqual(['A set of ours has another type, replacing it'])
    expect(await pass()).toEqual(new Map())
    expect(line()).toContain('hash:ip,port')
    expect(members()).toEqual([entry(1)])
  })

  test('cannot be where one does: the error says so and what to do, and nothing is written', async () => {
    await ipset.create(wrong)
    ipset.setReferences('KUBE-CLUSTER-IP', 1)
    want(1)
    const error: unknown = await layer.resync().catch((reason: unknown) => reason)
    expect(describeError(error)).toMatch(
      /^set KUBE-CLUSTER-IP has type bitmap:port, hash:ip,port is needed, .*IPSET_ERR_BUSY.* — remove the rules that name it/,
    )
    expect(ipset.dump()).toContain('create KUBE-CLUSTER-IP bitmap:port')
    ipset.setReferences('KUBE-CLUSTER-IP', 0)
    await layer.resync()
    expect(await pass()).toEqual(new Map())
    expect(members()).toEqual([entry(1)])
  })
})

test('a set on demand that a rule still names (the kernel is busy with it) stays, and goes with a later pass', async () => {
  const role = allRoles.find((one) => isOnDemand(one))!
  const { name } = setSpec(role, 'IPv4')
  layer = make()
  await layer.resync()
  const one = entry(1)
  layer.want(role, one)
  await pass()
  expect(ipset.dump()).toContain(`create ${name} `)
  ipset.setReferences(name, 1)
  layer.unwant(role, one)
  expect(await pass()).toEqual(new Map())
  expect(ipset.dump()).toContain(`create ${name} `)
  ipset.setReferences(name, 0)
  expect(await pass()).toEqual(new Map())
  expect(ipset.dump()).not.toContain(`create ${name} `)
})

test('a set on demand whose destruction lost its answer is nobody else’s work', async () => {
  await layer.resync()
  layer.want('externalNoLocal', entry(1))
  await pass()
  const name = setSpec('externalNoLocal', 'IPv4').name
  expect(await ipset.names()).toContain(name)
  layer.unwant('externalNoLocal', entry(1))
  const destroy = ipset.destroy.bind(ipset)
  ipset.destroy = async (set) => {
    await destroy(set)
    throw new Error('the netlink socket failed')
  }
  await pass()
  ipset.destroy = destroy
  expect(await ipset.names()).not.toContain(name)
  expect(await layer.resync()).toEqual([])
})

describe('a look', () => {
  /** Sets on demand that are not there are asked for by a listing, too. */
  const isOfExisting = (call: string): boolean => ipset.dump().includes(`create ${call.replace('list ', '')} `)
  const lists = (): string[] => ipset.calls.filter((call) => call.startsWith('list ') && isOfExisting(call))
  beforeEach(async () => {
    await layer.resync()
    want(1, 2, 3)
    await pass()
    ipset.calls.length = 0
  })

  test('reads no entries where only this process has written', async () => {
    expect(await layer.resync()).toEqual([])
    want(4)
    layer.unwant('clusterIP', entry(1))
    await pass()
    expect(await layer.resync()).toEqual([])
    expect(lists()).toEqual([])
  })

  test.each<[string, () => Promise<unknown>, string[]]>([
    ['an entry is gone', () => ipset.remove(clusterSpec, [entry(1)]), ['missing']],
    ['an entry is foreign', () => ipset.add(clusterSpec, [entry(9)]), ['foreign']],
    [
      'one has taken the place of another',
      async () => {
        await ipset.remove(clusterSpec, [entry(1)])
        await ipset.add(clusterSpec, [entry(9)])
      },
      ['missing', 'foreign'],
    ],
  ])('finds that %s, by one reading of that set', async (_name, tamper, states) => {
    await tamper()
    expect((await layer.resync()).map(({ state }) => state)).toEqual(states)
    expect(lists()).toEqual(['list KUBE-CLUSTER-IP'])
    await pass()
    expect(members()).toEqual([1, 2, 3].map(entry))
  })

  describe('that has to be thrifty with very many entries', () => {
    const count = 5000
    const many = (n: number): string => `10.${96 + (n >> 16)}.${(n >> 8) & 255}.${n & 255},tcp:80`
    let thrift: Thrift
    beforeEach(async () => {
      ipset = new FakeIpset()
      thrift = new Thrift(0.5)
      layer = make(undefined, thrift)
      await layer.resync()
      for (let n = 0; n < count; n++) layer.want('clusterIP', many(n))
      await pass()
      thrift.spent(3_600_000)
      ipset.calls.length = 0
    })
    const spec = setSpec('clusterIP', 'IPv4')
    const digests = (): number => ipset.calls.filter((call) => call === 'digest KUBE-CLUSTER-IP').length

    test.each<[string, () => Promise<unknown>, boolean, string[]]>([
      ['nothing differs', async () => {}, true, []],
      ['an entry is gone', () => ipset.remove(spec, [many(1)]), true, ['missing']],
      ['an entry is foreign', () => ipset.add(spec, [many(count)]), true, ['foreign']],
      ['the set is gone', () => ipset.destroy(spec.name), true, ['missing']],
      ['one has taken the place of another: found in due time', () => swapOne(), true, []],
      ['one has taken the place of another, after a failure', () => swapOne(), false, ['missing', 'foreign']],
    ])('%s', async (_name, tamper, thrifty, states) => {
      await tamper()
      expect((await layer.resync(thrifty)).map(({ state }) => state)).toEqual(states)
      expect(digests()).toBe(states.length === 0 ? 0 : 1)
    })

    async function swapOne(): Promise<void> {
      await ipset.remove(spec, [many(1)])
      await ipset.add(spec, [many(count)])
    }

    test('with few of them there is nothing to save', async () => {
      for (let n = 1; n < count; n++) layer.unwant('clusterIP', many(n))
      await pass()
      ipset.calls.length = 0
      await layer.resync(true)
      expect(digests()).toBe(1)
    })
  })

  test('takes over another size of a set whose entries are as known', async () => {
    await ipset.destroy('KUBE-CLUSTER-IP')
    await ipset.create({ ...clusterSpec, maxelem: 8 })
    await ipset.add(clusterSpec, [1, 2, 3].map(entry))
    expect(await layer.resync()).toEqual([])
    want(4, 5, 6, 7, 8)
    await pass()
    expect(line()).toBe('create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 64 maxelem 8')
    expect(told).toEqual([])
  })
})
