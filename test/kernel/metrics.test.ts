// What the kernel counts for a Service's traffic is what a scrape says, and what the web page shows.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Family } from '../../src/model/address.ts'
import { eventually } from './lab.ts'
import { addressOf, families, Network, serviceAddress } from './traffic/network.ts'
import { nodePortOf, serviceObjects, type ServiceShape } from './traffic/service.ts'

const web: ServiceShape = { name: 'web', number: 1, endpoints: ['a1', 'b1'] }
const idle: ServiceShape = { name: 'idle', number: 2, endpoints: ['a2'] }
/** So that no reading serves a second scrape. */
const kept = 5500

let network: Network
beforeAll(async () => {
  network = await Network.start([web, idle].flatMap(serviceObjects), ['--profiling', '--web-page'])
})
afterAll(() => network?.destroy())

const get = (path: string, ...flags: string[]): string =>
  network.namespace('node-a').run('curl', '-sS', '--max-time', '60', ...flags, `http://127.0.0.1:10249${path}`)

/** Values by series. */
const scrape = (): ReadonlyMap<string, number> =>
  new Map(
    get('/metrics')
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map((line) => {
        const at = line.lastIndexOf(' ')
        return [line.slice(0, at), Number(line.slice(at + 1))]
      }),
  )

function series(name: string, service: string, protocol: 'TCP' | 'UDP', family: Family, more = ''): string {
  const port = protocol.toLowerCase()
  return (
    `kube_ipvs_service_${name}{namespace="default",service="${service}",port="${port}",` +
    `protocol="${protocol}",ip_family="${family}"${more}}`
  )
}

describe.each(families)('%s', (family) => {
  test('connections by cluster IP, VIP and node port are those of the service port', async () => {
    const before = scrape()
    const client = 'client'
    const transport = 'TCP'
    const at = [
      { address: serviceAddress('clusterIP', 1, family), port: 80 },
      { address: serviceAddress('loadBalancer', 1, family), port: 80 },
      { address: addressOf('node-a', family), port: nodePortOf(1) },
    ]
    for (const one of at) expect(await network.askMany(client, 4, { transport, ...one })).toHaveLength(4)
    await network.askMany(client, 3, { transport: 'UDP', ...at[0]! })
    await new Promise((wake) => setTimeout(wake, kept))
    const after = scrape()
    const grown = (name: string, service: string, protocol: 'TCP' | 'UDP'): number => {
      const key = series(name, service, protocol, family)
      return after.get(key)! - before.get(key)!
    }
    expect(grown('connections_total', 'web', 'TCP')).toBe(12)
    expect(grown('connections_total', 'web', 'UDP')).toBe(3)
    expect(grown('connections_total', 'idle', 'TCP')).toBe(0)
    // A handshake, a question, its answer and the end of both sides: several packets each way, of 40 bytes and more.
    for (const way of ['incoming', 'outgoing']) {
      const packets = grown(`${way}_packets_total`, 'web', 'TCP')
      expect(packets).toBeGreaterThanOrEqual(12 * 3)
      expect(grown(`${way}_bytes_total`, 'web', 'TCP')).toBeGreaterThanOrEqual(40 * packets)
    }
    const now = (name: string, more = '') => after.get(series(name, 'web', 'TCP', family, more))!
    expect(now('destinations', ',state="ready"')).toBe(2)
    expect(now('destinations', ',state="draining"')).toBe(0)
    // Closed ones wait in the kernel's table for two minutes.
    expect(now('active_connections') + now('inactive_connections')).toBeGreaterThanOrEqual(12)
    // As ipvsadm has them, all virtual servers of the Service together.
    const listed = network
      .namespace('node-a')
      .run(
        'ipvsadm',
        '-Ln',
        '--stats',
        '--exact',
        '-t',
        family === 'IPv6' ? `[${at[0]!.address}]:80` : `${at[0]!.address}:80`,
      )
    expect(Number(/^TCP\s+\S+\s+(\d+)/m.exec(listed)?.[1])).toBe(4)
  })
})

