import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as fc from 'fast-check'
import { loadConfig } from '../../../src/config/load.ts'
import { copyFlow, decodeFlow, decodeTracked } from '../../../src/conntrack/messages.ts'
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
import { readKubeconfig } from '../../../src/kube/kubeconfig.ts'
import { ListSplitter } from '../../../src/kube/list-splitter.ts'
import { readManifest } from '../../../src/kube/manifests.ts'
import {
  translateEndpointSlice,
  translateNode,
  translateService,
  type ObjectProblem,
} from '../../../src/kube/translate.ts'
import { watchEvents } from '../../../src/kube/watch-events.ts'
import { ProxyError } from '../../../src/lib/errors.ts'
import { readEcho, readErrno, readMessages } from '../../../src/netlink/header.ts'
import { parseLegacyLine, parseNftLine } from '../../../src/trace/events.ts'
import * as flows from '../conntrack/kernel-bytes.ts'
import * as links from '../dummy/kernel-bytes.ts'
import * as sets from '../ipset/kernel-bytes.ts'
import * as servers from '../ipvs/kernel-bytes.ts'
import { message, received } from '../netlink/fake-socket.ts'
import { mutated, mutatedJson } from './mutation.ts'

/** What an input goes through, each decoder for itself. Whatever one throws but a ProxyError is a defect. */
export interface Target {
  readonly name: string
  readonly inputs: fc.Arbitrary<unknown>
  readonly decoders: readonly ((input: never) => unknown)[]
  /** Bytes that inputs are made of, where coverage can lead to others. */
  readonly corpus?: readonly Buffer[]
}

/** Inputs are bytes near those of a corpus. */
function ofBytes(name: string, corpus: readonly Buffer[], ...decoders: ((input: Buffer) => unknown)[]): Target {
  return { name, inputs: mutated(corpus), decoders, corpus }
}

function target<T>(name: string, inputs: fc.Arbitrary<T>, ...decoders: ((input: T) => unknown)[]): Target {
  return { name, inputs, decoders }
}

const golden = join(import.meta.dirname, '../../golden')

