import { beforeEach, describe, expect, test } from 'vitest'
import { deviceName } from '../../../src/dummy/layer.ts'
import type { Wanted } from '../../../src/wanted/wanted.ts'
import { endpoint, port, service, slice } from '../proxier/objects.ts'
import type { Rig } from '../proxier/rig.ts'
import { differences, stand, told } from './stand.ts'

const tcp = { family: 'IPv4', protocol: 'TCP', address: '10.96.0.10', port: 80 } as const
const udp = { family: 'IPv4', protocol: 'UDP', address: '10.96.0.10', port: 53 } as const
const stranger = { family: 'IPv4', protocol: 'TCP', address: '10.50.0.1', port: 80 } as const
const plain = { scheduler: 'rr', flags: 0, timeout: 0 }
const [one, two] = [
  { address: '10.0.0.1', port: 8080 },
  { address: '10.0.0.2', port: 8080 },
]

const services = [
  service({
    ports: [port(), port({ name: 'dns', protocol: 'UDP', port: 53 })],
    affinitySeconds: 10800,
    loadBalancerIPs: ['203.0.113.1'],
    sourceRanges: ['198.51.100.0/24'],
  }),
]
const slices = [
  slice([endpoint('10.0.0.1', 'rsl'), endpoint('10.0.0.2')], {
    ports: [
      { name: '', protocol: 'TCP', port: 8080 },
      { name: 'dns', protocol: 'UDP', port: 5353 },
    ],
  }),
]

let rig: Rig
let wanted: Wanted

beforeEach(async () => {
  ;({ rig, wanted } = await stand({ services, slices }))
})

async function device(): Promise<number> {
  return (await rig.dummy.links()).find(({ name }) => name === deviceName)!.index
}

test('what the daemon has written is what is wanted', async () => {
  expect(wanted.servers).toMatchObject({ servers: 4, destinations: 8 })
  expect(await differences(rig, wanted)).toEqual([])
})

test('the daemon says what the objects come to', async () => {
  const said = await told(rig)
  const sums = ({ servers, sets, rules, addresses, clashes, conflicts }: Wanted) => ({
    servers,
    sets,
    rules,
    addresses,
    clashes,
    conflicts,
  })
  expect(sums(said)).toEqual(sums(wanted))
  // What is not written yet is wanted all the same.
  rig.proxier.serviceChanged('default/web', undefined)
  expect(sums(await told(rig))).toEqual(sums(wanted))
})

test('where sums are equal nothing is listed', async () => {
  rig.ipset.calls.length = 0
  rig.ipvs.calls.length = 0
  rig.dummy.calls.length = 0
  await differences(rig, wanted)
  expect(rig.ipset.calls.filter((call) => call.startsWith('list'))).toEqual([])
  expect(rig.dummy.calls).not.toContain('addresses')
  // The one listing is the test's own, which writes the proc file.
  expect(rig.ipvs.calls).toEqual(['listAll'])
})

