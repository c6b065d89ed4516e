import { expect, test } from 'vitest'
import { clock, count, counted, duration, time } from '../../../src/page/format.ts'

test.each([
  [0, '0'],
  [999, '999'],
  [1000, '1,000'],
  [1_234_567.4, '1,234,567'],
])('the count %d', (value, text) => expect(count(value)).toBe(text))

test.each([
  [1, '1 Service'],
  [0, '0 Services'],
  [10_000, '10,000 Services'],
])('%d Services', (value, text) => expect(counted(value, 'Service')).toBe(text))

test.each([
  [0, '0.0 ms'],
  [0.44, '0.4 ms'],
  [9.94, '9.9 ms'],
  [9.96, '10 ms'],
  [999.4, '999 ms'],
  [999.6, '1.0 s'],
  [9949, '9.9 s'],
  [9951, '10 s'],
  [59_600, '1 min'],
  [200_000, '3 min 20 s'],
  [3_600_000, '1 h'],
  [18_120_000, '5 h 2 min'],
  [273_600_000, '3 d 4 h'],
])('%d ms', (value, text) => expect(duration(value)).toBe(text))

test('times are of UTC', () => {
  const at = Date.UTC(2026, 10, 21, 7, 2, 9, 999)
  expect([time(at), clock(at)]).toEqual(['2026-11-21 07:02:09', '07:02:09'])
})
