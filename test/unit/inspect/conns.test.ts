import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { podNames } from '../../../src/inspect/cluster.ts'
import { Best, parseConnection, procLines } from '../../../src/ipvs/connections.ts'
import { connsText, gatherConnections, serviceKey } from '../../../src/inspect/conns.ts'
import { ProxyError } from '../../../src/lib/errors.ts'

/** Lines as Linux 6.1 prints them (ip_vs_conn_seq_show). */
const heading = 'Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData'
const established = 'TCP C0A83202 8A5C 0A600A0A 0050 0AF40102 1F90 ESTABLISHED     897'
const closing = 'TCP C0A83202 8A5E 0A600A0A 0050 0AF40103 1F90 FIN_WAIT        119'
const template = 'TCP C0A83202 0000 0A600A0A 0050 0AF40102 1F90 NONE          10791'
const other = 'TCP C0A83202 8A5C 0A600A0B 0050 0AF40102 1F90 ESTABLISHED     897'
const udp = 'UDP C0A83202 D431 0A600A0A 0050 0AF40102 1F90 UDP             299'
const v6 =
  'TCP fd00:0000:0000:0000:0000:0000:0000:0001 8A5C fd00:0010:0000:0000:0000:0000:0000:000a 0050 fd00:0244:0000:0000:0000:0000:0000:0002 1F90 SYN_RECV         57'

test.each([
  {
    line: established,
    found: {
      family: 'IPv4',
      protocol: 'TCP',
      client: '192.168.50.2',
      clientPort: 35420,
      address: '10.96.10.10',
      port: 80,
      destination: '10.244.1.2',
      destinationPort: 8080,
      state: 'ESTABLISHED',
      expires: 897,
    },
  },
  { line: template, found: { clientPort: 0, state: 'NONE', expires: 10791 } },
  { line: udp, found: { protocol: 'UDP', state: 'UDP' } },
  {
    line: v6,
    found: {
      family: 'IPv6',
      client: 'fd00::1',
      address: 'fd00:10::a',
      port: 80,
      destination: 'fd00:244::2',
      state: 'SYN_RECV',
    },
  },
])('reads $line', ({ line, found }) => {
  expect(parseConnection(line)).toMatchObject(found)
})

test.each([
  heading,
  '',
  'IP  C0A83202 0000 00000001 0000 0AF40102 0000 NONE 10',
  'TCP C0A83202 8A5C',
  'TCP x 1 y 2 z 3 NONE 1',
])('passes over %j', (line) => {
  expect(parseConnection(line)).toBeUndefined()
})

const servers = [
  { family: 'IPv4', protocol: 'TCP', address: '10.96.10.10', port: 80 },
  { family: 'IPv6', protocol: 'TCP', address: 'fd00:10::a', port: 80 },
] as const
const pods = new Map([['10.244.1.2', 'default/web-0']])

test('those of the Service alone, with pods, sorted and counted', async () => {
  const lines = [heading, closing, other, udp, established, v6, template]
  const found = await gatherConnections(lines, servers, pods, 0)
  expect(found.total).toBe(4)
  expect(found.states).toEqual({ FIN_WAIT: 1, ESTABLISHED: 1, SYN_RECV: 1, NONE: 1 })
  expect(found.destinations[0]).toEqual({ destination: '10.244.1.2:8080', pod: 'default/web-0', connections: 2 })
  expect(found.connections.map((one) => [one.destination, one.state, one.pod])).toEqual([
    ['10.244.1.2', 'ESTABLISHED', 'default/web-0'],
    ['10.244.1.2', 'NONE', 'default/web-0'],
    ['10.244.1.3', 'FIN_WAIT', ''],
    ['fd00:244::2', 'SYN_RECV', ''],
  ])
})

test('a limit cuts the list, not the counts', async () => {
  const found = await gatherConnections([closing, established, template], servers, pods, 1)
  expect(found.total).toBe(3)
  expect(found.connections.map(({ state }) => state)).toEqual(['ESTABLISHED'])
  const text = connsText({ service: 'default/web', servers: ['10.96.10.10:80/TCP'], ...found, notes: [] })
  expect(text).toContain('Connections, the first 1 of 3')
  expect(text).toMatch(
    /10\.96\.10\.10:80\/TCP +192\.168\.50\.2:35420 +10\.244\.1\.2:8080 +default\/web-0 +ESTABLISHED +897 s\n/,
  )
})

test('the best of very many are kept, in order', () => {
  const best = new Best<number>(3, (a, b) => a - b)
  for (let i = 10_000; i > 0; i--) best.add(i)
  expect(best.count).toBe(10_000)
  expect(best.list).toEqual([1, 2, 3])
})

test('a file is read by lines, whatever its length', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'conns-'))
  const wanted = [heading, ...Array.from({ length: 5000 }, () => established), closing]
  writeFileSync(join(folder, 'a'), `${wanted.join('\n')}\n`)
  const lines: string[] = []
  for await (const line of procLines(join(folder, 'a'))) lines.push(line)
  expect(lines).toEqual(wanted)
  rmSync(folder, { recursive: true })
})

test.each([
  ['web', 'default/web'],
  ['kube-system/kube-dns', 'kube-system/kube-dns'],
])('Service %s', (text, key) => {
  expect(serviceKey(text)).toBe(key)
})

test.each(['', 'a/b/c', 'a/', 'Web', 'a b'])('no Service: %j', (text) => {
  expect(() => serviceKey(text)).toThrow(ProxyError)
})

test('pods of a slice, by their addresses', () => {
  const targetRef = { kind: 'Pod', namespace: 'default', name: 'web-0' }
  const slice = {
    endpoints: [
      { addresses: ['10.0.0.1'], targetRef },
      { addresses: ['10.0.0.2'], targetRef: { kind: 'Node', name: 'n' } },
      { addresses: ['10.0.0.3'] },
      null,
    ],
  }
  expect([...podNames(slice)]).toEqual([['10.0.0.1', 'default/web-0']])
  expect([...podNames({})]).toEqual([])
})
