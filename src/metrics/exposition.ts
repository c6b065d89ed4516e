import type { Registry } from 'prom-client'
import { Turn } from '../lib/turn.ts'

/** Prometheus' text format 0.0.4, or OpenMetrics 1.0. */
export type Format = 'text' | 'openmetrics'

export const contentTypes: Readonly<Record<Format, string>> = {
  text: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
}

/** What a header Accept prefers; text where it says nothing of either. */
export function formatFor(accept: string): Format {
  let best: Format = 'text'
  let weight = 0
  for (const part of accept.split(',')) {
    const [type = '', ...parameters] = part.split(';').map((word) => word.trim().toLowerCase())
    const format = type === 'application/openmetrics-text' ? 'openmetrics' : type === 'text/plain' ? 'text' : undefined
    const q = parameters.find((parameter) => parameter.startsWith('q='))
    const asked = q === undefined ? 1 : Number(q.slice(2))
    if (format === undefined || !(asked > weight)) continue
    best = format
    weight = asked
  }
  return best
}

/** The lines that begin a family of series. OpenMetrics names a counter's family without the _total of its samples. */
export function heading(name: string, type: string, help: string, format: Format): string {
  const title = format === 'openmetrics' && type === 'counter' ? name.replace(/_total$/, '') : name
  return `# HELP ${title} ${help}\n# TYPE ${title} ${type}\n`
}

/**
 * The families of a registry, and whatever series follow them, in pieces and in turns with others: one family, or one
 * piece of `more`, at a time.
 */
export async function* expose(
  registry: Registry,
  format: Format,
  more?: (format: Format) => AsyncIterable<string>,
  turn: Turn = new Turn(1),
): AsyncGenerator<string> {
  for (const { name } of registry.getMetricsAsArray()) {
    if (turn.isOver) await turn.next()
    const text = await registry.getSingleMetricAsString(name)
    yield `${format === 'openmetrics' ? inOpenMetrics(text) : text}\n`
  }
  if (more !== undefined) {
    // Whoever gives them counts the time from here on.
    await turn.next()
    yield* more(format)
  }
  if (format === 'openmetrics') yield '# EOF\n'
}

/** A family in the older format, made into one of the newer: only its heading differs. */
function inOpenMetrics(text: string): string {
  const [help = '', type = '', ...samples] = text.split('\n')
  if (!type.endsWith(' counter')) return text
  const strip = (line: string): string => line.replace(/^(# \w+ \S+?)_total /, '$1 ')
  return [strip(help), strip(type), ...samples].join('\n')
}
