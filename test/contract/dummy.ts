import { afterEach, beforeEach, expect, it } from 'vitest'
import type { AddressDigest, Dummy } from '../../src/dummy/dummy.ts'
import { addressHash } from '../../src/dummy/messages.ts'
import { withHash } from '../../src/lib/digest.ts'

const name = 'dummy-test0'

/**
 * What every Dummy does. `make` gives one without the device `name`; `dump` prints a device's lines of `ip addr`; `add`
 * is somebody else who adds "address/prefix" to a device.
 */
export function dummyContract<D extends Dummy>(
  make: () => Promise<D>,
  dump: (dummy: D, name: string) => string,
  add: (dummy: D, name: string, address: string) => Promise<void>,
): void {
  let dummy: D
  let index = 0
  beforeEach(async () => {
    dummy = await make()
    await dummy.createDevice(name)
    index = (await dummy.links()).find((link) => link.name === name)?.index ?? 0
  })
  afterEach(async () => {
    await dummy.deleteDevice(name)
    dummy.close()
  })

  const bound = async (): Promise<string[]> =>
    (await dummy.addresses())
      .filter((present) => present.linkIndex === index)
      .map(({ family, address, prefix }) => `${family} ${address}/${prefix}`)
      .sort()

  const digests = (): Promise<AddressDigest[]> =>
    Promise.all((['IPv4', 'IPv6'] as const).map((family) => dummy.digest({ family, isOn: (link) => link === index })))
  const digestOf = (addresses: readonly string[]): AddressDigest => ({
    count: addresses.length,
    sum: addresses.reduce((sum, address) => withHash(sum, addressHash(address)), 0),
  })

  it('makes a dummy link, once', async () => {
    expect((await dummy.links()).find((link) => link.name === name)).toEqual({ index, name, kind: 'dummy' })
    expect((await dummy.links()).find((link) => link.name === 'lo')).toEqual({ index: 1, name: 'lo', kind: '' })
    await expect(dummy.createDevice(name)).rejects.toMatchObject({ errnoName: 'EEXIST' })
  })

  it('refuses a name that is too long', async () => {
    await expect(dummy.createDevice('sixteen-letters-')).rejects.toMatchObject({ errnoName: 'ERANGE' })
  })

  it('deletes the link with its addresses; an absent one is success', async () => {
    await dummy.bind(index, ['10.96.0.1'])
    await dummy.deleteDevice(name)
    await dummy.deleteDevice(name)
    expect((await dummy.links()).some((link) => link.name === name)).toBe(false)
    expect((await dummy.addresses()).some((present) => present.address === '10.96.0.1')).toBe(false)
  })

  it('gives a device another name, and back, with its addresses', async () => {
    await dummy.bind(index, ['10.96.0.1'])
    await dummy.renameDevice(index, 'dummy-else0')
    expect((await dummy.links()).find((link) => link.index === index)).toEqual({
      index,
      name: 'dummy-else0',
      kind: 'dummy',
    })
    await dummy.renameDevice(index, name)
    expect(await bound()).toEqual(['IPv4 10.96.0.1/32'])
    await expect(dummy.renameDevice(index, 'lo')).rejects.toMatchObject({ errnoName: 'EEXIST' })
    await expect(dummy.renameDevice(index + 1000, 'x')).rejects.toMatchObject({ errnoName: 'ENODEV' })
  })

  it('binds and unbinds addresses of both families, as often as asked', async () => {
    const addresses = ['10.96.0.1', '10.96.0.10', 'fd00:10:96::1']
    expect(await dummy.bind(index, addresses)).toEqual(new Map())
    expect(await dummy.bind(index, addresses)).toEqual(new Map())
    expect(await bound()).toEqual(['IPv4 10.96.0.1/32', 'IPv4 10.96.0.10/32', 'IPv6 fd00:10:96::1/128'])
    expect(dump(dummy, name)).toBe(
      [
        `inet 10.96.0.1/32 scope global ${name}`,
        `inet 10.96.0.10/32 scope global ${name}`,
        'inet6 fd00:10:96::1/128 scope global',
        '',
      ].join('\n'),
    )
    expect(await dummy.unbind(index, ['10.96.0.1', '10.96.0.99', 'fd00:10:96::1', 'fd00:10:96::2'])).toEqual(new Map())
    expect(await bound()).toEqual(['IPv4 10.96.0.10/32'])
  })

  it('unbinds an address of another prefix where that is said', async () => {
    const foreign = ['10.99.0.1/24', 'fd00:99::1/64']
    for (const address of foreign) await add(dummy, name, address)
    expect(await dummy.unbind(index, ['10.99.0.1', 'fd00:99::1'])).toEqual(new Map())
    expect(await bound()).toEqual(['IPv4 10.99.0.1/24', 'IPv6 fd00:99::1/64'])
    expect(await dummy.bind(index, ['10.99.0.1', 'fd00:99::1'])).toEqual(new Map())
    expect(await bound()).toEqual(['IPv4 10.99.0.1/24', 'IPv4 10.99.0.1/32', 'IPv6 fd00:99::1/64'])
    expect(await digests()).toEqual([digestOf(['10.99.0.1/24', '10.99.0.1/32']), digestOf(['fd00:99::1/64'])])
    expect(await dummy.unbind(index, foreign)).toEqual(new Map())
    expect(await bound()).toEqual(['IPv4 10.99.0.1/32'])
  })

  it('answers which addresses were refused', async () => {
    const refused = await dummy.bind(index, ['10.96.0.1', 'ff02::1', '10.96.0.2'])
    expect([...refused].map(([address, error]) => [address, error.errnoName])).toEqual([['ff02::1', 'EADDRNOTAVAIL']])
    expect(await bound()).toEqual(['IPv4 10.96.0.1/32', 'IPv4 10.96.0.2/32'])
  })

  it('without its link binds nothing and has nothing to unbind', async () => {
    const refused = await dummy.bind(index + 1000, ['10.96.0.1', 'fd00::1'])
    expect([...refused.values()].map((error) => error.errnoName)).toEqual(['ENODEV', 'ENODEV'])
    expect(await dummy.unbind(index + 1000, ['10.96.0.1', 'fd00::1'])).toEqual(new Map())
  })

  it('lists the addresses of other links', async () => {
    expect(await dummy.addresses()).toContainEqual({
      linkIndex: 1,
      family: 'IPv4',
      address: '127.0.0.1',
      prefix: 8,
    })
  })

  it('takes more addresses than one send does', async () => {
    const addresses = Array.from({ length: 1000 }, (_, number) => `10.97.${number >> 8}.${number & 255}`)
    expect(await dummy.bind(index, addresses)).toEqual(new Map())
    expect(await bound()).toHaveLength(1000)
    expect(await digests()).toEqual([digestOf(addresses), digestOf([])])
    expect(await dummy.unbind(index, addresses)).toEqual(new Map())
    expect(await bound()).toEqual([])
  })
}
