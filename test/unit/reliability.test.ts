// docs/reliability.md names a test for every fault; this holds it to that, and to the series and log lines that it names.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '../..')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')

interface Row {
  readonly fault: string
  readonly made: string
  readonly happens: string
  /** "file > title" */
  readonly tests: readonly string[]
}

const rows: Row[] = read('docs/reliability.md')
  .split('\n')
  .filter((line) => line.startsWith('| ') && !/^\| (Fault|-)/.test(line))
  .map((line) => {
    const [fault = '', made = '', happens = '', tests = '', ...more] = line
      .slice(1, -1)
      .split(' | ')
      .map((cell) => cell.trim())
    expect(more, fault).toEqual([])
    return { fault, made, happens, tests: tests.split('<br>') }
  })

/** A row that gets lost is noticed. */
const faults = [
  'API server gone for an hour',
  'API server slow',
  'API server answers 429',
  'API server answers 500',
  'API server answers 410',
  'answer cut in mid-stream',
  'half-open connection',
  'expired certificate of the API server',
  'expired certificate of the client',
  'expired or rotated token',
  'netlink: ENOMEM, EBUSY, EINTR, ENOBUFS',
  'netlink: the socket fails',
  'netlink: the receive buffer overruns',
  'netlink: interrupted dump',
  'netlink: no answer',
  'ipset: a set is full',
  'ipset: a set of the wrong type',
  'ipset: the kernel is busy',
  'iptables: the lock is held',
  'iptables: a restore is refused',
  'iptables: the tool is missing',
  'iptables: the tool of the other variant',
  'device deleted',
  'device renamed',
  'module unloaded',
  'read-only `/proc/sys`',
  'clock jumps',
  'disk full',
  'standard output blocked',
  'event loop stalled',
  'a pass or a look hangs',
  'another process rewrites our chains every second',
]

test('every fault has its row', () => {
  expect(rows.map(({ fault }) => fault)).toEqual(faults)
})

const source = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => read(join('src', file)))
  .join('\n')
const series = read('docs/metrics.md')
const alerts = read('docs/monitoring.md')

describe.each(rows)('$fault', ({ made, happens, tests }) => {
  test('says how it is made and what happens', () => {
    expect(made).not.toBe('')
    // A series of ours or, of a process that is gone, an alert; and the line in the log, or that there is none.
    const named = [
      ...happens.matchAll(/`((?:kube|rest_client|nodejs)_[a-z_]+)`|`(KubeIPVS\w+)`|`(kubeproxy_[a-z_]+)`/g),
    ]
    expect(named.length).toBeGreaterThan(0)
    for (const [, own, alert, upstream] of named) {
      if (alert === undefined) expect(series).toContain(`| \`${own ?? upstream}\``)
      else expect(alerts).toContain(`| \`${alert}\``)
    }
    const lines = [...happens.matchAll(/“([^”]+)”/g)].map(([, text]) => text!)
    if (lines.length === 0) expect(happens).toMatch(/no line|SIGABRT/i)
    for (const line of lines) expect(source, line).toContain(line)
  })

  test.each(tests)('%s', (named) => {
    const [file = '', title = ''] = named.split(' > ')
    expect(file).toMatch(/^test\/(unit|kernel)\/.+\.test\.ts$/)
    expect(existsSync(join(root, file)), `no file ${file}`).toBe(true)
    // A whole string of the source, so that a word in passing, or a part of another title, is no test.
    const text = read(file).replaceAll("\\'", "'")
    const quoted = ["'", '"', '`'].some((quote) => text.includes(`${quote}${title}${quote}`))
    expect(title !== '' && quoted, `${file} has no title "${title}"`).toBe(true)
  })
})
