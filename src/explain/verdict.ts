import { flowText, type UdpFlow } from '../conntrack/flows.ts'
import { destinationKey, serverKey, type ServerId } from '../model/virtual-server.ts'
import type { Answer } from './answers.ts'
import type { Doubt, Hit } from './chains.ts'
import type { Eligibility } from './eligibility.ts'
import type { Difference, DifferenceCode } from './wanted.ts'
import type { DestinationResult, End, Way } from './walk.ts'

export type VerdictCode =
  /** Every destination that may be chosen answers. */
  | 'served'
  | 'partly-served'
  /** A process of the node answers, as no Service has the port. */
  | 'local-socket'
  /** Ways that cannot be told apart come out differently. */
  | 'cannot-tell'
  | 'dropped-by-foreign-rule'
  | 'rejected-by-foreign-rule'
  | 'redirected-by-foreign-rule'
  | 'dropped-by-policy'
  | 'dropped-by-own-rule'
  | 'forward-dropped'
  | 'source-range'
  | 'no-local-endpoint'
  | 'not-a-service-port'
  | 'rejected-no-endpoints'
  | 'no-eligible-destination'
  | 'address-missing'
  | 'not-local'
  | 'no-route'
  | 'no-route-back'
  | 'source-rejected'
  | 'ip-forward-off'
  | 'virtual-server-missing'
  | 'ipvs-not-loaded'
  | 'destination-missing'
  | 'destination-weight'
  | 'destination-not-wanted'
  | 'destination-unreachable'
  | 'set-entry-missing'
  | 'set-full'
  | 'rule-missing'
  | 'ipvs-conntrack-off'
  | 'not-tracked'
  | 'loopback-source'
  | 'not-masquerading'
  | 'hairpin-not-masqueraded'
  | 'hairpin-off'
  | 'bridge-netfilter-off'
  | 'reply-goes-around'
  | 'nothing-listens'
  /** The Service has the port, but the plan has no virtual server at the address: nodePortAddresses. */
  | 'address-not-served'
  | 'endpoint-not-listening'
  /** A virtual server of a firewall mark, which is somebody else's, takes the packet first. */
  | 'taken-by-mark'
  /** A rule of somebody else takes away the mark by which ours masquerade. */
  | 'mark-lost'
  /** A new flow is served, but there are some that the client has had for longer. */
  | 'stale-flow'

export interface Verdict {
  readonly code: VerdictCode
  /** What the client gets; of 'partly-served', what it gets at times. */
  readonly answer: Answer
  readonly text: string
  readonly advice?: string
  /** False where something on the way could not be told. */
  readonly isCertain: boolean
}

/** What a verdict is found out of. */
export interface Evidence {
  readonly target: ServerId
  readonly ways: readonly Way[]
  /** Undefined: the cluster's objects are not known. */
  readonly differences: readonly Difference[] | undefined
  readonly endpoints: readonly Eligibility[] | undefined
  /** Why the settings do not let the Service that has it serve the address; undefined: they do. */
  readonly addressRefused: string | undefined
  /** A known Service has the address and port. */
  readonly isKnown: boolean
  /** And its plan has a virtual server there. */
  readonly isService: boolean
  /** The kernel has a virtual server there. */
  readonly hasServer: boolean
  readonly hasIpvs: boolean
  /** net.ipv4.vs.conntrack is 1. */
  readonly tracksIpvs: boolean
  readonly isLocalPolicy: boolean
  /** UDP flows that the virtual server does not balance anew, and whose they may be: all addresses of the client. */
  readonly staleFlows: readonly UdpFlow[]
  readonly clients: readonly string[]
}

type Cause = Omit<Verdict, 'isCertain'>

/** The one verdict: of a new connection's ways, unless it is the client's older flows that are not served. */
export function judge(evidence: Evidence): Verdict {
  const verdict = judgeWays(evidence)
  const { staleFlows, clients, target } = evidence
  const stale = staleFlows.filter(({ source }) => clients.includes(source))
  const [first] = stale
  if (first === undefined || verdict.answer !== 'answered') return verdict
  const count = stale.length === 1 ? 'a UDP flow' : `${stale.length} UDP flows`
  return {
    code: 'stale-flow',
    answer: 'unknown',
    text: `${count} of ${first.source} from before goes past the destinations: ${flowText(first)}, for as long as datagrams come from that port; a new flow is ${verdict.text}`,
    advice: `conntrack -D -p udp -s ${first.source} -d ${target.address} --dport ${target.port}`,
    isCertain: verdict.isCertain,
  }
}

