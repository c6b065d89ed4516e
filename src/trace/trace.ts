import { findTracked } from '../conntrack/tracked.ts'
import { explainFrom, survey, type Explanation, type ExplainParts, type Survey } from '../explain/explain.ts'
import type { Step, Way } from '../explain/walk.ts'
import type { ServicePortRecord } from '../model/cluster.ts'
import { destinationKey, serverKey, type ServerId } from '../model/virtual-server.ts'
import { parseConnection, procLines, type IpvsConnection } from '../ipvs/connections.ts'
import { describeError } from '../lib/errors.ts'
import { Connection } from '../netlink/connection.ts'
import { protocols } from '../netlink/header.ts'
import { Echo } from './echo.ts'
import { parseLegacyLine, type TraceEvent } from './events.ts'
import { Flows, type Flow } from './flows.ts'
import { tell, type Story } from './journey.ts'
import { KernelLog } from './kmsg.ts'
import { KernelSwitches } from './kernel-switches.ts'
import type { Marking } from './marking.ts'
import { openMonitor, type Monitor } from './monitor.ts'
import { judgeFlow, type Tables, type Told, type TraceVerdict } from './outcome.ts'
import { readRuleBook, type RuleBook } from './rule-book.ts'
import { checkTool, removeLeftTables, TraceTable } from './table.ts'

export interface TraceRequest {
  /** As of `explain`. */
  readonly target: string
  /** As of `explain`; absent: packets of any source. */
  readonly from?: string
  /** Milliseconds. */
  readonly limit: number
  /** Connections at most. */
  readonly count: number
  readonly packets: 'opening' | 'all'
  /** Turn on the kernel's own messages of IPVS. */
  readonly kernelDebug: boolean
}

export interface FlowReport {
  /** "192.168.60.9:40000" */
  readonly client: string
  readonly requests: number
  readonly replies: number
  /** Where IPVS sent it. */
  readonly destination?: string
  readonly steps: readonly Step[]
  /** Line of /proc/net/ip_vs_conn and entry of connection tracking, at the end of the trace. */
  readonly tables: Tables
  readonly verdict: TraceVerdict
  /** As the text shows it; not in JSON. */
  readonly way: Way
}

export interface TraceReport {
  readonly target: ServerId
  readonly service?: { readonly key: string; readonly port: ServicePortRecord }
  readonly from?: string
  /** Milliseconds for which packets were marked. */
  readonly took: number
  readonly flows: readonly FlowReport[]
  /** Of the kernel's log, where its switches were turned on. */
  readonly kernelLines: readonly string[]
  readonly findings: readonly string[]
  readonly verdict: TraceVerdict
}

/** More events than these end it: each costs the node some microseconds. */
const mostEvents = 50_000
const mostKernelLines = 500
/** Milliseconds between looks at whether all is seen. */
const interval = 200

/** The last packets have gone their way when no event has come for so many intervals; others' may go on, so there is a most. */
const quietIntervals = 3
const lastIntervals = 20

/**
 * Follows live packets. `started` is called once they are marked; `signal` ends it early, with what was seen. All that was
 * changed in the kernel is as before when it returns or throws. Throws ProxyError CONFIG, PREFLIGHT.
 */
export async function trace(
  request: TraceRequest,
  parts: ExplainParts,
  signal: AbortSignal,
  started: (target: ServerId) => void = () => {},
): Promise<TraceReport> {
  const seen = await survey(request, parts)
  const findings: string[] = []
  const marking = await markingOf(request, seen, findings)
  const gathered = await gather(request, marking, seen, parts, signal, findings, started)
  const { flows, table, book, took, kernelLines } = gathered
  const tables = await readTables(flows.list, seen.target, findings)
  const reports: FlowReport[] = []
  for (const flow of flows.list) {
    const told = toldOf(flow, book, seen.target, table)
    if (told !== undefined) reports.push(await report(flow, told, tables.get(flow) ?? {}, seen))
  }
  if (flows.stray > 0 && reports.length === 0) findings.push(`${flows.stray} trace events were of other packets`)
  const { target, wanted } = seen
  return {
    target,
    ...(wanted === undefined ? {} : { service: { key: wanted.service.key, port: wanted.port } }),
    ...(request.from === undefined ? {} : { from: request.from }),
    took,
    flows: reports,
    kernelLines,
    findings: [...new Set([...seen.findings, ...findings])],
    verdict: await verdictOf(reports, request, seen, took),
  }
}