/** That file of all cases of test/golden. */
function goldenFiles(name: string): Buffer[] {
  return globSync(`*/${name}`, { cwd: golden }).map((path) => readFileSync(join(golden, path)))
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
const kubeconfigs = [
  {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'default',
    contexts: [{ name: 'default', context: { cluster: 'here', user: 'proxy', namespace: 'kube-system' } }],
    clusters: [
      {
        name: 'here',
        cluster: {
          server: 'https://192.168.60.1:6443',
          'certificate-authority-data': 'Q0E=',
          'tls-server-name': 'api',
        },
      },
    ],
    users: [
      { name: 'proxy', user: { tokenFile: 'token', 'client-certificate-data': 'QQ==', 'client-key-data': 'Qg==' } },
    ],
  },
]
const kubeconfigTexts = [
  ...kubeconfigs.map((one) => JSON.stringify(one)),
  `apiVersion: v1
kind: Config
current-context: &name default
clusters:
- cluster: {certificate-authority: /ca.crt, server: "https://[fd60::1]:6443/"}
  name: default
contexts:
- context: {cluster: default, user: default}
  name: *name
users:
- name: default
  user:
    exec: {apiVersion: client.authentication.k8s.io/v1, command: get-token, args: [a]}
`,
]

const watched = objects
  .slice(0, 40)
  .map((object, i) => ({ type: ['ADDED', 'MODIFIED', 'DELETED', 'BOOKMARK'][i % 4], object }))
const watchStreams = [
  ...Array.from({ length: 10 }, (_, i) => watched.slice(4 * i, 4 * i + 4)),
  [{ type: 'ERROR', object: { kind: 'Status', code: 410, message: 'too old', details: { retryAfterSeconds: 1 } } }],
].map((events) => Buffer.from(events.map((event) => `${JSON.stringify(event)}\n`).join('')))

async function* streamed(text: Buffer, length: number): AsyncGenerator<Buffer> {
  yield* chunks(text, length)
}

const ignore = (_problem: ObjectProblem): void => {}
const nothing = { server: () => {}, destination: () => {} }

/** The text in chunks of that length, as a stream has it. */
function* chunks(text: Buffer, length: number): Generator<Buffer> {
  for (let at = 0; at < text.length; at += length) yield text.subarray(at, at + length)
}

/** What of a manifest cannot be used is told, not thrown: for the count of refusals it is. */
function refusing(name: string): (text: Buffer) => void {
  return (text) => {
    const { error, manifests } = readManifest(name, '', String(text), undefined)
    if (error !== undefined) throw new ProxyError('OBJECT', error)
    for (const { object } of manifests) {
      translateService(object, ignore)
      translateEndpointSlice(object, 'vm1', ignore)
      translateNode(object, ignore)
    }
  }
}

export const targets: readonly Target[] = [
  ofBytes('netlink datagrams', datagrams, (datagram) => {
    for (const { payload } of readMessages(datagram)) {
      readEcho(payload)
      readErrno(payload)
    }
  }),
  ofBytes(
    'IPVS answers',
    payloads.ipvs,
    decodeServer,
    decodeBalancing,
    decodeRate,
    (payload) => decodeCounters(payload, 0, payload.length),
    (payload) => decodeDestination(payload, 'IPv4'),
    (payload) => decodeDestination(payload, 'IPv6'),
    decodeTimeouts,
  ),
  ofBytes(
    'ipset answers',
    payloads.ipset,
    decodeCommand,
    roomOf,
    failedLine,
    (payload) => new SetSurvey().take(received(payload)),
    (payload) =>
      decodeSet([payload], (_type, entry) =>
        JSON.stringify(entry, (_key, value: unknown) => (typeof value === 'bigint' ? '' : value)),
      ),
  ),
  ofBytes('links and addresses', payloads.links, decodeLink, decodeInterfaceAddress, (payload) =>
    hashOfMessage(received(payload)),
  ),
  ofBytes(
    'flows of connection tracking',
    payloads.flows,
    // A flow is a view, which is read where it is asked.
    (payload) => {
      const flow = decodeFlow(payload)
      return flow && copyFlow(flow)
    },
    decodeTracked,
  ),
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
  ofBytes(
    '/proc/net/ip_vs_conn',
    connectionLines.map((line) => Buffer.from(line)),
    (line) => parseConnection(String(line)),
  ),
  ofBytes('iptables-save', [...goldenFiles('iptables-save.txt'), ...goldenFiles('ip6tables-save.txt')], (text) => {
    for (const chains of parseSave(String(text)).values()) {
      for (const { rules } of chains.values()) for (const rule of rules) parseDropRule(rule)
    }
  }),
  ofBytes(
    'trace events',
    traceLines.map((line) => Buffer.from(line)),
    (line) => parseNftLine(String(line)),
    (line) => parseLegacyLine(String(line)),
  ),
  ofBytes('configuration', goldenFiles('kube-proxy-config.yaml'), (text) =>
    loadConfig({ file: String(text), flags: new Map() }),
  ),
  ofBytes(
    'kubeconfig',
    kubeconfigTexts.map((text) => Buffer.from(text)),
    (text) => readKubeconfig('kubeconfig', String(text)),
  ),
  target('kubeconfig of strange members', mutatedJson(kubeconfigs), (value) =>
    readKubeconfig('kubeconfig', JSON.stringify(value)),
  ),
  ofBytes(
    'manifests', // Short ones: YAML is read slowly, and a million times.
    [...goldenFiles('input.yaml'), ...goldenFiles('objects.json')].filter(({ length }) => length < 2300),
    refusing('x.yaml'),
    refusing('x.json'),
  ),
  target(
    'watch streams',
    fc.tuple(mutated(watchStreams), fc.integer({ min: 1, max: 5000 })),
    async ([text, length]) => {
      for await (const { object } of watchEvents(streamed(text, length), 100_000)) {
        translateService(object, ignore)
        translateEndpointSlice(object, 'vm1', ignore)
      }
    },
  ),
  target(
    'objects',
    mutatedJson(objects),
    (object) => translateService(object, ignore),
    (object) => translateEndpointSlice(object, 'vm1', ignore),
    (object) => translateNode(object, ignore),
  ),
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
