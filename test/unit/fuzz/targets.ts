import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as fc from 'fast-check'
import { loadConfig } from '../../../src/config/load.ts'
import { decodeFlow, decodeTracked } from '../../../src/conntrack/messages.ts'
import { decodeInterfaceAddress, decodeLink, hashOfMessage } from '../../../src/dummy/messages.ts'
import { decodeCommand, decodeSet, failedLine, roomOf, SetSurvey } from '../../../src/ipset/messages.ts'
import { parseDropRule } from '../../../src/iptables/rules.ts'
import { parseSave } from '../../../src/iptables/text.ts'
import { parseConnection } from '../../../src/ipvs/connections.ts'
import {
  decodeBalancing,
  decodeCounters,
  decodeDestination,
  decodeRate,
  decodeServer,
  decodeTimeouts,
} from '../../../src/ipvs/messages.ts'
import { ProcParser } from '../../../src/ipvs/proc.ts'
import { ListSplitter } from '../../../src/kube/list-splitter.ts'
import {
  translateEndpointSlice,
  translateNode,
  translateService,
  type ObjectProblem,
} from '../../../src/kube/translate.ts'
import { readEcho, readErrno, readMessages } from '../../../src/netlink/header.ts'
import { parseLegacyLine, parseNftLine } from '../../../src/trace/events.ts'
import * as flows from '../conntrack/kernel-bytes.ts'
import * as links from '../dummy/kernel-bytes.ts'
import * as sets from '../ipset/kernel-bytes.ts'
import * as servers from '../ipvs/kernel-bytes.ts'
import { message, received } from '../netlink/fake-socket.ts'
import { mutated, mutatedJson } from './mutation.ts'

/** What an input goes through. Whatever it throws but a ProxyError is a defect. */
export interface Target {
  readonly name: string
  readonly inputs: fc.Arbitrary<unknown>
  readonly take: (input: never) => unknown
}

function target<T>(name: string, inputs: fc.Arbitrary<T>, take: (input: T) => unknown): Target {
  return { name, inputs, take }
}

const golden = join(import.meta.dirname, '../../golden')

/** That file of all cases of test/golden. */
function goldenFiles(name: string): Buffer[] {
  return readdirSync(golden, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(golden, entry.name, name))
    .flatMap((path) => {
      try {
        return [readFileSync(path)]
      } catch {
        return []
      }
    })
}

const bytes = (texts: Iterable<string>): Buffer[] => [...texts].map((text) => Buffer.from(text, 'hex'))
const payloads = {
  ipvs: bytes([...servers.servers, ...servers.destinations, ...servers.changes, servers.timeouts]),
  ipset: bytes([
    ...Object.values(sets.creates),
    ...Object.values(sets.adds),
    ...Object.values(sets.listings),
    sets.fullError,
  ]),
  links: bytes([...links.links, ...links.addresses, ...links.binds]),
  flows: bytes([...Object.values(flows.entries), flows.tcp]),
}
const everyPayload = Object.values(payloads).flat()
const datagrams = everyPayload.map((payload, i) => message(0x10 + i, i, payload, 2))

const procLines = [
  'IP Virtual Server version 1.2.1 (size=4096)',
  'Prot LocalAddress:Port Scheduler Flags',
  '  -> RemoteAddress:Port Forward Weight ActiveConn InActConn',
  'TCP  0A600001:01BB rr  ',
  '  -> 0A000202:192B      Masq    1      0          0         ',
  'UDP  [fd00:0000:0000:0000:0000:0000:0000:000a]:0035 sh persistent 10800 80000000 ',
  '  -> [fd44:0000:0000:0000:0000:0000:0000:0002]:0035      Masq    1      3          12        ',
  'SCTP 0A600001:0F1C wrr persistent 300 FFFFFFFF ops ',
  'FWM  00000010 rr  ',
  '  -> 0A000202:0050      Tunnel  100    0          0         ',
]
const connectionLines = [
  'TCP C0A83C09 D2F0 0A600703 0050 0AF40102 1F90 ESTABLISHED     894',
  'UDP fd60:0000:0000:0000:0000:0000:0000:0009 D2F0 fd96:0000:0000:0000:0000:0000:0000:0003 0035 fd44:0001:0000:0000:0000:0000:0000:0002 0035 UDP             289',
]
const traceLines = [
  'trace id 7d2ec6c3 ip nat PREROUTING packet: iif "eth0" ether saddr 5e:00:00:00:00:01 ip saddr 192.168.60.9 ip daddr 10.96.0.10 ip ttl 64 tcp sport 40404 tcp dport 80 tcp flags == syn',
  'trace id 7d2ec6c3 ip nat KUBE-SERVICES rule meta l4proto tcp counter packets 0 bytes 0 jump KUBE-MARK-MASQ (verdict jump KUBE-MARK-MASQ)',
  'trace id 7d2ec6c3 ip filter INPUT verdict continue meta mark 0x00004000',
  'trace id 7d2ec6c3 ip filter INPUT policy accept',
  'TRACE: raw:PREROUTING:rule:2 IN=eth0 OUT= MAC=5e:00 SRC=192.168.60.9 DST=10.96.0.10 LEN=60 TTL=64 ID=1 DF PROTO=TCP SPT=40404 DPT=80 SEQ=1 ACK=0 WINDOW=64240 RES=0x00 SYN URGP=0 MARK=0x4000',
]

