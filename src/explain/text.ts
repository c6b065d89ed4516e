import { destinationKey, serverKey } from '../model/virtual-server.ts'
import type { Hit } from './chains.ts'
import type { Explanation } from './explain.ts'
import type { DestinationResult, Step, Way } from './walk.ts'

/** The whole explanation, for people; its last line is the verdict. */
export function explanationText(explanation: Explanation): string {
  const { endpoints = [], differences = [], findings, verdict } = explanation
  const lines = [heading(explanation)]
  const [way, ...others] = explanation.ways
  if (way !== undefined) lines.push(...wayLines(way))
  if (others.length > 0) lines.push('', `${others.length} other ways are possible: see the doubts below`)
  lines.push(
    ...section('doubts', doubts(explanation.ways)),
    ...section(
      'endpoints',
      endpoints.map(
        ({ endpoint, isEligible, reason }) => `${endpoint}  ${isEligible ? 'used' : 'not used'}: ${reason}`,
      ),
    ),
    ...section(
      'not as wanted',
      differences.map(({ text }) => text),
    ),
    ...section('findings', findings),
    '',
  )
  if (verdict.advice !== undefined) lines.push(`advice: ${verdict.advice}`)
  lines.push(`verdict: ${verdict.code}: ${verdict.text}`)
  return `${lines.join('\n')}\n`
}

function heading({ target, service, origin }: Explanation): string {
  const name =
    service === undefined
      ? ''
      : ` (Service ${service.key}${service.port.name === '' ? '' : `, port ${service.port.name}`})`
  const where =
    origin.kind === 'node'
      ? 'this node'
      : `${origin.kind === 'pod' ? 'on this node' : 'outside this node'}, in by ${origin.inLink}`
  return `from ${origin.address || 'a process'} (${where}) to ${serverKey(target)}${name}`
}

/** A list under its title; nothing where there is none. */
export function section(title: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : ['', `${title}:`, ...lines.map((line) => `  ${line}`)]
}

/** What cannot be told on any of the ways, each once. */
export function doubts(ways: readonly Way[]): string[] {
  const all = ways.flatMap((way) => [
    ...way.doubts,
    ...(way.balanced?.results.flatMap(({ ways: own }) => own.flatMap((one) => one.doubts)) ?? []),
  ])
  return [...new Set(all.map(({ hit, why }) => `${hitText(hit)}: it cannot be told whether it matches (${why})`))]
}

/** The steps of a way, numbered. */
export function wayLines(way: Way): string[] {
  const lines: string[] = []
  let number = 0
  const add = (steps: readonly Step[]): void => {
    for (const step of steps) {
      number++
      const reply = step.direction === 'reply' ? 'answer: ' : ''
      lines.push(`${String(number).padStart(3)} ${reply}${step.place}${step.text === '' ? '' : `: ${step.text}`}`)
      lines.push(...step.hits.map((hit) => `      ${hitText(hit)}`))
    }
  }
  add(way.steps)
  const shown = shownResults(way.balanced?.results ?? [])
  const before = number
  for (const { destination, ways } of shown) {
    lines.push(`  with ${destinationKey(destination)}:`)
    number = before
    add(ways[0]?.steps ?? [])
  }
  const more = (way.balanced?.results.length ?? 0) - shown.length
  if (more > 0) lines.push(`  and ${more} more, which end alike`)
  return lines
}

/** One destination of each way to end. */
export function shownResults(results: readonly DestinationResult[]): DestinationResult[] {
  const byEnd = new Map<string, DestinationResult>()
  for (const result of results) {
    const key = result.ways
      .map(({ end }) => `${end?.code ?? ''} ${end?.by?.chain ?? ''} ${end?.by?.number ?? ''}`)
      .join()
    if (!byEnd.has(key)) byEnd.set(key, result)
  }
  return [...byEnd.values()]
}

/** "KUBE-SERVICES 3 (ours): -m set … -j KUBE-MARK-MASQ → mark 0x0 → 0x4000" */
export function hitText({ chain, number, rule, ours, effect, variant }: Hit): string {
  const at = number === 0 ? chain : `${chain} ${number}`
  const owner = number === 0 ? '' : ours ? ' (ours)' : ' (not ours)'
  const does = rule.endsWith(effect) || effect.startsWith('to ') ? '' : `: ${effect}`
  return `${at}${variant === '' ? '' : `, ${variant}`}${owner}: ${rule}${does}`
}
