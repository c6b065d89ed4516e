import { answerOfReject, type Answer } from '../explain/answers.ts'
import type { Explanation, Survey } from '../explain/explain.ts'
import type { Packet } from '../explain/packet.ts'
import { judge, ruleName, type Verdict, type VerdictCode } from '../explain/verdict.ts'
import type { End, Step, Way } from '../explain/walk.ts'
import type { IpvsConnection } from '../ipvs/connections.ts'
import type { TrackedConnection } from '../conntrack/messages.ts'
import type { ServerId } from '../model/virtual-server.ts'
import { destinationKey, serverKey } from '../model/virtual-server.ts'
import type { Flow } from './flows.ts'
import { seenText, type Story } from './journey.ts'

export type TraceCode =
  | VerdictCode
  /** Nothing to follow came within the time. */
  | 'no-packet'
  /** The destination was sent it, and nothing came back. */
  | 'no-answer'
  /** The kernel's tables say that it was answered, and the answer was not seen. */
  | 'answer-unseen'
  /** The destination, or somebody on the way to it, refused. */
  | 'refused-by-endpoint'
  /** Seen last where nothing says what became of it. */
  | 'lost'
  /** Flows ended in different ways. */
  | 'mixed'

export type TraceVerdict = Omit<Verdict, 'code'> & { readonly code: TraceCode }

/** What the kernel's tables have of a flow; undefined where they have nothing. */
export interface Tables {
  readonly ipvs?: IpvsConnection
  readonly conntrack?: TrackedConnection
}

/** A flow's packets as told. */
export interface Told {
  readonly request: Story
  readonly reply?: Story
  /** ICMP about the request. */
  readonly error?: Story
}

export interface Outcome {
  readonly way: Way
  readonly verdict: TraceVerdict
}

/** The way of a flow that was seen, and its verdict, by the same rules as that of an explained packet. */
export async function judgeFlow(
  flow: Flow,
  told: Told,
  tables: Tables,
  survey: Survey,
  hint: () => Promise<Explanation | undefined>,
): Promise<Outcome> {
  const { request, reply, error } = told
  const { target } = survey
  const all = [...request.before, ...request.after, ...(reply?.before ?? []), ...(reply?.after ?? [])]
  const way = wayOf(flow, told, target, all)
  const by = async (end: End): Promise<Outcome> => {
    const ended: Way = { ...way, end }
    const verdict = foreignNft(end) ?? judge(await survey.evidence([ended]))
    // What was seen is certain; what nobody answered may have been answered elsewhere.
    return { way: ended, verdict: { ...verdict, isCertain: true } }
  }
  if (request.end !== undefined) return by(request.end)
  if (reply?.end !== undefined) return by(reply.end)
  if (reply !== undefined && isHome(reply, target)) return answered(way, told, survey, by)
  if (request.destination === undefined && isAtIpvs(request, target) && (await hasServer(survey))) {
    const text = `virtual server ${serverKey(target)} took it and sent it nowhere: refused with port unreachable`
    const how = target.family === 'IPv4' ? 'icmp-port-unreachable' : 'icmp6-port-unreachable'
    return by({
      code: 'no-destination',
      answer: answerOfReject(how, target.protocol),
      direction: 'request',
      place: 'IPVS',
      text,
    })
  }
  if (error !== undefined) return { way, verdict: refused(seenText(error.last), told) }
  if (reply !== undefined) {
    return lost(way, `the answer was seen last in ${reply.lastPlace}, ${seenText(reply.last)}`, hint)
  }
  const { last, checkpoint, destination } = request
  if (checkpoint === 'postrouting_last' && last.outLink !== 'lo') {
    if (destination !== undefined) return { way, verdict: await unanswered(told, tables, hint) }
    const text = `leaves by ${last.outLink} as ${seenText(last)}`
    return by({ code: 'routed-on', answer: 'leaves', direction: 'request', place: 'routing', text })
  }
  if (checkpoint === 'input_last') {
    const where = destinationKey({ address: last.destination, port: last.destinationPort })
    return { way, verdict: silent(`it was delivered to this node itself (${where}), and no answer was seen`, tables) }
  }
  return lost(way, `seen last in ${request.lastPlace}, ${seenText(last)}`, hint)
}

