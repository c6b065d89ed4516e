import { beforeEach, expect, test } from 'vitest'
import { FakeDummy } from '../../../src/dummy/fake-dummy.ts'
import { deviceName, DummyLayer } from '../../../src/dummy/layer.ts'
import { renameDeviceError } from '../../../src/dummy/messages.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { Thrift } from '../../../src/lib/thrift.ts'
import { errno } from '../../../src/netlink/errno.ts'

const none: ReadonlySet<string> = new Set()
const count = 2000
const address = (n: number): string => `10.96.${n >> 8}.${n & 255}`

let dummy: FakeDummy
let layer: DummyLayer

async function deviceIndex(): Promise<number> {
  return (await dummy.links()).find(({ name }) => name === deviceName)!.index
}

beforeEach(async () => {
  dummy = new FakeDummy()
  const thrift = new Thrift(0.5)
  layer = new DummyLayer({
    family: 'IPv4',
    dummy,
    log: silentLog,
    excludeCIDRs: [],
    ownersOf: (one) => [`owner of ${one}`],
    speaksForDevice: true,
    thrift,
  })
  await layer.resync()
  for (let n = 0; n < count; n++) layer.want(address(n))
  await layer.add(none)
  await layer.resync()
  thrift.spent(3_600_000)
})

test.each<[string, () => Promise<unknown>, boolean, string[]]>([
  ['nothing differs', async () => {}, true, []],
  ['the device is gone', () => dummy.deleteDevice(deviceName), true, ['device missing']],
  [
    'the device is another one',
    async () => {
      await dummy.deleteDevice(deviceName)
      await dummy.createDevice(deviceName)
    },
    true,
    ['device changed'],
  ],
  ['an address is gone: found in due time', async () => dummy.unbind(await deviceIndex(), [address(1)]), true, []],
  [
    'an address is gone, after a failure',
    async () => dummy.unbind(await deviceIndex(), [address(1)]),
    false,
    ['address missing'],
  ],
])('a look that has to be thrifty with very many addresses: %s', async (_name, tamper, thrifty, drifts) => {
  await tamper()
  expect((await layer.resync(thrifty)).map(({ kind, state }) => `${kind} ${state}`)).toEqual(drifts)
})

test('with few of them there is nothing to save', async () => {
  for (let n = 1; n < count; n++) layer.unwant(address(n))
  await layer.remove(none)
  await dummy.unbind(await deviceIndex(), [address(0)])
  expect(await layer.resync(true)).toMatchObject([{ kind: 'address', state: 'missing' }])
})

test('a device that somebody has renamed gets its name back, with all that is on it', async () => {
  const index = await deviceIndex()
  await dummy.renameDevice(index, 'mine')
  const before = dummy.calls.length
  expect(await layer.resync(true)).toEqual([
    { layer: 'dummy', kind: 'device', object: 'kube-ipvs0, which had become mine', state: 'changed' },
  ])
  expect(await deviceIndex()).toBe(index)
  await layer.add(none)
  const written = dummy.calls.slice(before).filter((call) => !/^(links|digest|addresses)/.test(call))
  expect(written).toEqual([`renameDevice ${deviceName}`])
  expect(await layer.resync()).toEqual([])
})

test('where the kernel does not give it back, the error says what to do', async () => {
  await dummy.renameDevice(await deviceIndex(), 'mine')
  dummy.fault = (operation) =>
    operation === 'renameDevice' ? renameDeviceError(errno.EBUSY, 2, deviceName) : undefined
  await expect(layer.resync()).rejects.toThrow('rename link 2 to kube-ipvs0: EBUSY (the kernel renames only')
})
