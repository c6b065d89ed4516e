import { section, wayLines } from '../explain/text.ts'
import { serverKey } from '../model/virtual-server.ts'
import type { Tables } from './outcome.ts'
import type { FlowReport, TraceReport } from './trace.ts'

/** The whole trace, for people; its last line is the verdict. */
export function traceText(report: TraceReport): string {
  const { target, service, from, took, flows, kernelLines, findings, verdict } = report
  const port = service === undefined || service.port.name === '' ? '' : `, port ${service.port.name}`
  const name = service === undefined ? '' : ` (Service ${service.key}${port})`
  const seconds = (took / 1000).toFixed(1)
  const lines = [
    `live packets from ${from ?? 'anywhere'} to ${serverKey(target)}${name}, ${seconds} s: ${flows.length === 1 ? '1 connection' : `${flows.length} connections`}`,
  ]
  for (const group of alike(flows)) lines.push(...groupLines(group))
  lines.push(...section("the kernel's own lines", kernelLines), ...section('findings', findings), '')
  if (verdict.advice !== undefined) lines.push(`advice: ${verdict.advice}`)
  lines.push(`verdict: ${verdict.code}: ${verdict.text}`)
  return `${lines.join('\n')}\n`
}

/** Flows that took the same way, told but once. */
function alike(flows: readonly FlowReport[]): readonly (readonly FlowReport[])[] {
  const groups = new Map<string, FlowReport[]>()
  for (const flow of flows) {
    const hits = flow.steps.map(
      ({ place, hits: own }) => `${place} ${own.map((hit) => `${hit.chain} ${hit.number}`).join()}`,
    )
    const key = [flow.verdict.code, flow.client.replace(/:\d+$/, ''), ...hits].join('|')
    groups.set(key, [...(groups.get(key) ?? []), flow])
  }
  return [...groups.values()]
}

function groupLines([first, ...others]: readonly FlowReport[]): string[] {
  const { client, destination, requests, replies, tables, verdict, way } = first!
  const to = destination === undefined ? '' : ` to ${destination}`
  const more = others.map((one) => `${one.client}${one.destination === undefined ? '' : ` to ${one.destination}`}`)
  const known = tablesLine(tables)
  return [
    '',
    `${client}${to} (packets followed: ${requests}, answers: ${replies})`,
    ...wayLines(way),
    ...(known === '' ? [] : [`    ${known}`]),
    `    ${verdict.code}: ${verdict.text}`,
    ...(more.length === 0
      ? []
      : [`  alike: ${more.slice(0, 10).join(', ')}${more.length > 10 ? `, and ${more.length - 10} more` : ''}`]),
  ]
}

function tablesLine({ ipvs, conntrack }: Tables): string {
  const parts: string[] = []
  if (ipvs !== undefined) parts.push(`IPVS ${ipvs.state}, forgotten in ${ipvs.expires} s`)
  if (conntrack !== undefined) {
    const { replySource, replyDestination, isAnswered, mark } = conntrack
    const marked = mark === 0 ? '' : `, mark 0x${mark.toString(16)}`
    parts.push(
      `connection tracking ${isAnswered ? 'answered' : 'unanswered'}: ${replySource} answers ${replyDestination}${marked}`,
    )
  }
  return parts.join('; ')
}