function judgeWays(evidence: Evidence): Verdict {
  const causes = evidence.ways.map((way) => ({ way, ...judgeWay(way, evidence) }))
  const [first, ...others] = causes
  if (first === undefined) {
    return { code: 'cannot-tell', answer: 'unknown', text: 'there is no way to follow', isCertain: false }
  }
  const different = others.find(({ cause }) => cause.code !== first.cause.code || cause.answer !== first.cause.answer)
  if (different === undefined) return { ...first.cause, isCertain: first.isCertain }
  const doubt = [...first.way.doubts, ...different.way.doubts][0]
  const text = `it cannot be told${doubt === undefined ? '' : ` whether ${doubtText(doubt)}`}: ${first.cause.text}; or: ${different.cause.text}`
  return { code: 'cannot-tell', answer: 'unknown', text, isCertain: false }
}

function doubtText({ hit, why }: Doubt): string {
  return `${ruleName(hit)} matches (${why})`
}

function judgeWay(way: Way, evidence: Evidence): { cause: Cause; isCertain: boolean } {
  const { balanced } = way
  if (balanced !== undefined) {
    const { cause, isCertain } = judgeBalanced(way, balanced.results, evidence)
    if (balanced.mark !== undefined) return { cause: markCause(way, balanced.mark, cause), isCertain }
    if (balanced.pinned === undefined) return { cause, isCertain }
    const kept = `client affinity keeps ${way.packet.source} at ${balanced.pinned}`
    return { cause: { ...cause, text: `${cause.text}; ${kept}` }, isCertain }
  }
  const cause = redirected(way) ?? causeOf(way, way.end!, evidence)
  return { cause, isCertain: cause.answer !== 'unknown' }
}

function markCause(way: Way, mark: number, { answer, text }: Cause): Cause {
  const shown = `0x${mark.toString(16)}`
  const setter = hitsOf(way).findLast(({ effect }) => effect.startsWith('mark '))
  const by = setter === undefined ? '' : `, set by ${ruleName(setter)}`
  return {
    code: 'taken-by-mark',
    answer,
    text: `firewall mark ${shown}${by} has a virtual server of its own, which is none of ours and goes before that of the address; ${text}`,
    advice: `see who made it: ipvsadm -Ln -f ${mark}`,
  }
}

function judgeBalanced(
  way: Way,
  results: readonly DestinationResult[],
  evidence: Evidence,
): { cause: Cause; isCertain: boolean } {
  const bad: { readonly key: string; readonly cause: Cause }[] = []
  const good: string[] = []
  let isCertain = true
  let text = ''
  for (const { destination, ways } of results) {
    const key = destinationKey(destination)
    const failed = ways.find(({ end }) => end?.answer !== 'answered')
    if (ways.length > 1) isCertain = false
    const last = failed ?? ways[0]
    if (last?.end === undefined) continue
    const unwanted = evidence.differences?.find(
      ({ code, object }) => code === 'destination-not-wanted' && object === key,
    )
    if (failed !== undefined && ways.length > 1 && ways.some(({ end }) => end?.answer === 'answered')) {
      const doubt = ways.flatMap(({ doubts }) => doubts)[0]
      const why = doubt === undefined ? '' : ` whether ${doubtText(doubt)}`
      bad.push({ key, cause: { code: 'cannot-tell', answer: 'unknown', text: `it cannot be told${why}` } })
    } else if (failed !== undefined) bad.push({ key, cause: causeOf(joined(way, failed), last.end, evidence) })
    else if (unwanted !== undefined) {
      const advice = 'the next look of the daemon removes it; without the daemon: ipvsadm -d'
      bad.push({ key, cause: { code: 'destination-not-wanted', answer: 'unknown', text: unwanted.text, advice } })
    } else {
      good.push(key)
      const seen = last.end.seen === undefined ? '' : ` as ${last.end.seen}`
      text ||= `${key} sees the client${seen}`
    }
  }
  const [worst] = bad
  if (worst === undefined) {
    const number = good.length === 1 ? 'its destination' : `one of ${good.length} destinations`
    const served = `served by virtual server ${serverKey(evidence.target)} and ${number}; ${text}`
    return { cause: { code: 'served', answer: 'answered', text: served }, isCertain }
  }
  if (good.length === 0 && bad.every(({ cause }) => cause.code === worst.cause.code)) {
    const cause = { ...worst.cause, text: `${worst.cause.text}${hintText(evidence)}` }
    return { cause, isCertain: isCertain && cause.answer !== 'unknown' }
  }
  const total = good.length + bad.length
  const cause: Cause = {
    ...worst.cause,
    code: 'partly-served',
    text: `${bad.length} of ${total} destinations do not serve; ${worst.key}: ${worst.cause.text}`,
  }
  return { cause, isCertain }
}

