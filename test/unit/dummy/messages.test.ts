import { describe, expect, it } from 'vitest'
import { KernelDummy } from '../../../src/dummy/kernel-dummy.ts'
import * as messages from '../../../src/dummy/messages.ts'
import { Writer } from '../../../src/netlink/attributes.ts'
import { Connection, type Message } from '../../../src/netlink/connection.ts'
import { fakeKernel, received, refusing } from '../netlink/fake-socket.ts'
import * as kernel from './kernel-bytes.ts'

const bytes = (text: string): Buffer => Buffer.from(text, 'hex')

function hex(one: Message): string {
  const writer = new Writer()
  one.write(writer)
  return writer.bytes().toString('hex')
}

describe('messages', () => {
  const written: [string, Message, string | undefined][] = [
    ['create', messages.createDeviceMessage('kube-ipvs0'), kernel.createDevice],
    ['delete', messages.deleteDeviceMessage('nope'), kernel.deleteDevice],
    ['bind 1', messages.bindMessage(3, '10.96.0.1'), kernel.binds[0]],
    ['bind 2', messages.bindMessage(3, '10.96.0.10'), kernel.binds[1]],
    ['bind 3', messages.bindMessage(3, 'fd00:10:96::1'), kernel.binds[2]],
    ['unbind', messages.unbindMessage(3, 'fd00:10:96::1'), kernel.binds[2]],
  ]
  it.each(written)('%s is written as the kernel took it', (_name, message, wanted) => {
    expect(hex(message)).toBe(wanted)
  })

  it('reads links', () => {
    expect(kernel.links.map((text) => messages.decodeLink(bytes(text)))).toEqual([
      { index: 1, name: 'lo', kind: '' },
      { index: 2, name: 'eth0', kind: '' },
      { index: 3, name: 'kube-ipvs0', kind: 'dummy' },
    ])
  })

  it('reads addresses', () => {
    const found = kernel.addresses.map((text) => messages.decodeInterfaceAddress(bytes(text)))
    expect(found.map((one) => one && `${one.linkIndex} ${one.family} ${one.address}/${one.prefix}`)).toEqual([
      '1 IPv4 127.0.0.1/8',
      '2 IPv4 10.0.2.15/24',
      '3 IPv4 10.96.0.1/32',
      '3 IPv4 10.96.0.10/32',
      '3 IPv4 224.0.0.1/32',
      '1 IPv6 ::1/128',
      '2 IPv6 fec0::5054:ff:fe12:3456/64',
      '2 IPv6 fe80::5054:ff:fe12:3456/64',
      '3 IPv6 fd00:10:96::1/128',
    ])
  })

  it('hashes them by address and prefix', () => {
    const hashes = kernel.addresses.map((text) => messages.hashOfMessage(received(bytes(text))))
    const texts = kernel.addresses.map((text) => messages.decodeInterfaceAddress(bytes(text)))
    expect(hashes).toEqual(texts.map((one) => one && messages.addressHash(`${one.address}/${one.prefix}`)))
    expect(new Set(hashes).size).toBe(hashes.length)
    expect(messages.addressHash('10.96.0.1')).toBe(messages.addressHash('10.96.0.1/32'))
    expect(messages.addressHash('fd00::1')).toBe(messages.addressHash('fd00::1/128'))
  })

  it('takes the own address where there is a peer', () => {
    const attributes = messages.addressAttributes.encode({ address: bytes('0a000002'), local: bytes('0a000001') })
    const payload = Buffer.concat([bytes('0220000005000000'), attributes])
    expect(messages.decodeInterfaceAddress(payload)?.address).toBe('10.0.0.1')
    expect(messages.hashOfMessage(received(payload))).toBe(messages.addressHash('10.0.0.1'))
  })

  it('leaves out other families and refuses wrong lengths', () => {
    const address = messages.addressAttributes.encode({ address: bytes('0a000002') })
    expect(messages.decodeInterfaceAddress(Buffer.concat([bytes('0720000005000000'), address]))).toBeUndefined()
    expect(() => messages.decodeInterfaceAddress(Buffer.concat([bytes('0a20000005000000'), address]))).toThrow(
      '4 bytes for IPv6',
    )
    expect(() => messages.decodeInterfaceAddress(Buffer.alloc(7))).toThrow('7 bytes instead of 8')
    expect(() => messages.decodeLink(Buffer.alloc(15))).toThrow('15 bytes instead of 16')
    const [link = ''] = kernel.links
    expect(() => messages.decodeLink(bytes(link).subarray(0, 21))).toThrow(/link at byte 16/)
  })
})

const using = (errno: number): KernelDummy =>
  new KernelDummy(() => new Connection(fakeKernel(refusing(() => errno)).open))

describe('KernelDummy', () => {
  const fine: [string, number, (dummy: KernelDummy) => Promise<unknown>][] = [
    ['bind', 17, (dummy) => dummy.bind(3, ['10.0.0.1'])],
    ['unbind', 99, (dummy) => dummy.unbind(3, ['10.0.0.1'])],
    ['unbind', 19, (dummy) => dummy.unbind(3, ['10.0.0.1'])],
    ['unbind', 6, (dummy) => dummy.unbind(3, ['10.0.0.1'])],
  ]
  it.each(fine)('%s: errno %i is success', async (_name, errno, act) => {
    expect(await act(using(errno))).toEqual(new Map())
  })

  it('deleteDevice: ENODEV is success', async () => {
    await expect(using(19).deleteDevice('x')).resolves.toBeUndefined()
  })

  it('names refusals', async () => {
    const refused = await using(13).bind(3, ['fd00::1'])
    expect(refused.get('fd00::1')?.message).toBe(
      'add address fd00::1 to link 3: EACCES (IPv6 is disabled: look at net.ipv6.conf.all.disable_ipv6)',
    )
    await expect(using(95).createDevice('x')).rejects.toThrow('create dummy device x: EOPNOTSUPP (modprobe dummy)')
    await expect(using(1).links()).rejects.toThrow('list links: EPERM (needs the capability CAP_NET_ADMIN)')
  })
})
