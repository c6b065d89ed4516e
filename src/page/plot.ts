import { clock, count, counted, duration } from './format.ts'
import type { PassRecord } from './history.ts'
import { html, type Html } from './html.ts'

const width = 960
const left = 58
const right = 12
const panels = { took: { top: 12, height: 116 }, written: { top: 156, height: 74 } } as const
const axis = 250
const height = 272

/** Values of equal factors stand equally far from each other; 0 has a place of its own below them. */
interface Scale {
  readonly at: (value: number) => number
  readonly ticks: readonly number[]
}

function logarithmic(
  values: readonly number[],
  least: number,
  { top, height: tall }: { top: number; height: number },
): Scale {
  const most = values.reduce((a, b) => Math.max(a, b), least)
  const decades = Math.max(1, Math.ceil(Math.log10(most / least) - 1e-9))
  const at = (value: number): number => {
    const part = value <= least ? 0 : Math.log10(value / least) / decades
    return round(top + tall - Math.min(1, part) * tall)
  }
  const step = Math.ceil((decades + 1) / 6)
  const ticks = Array.from({ length: decades + 1 }, (_, i) => i)
    .filter((i) => i % step === 0)
    .map((i) => least * 10 ** i)
  return { at, ticks }
}

const round = (value: number): number => Math.round(value * 10) / 10

/** Round distances in time that a plot may be marked at, in milliseconds. */
const intervals = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400].map(
  (seconds) => seconds * 1000,
)

function timeTicks(from: number, to: number): readonly number[] {
  const interval = intervals.find((one) => (to - from) / one <= 8) ?? 86_400_000 * Math.ceil((to - from) / 691_200_000)
  const ticks: number[] = []
  for (let at = Math.ceil(from / interval) * interval; at <= to; at += interval) ticks.push(at)
  return ticks
}

/** "100", "10 k", "1 M" */
function compact(value: number): string {
  if (value < 10_000) return count(value)
  return value < 1_000_000 ? `${value / 1000} k` : `${value / 1_000_000} M`
}

function takenText(milliseconds: number): string {
  return milliseconds < 1000 ? `${milliseconds} ms` : `${milliseconds / 1000} s`
}

/** How long passes took and what they wrote, over time, as SVG: its words are in its title and description. */
export function plot(passes: readonly PassRecord[]): Html {
  const [first] = passes
  const last = passes.at(-1)
  if (first === undefined || last === undefined) return html`<p class="empty">No pass has ended yet.</p>`
  // At least a minute, so that the first passes after a start do not look like an hour's.
  const to = last.ended
  const from = Math.min(first.ended, to - 60_000)
  const x = (at: number): number => round(left + ((at - from) / (to - from)) * (width - left - right))
  const took = logarithmic(
    passes.map((one) => one.took),
    1,
    panels.took,
  )
  const written = logarithmic(
    passes.map((one) => one.written),
    1,
    panels.written,
  )
  const base = { took: panels.took.top + panels.took.height, written: panels.written.top + panels.written.height }
  const grid = (scale: Scale, text: (value: number) => string): Html[] =>
    scale.ticks.map(
      (tick) =>
        html` <line class="grid" x1="${left}" x2="${width - right}" y1="${scale.at(tick)}" y2="${scale.at(tick)}" />
          <text class="tick" x="${left - 8}" y="${scale.at(tick) + 4}" text-anchor="end">${text(tick)}</text>`,
    )
  const failed = passes.filter(({ failure }) => failure !== '')
  return html`<svg class="plot" viewBox="0 0 ${width} ${height}" role="img" aria-labelledby="plot-title plot-text">
    <title id="plot-title">Sync history</title>
    <desc id="plot-text">${describe(passes)}</desc>
    <text class="axis" x="${left}" y="${panels.took.top - 2}">Duration</text>
    ${grid(took, takenText)}
    <text class="axis" x="${left}" y="${panels.written.top - 6}">Things written</text>
    ${grid(written, compact)}
    ${timeTicks(from, to).map(
      (tick) =>
        html` <line class="grid" x1="${x(tick)}" x2="${x(tick)}" y1="${axis - 6}" y2="${axis}" />
          <text class="tick" x="${x(tick)}" y="${axis + 14}" text-anchor="middle"
            >${clock(tick).slice(0, to - from > 600_000 ? 5 : 8)}</text
          >`,
    )}
    <line class="baseline" x1="${left}" x2="${width - right}" y1="${axis - 6}" y2="${axis - 6}" />
    ${passes.map(
      (one) =>
        html` <line
          class="stem ${one.family}"
          x1="${x(one.ended)}"
          x2="${x(one.ended)}"
          y1="${base.took}"
          y2="${took.at(one.took)}"
        />`,
    )}
    ${passes.map(
      (one) => html` <circle class="dot ${one.family}" cx="${x(one.ended)}" cy="${took.at(one.took)}" r="2.5" />`,
    )}
    ${passes
      .filter((one) => one.written > 0)
      .map(
        (one) =>
          html` <line
            class="bar ${one.family}"
            x1="${x(one.ended)}"
            x2="${x(one.ended)}"
            y1="${base.written}"
            y2="${written.at(one.written) - 2}"
          />`,
      )}
    ${failed.map(
      (one) => html` <path class="failed" d="M${x(one.ended) - 5} ${took.at(one.took) - 5}l10 10m0 -10l-10 10" />`,
    )}
  </svg>`
}

/** The plot in words. */
export function describe(passes: readonly PassRecord[]): string {
  const first = passes[0]!
  const last = passes.at(-1)!
  const times = passes.map((one) => one.took).sort((a, b) => a - b)
  const median = times[Math.floor((times.length - 1) / 2)]!
  const failed = passes.filter(({ failure }) => failure !== '').length
  const written = passes.reduce((sum, one) => sum + one.written, 0)
  return (
    `${counted(passes.length, 'pass', 'passes')} from ${clock(first.ended)} to ${clock(last.ended)} UTC: ` +
    `half of them took at most ${duration(median)}, the longest ${duration(times.at(-1)!)}; ` +
    `${counted(written, 'thing')} written; ${failed === 0 ? 'none' : count(failed)} failed.`
  )
}