/** Endpoints that could do instead, and that hints leave out. */
function hintText({ endpoints = [] }: Evidence): string {
  const hinted = endpoints.filter(({ isEligible, reason }) => !isEligible && reason.includes('by its hints'))
  const [first] = hinted
  if (first === undefined) return ''
  const more = hinted.length > 1 ? `, and ${hinted.length - 1} more` : ''
  return `; not used is ${first.endpoint}, ${first.reason}${more}`
}

/** A destination's way with what came before it. */
function joined(before: Way, way: Way): Way {
  return { ...way, steps: [...before.steps, ...way.steps], hooks: [...before.hooks, ...way.hooks] }
}

/** "rule 3 of filter INPUT (-p tcp --dport 80 -j DROP)" */
export function ruleName({ variant, table, chain, number, rule }: Hit): string {
  const of = `${table} ${chain}${variant === '' ? '' : variant === 'nftables' ? ' of nftables' : ` (${variant})`}`
  return number === 0 ? `the policy of ${of}` : `rule ${number} of ${of} (${rule})`
}

function hitsOf(way: Way): readonly Hit[] {
  return way.steps.flatMap(({ hits }) => hits)
}

/** Somebody else's DNAT takes the packet away from the address it was sent to. */
function redirected(way: Way): Cause | undefined {
  const hit = way.steps
    .filter(({ direction }) => direction === 'request')
    .flatMap(({ hits }) => hits)
    .find(({ ours, effect }) => !ours && /^(DNAT|REDIRECT)/.test(effect))
  if (hit === undefined) return undefined
  const outcome = way.end === undefined ? '' : `; then: ${way.end.text || way.end.code}`
  return {
    code: 'redirected-by-foreign-rule',
    answer: way.end?.answer ?? 'unknown',
    text: `${hit.effect} by ${ruleName(hit)}, which is not ours; IPVS never sees the address that was asked${outcome}`,
    advice: 'remove the rule: a leftover of another proxy, or a host port',
  }
}

function causeOf(way: Way, end: End, evidence: Evidence): Cause {
  const cause = causeOfEnd(way, end, evidence)
  return end.lost === undefined ? cause : { ...cause, text: `${cause.text}; ${end.lost}` }
}

function causeOfEnd(way: Way, end: End, evidence: Evidence): Cause {
  const { answer, text } = end
  switch (end.code) {
    case 'answered':
      return { code: 'served', answer, text }
    case 'rule':
      return ruleCause(way, end, evidence)
    case 'untold-target':
    case 'untold-server':
      return {
        code: 'cannot-tell',
        answer: 'unknown',
        text: end.by === undefined ? `it cannot be told ${text}` : `${ruleName(end.by)}: it cannot be told ${text}`,
      }
    case 'local-socket':
    case 'nothing-listens':
      return socketCause(way, end, evidence)
    case 'routed-on':
    case 'no-route':
      return notLocalCause(end, evidence)
    case 'forwarding-off':
      return end.direction === 'reply' ? forwardingOff(end) : notLocalCause(end, evidence)
    case 'no-destination':
      return noDestination(end, evidence)
    case 'reply-goes-around':
    case 'hairpin-not-masqueraded':
      return notMasqueraded(way, end, evidence)
    case 'bridge-netfilter-off':
      return {
        code: end.code,
        answer,
        text,
        advice: 'modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1',
      }
    case 'hairpin-off':
      return {
        code: end.code,
        answer,
        text,
        advice: "set hairpin mode of the bridge's ports (hairpinMode of the CNI plugin bridge)",
      }
    case 'source-rejected':
      return {
        code: end.code,
        answer,
        text,
        advice: 'see sysctl net.ipv4.conf.*.rp_filter and the route to the source',
      }
    case 'no-route-back':
    case 'loopback-source':
    case 'destination-unreachable':
    case 'not-masquerading':
      return { code: end.code, answer, text }
  }
}