function wayOf(flow: Flow, { request, reply }: Told, target: ServerId, steps: readonly Step[]): Way {
  const { client, clientPort } = flow
  const { destination } = request
  const packet: Packet = {
    family: target.family,
    protocol: target.protocol,
    source: client,
    sourcePort: clientPort,
    destination: request.last.destination,
    destinationPort: request.last.destinationPort,
    ephemeral: 'source',
    inLink: request.last.inLink,
    outLink: request.last.outLink,
    bridged: false,
    mark: 0,
    connectionMark: 0,
    state: 'NEW',
    isTracked: true,
    direction: reply === undefined ? 'ORIGINAL' : 'REPLY',
    original: { source: client, destination: target.address, destinationPort: target.port },
    ...(destination === undefined ? {} : { server: target }),
    sourceTranslated: request.last.source !== client,
  }
  const hooks = [
    ...request.hooks.map((hook) => `request ${hook}`),
    ...(reply?.hooks ?? []).map((hook) => `reply ${hook}`),
  ]
  return { packet, steps, doubts: [], hooks }
}

/** An answer on its way out to the client, or in to a client of this node, with the address that was asked. */
function isHome({ last, checkpoint }: Story, { address, port }: ServerId): boolean {
  const isOwn = last.source === address && last.sourcePort === port
  return isOwn && (checkpoint === 'postrouting_last' || checkpoint === 'input_last')
}

/** Nothing of IPVS's own hooks has been passed: it was there that it ended. */
function isAtIpvs({ checkpoint, last }: Story, { address }: ServerId): boolean {
  if (last.destination !== address) return false
  return checkpoint === 'input_before_ipvs' || checkpoint === 'output_tracked'
}

async function hasServer({ kernel, target }: Survey): Promise<boolean> {
  return (await kernel.server(target)) !== undefined
}

async function answered(
  way: Way,
  { request, reply }: Told,
  survey: Survey,
  by: (end: End) => Promise<Outcome>,
): Promise<Outcome> {
  const { target, kernel } = survey
  const { destination } = request
  const isReset = /\brst\b/.test(reply!.last.flags)
  const seen = request.last.source
  if (destination === undefined && request.hooks.includes('FORWARD')) {
    const text = `leaves by ${request.last.outLink} as ${seenText(request.last)}, and is ${isReset ? 'refused with RST' : 'answered'}`
    const answer = isReset ? 'refused' : 'answered'
    return by({ code: 'routed-on', answer, direction: 'request', place: 'routing', text })
  }
  if (destination === undefined) {
    const where = serverKey(target)
    const text = isReset
      ? `no process of this node listens on ${where}: it answers with RST`
      : `a process of this node answers on ${where}`
    const [code, answer] = isReset ? (['nothing-listens', 'refused'] as const) : (['local-socket', 'answered'] as const)
    return by({ code, answer, direction: 'reply', place: 'socket', text })
  }
  const key = destinationKey(destination)
  if (isReset) return { way, verdict: refused(`RST from ${key}`, { request }) }
  const end: End = { code: 'answered', answer: 'answered', direction: 'reply', place: 'IPVS', text: 'answered', seen }
  const server = await kernel.server(target)
  const observed = typeof server === 'object' ? server : undefined
  const chosen = observed?.destinations.find((one) => destinationKey(one) === key) ?? {
    ...destination,
    weight: 0,
    activeConnections: 0,
    inactiveConnections: 0,
    forwarding: 0,
  }
  const after: Way = { ...way, steps: [...request.after, ...reply!.before, ...reply!.after], end }
  const balanced = {
    server: observed ?? { server: { ...target, scheduler: '', flags: 0, timeout: 0 }, destinations: [chosen] },
    results: [{ destination: chosen, ways: [after] }],
  }
  const whole: Way = { ...way, steps: request.before, balanced }
  const verdict = judge(await survey.evidence([whole]))
  return { way: whole, verdict: { ...verdict, isCertain: true } }
}

