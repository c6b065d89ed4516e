// Draws docs/performance.svg and renews the figures in docs/performance.md: performance.mjs FILE.json, as written by
// `npm run bench -- --json FILE.json`.
import { readFileSync, writeFileSync } from 'node:fs'

const outcomes = JSON.parse(readFileSync(process.argv[2] ?? 'docs/performance.json', 'utf8'))
const of = (scenario) => outcomes.filter((one) => one.scenario === scenario)
const label = ({ services, endpoints, kernel }) =>
  `${services.toLocaleString('en')} × ${endpoints}${kernel === '6.1' ? '' : `, Linux ${kernel}`}`
const sum = (numbers) => Object.values(numbers).reduce((total, one) => total + one, 0)

function figure(key, value) {
  if (value === undefined) return ''
  if (/^(rss|heap|external|peak)/.test(key)) return `${value.toFixed(0)} MB`
  if (/^(share|ratio)/i.test(key)) return value.toFixed(2)
  if (key.endsWith('PerChange')) return value.toPrecision(3)
  if (/^(messages|sends|written|events|refused)/.test(key)) return value.toLocaleString('en')
  return value < 1 ? `${(value * 1000).toFixed(1)} ms` : `${value.toFixed(2)} s`
}

function table(scenario) {
  const rows = of(scenario)
  if (rows.length === 0) return []
  const keys = Object.keys(rows[0].medians)
  return [
    `### ${scenario}`,
    '',
    `| Services × endpoints | ${rows.map(label).join(' | ')} |`,
    `| --- | ${rows.map(() => '---').join(' | ')} |`,
    `| runs | ${rows.map(({ runs }) => runs).join(' | ')} |`,
    ...keys.map((key) => `| ${key} | ${rows.map(({ medians }) => figure(key, medians[key])).join(' | ')} |`),
    ...(scenario === 'cold'
      ? [
          `| C tools, sum | ${rows.map(({ tools }) => figure('', sum(tools))).join(' | ')} |`,
          `| first pass / C tools | ${rows.map(({ medians, tools }) => (medians.firstPass / sum(tools)).toFixed(2)).join(' | ')} |`,
        ]
      : []),
    '',
  ]
}

const width = 720
const parts = []
let top = 0

/** One panel of bars, each group one size. */
function panel(title, groups, unit) {
  const most = Math.max(...groups.flatMap(({ bars }) => bars.map(({ value }) => value)))
  parts.push(`<text x="12" y="${top + 22}" class="title">${title}</text>`)
  let y = top + 36
  for (const { name, bars } of groups) {
    for (const [i, { value, what, fill }] of bars.entries()) {
      const length = Math.max(1, (value / most) * 360)
      if (i === 0) parts.push(`<text x="12" y="${y + 12}">${name}</text>`)
      parts.push(`<rect x="130" y="${y + 2}" width="${length.toFixed(1)}" height="12" fill="${fill}"/>`)
      parts.push(`<text x="${(136 + length).toFixed(1)}" y="${y + 12}">${unit(value)} ${what}</text>`)
      y += 16
    }
    y += 6
  }
  top = y + 6
}

const seconds = (value) => (value < 1 ? `${(value * 1000).toFixed(0)} ms` : `${value.toFixed(1)} s`)
panel(
  'Cold start: the first pass beside the C tools that write the same state',
  of('cold').map((one) => ({
    name: label(one),
    bars: [
      { value: one.medians.firstPass, what: 'first pass', fill: '#2b6cb0' },
      { value: sum(one.tools), what: 'ipvsadm -R, ipset restore, ip -batch, iptables-restore', fill: '#a0aec0' },
    ],
  })),
  seconds,
)
if (of('endpoint').length > 0) {
  panel(
    'One endpoint changed: from the API server’s event to the kernel',
    of('endpoint').map((one) => ({
      name: label(one),
      bars: [
        { value: one.medians.p50, what: 'p50', fill: '#2b6cb0' },
        { value: one.medians.p99, what: 'p99', fill: '#63b3ed' },
      ],
    })),
    seconds,
  )
}
panel(
  'Memory (RSS) after the cold start',
  of('cold').map((one) => ({ name: label(one), bars: [{ value: one.medians.rssSteady, what: '', fill: '#2b6cb0' }] })),
  (value) => `${value.toFixed(0)} MB`,
)
const style = 'text{font:12px sans-serif;fill:#1a202c}.title{font-weight:bold}'
writeFileSync(
  'docs/performance.svg',
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${top}" width="${width}" height="${top}">` +
    `<style>${style}</style><rect width="${width}" height="${top}" fill="#fff"/>\n${parts.join('\n')}\n</svg>\n`,
)

const [begin, end] = ['<!-- figures -->', '<!-- end of figures -->']
const page = readFileSync('docs/performance.md', 'utf8')
const scenarios = [...new Set(outcomes.map(({ scenario }) => scenario))]
writeFileSync(
  'docs/performance.md',
  `${page.slice(0, page.indexOf(begin) + begin.length)}\n\n${scenarios.flatMap(table).join('\n')}\n${page.slice(page.indexOf(end))}`,
)