function forwardingOff({ answer, text }: End): Cause {
  const advice = 'sysctl -w net.ipv4.ip_forward=1 (IPv6: net.ipv6.conf.all.forwarding=1)'
  return { code: 'ip-forward-off', answer, text: `the answer is not forwarded: ${text}`, advice }
}

const repair = 'the next look of the daemon repairs it (syncPeriod); is it running, and in sync?'

function difference(evidence: Evidence, ...codes: readonly DifferenceCode[]): Cause | undefined {
  const found = evidence.differences?.find(({ code }) => codes.includes(code))
  return found && { code: verdictOf(found.code), answer: 'unknown', text: found.text, advice: adviceOf(found.code) }
}

function adviceOf(code: DifferenceCode): string {
  return code === 'set-full'
    ? 'the daemon puts a larger set in its place: see its log for why not, and whose the entries are that are none of ours'
    : repair
}

function verdictOf(code: DifferenceCode): VerdictCode {
  return code === 'virtual-server-differs' ? 'virtual-server-missing' : code
}

/** A difference as the cause of an end. */
function because(end: End, evidence: Evidence, ...codes: readonly DifferenceCode[]): Cause | undefined {
  const found = difference(evidence, ...codes)
  const outcome = end.text === '' ? describeDecision(end) : end.text
  return found && { ...found, answer: end.answer, text: `${found.text}; so ${outcome}` }
}

function describeDecision({ by, direction }: End): string {
  if (by === undefined) return 'it ends there'
  const verb = by.effect.startsWith('REJECT') ? 'rejected' : 'dropped'
  return `${direction === 'reply' ? 'the answer is ' : 'it is '}${verb} by ${ruleName(by)}`
}

function ruleCause(way: Way, end: End, evidence: Evidence): Cause {
  const by = end.by!
  return by.ours ? ownRule(end, by, evidence) : foreignRule(way, end, by, evidence)
}

function ownRule(end: End, by: Hit, evidence: Evidence): Cause {
  const { answer } = end
  const key = serverKey(evidence.target)
  if (by.chain === 'KUBE-SOURCE-RANGES-FIREWALL' || by.chain === 'KUBE-IPVS-OUT-FILTER') {
    const entry = missingEntry(evidence, /SOURCE/)
    if (entry !== undefined) return { ...entry, answer }
    const text = `the source is in none of the Service's loadBalancerSourceRanges: dropped by ${ruleName(by)}`
    return { code: 'source-range', answer, text, advice: 'add the client to spec.loadBalancerSourceRanges' }
  }
  if (by.chain === 'KUBE-IPVS-FILTER' && /NO-LOCAL/.test(by.rule)) {
    const text =
      'externalTrafficPolicy is Local and no endpoint of this node can be used: rejected, as strictExternalTrafficPolicy says'
    return { code: 'no-local-endpoint', answer, text, advice: 'ask a node that has an endpoint' }
  }
  if (by.chain !== 'KUBE-IPVS-FILTER') {
    return { code: 'dropped-by-own-rule', answer, text: `${describeDecision(end)}, which is ours` }
  }
  if (end.direction === 'reply' && !evidence.tracksIpvs) {
    const why = 'net.ipv4.vs.conntrack is not 1, so what follows in a connection is a new one to netfilter'
    const text = `${why}: the answer is rejected by ${ruleName(by)}, which takes it for a connection to a service address`
    return { code: 'ipvs-conntrack-off', answer, text, advice: 'sysctl -w net.ipv4.vs.conntrack=1' }
  }
  const known = because(end, evidence, 'set-entry-missing', 'set-full', 'rule-missing')
  if (known !== undefined) return known
  if (evidence.hasServer) {
    const text = `there is a virtual server ${key}, but none of the sets has it: rejected by ${ruleName(by)}`
    return { code: 'set-entry-missing', answer, text, advice: repair }
  }
  const text = `no Service has ${key} on this node: rejected by ${ruleName(by)}, which lets only ports of Services pass`
  return { code: 'not-a-service-port', answer, text }
}

function missingEntry(evidence: Evidence, name: RegExp): Cause | undefined {
  const found = evidence.differences?.find(
    ({ code, object }) => (code === 'set-entry-missing' || code === 'set-full') && name.test(object),
  )
  return found && { code: verdictOf(found.code), answer: 'unknown', text: found.text, advice: adviceOf(found.code) }
}

