import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { FakeIpvs } from '../../src/ipvs/fake-ipvs.ts'
import type { ServerId } from '../../src/ipvs/ipvs.ts'
import { silentLog, type Log } from '../../src/lib/log.ts'
import type { Family } from '../../src/model/address.ts'
import { ownerOf, partsOf } from '../../src/proxier/cluster-state.ts'
import { Ledger } from '../../src/proxier/ledger.ts'
import { planPort } from '../../src/proxier/planner.ts'
import { ServiceTraffic } from '../../src/service-traffic.ts'
import { facts, port, service } from './proxier/objects.ts'

const ignore = { want: () => {}, unwant: () => {} }

interface World {
  readonly ipvs: FakeIpvs
  readonly ledgers: Map<Family, Ledger>
  readonly errors: string[]
  readonly log: Log
}

/** A web Service of both families with a cluster IP and an external IP, its virtual servers written. */
async function world(): Promise<World> {
  const ipvs = new FakeIpvs()
  const ledgers = new Map<Family, Ledger>()
  const http = port({ name: 'http', port: 80 })
  const dns = port({ protocol: 'UDP', port: 53 })
  const web = service({
    clusterIPs: ['10.96.0.10', 'fd00::10'],
    externalIPs: ['203.0.113.1'],
    ports: [http, dns],
  })
  for (const family of ['IPv4', 'IPv6'] as const) {
    const ledger = new Ledger({ sets: ignore, servers: ignore, addresses: ignore })
    ledgers.set(family, ledger)
    for (const one of web.ports) {
      const plan = planPort(web, one, [], facts({ family, nodePortAddresses: [] }))
      ledger.replace(ownerOf('default/web', one), plan)
      await ipvs.apply(plan.servers.map(({ server }) => ({ kind: 'newServer', server })))
    }
  }
  const errors: string[] = []
  return { ipvs, ledgers, errors, log: { ...silentLog, error: (message) => void errors.push(message) } }
}

const at = (address: string, number: number, protocol: 'TCP' | 'UDP' = 'TCP'): ServerId => ({
  family: address.includes(':') ? 'IPv6' : 'IPv4',
  protocol,
  address,
  port: number,
})

async function samples(traffic: ServiceTraffic): Promise<string[]> {
  let text = ''
  for await (const piece of traffic.series('text')) text += piece
  return text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
}

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }))
afterEach(() => void vi.useRealTimers())

test('the virtual servers of a service port are one row, the families and what is not ours are not', async () => {
  const { ipvs, ledgers, log } = await world()
  const scheduler = { scheduler: 'rr', flags: 0, timeout: 0 }
  await ipvs.apply([{ kind: 'newServer', server: { ...at('192.0.2.1', 80), ...scheduler } }])
  ipvs.setCounters(at('192.0.2.1', 80), { connections: 1000 })
  ipvs.setCounters(at('10.96.0.10', 80), { connections: 2, incomingPackets: 20, incomingBytes: 2 ** 40 })
  ipvs.setCounters(at('203.0.113.1', 80), { connections: 3, outgoingPackets: 30, outgoingBytes: 300 })
  ipvs.setCounters(at('fd00::10', 80), { connections: 5 })
  ipvs.setCounters(at('10.96.0.10', 53, 'UDP'), { connections: 7 })
  for (const [server, weights] of [
    [at('10.96.0.10', 80), [1, 1, 0]],
    [at('203.0.113.1', 80), [1]],
  ] as const) {
    for (const [i, weight] of weights.entries()) {
      const destination = { address: `10.1.0.${i + 1}`, port: 80, weight }
      await ipvs.apply([{ kind: 'newDestination', server, destination }])
      ipvs.setConnections(server, destination, 10, 1)
    }
  }
  const lines = await samples(new ServiceTraffic({ ipvs, ledgers, limit: 100, log }))
  const http = 'namespace="default",service="web",port="http",protocol="TCP",ip_family="IPv4"'
  const dns = 'namespace="default",service="web",port="53",protocol="UDP",ip_family="IPv4"'
  expect(lines).toEqual(
    expect.arrayContaining([
      `kube_ipvs_service_connections_total{${http}} 5`,
      `kube_ipvs_service_connections_total{${http.replace('IPv4', 'IPv6')}} 5`,
      `kube_ipvs_service_connections_total{${dns}} 7`,
      `kube_ipvs_service_incoming_packets_total{${http}} 20`,
      `kube_ipvs_service_outgoing_packets_total{${http}} 30`,
      `kube_ipvs_service_incoming_bytes_total{${http}} ${2 ** 40}`,
      `kube_ipvs_service_outgoing_bytes_total{${http}} 300`,
      `kube_ipvs_service_active_connections{${http}} 40`,
      `kube_ipvs_service_inactive_connections{${http}} 4`,
      `kube_ipvs_service_destinations{${http},state="ready"} 2`,
      `kube_ipvs_service_destinations{${http},state="draining"} 1`,
      'kube_ipvs_service_ports_left_out 0',
    ]),
  )
  expect(lines).toHaveLength(4 * 9 + 1)
})

test('scrapes of the same few seconds share a reading, and nothing is kept afterwards', async () => {
  const { ipvs, ledgers, log } = await world()
  ipvs.calls.length = 0
  const traffic = new ServiceTraffic({ ipvs, ledgers, limit: 100, log })
  await Promise.all([samples(traffic), samples(traffic)])
  const first = await traffic.table()
  expect(ipvs.calls).toEqual(['traffic'])
  vi.advanceTimersByTime(5000)
  expect(await traffic.table()).not.toBe(first)
  expect(ipvs.calls).toEqual(['traffic', 'traffic'])
})

test('a limit of 0 reads nothing', async () => {
  const { ipvs, ledgers, log } = await world()
  ipvs.calls.length = 0
  expect(await samples(new ServiceTraffic({ ipvs, ledgers, limit: 0, log }))).toEqual([])
  expect(ipvs.calls).toEqual([])
})

test('what cannot be read is told, and read again by the next scrape', async () => {
  const { ipvs, ledgers, log, errors } = await world()
  const traffic = new ServiceTraffic({ ipvs, ledgers, limit: 1, log })
  ipvs.fault = () => new Error('the socket is gone')
  expect(await samples(traffic)).toEqual([])
  expect(errors).toHaveLength(1)
  ipvs.fault = undefined
  expect(await samples(traffic)).toHaveLength(10)
})

describe('the name of a service port', () => {
  test.each([
    ['default/web', port({ name: 'http' }), 'default web http TCP'],
    ['kube-system/dns', port({ name: '', protocol: 'UDP' }), 'kube-system dns  UDP'],
    ['a/b', port({ name: 'x-1', protocol: 'SCTP' }), 'a b x-1 SCTP'],
  ])('of %s is taken apart as it was made', (key, one, parts) => {
    const { namespace, service: name, port: portName, protocol } = partsOf(ownerOf(key, one))
    expect([namespace, name, portName, protocol].join(' ')).toBe(parts)
  })
})