/** Rules of nftables itself: what advice says of iptables does not hold for them. */
function foreignNft({ by, place, direction, answer }: End): Verdict | undefined {
  if (by === undefined || !place.startsWith('nftables ')) return undefined
  const what = direction === 'reply' ? 'the answer is dropped' : 'dropped'
  const rule = by.number === 0 ? 'its policy' : ruleName(by)
  const chain = place.slice('nftables '.length)
  return {
    code: by.number === 0 ? 'dropped-by-policy' : 'dropped-by-foreign-rule',
    answer,
    text: `${what} in chain ${chain} of nftables by ${rule}, which is not ours`,
    advice: `see who wrote it: nft -a list chain ${chain}`,
    isCertain: true,
  }
}

function refused(what: string, { request }: Told): TraceVerdict {
  const to = request.destination === undefined ? '' : ` to ${destinationKey(request.destination)}`
  return {
    code: 'refused-by-endpoint',
    answer: 'refused',
    text: `sent${to}, and refused: ${what}`,
    advice: 'does the pod listen on its target port? kubectl exec … ss -lntu; is there a network policy?',
    isCertain: true,
  }
}

function tablesText({ ipvs, conntrack }: Tables): string {
  const known = [
    ...(ipvs === undefined ? [] : [`IPVS has it as ${ipvs.state}`]),
    ...(conntrack === undefined ? [] : [`connection tracking as ${conntrack.isAnswered ? 'answered' : 'unanswered'}`]),
  ]
  return known.length === 0 ? '' : ` (${known.join(', ')})`
}

function silent(text: string, tables: Tables): TraceVerdict {
  const isAnswered =
    tables.conntrack?.isAnswered === true || /^(ESTABLISHED|FIN_WAIT|TIME_WAIT)/.test(tables.ipvs?.state ?? '')
  if (!isAnswered)
    return { code: 'no-answer', answer: 'nothing', text: `${text}${tablesText(tables)}`, isCertain: true }
  const why = 'it was answered all the same: more answers came at once than are followed, or it came untracked'
  return { code: 'answer-unseen', answer: 'answered', text: `${text}${tablesText(tables)}; ${why}`, isCertain: false }
}

async function unanswered(
  { request }: Told,
  tables: Tables,
  hint: () => Promise<Explanation | undefined>,
): Promise<TraceVerdict> {
  const { last } = request
  const key = destinationKey(request.destination!)
  const text = `sent to ${key} by ${last.outLink} as ${last.source}, and no answer was seen on this node`
  const advice = `see whether it arrives there: is the pod alive, is there a network policy, is there a route from it to ${last.source}?`
  const verdict = silent(text, tables)
  if (verdict.code === 'answer-unseen') return verdict
  return { ...verdict, advice, text: `${verdict.text}${await cause(hint)}` }
}

async function lost(way: Way, text: string, hint: () => Promise<Explanation | undefined>): Promise<Outcome> {
  const answer: Answer = 'unknown'
  return { way, verdict: { code: 'lost', answer, text: `${text}${await cause(hint)}`, isCertain: false } }
}

/** What the kernel's state lets expect; worth saying where it is a fault. */
async function cause(hint: () => Promise<Explanation | undefined>): Promise<string> {
  const explanation = await hint()
  if (explanation === undefined) return ''
  const { code, text } = explanation.verdict
  if (code === 'served' || code === 'local-socket') return ''
  return `; by the kernel's state: ${code}: ${text}`
}
