import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  changesOf,
  serverFlags,
  serverKey,
  type Destination,
  type Ipvs,
  type IpvsChange,
  type KnownServer,
  type ServerId,
  type VirtualServer,
} from '../../src/ipvs/ipvs.ts'
import type { Family } from '../../src/model/address.ts'
import { DestinationList } from '../../src/model/destination-list.ts'

const v4: ServerId = { family: 'IPv4', protocol: 'TCP', address: '10.96.0.1', port: 443 }
const v6: ServerId = { family: 'IPv6', protocol: 'UDP', address: 'fd00::a', port: 53 }

function server(id: ServerId, scheduler = 'rr', flags = 0, timeout = 0): VirtualServer {
  return { ...id, scheduler, flags, timeout }
}

function sorted(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .sort()
}

const to = (id: ServerId, address: string, port: number, weight = 1): IpvsChange => ({
  kind: 'newDestination',
  server: id,
  destination: { address, port, weight },
})

/** What every Ipvs does. `make` gives an empty one; `dump` prints it like `ipvsadm -Sn`. */
export function ipvsContract<I extends Ipvs>(make: () => Promise<I>, dump: (ipvs: I) => string): void {
  let ipvs: I
  beforeEach(async () => {
    ipvs = await make()
  })
  afterEach(() => ipvs.close())

  const apply = async (...changes: IpvsChange[]): Promise<(string | undefined)[]> =>
    (await ipvs.apply(changes)).map((error) => error?.message)

  describe('virtual servers', () => {
    it('come to stand in both families, with scheduler, flags and timeout', async () => {
      const sctp: ServerId = { ...v4, protocol: 'SCTP', port: 3868 }
      const wanted = [
        server(v4, 'rr', serverFlags.persistent, 10800),
        server(v6, 'sh', 0x18),
        server(sctp, 'wrr'),
        server({ ...v6, port: 54 }, 'lc', serverFlags.persistent, 300),
        server({ ...v6, port: 55 }, 'mh', serverFlags.schedulerFlag2),
      ]
      const changes = wanted.map((one): IpvsChange => ({ kind: 'newServer', server: one }))
      expect(await apply(...changes)).toEqual(wanted.map(() => undefined))
      expect((await ipvs.listServers()).toSorted(byKey)).toEqual(wanted.toSorted(byKey))
      expect(sorted(dump(ipvs))).toEqual([
        '-A --sctp-service 10.96.0.1:3868 -s wrr',
        '-A -t 10.96.0.1:443 -s rr -p 10800',
        '-A -u [fd00::a]:53 -s sh -b sh-fallback,sh-port',
        '-A -u [fd00::a]:54 -s lc -p 300',
        '-A -u [fd00::a]:55 -s mh -b mh-port',
      ])
    })

    it('are changed and deleted', async () => {
      await apply(
        { kind: 'newServer', server: server(v4) },
        { kind: 'newServer', server: server(v6) },
        to(v4, '10.1.0.1', 80),
      )
      await apply(
        { kind: 'setServer', server: server(v4, 'lc', serverFlags.persistent, 60) },
        { kind: 'deleteServer', server: v6 },
      )
      expect(sorted(dump(ipvs))).toEqual([
        '-A -t 10.96.0.1:443 -s lc -p 60',
        '-a -t 10.96.0.1:443 -r 10.1.0.1:80 -m -w 1',
      ])
      await apply({ kind: 'setServer', server: server(v4) })
      expect(await ipvs.listServers()).toEqual([server(v4)])
    })

    it('are refused one by one, the rest goes on', async () => {
      const unknown = server({ ...v4, port: 1 }, 'nosuch')
      const answers = await ipvs.apply([
        { kind: 'newServer', server: server(v4) },
        { kind: 'newServer', server: server(v4) },
        { kind: 'newServer', server: unknown },
        { kind: 'setServer', server: unknown },
        { kind: 'setServer', server: server(v4, 'nosuch') },
        { kind: 'deleteServer', server: v6 },
        { kind: 'newServer', server: server(v6) },
      ])
      const names = answers.map((error) => error?.errnoName)
      expect(names).toEqual([undefined, 'EEXIST', 'ENOENT', 'ESRCH', 'ENOENT', 'ESRCH', undefined])
      expect(answers[2]?.message).toBe(
        'add virtual server 10.96.0.1:1/TCP: ENOENT (unknown scheduler "nosuch": modprobe ip_vs_nosuch)',
      )
      expect((await ipvs.listServers()).toSorted(byKey)).toEqual([server(v4), server(v6)].toSorted(byKey))
    })
  })

  describe('virtual servers with their destinations', () => {
    const known = (one: VirtualServer, ...destinations: Destination[]): KnownServer => ({
      server: one,
      destinations: DestinationList.of(destinations),
    })
    const many = Array.from({ length: 300 }, (_, i) => ({ address: `10.2.${i >> 7}.${i & 127}`, port: 80, weight: 1 }))

    it('are made in one go, as single changes would make them', async () => {
      const wanted = [
        known(server(v4, 'wrr', serverFlags.persistent, 300), { address: '10.1.0.1', port: 8080, weight: 0x12345678 }),
        known(server({ ...v4, port: 80 })),
        known(
          server(v6, 'sh', 0x18),
          { address: 'fd00:10::b', port: 5353, weight: 100 },
          { address: 'fd00:10::c', port: 1, weight: 0 },
        ),
        // More messages than one send takes.
        known(server({ ...v4, port: 81 }), ...many),
        known(server({ ...v4, protocol: 'SCTP' }), { address: '10.1.0.1', port: 65535, weight: 1 }),
      ]
      expect(await ipvs.make(wanted)).toEqual(wanted.map(() => undefined))
      const made = sorted(dump(ipvs))
      for (const { server: one } of wanted) await apply({ kind: 'deleteServer', server: one })
      expect(await apply(...wanted.flatMap(changesOf))).toEqual(wanted.flatMap(changesOf).map(() => undefined))
      expect(made).toEqual(sorted(dump(ipvs)))
      expect(made).toHaveLength(wanted.length + many.length + 4)
    })

    it('are refused part by part, the rest goes on', async () => {
      await apply({ kind: 'newServer', server: server(v6) })
      const first = { address: '10.1.0.1', port: 80, weight: 1 }
      const answers = await ipvs.make([
        known(
          server(v4),
          ...['0.0.0.0', '0.1.2.3', '10.1.0.1', '224.0.0.1', '240.0.0.1', '255.255.255.255'].map((address) => ({
            ...first,
            address,
          })),
        ),
        known(server({ ...v4, port: 1 }, 'nosuch'), first),
        known(server(v6), { address: 'fd00:10::b', port: 1, weight: 1 }),
        known(server({ ...v4, port: 2 }), first),
      ])
      expect(answers.map((parts) => parts?.map((error) => error?.message))).toEqual([
        [
          undefined,
          expect.stringMatching(/^add destination 0\.0\.0\.0:80 of virtual server 10\.96\.0\.1:443\/TCP: EINVAL/),
          undefined,
          undefined,
          expect.stringMatching(/^add destination 224\.0\.0\.1:80 of virtual server 10\.96\.0\.1:443\/TCP: EINVAL/),
          undefined,
          expect.stringMatching(
            /^add destination 255\.255\.255\.255:80 of virtual server 10\.96\.0\.1:443\/TCP: EINVAL/,
          ),
        ],
        [
          'add virtual server 10.96.0.1:1/TCP: ENOENT (unknown scheduler "nosuch": modprobe ip_vs_nosuch)',
          expect.stringMatching(/: ESRCH/),
        ],
        [expect.stringMatching(/^add virtual server \[fd00::a\]:53\/UDP: EEXIST/), undefined],
        undefined,
      ])
      expect(sorted(dump(ipvs))).toEqual([
        '-A -t 10.96.0.1:2 -s rr',
        '-A -t 10.96.0.1:443 -s rr',
        '-A -u [fd00::a]:53 -s rr',
        '-a -t 10.96.0.1:2 -r 10.1.0.1:80 -m -w 1',
        '-a -t 10.96.0.1:443 -r 0.1.2.3:80 -m -w 1',
        '-a -t 10.96.0.1:443 -r 10.1.0.1:80 -m -w 1',
        '-a -t 10.96.0.1:443 -r 240.0.0.1:80 -m -w 1',
        '-a -u [fd00::a]:53 -r [fd00:10::b]:1 -m -w 1',
      ])
    })
  })

  describe('destinations', () => {
    it('are added, changed and deleted in the order given', async () => {
      const destination = { address: '10.1.0.2', port: 8080 }
      const answers = await apply(
        { kind: 'newServer', server: server(v4) },
        { kind: 'newServer', server: server(v6) },
        to(v4, '10.1.0.1', 8080),
        to(v4, '10.1.0.2', 8080, 0),
        to(v6, 'fd00:10::b', 5353, 100),
        { kind: 'setDestination', server: v4, destination: { ...destination, weight: 7 } },
        to(v4, '10.1.0.3', 8080),
        { kind: 'deleteDestination', server: v4, destination: { ...destination, address: '10.1.0.3' } },
      )
      expect(answers).toEqual(Array.from({ length: 8 }, () => undefined))
      const found = { forwarding: 0, activeConnections: 0, inactiveConnections: 0 }
      expect(await ipvs.listDestinations(v6)).toEqual([{ address: 'fd00:10::b', port: 5353, weight: 100, ...found }])
      expect((await ipvs.listDestinations(v4)).toSorted((a, b) => a.weight - b.weight)).toEqual([
        { address: '10.1.0.1', port: 8080, weight: 1, ...found },
        { address: '10.1.0.2', port: 8080, weight: 7, ...found },
      ])
      expect(sorted(dump(ipvs))).toEqual([
        '-A -t 10.96.0.1:443 -s rr',
        '-A -u [fd00::a]:53 -s rr',
        '-a -t 10.96.0.1:443 -r 10.1.0.1:8080 -m -w 1',
        '-a -t 10.96.0.1:443 -r 10.1.0.2:8080 -m -w 7',
        '-a -u [fd00::a]:53 -r [fd00:10::b]:5353 -m -w 100',
      ])
    })

    it('of a missing server are none', async () => {
      expect(await ipvs.listDestinations(v4)).toEqual([])
    })

    const present: IpvsChange[] = [
      { kind: 'newServer', server: server(v4) },
      { kind: 'newServer', server: server(v6) },
      to(v4, '10.1.0.1', 80),
    ]
    const refusals: [string, IpvsChange, string][] = [
      ['there already', to(v4, '10.1.0.1', 80), 'EEXIST'],
      ['of a missing server', to({ ...v4, port: 1 }, '10.1.0.1', 80), 'ESRCH'],
      ['multicast', to(v4, '224.0.0.1', 80), 'EINVAL'],
      ['link-local', to(v6, 'fe80::1', 80), 'EINVAL'],
      ['of the other family', to(v4, 'fd00::1', 80), 'EINVAL'],
      ['with a negative weight', to(v4, '10.1.0.9', 80, -1), 'ERANGE'],
      [
        'absent, to be changed',
        { kind: 'setDestination', server: v4, destination: { address: '10.1.0.2', port: 80, weight: 1 } },
        'ENOENT',
      ],
      [
        'absent, to be deleted',
        { kind: 'deleteDestination', server: v4, destination: { address: '10.1.0.2', port: 80 } },
        'ENOENT',
      ],
      [
        'to be deleted from a missing server',
        { kind: 'deleteDestination', server: { ...v4, port: 1 }, destination: { address: '10.1.0.1', port: 80 } },
        'ESRCH',
      ],
    ]
    it.each(refusals)('%s are refused', async (_what, change, name) => {
      await apply(...present)
      const [error] = await ipvs.apply([change])
      expect(error?.errnoName).toBe(name)
    })
  })

  it.each([3, 100])('lists all of %i servers with their destinations', async (count) => {
    const ids = Array.from({ length: count }, (_, index): ServerId =>
      index % 2 === 0 ? { ...v4, port: index + 1 } : { ...v6, port: index + 1 },
    )
    await apply(
      ...ids.flatMap((id, index): IpvsChange[] => [
        { kind: 'newServer', server: server(id, 'rr', serverFlags.persistent, 60) },
        to(id, id.family === 'IPv4' ? '10.1.0.1' : 'fd00:10::b', 80, index),
        to(id, id.family === 'IPv4' ? '10.1.0.1' : 'fd00:10::b', 81, index),
      ]),
    )
    const all = await ipvs.listAll()
    const text = all.map((one) =>
      [
        serverKey(one.server),
        one.server.timeout,
        ...one.destinations.map((d) => `${d.address} ${d.port} ${d.weight} ${d.forwarding}`).sort(),
      ].join(', '),
    )
    const wanted = ids.map((id, index) => {
      const host = id.family === 'IPv4' ? '10.1.0.1' : 'fd00:10::b'
      return `${serverKey(id)}, 60, ${host} 80 ${index} 0, ${host} 81 ${index} 0`
    })
    expect(text.sort()).toEqual(wanted.sort())
  })

  describe('compares what stands with what is known', () => {
    const ids = Array.from({ length: 200 }, (_, index): ServerId =>
      index % 2 === 0 ? { ...v4, port: index + 1 } : { ...v6, port: index + 1 },
    )
    const hosts = (id: ServerId): readonly string[] =>
      id.family === 'IPv4' ? ['10.1.0.1', '10.1.0.2', '10.1.0.3'] : ['fd00:10::b', 'fd00:10::c']
    const known = (family: Family): Map<string, KnownServer> =>
      new Map(
        ids
          .filter((id) => id.family === family)
          .map((id) => [
            serverKey(id),
            {
              server: server(id, 'rr', id.port % 3 === 0 ? serverFlags.persistent : 0, id.port % 3 === 0 ? 10800 : 0),
              destinations: DestinationList.of(
                hosts(id).map((address, n) => ({ address, port: 8000 + id.port, weight: n })),
              ),
            },
          ]),
      )
    const all = (): Map<string, KnownServer> => new Map([...known('IPv4'), ...known('IPv6')])
    const stand = (): Promise<unknown> =>
      apply(
        ...[...all().values()].flatMap((one): IpvsChange[] => [
          { kind: 'newServer', server: one.server },
          ...[...one.destinations].map((to): IpvsChange => ({
            kind: 'newDestination',
            server: one.server,
            destination: to,
          })),
        ]),
      )
    const look = async (): Promise<{ found: string[]; missing: string[] }> => {
      const both = await Promise.all((['IPv4', 'IPv6'] as const).map((family) => ipvs.compare(family, known(family))))
      return {
        found: both.flatMap(({ found }) => found.map((one) => serverKey(one.server))).sort(),
        missing: both.flatMap(({ missing }) => missing).sort(),
      }
    }
    const one = ids[2]!
    const two = ids[3]!
    const persistent = ids[8]!
    const first = (id: ServerId): { address: string; port: number } => ({
      address: hosts(id)[0]!,
      port: 8000 + id.port,
    })
    const keyed = (id: ServerId): KnownServer => all().get(serverKey(id))!

    it.each<[string, IpvsChange[], { found?: ServerId[]; missing?: ServerId[] }]>([
      ['nothing was touched', [], {}],
      [
        'a destination is gone',
        [{ kind: 'deleteDestination', server: one, destination: first(one) }],
        { found: [one] },
      ],
      [
        'a foreign destination',
        [{ kind: 'newDestination', server: two, destination: { ...first(two), port: 1, weight: 1 } }],
        { found: [two] },
      ],
      [
        'a weight, both families',
        [one, two].map((id) => ({ kind: 'setDestination', server: id, destination: { ...first(id), weight: 7 } })),
        { found: [one, two] },
      ],
      [
        'two destinations have exchanged their weights',
        hosts(one)
          .slice(0, 2)
          .map((address, n) => ({
            kind: 'setDestination',
            server: one,
            destination: { address, port: 8000 + one.port, weight: 1 - n },
          })),
        { found: [one] },
      ],
      ['a server is gone', [{ kind: 'deleteServer', server: one }], { missing: [one] }],
      [
        'a foreign server',
        [{ kind: 'newServer', server: server({ ...v4, port: 9999 }) }],
        { found: [{ ...v4, port: 9999 }] },
      ],
      [
        'another scheduler',
        [{ kind: 'setServer', server: { ...keyed(one).server, scheduler: 'wrr' } }],
        { found: [one] },
      ],
      [
        'persistence came',
        [{ kind: 'setServer', server: { ...keyed(two).server, flags: serverFlags.persistent, timeout: 60 } }],
        { found: [two] },
      ],
      [
        'another timeout',
        [{ kind: 'setServer', server: { ...keyed(persistent).server, timeout: 10801 } }],
        { found: [persistent] },
      ],
      ['all are gone', ids.map((id) => ({ kind: 'deleteServer', server: id })), { missing: [...ids] }],
    ])('%s', async (_name, changes, { found = [], missing = [] }) => {
      await stand()
      // Once before, so that the kernel's clock is known.
      expect(await look()).toEqual({ found: [], missing: [] })
      await apply(...changes)
      expect(await look()).toEqual({ found: found.map(serverKey).sort(), missing: missing.map(serverKey).sort() })
    })
  })

  it('lists all that stand while others come and go', async () => {
    const ports = Array.from({ length: 100 }, (_, index) => index + 1)
    const standing = ports.map((port): ServerId => ({ ...v4, port }))
    const passing = ports.map((port): ServerId => ({ ...v6, port }))
    const make = (id: ServerId): IpvsChange => ({ kind: 'newServer', server: server(id) })
    await apply(...standing.flatMap((id) => [make(id), to(id, '10.1.0.1', 80), to(id, '10.1.0.2', 80)]))
    await apply(...passing.map(make))
    const state = { listing: true }
    const change = async (): Promise<void> => {
      while (state.listing) {
        for (const id of passing) await apply({ kind: 'deleteServer', server: id })
        for (const id of passing) await apply(make(id))
      }
    }
    const changing = change()
    for (let round = 0; round < 10; round++) {
      const whole = (await ipvs.listAll()).filter((one) => one.destinations.length === 2)
      expect(new Set(whole.map((one) => one.server.port))).toEqual(new Set(ports))
    }
    state.listing = false
    await changing
  })

  it('finds one virtual server with its destinations, and none that does not stand', async () => {
    const other: ServerId = { ...v4, protocol: 'UDP' }
    await apply(
      { kind: 'newServer', server: server(v4, 'wrr', serverFlags.persistent, 300) },
      to(v4, '10.1.0.1', 8080),
      to(v4, '10.1.0.2', 8080, 0),
      { kind: 'newServer', server: server(v6) },
    )
    const found = await ipvs.find(v4)
    expect(found?.server).toEqual(server(v4, 'wrr', serverFlags.persistent, 300))
    expect(found?.destinations.map(({ address, weight }) => `${address} ${weight}`).sort()).toEqual([
      '10.1.0.1 1',
      '10.1.0.2 0',
    ])
    expect(found?.connectionsPerSecond).toBe(0)
    expect((await ipvs.find(v6))?.destinations).toEqual([])
    expect(await ipvs.find(other)).toBeUndefined()
  })

  it('sets timeouts and keeps those that are 0', async () => {
    await ipvs.setTimeouts({ tcp: 901, tcpFin: 121, udp: 301 })
    await ipvs.setTimeouts({ tcp: 0, tcpFin: 0, udp: 77 })
    expect(await ipvs.timeouts()).toEqual({ tcp: 901, tcpFin: 121, udp: 77 })
    await ipvs.setTimeouts({ tcp: 900, tcpFin: 120, udp: 300 })
  })
}

function byKey(a: ServerId, b: ServerId): number {
  return serverKey(a) < serverKey(b) ? -1 : 1
}
