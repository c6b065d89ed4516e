// What the kernel refuses for lack of something, and calls that break: the others go on, the line says all, it is tried again.
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { errno, kernelError } from '../../../src/netlink/errno.ts'
import { ProxyError } from '../../../src/lib/errors.ts'
import { endpoint, service, slice } from './objects.ts'
import { Rig } from './rig.ts'

let rig: Rig
beforeEach(async () => {
  rig = new Rig({ syncPeriod: 60_000 })
  rig.proxier.serviceChanged('default/web', service())
  rig.proxier.sliceChanged('default/web-1', slice([endpoint('10.1.0.1')]))
  rig.proxier.synced('services')
  rig.proxier.synced('endpointslices')
  rig.start()
  await rig.next()
})
afterEach(() => rig.stop())

/** Two more Services, of which the kernel will refuse one something. */
function addTwo(): void {
  for (const [name, address] of [
    ['unlucky', '10.96.0.66'],
    ['lucky', '10.96.0.77'],
  ] as const) {
    rig.proxier.serviceChanged(`default/${name}`, service({ key: `default/${name}`, clusterIPs: [address] }))
  }
}

const places = ['set entry', 'virtual server', 'address'] as const
const errors = ['ENOMEM', 'EBUSY', 'EINTR', 'ENOBUFS'] as const

/** Has the calls about the one Service fail with what `make` answers; undefined: no more. */
function fail(place: (typeof places)[number], make: ((object: string) => Error) | undefined): void {
  const fault = (operation: string, object: string): Error | undefined => {
    const hit = ['add', 'newServer', 'bind'].includes(operation) && object.includes('10.96.0.66')
    return hit ? make?.(object) : undefined
  }
  if (place === 'set entry') rig.ipset.fault = fault
  else if (place === 'address') rig.dummy.fault = fault
  else rig.ipvs.fault = (call, object) => fault(call, object)
}

describe.each(places)('%s', (place) => {
  test.each(errors)(
    'refused with %s: its Service waits, the others are served, the line names all of it',
    async (name) => {
      fail(place, (object) => kernelError(errno[name], 'add', object))
      addTwo()
      const report = await rig.next()
      expect([...report.refused.keys()]).toEqual(['default/unlucky/TCP'])
      expect(report.failures).toEqual([])
      expect(rig.dummy.dump('kube-ipvs0')).toContain('10.96.0.77')
      expect(rig.dummy.dump('kube-ipvs0')).not.toContain('10.96.0.66')
      const line = rig.errors.find((one) => one.includes('Kernel refused an entry'))!
      expect(JSON.parse(line)).toMatchObject({ family: 'IPv4', object: 'default/unlucky/TCP' })
      expect(line).toMatch(new RegExp(`add [^:]*10\\.96\\.0\\.66.*: ${name}`))
      fail(place, undefined)
      expect(await rig.next()).toMatchObject({ well: true, reason: 'retry' })
      expect(rig.dummy.dump('kube-ipvs0')).toContain('10.96.0.66')
    },
  )

  test('a call that breaks (a socket that fails or is silent): the layer is read again before it is written', async () => {
    fail(place, () => new ProxyError('KERNEL', 'the kernel did not answer a netlink request within 10000 ms'))
    addTwo()
    const report = await rig.next()
    const layer = { 'set entry': 'ipset', 'virtual server': 'ipvs', address: 'dummy' }[place]
    expect(report.failures[0]).toMatchObject({ layer })
    expect(JSON.parse(rig.errors[0]!)).toMatchObject({
      message: 'Layer failed; the others go on, this one is tried again',
      layer,
      error: expect.stringContaining('did not answer'),
    })
    // What stood serves on.
    expect(rig.ipvs.dump()).toContain('-a -t 10.96.0.10:80 -r 10.1.0.1:8080')
    fail(place, undefined)
    for (const fake of [rig.ipvs, rig.ipset, rig.dummy]) fake.calls.length = 0
    expect(await rig.next()).toMatchObject({ well: true })
    const { calls } = { ipset: rig.ipset, ipvs: rig.ipvs, dummy: rig.dummy }[layer as 'ipset']
    expect(calls[0]).toMatch(/^(list|names|digest|sizes|links)/)
    expect(rig.dummy.dump('kube-ipvs0')).toContain('10.96.0.66')
    expect(rig.drifts).toEqual([])
  })
})