/** Who is followed, by what the command was given. */
async function markingOf({ from, count, packets }: TraceRequest, seen: Survey, findings: string[]): Promise<Marking> {
  const all: Marking = { target: seen.target, comesIn: true, isSent: true, flows: count, packets }
  if (from === undefined) return all
  if (from === 'node') return { ...all, comesIn: false }
  if (from === 'outside') {
    const inLinks = [...seen.places.uplinks]
    if (inLinks.length > 0) return { ...all, isSent: false, inLinks }
    findings.push('no link to the outside is known: packets of any link are followed')
    return { ...all, isSent: false }
  }
  const origin = await seen.origin(from)
  const inLinks = from.includes('@') ? { inLinks: [origin.inLink] } : {}
  const isNode = origin.kind === 'node'
  return { ...all, comesIn: !isNode, isSent: isNode, source: origin.address, ...inLinks }
}

interface Gathered {
  readonly flows: Flows
  readonly book: RuleBook
  /** Of our checkpoints. */
  readonly table: string
  readonly took: number
  readonly kernelLines: readonly string[]
}

async function gather(
  { limit, count, packets, kernelDebug }: TraceRequest,
  marking: Marking,
  { target, kernel }: Survey,
  parts: ExplainParts,
  signal: AbortSignal,
  findings: string[],
  started: (target: ServerId) => void,
): Promise<Gathered> {
  const kernelLines: string[] = []
  const unknown = new Set<TraceEvent>()
  /** Of the kernel's log, until nft has told what it has of the same packets: the log is read at once, nft may be behind. */
  const held: TraceEvent[] = []
  let events = 0
  let flows: Flows | undefined
  let book: RuleBook | undefined
  let monitor: Monitor | undefined
  let log: KernelLog | undefined
  let switches: KernelSwitches | undefined
  let echo: Echo | undefined
  let took = 0
  const take = (event: TraceEvent): void => {
    if (echo?.take(event) === true) return
    events++
    flows?.take(event)
    if (event.kind !== 'rule' || event.handle === undefined) return
    if (book?.knows(event.family, event.table, event.chain, event.handle) === false) unknown.add(event)
  }
  await checkTool()
  const left = await removeLeftTables()
  if (left.length > 0)
    findings.push(`removed what a killed trace had left: ${left.map((name) => `table ${name}`).join(', ')}`)
  const table = await TraceTable.make(marking)
  try {
    if (!table.isOwned)
      findings.push('this kernel has no tables that go with their owner (Linux 5.12): one trace at a time')
    flows = new Flows(target, table.name)
    book = await readRuleBook(kernel)
    const hasLegacy = kernel.ruleSets.some(({ variant }) => variant === 'legacy')
    if (hasLegacy || kernelDebug) {
      const legacy = hasLegacy ? target.family : undefined
      const hold = (event: TraceEvent): void => {
        if (echo?.take(event) !== true) held.push(event)
      }
      log = openLog(hold, kernelDebug ? kernelLines : [], findings)
      switches = await KernelSwitches.turnOn({ debug: kernelDebug, legacy }, findings)
      if (switches.on.length > 0 && kernelDebug) findings.push(`for the time of the trace: ${switches.on.join('; ')}`)
    }
    monitor = await openMonitor(take)
    echo = await openEcho(target, findings)
    await table.mark(echo?.target)
    const began = performance.now()
    started(target)
    const isDone = (): boolean => {
      if (events > mostEvents) {
        findings.push(`ended early: more than ${mostEvents} events`)
        return true
      }
      const list = flows!.list
      return (
        packets === 'opening' && list.length >= count && list.every((flow) => isOver(flow, book!, target, table.name))
      )
    }
    const untilTold = async (): Promise<void> => {
      log?.poll()
      const lines = held.splice(0)
      const trouble = (await echo?.caughtUp()) ?? ''
      if (trouble !== '') findings.push(trouble)
      for (const event of lines) take(event)
    }
    const nextLook = async (): Promise<void> => {
      await sleep(Math.min(interval, limit), signal)
      log?.poll()
      if (held.length > 0) await untilTold()
    }
    const untilQuiet = async (): Promise<void> => {
      let quiet = 0
      for (let i = 0; i < lastIntervals && quiet < quietIntervals; i++) {
        if (signal.aborted || performance.now() - began >= limit) return
        const before = events
        await nextLook()
        quiet = events === before ? quiet + 1 : 0
      }
    }
    while (!signal.aborted && performance.now() - began < limit) {
      await nextLook()
      if (!isDone()) continue
      await untilTold()
      await untilQuiet()
      break
    }
    await untilTold()
    took = Math.round(performance.now() - began)
  } finally {
    await table.remove()
    await monitor?.close()
    echo?.close()
    const trouble = (await switches?.restore()) ?? ''
    if (trouble !== '') findings.push(`not put back: ${trouble}`)
    log?.close()
  }
  findings.push(...(monitor?.remarks ?? []), ...(log === undefined || log.trouble === '' ? [] : [log.trouble]))
  if (unknown.size > 0) book.later = await laterBook(parts, target, findings)
  return { flows, book, table: table.name, took, kernelLines }
}