const objects = goldenFiles('objects.json').flatMap((text) => {
  const list = JSON.parse(String(text)) as { items?: unknown[] } | unknown[]
  return Array.isArray(list) ? list : (list.items ?? [])
})
const ignore = (_problem: ObjectProblem): void => {}
const nothing = { server: () => {}, destination: () => {} }

/** The text in chunks of that length, as a stream has it. */
function* chunks(text: Buffer, length: number): Generator<Buffer> {
  for (let at = 0; at < text.length; at += length) yield text.subarray(at, at + length)
}

export const targets: readonly Target[] = [
  target('netlink datagrams', mutated(datagrams), (datagram) => {
    for (const { payload } of readMessages(datagram)) {
      readEcho(payload)
      readErrno(payload)
    }
  }),
  target('IPVS answers', mutated(payloads.ipvs), (payload) => {
    for (const take of [
      () => decodeServer(payload),
      () => decodeBalancing(payload),
      () => decodeRate(payload),
      () => decodeCounters(payload, 0, payload.length),
      () => decodeDestination(payload, 'IPv4'),
      () => decodeDestination(payload, 'IPv6'),
      () => decodeTimeouts(payload),
    ])
      refusable(take)
  }),
  target('ipset answers', mutated(payloads.ipset), async (payload) => {
    for (const take of [
      () => decodeCommand(payload),
      () => roomOf(payload),
      () => failedLine(payload),
      () => new SetSurvey().take(received(payload)),
    ])
      refusable(take)
    await decodeSet([payload], (_type, entry) =>
      JSON.stringify(entry, (_key, value: unknown) => (typeof value === 'bigint' ? '' : value)),
    )
  }),
  target('links and addresses', mutated(payloads.links), (payload) => {
    for (const take of [
      () => decodeLink(payload),
      () => decodeInterfaceAddress(payload),
      () => hashOfMessage(received(payload)),
    ])
      refusable(take)
  }),
  target('flows of connection tracking', mutated(payloads.flows), (payload) => {
    refusable(() => JSON.stringify(Object.values(decodeFlow(payload) ?? {})))
    refusable(() => {
      const flow = decodeFlow(payload)
      return (
        flow && [
          flow.source,
          flow.destination,
          flow.replySource,
          flow.sourcePort,
          flow.destinationPort,
          flow.replySourcePort,
        ]
      )
    })
    refusable(() => decodeTracked(payload))
  }),
  target(
    '/proc/net/ip_vs',
    fc.tuple(
      mutated([Buffer.from(`${procLines.join('\n')}\n`), ...procLines.map((line) => Buffer.from(line))]),
      fc.integer({ min: 1, max: 400 }),
    ),
    ([text, length]) => {
      const parser = new ProcParser(nothing)
      for (const chunk of chunks(text, length)) parser.push(chunk)
    },
  ),
  target('/proc/net/ip_vs_conn', mutated(connectionLines.map((line) => Buffer.from(line))), (line) =>
    parseConnection(String(line)),
  ),
  target(
    'iptables-save',
    mutated([...goldenFiles('iptables-save.txt'), ...goldenFiles('ip6tables-save.txt')]),
    (text) => {
      for (const chains of parseSave(String(text)).values()) {
        for (const { rules } of chains.values()) for (const rule of rules) parseDropRule(rule)
      }
    },
  ),
  target('trace events', mutated(traceLines.map((line) => Buffer.from(line))), (line) => [
    parseNftLine(String(line)),
    parseLegacyLine(String(line)),
  ]),
  target('configuration', mutated(goldenFiles('kube-proxy-config.yaml')), (text) =>
    loadConfig({ file: String(text), flags: new Map() }),
  ),
  target('objects', mutatedJson(objects), (object) => [
    translateService(object, ignore),
    translateEndpointSlice(object, 'vm1', ignore),
    translateNode(object, ignore),
  ]),
  target(
    'lists as they come',
    fc.tuple(mutated(goldenFiles('objects.json')), fc.integer({ min: 1, max: 5000 })),
    ([text, length]) => {
      const splitter = new ListSplitter((json) => void json.length)
      for (const chunk of chunks(text, length)) splitter.push(chunk)
      splitter.end()
    },
  ),
]

/** One refusal does not keep the next decoder from its turn. */
function refusable(take: () => unknown): void {
  try {
    take()
  } catch (error) {
    if (!(error instanceof Error && error.name === 'ProxyError')) throw error
  }
}