function foreignRule(way: Way, end: End, by: Hit, evidence: Evidence): Cause {
  const { answer, direction, place } = end
  const isReply = direction === 'reply'
  const [table = '', hook = ''] = place.split(' ')
  // A policy that would not have come to decide.
  const lacking = evidence.differences?.find(
    ({ code, object }) => code === 'rule-missing' && object === `${table} ${hook}`,
  )
  if (by.number === 0 && isReply && lacking !== undefined) {
    return { code: 'rule-missing', answer, text: `${lacking.text}; so ${describeDecision(end)}`, advice: repair }
  }
  const verb = by.effect.startsWith('REJECT') ? 'rejected' : 'dropped'
  const isNative = by.variant === 'nftables'
  const rule = by.number === 0 ? `its policy (${by.effect})` : `rule ${by.number} (${by.rule})`
  const where = isNative
    ? `chain ${by.table} ${by.chain} of nftables at ${hook}`
    : by.chain === hook
      ? place
      : `${place}, chain ${by.chain},`
  const who = by.number === 0 ? '' : ', which is not ours'
  const what = isReply ? 'the answer is ' : ''
  const seen = seenByIpvs(way) ? '' : '; IPVS never sees it'
  const variant = by.variant === '' || isNative ? '' : ` of iptables-${by.variant}`
  const text = `${what}${verb} in ${where} by ${rule}${variant}${who}${seen}`
  const chain = hook === 'FORWARD' ? 'forward-dropped' : undefined
  const kind =
    by.number === 0 ? 'dropped-by-policy' : verb === 'rejected' ? 'rejected-by-foreign-rule' : 'dropped-by-foreign-rule'
  const tool = evidence.target.family === 'IPv4' ? 'iptables' : 'ip6tables'
  const advice = isNative
    ? `see nft -a list chain ${by.table} ${by.chain}`
    : by.number === 0
      ? `let it pass before the policy decides: ${tool} -t ${table} -I ${hook} …`
      : `see who wrote the rule: ${tool} -t ${table} -S ${by.chain}`
  return { code: chain ?? kind, answer, text, advice }
}

function seenByIpvs(way: Way): boolean {
  return way.packet.direction === 'REPLY' || way.steps.some(({ place }) => place.startsWith('IPVS'))
}

function socketCause(way: Way, end: End, evidence: Evidence): Cause {
  const { answer, text } = end
  if (way.packet.server !== undefined) {
    if (end.code === 'local-socket') return { code: 'served', answer, text }
    return { code: 'endpoint-not-listening', answer, text: `IPVS sends it to this node itself, and ${text}` }
  }
  const key = serverKey(evidence.target)
  if (!evidence.hasIpvs && evidence.isService) {
    const advice = 'modprobe ip_vs, then start the daemon'
    return {
      code: 'ipvs-not-loaded',
      answer,
      text: `the module ip_vs is not loaded: there are no virtual servers; ${text}`,
      advice,
    }
  }
  const known = because(end, evidence, 'virtual-server-missing')
  if (known !== undefined) return known
  if (evidence.isService) {
    return {
      code: 'virtual-server-missing',
      answer,
      text: `there is no virtual server ${key}; ${text}`,
      advice: repair,
    }
  }
  if (evidence.addressRefused !== undefined && end.code === 'nothing-listens') {
    return refusedCause(end, evidence.addressRefused, evidence)
  }
  if (evidence.isKnown && end.code === 'nothing-listens') {
    const why = `the Service has port ${evidence.target.port}, but it is not served on ${evidence.target.address} (nodePortAddresses)`
    return { code: 'address-not-served', answer, text: `${why}: ${text}` }
  }
  if (end.code === 'local-socket') return { code: answer === 'unknown' ? 'cannot-tell' : 'local-socket', answer, text }
  return { code: 'nothing-listens', answer, text: `there is no virtual server ${key}, and ${text}` }
}

function refusedCause({ answer, text }: End, reason: string, { target }: Evidence): Cause {
  return {
    code: 'address-not-served',
    answer,
    text: `the Service may not have ${target.address} on this node, for ${reason}: ${text}`,
    advice: 'let the setting have the address, or take it out of the Service',
  }
}