async function laterBook(parts: ExplainParts, target: ServerId, findings: string[]): Promise<RuleBook | undefined> {
  try {
    return await readRuleBook(await parts.kernel(target.family))
  } catch (error) {
    findings.push(`rules that came meanwhile cannot be read: ${describeError(error)}`)
    return undefined
  }
}

function openLog(take: (event: TraceEvent) => void, lines: string[], findings: string[]): KernelLog | undefined {
  try {
    return KernelLog.open((line) => {
      for (const event of parseLegacyLine(line)) take(event)
      if (/\bIPVS\b|\bip_vs/.test(line) && !line.startsWith('TRACE: ') && lines.length < mostKernelLines)
        lines.push(line)
    })
  } catch (error) {
    findings.push(`the kernel log cannot be read: ${describeError(error)}: rules of legacy iptables are not told of`)
    return undefined
  }
}

async function openEcho({ family }: ServerId, findings: string[]): Promise<Echo | undefined> {
  try {
    return await Echo.open(family)
  } catch (error) {
    findings.push(`where nft is behind, the last events are missing: no loopback to tell by: ${describeError(error)}`)
    return undefined
  }
}

function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((wake) => {
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      wake()
    }
    const timer = setTimeout(done, milliseconds)
    signal.addEventListener('abort', done)
  })
}

/** The first packet that was seen, and the first answer. */
function toldOf(flow: Flow, book: RuleBook, target: ServerId, table: string): Told | undefined {
  const story = (direction: Story['direction'], isError: boolean): Story | undefined => {
    const journey = flow.journeys.find(
      (one) => one.direction === direction && (one.traversals[0]?.packet.protocol === 'ICMP') === isError,
    )
    return journey && tell(journey, book, target, table)
  }
  const request = story('request', false)
  if (request === undefined) return undefined
  const reply = story('reply', false)
  const error = story('reply', true)
  return { request, ...(reply === undefined ? {} : { reply }), ...(error === undefined ? {} : { error }) }
}

/** Whether nothing more is to be expected of a flow. */
function isOver(flow: Flow, book: RuleBook, target: ServerId, table: string): boolean {
  const told = toldOf(flow, book, target, table)
  if (told === undefined) return false
  const { request, reply, error } = told
  if (request.end !== undefined || reply?.end !== undefined || error !== undefined) return true
  return reply?.checkpoint === 'postrouting_last' || reply?.checkpoint === 'input_last'
}

async function readTables(
  flows: readonly Flow[],
  target: ServerId,
  findings: string[],
): Promise<ReadonlyMap<Flow, Tables>> {
  const tables = new Map<Flow, Tables>()
  if (flows.length === 0) return tables
  const connections = await findConnections(flows, target, findings)
  const netfilter = Connection.open(protocols.netfilter)
  try {
    for (const flow of flows) {
      const { client: source, clientPort: sourcePort } = flow
      const { family, protocol, address: destination, port: destinationPort } = target
      const asked = { family, protocol, source, sourcePort, destination, destinationPort }
      const conntrack = await findTracked(netfilter, asked)
      const ipvs = connections.get(flow)
      tables.set(flow, { ...(ipvs === undefined ? {} : { ipvs }), ...(conntrack === undefined ? {} : { conntrack }) })
    }
  } catch (error) {
    findings.push(`connection tracking cannot be asked: ${describeError(error)}`)
  } finally {
    netfilter.close()
  }
  return tables
}

