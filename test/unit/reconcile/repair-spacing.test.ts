import { beforeEach, describe, expect, test } from 'vitest'
import type { Drift } from '../../../src/reconcile/layer.ts'
import { RepairSpacing } from '../../../src/reconcile/repair-spacing.ts'

const second = 1000
const period = 30 * second
const chain: Drift = {
  layer: 'iptables',
  kind: 'chain',
  object: 'chain KUBE-SERVICES of table nat',
  state: 'changed',
}

let now: number
let told: string[]
let spacing: RepairSpacing

beforeEach(() => {
  now = 1_000_000
  told = []
  spacing = new RepairSpacing({
    clock: { now: () => now, sleep: () => Promise.resolve() },
    period,
    repeats: ({ object }, repairs) => void told.push(`${object}: ${repairs}`),
  })
})

/** Seconds between the repairs of what every look finds changed, for so long. */
function gaps(seconds: number, drift = chain): number[] {
  const repaired: number[] = []
  for (const end = now + seconds * second; now < end; now += period) if (spacing.judge(drift)) repaired.push(now)
  return repaired.slice(1).map((at, i) => (at - repaired[i]!) / second)
}

test('what every look finds changed is repaired at once a few times, then less and less often, told once', () => {
  expect(gaps(3600)).toEqual([30, 30, 30, 30, 60, 120, 240, ...Array.from({ length: 10 }, () => 300)])
  expect(told).toEqual(['chain KUBE-SERVICES of table nat: 5'])
})

test('where the period is longer than the longest wait, each look repairs', () => {
  spacing = new RepairSpacing({
    clock: { now: () => now, sleep: () => Promise.resolve() },
    period: 600 * second,
    repeats: () => {},
  })
  const found: boolean[] = []
  for (let look = 0; look < 10; look++, now += 600 * second) found.push(spacing.judge(chain))
  expect(found).not.toContain(false)
})

describe('nothing waits', () => {
  test('that is another thing', () => {
    gaps(600)
    expect(spacing.judge(chain)).toBe(false)
    expect(spacing.judge({ ...chain, object: 'chain KUBE-FORWARD of table filter' })).toBe(true)
    expect(spacing.judge({ ...chain, kind: 'rule' })).toBe(true)
  })

  test('that held for a while, however often it was changed before', () => {
    gaps(600)
    now += 600 * second
    expect(gaps(121)).toEqual([30, 30, 30, 30])
  })
})

test('of very many things few are remembered: the others are repaired as they are found', () => {
  const one = (n: number): Drift => ({ ...chain, object: `entry ${n}` })
  for (let look = 0; look < 5; look++, now += period) for (let n = 0; n < 20_000; n++) spacing.judge(one(n))
  expect(spacing.judge(one(1))).toBe(false)
  expect(spacing.judge(one(19_999))).toBe(true)
  now += 3600 * second
  expect(gaps(151, one(30_000))).toEqual([30, 30, 30, 30])
  expect(spacing.judge(one(30_000))).toBe(true)
})
