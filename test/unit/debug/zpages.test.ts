import { expect, test } from 'vitest'
import { statusPage } from '../../../src/debug/zpages.ts'

test.each([
  [0, '0 hr 00 min 00 sec'],
  [59_999, '0 hr 00 min 59 sec'],
  [3_600_000 + 5 * 60_000 + 9000, '1 hr 05 min 09 sec'],
  [100 * 3_600_000, '100 hr 00 min 00 sec'],
])('up for %i ms', (milliseconds, text) => {
  const page = statusPage({
    startedAt: 1000,
    now: 1000 + milliseconds,
    version: '1.2.3',
    more: [['Proxy mode', 'ipvs']],
  })
  expect(page).toContain(`\nUp: ${text}\n`)
  expect(page).toContain('\nStarted: Thu, 01 Jan 1970 00:00:01 GMT\n')
  expect(page.endsWith('Binary version: 1.2.3\nProxy mode: ipvs\n')).toBe(true)
})