function notLocalCause(end: End, evidence: Evidence): Cause {
  const { address } = evidence.target
  const known = because(end, evidence, 'address-missing')
  if (known !== undefined) return known
  if (evidence.addressRefused !== undefined) return refusedCause(end, evidence.addressRefused, evidence)
  if (evidence.hasServer || evidence.isService) {
    const text = `${address} is on no link of this node, kube-ipvs0 included, so IPVS never sees it: ${end.text}`
    return { code: 'address-missing', answer: end.answer, text, advice: repair }
  }
  if (end.code === 'no-route') return { code: 'no-route', answer: end.answer, text: end.text }
  return {
    code: 'not-local',
    answer: end.answer,
    text: `${address} is no address of this node and of no known Service: ${end.text}`,
  }
}

function noDestination(end: End, evidence: Evidence): Cause {
  const known = because(end, evidence, 'destination-missing', 'destination-weight')
  if (known !== undefined) return known
  const { endpoints } = evidence
  if (endpoints === undefined) {
    const code = end.text.includes('weight 0') ? 'no-eligible-destination' : 'rejected-no-endpoints'
    return { code, answer: end.answer, text: end.text }
  }
  const advice = 'see why the pods are not ready: kubectl get endpointslices'
  if (endpoints.length === 0) {
    return {
      code: 'rejected-no-endpoints',
      answer: end.answer,
      text: `the Service has no endpoint; ${end.text}`,
      advice,
    }
  }
  const reasons = endpoints.slice(0, 4).map(({ endpoint, reason }) => `${endpoint} ${reason}`)
  const more = endpoints.length > 4 ? `, and ${endpoints.length - 4} more` : ''
  const text = `no endpoint can be used (${reasons.join('; ')}${more}); ${end.text}`
  return { code: 'rejected-no-endpoints', answer: end.answer, text, advice }
}

/** The packet should have been masqueraded: why it was not. */
function notMasqueraded(way: Way, end: End, evidence: Evidence): Cause {
  const { answer, text } = end
  const isHairpin = end.code === 'hairpin-not-masqueraded'
  if (!evidence.tracksIpvs) {
    const why =
      'net.ipv4.vs.conntrack is not 1, so IPVS takes its packets away from netfilter and nothing is masqueraded'
    return { code: 'ipvs-conntrack-off', answer, text: `${why}: ${text}`, advice: 'sysctl -w net.ipv4.vs.conntrack=1' }
  }
  const untracked = hitsOf(way).find(({ effect }) => effect === 'not tracked')
  if (untracked !== undefined) {
    return {
      code: 'not-tracked',
      answer,
      text: `${ruleName(untracked)} takes it away from connection tracking, so nothing is masqueraded: ${text}`,
    }
  }
  const rule = evidence.differences?.find(({ code, object }) => code === 'rule-missing' && object.startsWith('nat '))
  if (rule !== undefined) return { code: 'rule-missing', answer, text: `${rule.text}; so ${text}`, advice: repair }
  const entry = missingEntry(evidence, isHairpin ? /LOOP-BACK/ : /./)
  if (entry !== undefined) return { ...entry, answer, text: `${entry.text}; so ${text}` }
  const marks = hitsOf(way).filter(({ effect }) => effect.startsWith('mark '))
  const taker = marks.findLast(({ ours }) => !ours)
  if (taker !== undefined && marks.some(({ ours }) => ours)) {
    const why = `${ruleName(taker)}, which is not ours, takes away the mark by which rules of ours masquerade (${taker.effect})`
    return { code: 'mark-lost', answer, text: `${why}: ${text}` }
  }
  const foreign = hitsOf(way).find(
    ({ ours, table, effect }) => !ours && table === 'nat' && /^(ACCEPT|RETURN|SNAT)/.test(effect),
  )
  if (foreign !== undefined) {
    const why = `${ruleName(foreign)}, which is not ours, ends table nat before ours decide`
    return { code: 'dropped-by-foreign-rule', answer, text: `${why}, so nothing is masqueraded: ${text}` }
  }
  if (evidence.isLocalPolicy && !isHairpin) {
    const why = 'the traffic policy is Local, no endpoint of this node can be used, and the client is kept as it is'
    return {
      code: 'no-local-endpoint',
      answer,
      text: `${why}: ${text}`,
      advice: 'ask a node that has an endpoint, or set externalTrafficPolicy Cluster',
    }
  }
  return { code: isHairpin ? 'hairpin-not-masqueraded' : 'reply-goes-around', answer, text }
}
