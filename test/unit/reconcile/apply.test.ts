import { expect, test } from 'vitest'
import { applyOnce } from '../../../src/reconcile/apply.ts'
import type { Layer, Outcome } from '../../../src/reconcile/layer.ts'

const needs: Record<string, string[]> = {
  ipset: [],
  iptables: ['ipset'],
  ipvs: ['ipset', 'iptables'],
  dummy: ['ipset', 'iptables', 'ipvs'],
}

test.each<{
  name: string
  unread?: string[]
  faults?: Record<string, 'broken' | 'throws' | 'refuses'>
  calls: string[]
  broken: string[]
}>([
  {
    name: 'foundations first, removal the other way round',
    calls: [
      'ipset add',
      'iptables add',
      'ipvs add',
      'dummy add',
      'dummy remove',
      'ipvs remove',
      'iptables remove',
      'ipset remove',
    ],
    broken: [],
  },
  {
    name: 'a broken layer holds up those above it, not those below',
    faults: { 'iptables add': 'broken' },
    calls: ['ipset add', 'iptables add', 'dummy remove', 'ipvs remove', 'iptables remove', 'ipset remove'],
    broken: ['iptables', 'ipvs', 'dummy'],
  },
  {
    name: 'a throw is a broken layer',
    faults: { 'dummy add': 'throws' },
    calls: [
      'ipset add',
      'iptables add',
      'ipvs add',
      'dummy add',
      'dummy remove',
      'ipvs remove',
      'iptables remove',
      'ipset remove',
    ],
    broken: ['dummy'],
  },
  {
    name: 'a layer that could not be read is not written, and nothing is taken from under it',
    unread: ['iptables'],
    calls: ['ipset add', 'dummy remove', 'ipvs remove'],
    broken: ['ipvs', 'dummy'],
  },
  {
    name: 'a failed removal keeps what it stands on',
    faults: { 'dummy remove': 'throws' },
    calls: ['ipset add', 'iptables add', 'ipvs add', 'dummy add', 'dummy remove'],
    broken: ['dummy'],
  },
  {
    name: 'an owner refused below is held above',
    faults: { 'ipset add': 'refuses' },
    calls: [
      'ipset add',
      'iptables add held a',
      'ipvs add held a',
      'dummy add held a',
      'dummy remove held a',
      'ipvs remove held a',
      'iptables remove held a',
      'ipset remove held a',
    ],
    broken: [],
  },
])('$name', async ({ unread = [], faults = {}, calls, broken }) => {
  const said: string[] = []
  const layers = Object.keys(needs).map((name): Layer => {
    const step =
      (what: string) =>
      (held: ReadonlySet<string>): Promise<Outcome> => {
        said.push(`${name} ${what}${held.size > 0 ? ` held ${[...held].join(' ')}` : ''}`)
        const fault = faults[`${name} ${what}`]
        if (fault === 'throws') throw new Error('socket gone')
        return Promise.resolve({
          applied: 1,
          refused: new Map(fault === 'refuses' ? [['a', new Error('full')]] : []),
          ...(fault === 'broken' ? { broken: new Error('refused') } : {}),
        })
      }
    return { name, needs: needs[name]!, resync: () => Promise.resolve([]), add: step('add'), remove: step('remove') }
  })
  const outcomes = await applyOnce(layers, new Set(unread))
  expect(said).toEqual(calls)
  expect(outcomes.filter((outcome) => outcome.broken).map(({ layer }) => layer)).toEqual(broken)
})