describe('each change is told, and nothing else', () => {
  test.each<{ name: string; tamper: () => unknown; found: string[] }>([
    {
      name: 'a virtual server removed',
      tamper: () => rig.ipvs.apply([{ kind: 'deleteServer', server: tcp }]),
      found: ['ipvs virtual server 10.96.0.10:80/TCP missing'],
    },
    {
      name: 'a virtual server of somebody else',
      tamper: () => rig.ipvs.apply([{ kind: 'newServer', server: { ...stranger, ...plain } }]),
      found: ['ipvs virtual server 10.50.0.1:80/TCP foreign'],
    },
    {
      name: 'another scheduler',
      tamper: () =>
        rig.ipvs.apply([{ kind: 'setServer', server: { ...tcp, scheduler: 'wrr', flags: 1, timeout: 10800 } }]),
      found: ['ipvs virtual server 10.96.0.10:80/TCP changed'],
    },
    {
      name: 'no persistence any more',
      tamper: () => rig.ipvs.apply([{ kind: 'setServer', server: { ...tcp, ...plain } }]),
      found: ['ipvs virtual server 10.96.0.10:80/TCP changed'],
    },
    {
      name: 'another persistence timeout',
      tamper: () => rig.ipvs.apply([{ kind: 'setServer', server: { ...tcp, scheduler: 'rr', flags: 1, timeout: 60 } }]),
      found: ['ipvs virtual server 10.96.0.10:80/TCP changed'],
    },
    {
      name: 'a destination removed',
      tamper: () => rig.ipvs.apply([{ kind: 'deleteDestination', server: tcp, destination: one }]),
      found: ['ipvs destination 10.0.0.1:8080 of virtual server 10.96.0.10:80/TCP missing'],
    },
    {
      name: 'a destination of somebody else',
      tamper: () =>
        rig.ipvs.apply([
          { kind: 'newDestination', server: tcp, destination: { address: '10.0.0.9', port: 8080, weight: 1 } },
        ]),
      found: ['ipvs destination 10.0.0.9:8080 of virtual server 10.96.0.10:80/TCP foreign'],
    },
    {
      name: 'a destination that drains is none',
      tamper: () =>
        rig.ipvs.apply([
          { kind: 'newDestination', server: tcp, destination: { address: '10.0.0.9', port: 8080, weight: 0 } },
        ]),
      found: [],
    },
    {
      name: 'over UDP nothing drains',
      tamper: () =>
        rig.ipvs.apply([
          { kind: 'newDestination', server: udp, destination: { address: '10.0.0.9', port: 5353, weight: 0 } },
        ]),
      found: ['ipvs destination 10.0.0.9:5353 of virtual server 10.96.0.10:53/UDP foreign'],
    },
    {
      name: 'a wanted destination at weight 0',
      tamper: () => rig.ipvs.apply([{ kind: 'setDestination', server: tcp, destination: { ...two, weight: 0 } }]),
      found: ['ipvs weight 10.0.0.2:8080 of virtual server 10.96.0.10:80/TCP changed'],
    },
    {
      name: 'connections are none',
      tamper: () => rig.ipvs.setConnections(tcp, one, 7, 8),
      found: [],
    },
    {
      name: 'a set entry removed',
      tamper: () => rig.ipset.remove(spec('KUBE-CLUSTER-IP'), ['10.96.0.10,tcp:80']),
      found: ['ipset set entry 10.96.0.10,tcp:80 of set KUBE-CLUSTER-IP missing'],
    },
    {
      name: 'a set entry of somebody else',
      tamper: () => rig.ipset.add(spec('KUBE-CLUSTER-IP'), ['10.96.0.99,tcp:80']),
      found: ['ipset set entry 10.96.0.99,tcp:80 of set KUBE-CLUSTER-IP foreign'],
    },
    {
      name: 'a set removed',
      tamper: () => rig.ipset.destroy('KUBE-NODE-PORT-UDP'),
      found: ['ipset set KUBE-NODE-PORT-UDP missing'],
    },
    {
      name: 'a set of another type',
      tamper: async () => {
        await rig.ipset.destroy('KUBE-LOOP-BACK')
        await rig.ipset.create({ ...spec('KUBE-LOOP-BACK'), type: 'hash:ip' })
      },
      found: ['ipset set KUBE-LOOP-BACK changed'],
    },
    {
      name: 'a set on demand that nobody needs',
      tamper: () => rig.ipset.create({ ...spec('KUBE-EXTERNAL-NO-LOCAL'), type: 'hash:ip,port' }),
      found: ['ipset set KUBE-EXTERNAL-NO-LOCAL foreign'],
    },
    {
      name: 'a set that was to become larger',
      tamper: () => rig.ipset.create(spec('KUBE-CLUSTER-IP-TMP')),
      found: ['ipset set KUBE-CLUSTER-IP-TMP foreign'],
    },
    {
      name: 'a set of others is none of ours',
      tamper: () => rig.ipset.create(spec('cali40all-ipam-pools')),
      found: [],
    },
    {
      name: 'a chain emptied',
      tamper: () => void (rig.iptables.rules('nat', 'KUBE-MARK-MASQ').length = 0),
      found: ['iptables chain chain KUBE-MARK-MASQ of table nat changed'],
    },
    {
      name: 'a chain removed',
      tamper: () => rig.iptables.tables.get('filter')!.delete('KUBE-IPVS-FILTER'),
      found: ['iptables chain chain KUBE-IPVS-FILTER of table filter missing'],
    },
    {
      name: 'a rule of somebody else in a chain of ours',
      tamper: () => rig.iptables.rules('nat', 'KUBE-SERVICES').push('-j RETURN'),
      found: ['iptables chain chain KUBE-SERVICES of table nat changed'],
    },
    {
      name: 'rules in another order',
      tamper: () => mirror(rig.iptables.rules('nat', 'KUBE-SERVICES')),
      found: ['iptables chain chain KUBE-SERVICES of table nat changed'],
    },
    {
      name: 'drops in another order are the same',
      tamper: () => mirror(rig.iptables.rules('filter', 'KUBE-IPVS-OUT-FILTER')),
      found: [],
    },
    {
      name: 'a jump removed',
      tamper: () => void rig.iptables.rules('nat', 'PREROUTING').pop(),
      found: ['iptables rule jump from nat PREROUTING to KUBE-SERVICES missing'],
    },
    {
      name: 'a jump twice',
      tamper: () => rig.iptables.rules('nat', 'PREROUTING').push(rig.iptables.rules('nat', 'PREROUTING')[0]!),
      found: ['iptables rule jump from nat PREROUTING to KUBE-SERVICES changed'],
    },
    {
      name: 'a rule of others in a built-in chain is none',
      tamper: () => rig.iptables.rules('filter', 'INPUT').unshift('-i lo -j ACCEPT'),
      found: [],
    },
    {
      name: 'an address removed',
      tamper: async () => rig.dummy.removeAddress(await device(), '10.96.0.10'),
      found: ['dummy address 10.96.0.10 on kube-ipvs0 missing'],
    },
    {
      name: 'an address of somebody else',
      tamper: async () => rig.dummy.addAddress(await device(), '10.50.0.1'),
      found: ['dummy address 10.50.0.1 on kube-ipvs0 foreign'],
    },
    {
      name: 'an address with another prefix',
      tamper: async () => {
        rig.dummy.removeAddress(await device(), '10.96.0.10')
        rig.dummy.addAddress(await device(), '10.96.0.10', 24)
      },
      found: ['dummy address 10.96.0.10/24 on kube-ipvs0 foreign', 'dummy address 10.96.0.10 on kube-ipvs0 missing'],
    },
    {
      name: 'the device of another kind',
      tamper: async () => {
        await rig.dummy.deleteDevice(deviceName)
        const index = rig.dummy.addLink(deviceName, 'bridge')
        for (const address of (await wanted.allAddresses()).keys()) rig.dummy.addAddress(index, address)
      },
      found: ['dummy device kube-ipvs0 changed'],
    },
  ])('$name', async ({ tamper, found }) => {
    await tamper()
    const seen = await differences(rig, wanted)
    expect(seen.map(({ layer, kind, object, state }) => `${layer} ${kind} ${object} ${state}`)).toEqual(found)
    expect(await differences(rig, await told(rig))).toEqual(seen)
  })
})

