import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { setSpec, allRoles } from '../../src/ipset/catalogue.ts'
import { entryHash } from '../../src/ipset/entries.ts'
import type { Ipset, SetSpec } from '../../src/ipset/ipset.ts'
import { withHash } from '../../src/lib/digest.ts'
import type { Family } from '../../src/model/address.ts'
import type { SetType } from '../../src/model/sets.ts'

function set(type: SetType, family: Family = 'IPv4', name = 'test'): SetSpec {
  return { name, type, family, hashsize: 1024, maxelem: 65536 }
}

function errnoNames(refused: ReadonlyMap<string, { errnoName: string }>): Record<string, string> {
  return Object.fromEntries([...refused].map(([entry, error]) => [entry, error.errnoName]))
}

function sumOf(spec: SetSpec, entries: readonly string[]): number {
  return entries.reduce((sum, entry) => withHash(sum, entryHash(spec, entry)), 0)
}

/** Without what the kernel makes up by itself. */
function sorted(text: string): string[] {
  return text
    .replaceAll(/ bucketsize \d+ initval \S+/g, '')
    .split('\n')
    .filter((line) => line !== '')
    .sort()
}

/** What every Ipset does. `make` gives an empty one; `dump` prints it like `ipset save`. */
export function ipsetContract<I extends Ipset>(make: () => Promise<I>, dump: (ipset: I) => string): void {
  let ipset: I
  beforeEach(async () => {
    ipset = await make()
  })
  afterEach(() => ipset.close())

  it('says how many entries each set has', async () => {
    await ipset.create(set('hash:ip,port', 'IPv4', 'some'))
    await ipset.add(set('hash:ip,port', 'IPv4', 'some'), ['10.96.0.1,tcp:443', '10.96.0.1,udp:53'])
    await ipset.create(set('bitmap:port', 'IPv4', 'ports'))
    await ipset.add(set('bitmap:port', 'IPv4', 'ports'), ['30080'])
    await ipset.create(set('hash:ip', 'IPv6', 'none'))
    expect(Object.fromEntries(await ipset.sizes())).toEqual({ some: 2, ports: 1, none: 0 })
  })

  it('speaks protocol 6 or 7', async () => {
    expect([6, 7]).toContain(await ipset.protocol())
  })

  it.each<SetType>(['hash:ip', 'hash:ip,port', 'hash:ip,port,ip', 'hash:ip,port,net', 'bitmap:port'])(
    'has sets of type %s, and makes none by looking',
    async (type) => {
      await ipset.loadType(set(type))
      expect(await ipset.names()).toEqual([])
    },
  )

  const entries: [SetType, Family, string[]][] = [
    ['hash:ip', 'IPv4', ['10.96.0.1', '255.255.255.255']],
    ['hash:ip', 'IPv6', ['fd00::1', '2001:db8:0:1:1:1:1:1']],
    ['hash:ip,port', 'IPv4', ['10.96.0.1,sctp:3868', '10.96.0.1,tcp:443', '10.96.0.1,udp:65535']],
    ['hash:ip,port', 'IPv6', ['fd00::1,sctp:3868', 'fd00::1,tcp:443', 'fd00::1,udp:53']],
    ['hash:ip,port,ip', 'IPv4', ['10.0.0.1,tcp:80,10.0.0.1']],
    ['hash:ip,port,ip', 'IPv6', ['fd00::1,udp:53,fd00::2']],
    ['hash:ip,port,net', 'IPv4', ['10.0.0.1,tcp:80,10.1.0.0/16', '10.0.0.1,tcp:80,192.0.2.7']],
    ['hash:ip,port,net', 'IPv6', ['fd00::1,tcp:80,fd00:1::/32', 'fd00::1,tcp:80,fd00::7']],
    ['bitmap:port', 'IPv4', ['0', '30080', '30081', '65535']],
  ]
  it.each(entries)('%s %s: entries come, are listed as written, and go', async (type, family, texts) => {
    const spec = set(type, family)
    await ipset.create(spec)
    expect(await ipset.add(spec, texts)).toEqual(new Map())
    const found = await ipset.list('test')
    expect(found?.entries.toSorted()).toEqual(texts.toSorted())
    expect(found?.references).toBe(0)
    if (type !== 'bitmap:port') expect(found?.spec).toEqual(spec)
    expect(await ipset.digest('test')).toEqual({ spec: found?.spec, sum: sumOf(spec, texts), count: texts.length })
    expect(sorted(dump(ipset)).filter((line) => line.startsWith('add'))).toEqual(
      texts.map((text) => `add test ${text}`).toSorted(),
    )
    expect(await ipset.add(spec, texts)).toEqual(new Map())
    expect(await ipset.remove(spec, texts.slice(0, 1))).toEqual(new Map())
    expect(await ipset.remove(spec, texts.slice(0, 1))).toEqual(new Map())
    expect((await ipset.list('test'))?.entries.toSorted()).toEqual(texts.slice(1).toSorted())
  })

  it.each(['IPv4', 'IPv6'] as const)('makes every set of the catalogue, %s', async (family) => {
    for (const role of allRoles) await ipset.create(setSpec(role, family))
    const wanted = allRoles.map((role) => setSpec(role, family))
    expect((await ipset.names()).toSorted()).toEqual(wanted.map((spec) => spec.name).toSorted())
    const inet = family === 'IPv4' ? 'inet' : 'inet6'
    const lines = wanted.map(({ name, type }) =>
      type === 'bitmap:port'
        ? `create ${name} ${type} range 0-65535`
        : `create ${name} ${type} family ${inet} hashsize 1024 maxelem 65536`,
    )
    expect(sorted(dump(ipset))).toEqual(lines.toSorted())
  })

  describe('create', () => {
    it('of an identical set is success and leaves the entries', async () => {
      await ipset.create(set('hash:ip'))
      await ipset.add(set('hash:ip'), ['10.0.0.1'])
      await ipset.create(set('hash:ip'))
      expect((await ipset.list('test'))?.entries).toEqual(['10.0.0.1'])
    })

    const others: [string, SetSpec][] = [
      ['type', set('bitmap:port')],
      ['size', { ...set('hash:ip'), maxelem: 5 }],
    ]
    it.each(others)('of a set with another %s is EEXIST', async (_what, other) => {
      await ipset.create(set('hash:ip'))
      await expect(ipset.create(other)).rejects.toMatchObject({ errnoName: 'EEXIST' })
    })

    // mtype_same_set compares no family: only the default mask of hash:ip gave it away, up to Linux 6.1.
    it('of a set with another family leaves the set, by EEXIST or in silence', async () => {
      await ipset.create(set('hash:ip'))
      const outcome = await ipset.create(set('hash:ip', 'IPv6')).catch((error: unknown) => error)
      if (outcome !== undefined) expect(outcome).toMatchObject({ errnoName: 'EEXIST' })
      expect((await ipset.list('test'))?.spec).toMatchObject({ family: 'IPv4' })
    })
  })

  it('names each refused entry and carries out the rest', async () => {
    const spec = set('hash:ip,port,net')
    await ipset.create(spec)
    const good = ['10.0.0.1,tcp:1,2.0.0.0/8', '10.0.0.1,tcp:2,2.0.0.0/8', '10.0.0.1,tcp:3,2.0.0.0/8']
    const bad = ['10.0.0.1,tcp:1,0.0.0.0/0', '10.0.0.1,tcp:2,0.0.0.0/0']
    const texts = [good[0]!, bad[0]!, good[1]!, bad[1]!, 'nonsense', good[2]!]
    const names = { [bad[0]!]: 'IPSET_ERR_INVALID_CIDR', [bad[1]!]: 'IPSET_ERR_INVALID_CIDR', nonsense: 'EINVAL' }
    expect(errnoNames(await ipset.add(spec, texts))).toEqual(names)
    expect((await ipset.list('test'))?.entries.toSorted()).toEqual(good)
    expect(errnoNames(await ipset.remove(spec, texts))).toEqual(names)
    expect((await ipset.list('test'))?.entries).toEqual([])
  })

  it('refuses what a full set has no room for, not what it holds', async () => {
    const spec = { ...set('hash:ip'), maxelem: 3 }
    await ipset.create(spec)
    const refused = await ipset.add(spec, ['10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.4', '10.0.0.1', '10.0.0.5'])
    expect(errnoNames(refused)).toEqual({ '10.0.0.4': 'IPSET_ERR_HASH_FULL', '10.0.0.5': 'IPSET_ERR_HASH_FULL' })
    expect((await ipset.list('test'))?.entries.toSorted()).toEqual(['10.0.0.1', '10.0.0.2', '10.0.0.3'])
  })

  it('refuses every entry of a missing set', async () => {
    const names = { '10.0.0.1': 'ENOENT', '10.0.0.2': 'ENOENT' }
    expect(errnoNames(await ipset.add(set('hash:ip'), ['10.0.0.1', '10.0.0.2']))).toEqual(names)
    expect(errnoNames(await ipset.remove(set('hash:ip'), ['10.0.0.1', '10.0.0.2']))).toEqual(names)
  })

  it.each(['IPv4', 'IPv6'] as const)('takes more entries than one message does, %s', async (family) => {
    const spec = set('hash:ip,port,ip', family)
    await ipset.create(spec)
    const texts = Array.from({ length: 5000 }, (_, index) => {
      const host = family === 'IPv4' ? `10.1.${index >> 8}.${index & 255}` : `fd00::${(index + 1).toString(16)}`
      return `${host},tcp:80,${host}`
    })
    expect(await ipset.add(spec, texts)).toEqual(new Map())
    expect((await ipset.list('test'))?.entries.toSorted()).toEqual(texts.toSorted())
    expect((await ipset.digest('test'))?.sum).toBe(sumOf(spec, texts))
    expect(await ipset.remove(spec, texts)).toEqual(new Map())
    expect((await ipset.list('test'))?.entries).toEqual([])
    expect((await ipset.digest('test'))?.sum).toBe(0)
  })

  it('lists no missing set', async () => {
    expect(await ipset.list('test')).toBeUndefined()
    expect(await ipset.digest('test')).toBeUndefined()
    expect(await ipset.names()).toEqual([])
  })

  it('swaps contents, and only of equal types', async () => {
    const [a, b] = [set('hash:ip', 'IPv4', 'a'), set('hash:ip', 'IPv4', 'b')]
    for (const spec of [a, b, set('hash:ip', 'IPv6', 'c'), set('bitmap:port', 'IPv4', 'd')]) await ipset.create(spec)
    await ipset.add(a, ['10.0.0.1'])
    await ipset.swap('a', 'b')
    expect((await ipset.list('a'))?.entries).toEqual([])
    expect((await ipset.list('b'))?.entries).toEqual(['10.0.0.1'])
    await expect(ipset.swap('a', 'c')).rejects.toMatchObject({ errnoName: 'IPSET_ERR_TYPE_MISMATCH' })
    await expect(ipset.swap('a', 'd')).rejects.toMatchObject({ errnoName: 'IPSET_ERR_TYPE_MISMATCH' })
    await expect(ipset.swap('x', 'a')).rejects.toMatchObject({ errnoName: 'ENOENT' })
    await expect(ipset.swap('a', 'x')).rejects.toMatchObject({ errnoName: 'IPSET_ERR_EXIST_SETNAME2' })
  })

  it('destroys; an absent set is success', async () => {
    await ipset.create(set('hash:ip'))
    await ipset.destroy('test')
    await ipset.destroy('test')
    expect(await ipset.names()).toEqual([])
  })
}