test('tables, layers and calls are told', () => {
  const values = scrape()
  for (const family of families) {
    const wanted = values.get(`kube_ipvs_entries_wanted{ip_family="${family}",layer="ipvs",kind="virtual server"}`)
    expect(wanted).toBeGreaterThan(0)
    expect(values.get(`kube_ipvs_entries_present{ip_family="${family}",layer="ipvs",kind="virtual server"}`)).toBe(
      wanted,
    )
    const set = family === 'IPv4' ? 'KUBE-CLUSTER-IP' : 'KUBE-6-CLUSTER-IP'
    expect(values.get(`kube_ipvs_set_members{ip_family="${family}",set="${set}"}`)).toBe(4)
  }
  expect(values.get('kube_ipvs_connection_table_buckets')).toBe(4096)
  expect(values.get('kube_ipvs_conntrack_limit')).toBeGreaterThan(1000)
  expect(values.get('kube_ipvs_conntrack_entries')).toBeGreaterThanOrEqual(0)
  for (const [layer, operation] of [
    ['ipvs', 'send'],
    ['ipvs', 'dump'],
    ['ipset', 'send'],
    ['iptables', 'restore'],
    ['iptables', 'save'],
  ]) {
    const key = `kube_ipvs_kernel_call_duration_seconds_count{layer="${layer}",operation="${operation}"}`
    expect(values.get(key), key).toBeGreaterThan(0)
  }
})

test('a look is told, with the connections that it has seen', async () => {
  // The first one after the start comes within a period.
  await eventually('a look', () => scrape().has('kube_ipvs_last_look_timestamp_seconds{ip_family="IPv4"}'))
  const values = scrape()
  const now = Date.now() / 1000
  expect(now - values.get('kube_ipvs_last_look_timestamp_seconds{ip_family="IPv4"}')!).toBeLessThan(120)
  expect(values.get('kube_ipvs_connections{ip_family="IPv4",state="inactive"}')).toBeGreaterThanOrEqual(0)
})

test('profiles are taken', () => {
  expect(JSON.parse(get('/debug/pprof/profile?seconds=1'))).toHaveProperty('nodes')
  expect(get('/debug/flags/v', '-X', 'PUT', '-d', '4')).toBe('successfully set klog.logging.verbosity to 4')
})

describe('the web page', () => {
  const http = (family: Family): string => {
    const address = serviceAddress('clusterIP', 1, family)
    return family === 'IPv6' ? `[${address}]:80/TCP` : `${address}:80/TCP`
  }
  /** What is to be read on a page, without markup. */
  const read = (path: string): string =>
    get(path)
      .replaceAll(/<[^>]*>/g, ' ')
      .replaceAll(/\s+/g, ' ')
  const ask = (family: Family): Promise<string[]> =>
    network.askMany('client', 10, { transport: 'TCP', address: serviceAddress('clusterIP', 1, family), port: 80 })

  test.each(families)('connections of %s are those that stand, and come so many a second', async (family) => {
    // The kernel estimates over the last seconds.
    await eventually('a rate', async () => {
      await ask(family)
      const row = new RegExp(
        `${http(family).replaceAll(/[.[\]]/g, '\\$&')} cluster IP rr 2 ([\\d,]+) ([\\d,]+) ([\\d,]+) stands`,
      ).exec(read('/service?name=default/web'))
      expect(row).not.toBeNull()
      const [active, inactive, rate] = row!.slice(1).map(Number)
      expect(active! + inactive!).toBeGreaterThanOrEqual(10)
      return rate! > 0
    })
    expect(read('/services?q=web&sort=inactive')).toMatch(
      /default\/ web LoadBalancer .* by a reading|by a reading .* default\/ web LoadBalancer/,
    )
  })

  test.each(families)('one packet of %s is explained on the kernel as it is', (family) => {
    const path = `/explain?run=1&from=${encodeURIComponent(addressOf('client', family))}&target=${encodeURIComponent(http(family))}`
    expect(read(path)).toMatch(/Verdict served served by virtual server /)
    const tool = family === 'IPv6' ? 'ip6tables' : 'iptables'
    const rule = ['INPUT', '-p', 'tcp', '--dport', '80', '-m', 'comment', '--comment', '<b>not ours</b>', '-j', 'DROP']
    const node = network.namespace('node-a')
    node.run(tool, '-I', ...rule)
    try {
      expect(read(path)).toContain('Verdict dropped-by-foreign-rule')
      expect(get(path)).toContain('&lt;b&gt;not ours&lt;/b&gt;')
    } finally {
      node.run(tool, '-D', ...rule)
    }
  })

  test('what somebody else changed is told, and what is overview', async () => {
    network.namespace('node-a').run('ipvsadm', '-D', '-t', `${serviceAddress('clusterIP', 2, 'IPv4')}:80`)
    await eventually('the drift', () => read('/').includes('virtual server missing'))
    expect(read('/')).toContain(`${serviceAddress('clusterIP', 2, 'IPv4')}:80/TCP`)
    expect(read('/')).toContain('The node keeps up.')
  })
})