test('the device removed: it is missing, and so are its addresses', async () => {
  await rig.dummy.deleteDevice(deviceName)
  const seen = await differences(rig, wanted)
  expect(seen.map(({ kind, object }) => `${kind} ${object}`)).toEqual([
    'device kube-ipvs0',
    'address 10.96.0.10 on kube-ipvs0',
    'address 203.0.113.1 on kube-ipvs0',
  ])
})

test('what excludeCIDRs leave to others is none', async () => {
  await rig.ipvs.apply([{ kind: 'newServer', server: { ...stranger, ...plain } }])
  rig.dummy.addAddress(await device(), '10.50.0.1')
  expect(await differences(rig, wanted, ['10.50.0.0/16'])).toEqual([])
  // What is wanted is ours wherever it lies.
  await rig.ipvs.apply([{ kind: 'deleteServer', server: tcp }])
  expect(await differences(rig, wanted, ['10.0.0.0/8'])).toHaveLength(1)
})

test('a difference names the service ports that it is for, and says what was found', async () => {
  await rig.ipvs.apply([{ kind: 'setServer', server: { ...tcp, scheduler: 'wrr', flags: 1, timeout: 10800 } }])
  rig.iptables.rules('nat', 'KUBE-MARK-MASQ')[0] = '-j RETURN'
  const [rules, server] = await differences(rig, wanted)
  expect(rules!.detail).toBe('lacks "-j MARK --set-xmark 0x4000/0x4000"; has "-j RETURN"')
  expect(server).toMatchObject({
    family: 'IPv4',
    owners: ['default/web/TCP'],
    detail: 'wanted rr persistent 10800 s flags 0x1, found wrr persistent 10800 s flags 0x1',
  })
})

function mirror(rules: string[]): void {
  rules.splice(0, rules.length, ...rules.toReversed())
}

/** A set as it is made, whatever its role. */
function spec(name: string) {
  const types = { 'KUBE-CLUSTER-IP': 'hash:ip,port' } as const
  const type = name === 'KUBE-CLUSTER-IP' ? types[name] : 'hash:ip'
  return { name, type, family: 'IPv4', hashsize: 1024, maxelem: 65536 } as const
}