/** IPVS has its connections in one file: it is read as it streams by, until all are found. */
async function findConnections(
  flows: readonly Flow[],
  { address, port, protocol }: ServerId,
  findings: string[],
): Promise<ReadonlyMap<Flow, IpvsConnection>> {
  const found = new Map<Flow, IpvsConnection>()
  const wanted = new Map(flows.map((flow) => [`${flow.client} ${flow.clientPort}`, flow]))
  try {
    for await (const line of procLines('/proc/net/ip_vs_conn')) {
      const one = parseConnection(line)
      if (one === undefined || one.address !== address || one.port !== port || one.protocol !== protocol) continue
      const flow = wanted.get(`${one.client} ${one.clientPort}`)
      if (flow !== undefined) found.set(flow, one)
      if (found.size === wanted.size) break
    }
  } catch (error) {
    const isWithout = error instanceof Error && 'code' in error && error.code === 'ENOENT'
    if (!isWithout) findings.push(`/proc/net/ip_vs_conn cannot be read: ${describeError(error)}`)
  }
  return found
}

async function report(flow: Flow, told: Told, tables: Tables, seen: Survey): Promise<FlowReport> {
  const { client, clientPort, journeys } = flow
  const first = told.request
  const isNode = !first.hooks.includes('PREROUTING') || first.hooks[0] === 'OUTPUT'
  const inLink = journeys[0]?.traversals[0]?.packet.inLink ?? ''
  const hint = async (): Promise<Explanation | undefined> => {
    try {
      return await explainFrom({ ...seen, findings: [] }, isNode ? 'node' : `${client}@${inLink}`)
    } catch {
      return undefined
    }
  }
  const { way, verdict } = await judgeFlow(flow, told, tables, seen, hint)
  const steps = [...way.steps, ...(way.balanced?.results.flatMap(({ ways }) => ways[0]?.steps ?? []) ?? [])]
  const count = (direction: string): number => journeys.filter((one) => one.direction === direction).length
  return {
    client: destinationKey({ address: client, port: clientPort }),
    requests: count('request'),
    replies: count('reply'),
    ...(first.destination === undefined ? {} : { destination: destinationKey(first.destination) }),
    steps,
    tables,
    verdict,
    way,
  }
}

/** One verdict of all flows. */
async function verdictOf(
  flows: readonly FlowReport[],
  { from, limit }: TraceRequest,
  seen: Survey,
  took: number,
): Promise<TraceVerdict> {
  const [first, ...others] = flows
  if (first === undefined) {
    const who = from === undefined ? '' : ` from ${from}`
    const text = `no packet${who} that opens a connection to ${serverKey(seen.target)} came to this node within ${Math.round(took / 1000)} s`
    const advice =
      'is it sent at all, and to this node? For connections that stand already: --packets all; what would become of one: explain'
    return { code: 'no-packet', answer: 'unknown', text, advice, isCertain: took >= limit }
  }
  const different = others.find(({ verdict }) => verdict.code !== first.verdict.code)
  if (different === undefined) {
    if (others.length === 0) return first.verdict
    return { ...first.verdict, text: `${flows.length} of ${flows.length} connections: ${first.verdict.text}` }
  }
  const codes = new Map<string, FlowReport[]>()
  for (const one of flows) codes.set(one.verdict.code, [...(codes.get(one.verdict.code) ?? []), one])
  const text = [...codes].map(([code, list]) => `${list.length} of ${flows.length} ${code}: ${list[0]!.verdict.text}`)
  const worst = flows.find(({ verdict }) => verdict.code !== 'served')!.verdict
  return {
    code: 'mixed',
    answer: worst.answer,
    text: text.join('; '),
    ...(worst.advice === undefined ? {} : { advice: worst.advice }),
    isCertain: flows.every(({ verdict }) => verdict.isCertain),
  }
}
