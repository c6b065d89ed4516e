import { expect, test } from 'vitest'
import { History, withHistory } from '../../../src/page/history.ts'
import { describe as describePasses, plot } from '../../../src/page/plot.ts'
import type { PassReport, ProxierObserver } from '../../../src/proxier/proxier.ts'

function report(change: Partial<PassReport> = {}): PassReport {
  return {
    family: 'IPv4',
    reason: 'change',
    started: 0,
    milliseconds: 5,
    planned: 1,
    written: new Map([
      ['ipset', 2],
      ['ipvs', 3],
    ]),
    refused: new Map(),
    refusedAddresses: 0,
    failures: [],
    well: true,
    waited: 1,
    triggerTimes: [],
    pendingServices: 0,
    pendingSlices: 0,
    noLocal: { internal: 0, external: 0 },
    ...change,
  }
}

const drift = { layer: 'ipvs', kind: 'weight', object: '10.0.0.1:80', state: 'changed' }

test.each([
  ['went well', {}, { written: 5, refused: 0, failure: '' }],
  ['wrote nothing', { written: new Map() }, { written: 0, failure: '' }],
  [
    'had a layer fail',
    { failures: [{ layer: 'iptables', error: new Error('no answer') }] },
    { failure: 'iptables: no answer' },
  ],
  [
    'was refused entries',
    {
      refused: new Map([
        ['a/b/TCP', new Error('EINVAL')],
        ['c/d/TCP', new Error('x')],
      ]),
    },
    { refused: 2, failure: 'a/b/TCP: EINVAL' },
  ],
  [
    'failed with very many words',
    { failures: [{ layer: 'ipset', error: new Error('x'.repeat(999)) }] },
    { failure: `ipset: ${'x'.repeat(293)}` },
  ],
])('a pass that %s', (_name, change, expected) => {
  const history = new History({ now: () => 1000 })
  history.passed(report(change))
  expect(history.passes()).toEqual([expect.objectContaining({ ended: 1000, took: 5, family: 'IPv4', ...expected })])
})

test('only the newest passes and drifts are kept, but all drifts are counted', () => {
  let now = 0
  const history = new History({ passes: 3, drifts: 2, now: () => now })
  for (now = 1; now <= 5; now++) {
    history.passed(report())
    history.drift(now === 5 ? 'IPv6' : 'IPv4', { ...drift, object: `${now}` })
  }
  expect(history.passes().map(({ ended }) => ended)).toEqual([3, 4, 5])
  expect(history.drifts().map(({ object }) => object)).toEqual(['5', '4'])
  expect(history.driftCounts().map(({ family, count }) => `${family} ${count}`)).toEqual(['IPv4 4', 'IPv6 1'])
})

test('the last pass and the last good one are known, whatever the other family does', () => {
  let now = 0
  const history = new History({ passes: 1, now: () => ++now })
  history.passed(report())
  history.passed(report({ failures: [{ layer: 'ipset', error: new Error('x') }] }))
  history.passed(report({ family: 'IPv6' }))
  expect([history.lastGoodPass('IPv4')?.ended, history.lastPass('IPv4')?.ended]).toEqual([2, 3])
  expect(history.lastPass('IPv6')?.failure).toBe('')
})

test('what is heard goes on to the observer', () => {
  const heard: string[] = []
  const history = new History()
  const inner: ProxierObserver = {
    queued: () => void heard.push('queued'),
    drift: () => void heard.push('drift'),
    began: () => {},
    heldBack: () => {},
    clash: () => void heard.push('clash'),
    refused: () => void heard.push('refused'),
    passed: () => void heard.push('passed'),
  }
  const observer = withHistory(inner, history)
  observer.queued('IPv4')
  observer.drift('IPv4', drift)
  observer.clash('IPv4', 'a/b/TCP', '10.0.0.1')
  observer.passed(report())
  expect(heard).toEqual(['queued', 'drift', 'clash', 'passed'])
  expect([history.passes().length, history.drifts().length]).toEqual([1, 1])
})

test('the plot says in words what it shows, and marks what failed', () => {
  let now = Date.UTC(2026, 0, 1, 10)
  const history = new History({ now: () => (now += 60_000) })
  for (const milliseconds of [10_000, 0, 3, 2]) history.passed(report({ milliseconds }))
  history.passed(report({ milliseconds: 4, written: new Map(), failures: [{ layer: 'ipset', error: new Error('x') }] }))
  const passes = history.passes()
  expect(describePasses(passes)).toBe(
    '5 passes from 10:02:00 to 10:06:00 UTC: half of them took at most 3.0 ms, the longest 10 s; 20 things written; 1 failed.',
  )
  const { text } = plot(passes)
  expect(text).toContain(describePasses(passes))
  expect(text.match(/class="dot IPv4"/g)).toHaveLength(5)
  expect(text.match(/class="bar IPv4"/g)).toHaveLength(4)
  expect(text.match(/class="failed"/g)).toHaveLength(1)
  expect(text).not.toMatch(/NaN|Infinity|undefined/)
  expect(text).not.toContain('style=')
})

test.each([
  ['none', 0],
  ['one', 1],
])('a plot of %s', (_name, count) => {
  const history = new History()
  for (let i = 0; i < count; i++) history.passed(report({ milliseconds: 0, written: new Map() }))
  const { text } = plot(history.passes())
  expect(text).toContain(count === 0 ? 'No pass has ended yet.' : '<svg')
  expect(text).not.toMatch(/NaN|Infinity/)
})
