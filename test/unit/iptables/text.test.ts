import { describe, expect, test } from 'vitest'
import { canonicalRule, parseSave, quote, splitWords, targetOf, writeRestore } from '../../../src/iptables/text.ts'
import { goldenCases, goldenFile } from '../../golden/compare.ts'

describe('words', () => {
  test.each([
    ['a  b\tc', ['a', 'b', 'c']],
    ['--comment "two words" -j X', ['--comment', 'two words', '-j', 'X']],
    [String.raw`"a \"b\" \\ \'c\'"`, [String.raw`a "b" \ 'c'`]],
    ['--comment "" -j X', ['--comment', '', '-j', 'X']],
    ['', []],
  ])('%s', (line, words) => expect(splitWords(line)).toEqual(words))

  test('an open quote is refused', () => expect(() => splitWords('"a')).toThrow('open quote'))

  test.each(['plain', 'two words', String.raw`it's "quoted" \ here`, 'a:b,c', ''])('quote: %s', (word) => {
    expect(splitWords(quote(word))).toEqual([word])
    expect(canonicalRule(canonicalRule(quote(word)))).toBe(canonicalRule(quote(word)))
  })

  test('quotes that say nothing do not matter', () =>
    expect(canonicalRule('-m comment  --comment "abc" -j "X"')).toBe(canonicalRule('-m comment --comment abc -j X')))

  test.each([
    ['-m comment --comment "-j NOT" -j X', 'X'],
    ['-g Y', 'Y'],
    ['-m comment --comment x', undefined],
  ])('target of %s', (rule, target) => expect(targetOf(rule)).toBe(target))
})

describe('save', () => {
  test('tables, chains, policies, counters', () => {
    const text = '# x\n*nat\n:INPUT DROP [5:6]\n:A-B - [0:0]\n[1:2] -A INPUT -j A-B\n-A A-B\nCOMMIT\n'
    const nat = parseSave(text).get('nat')!
    expect(nat.get('INPUT')).toEqual({ policy: 'DROP', rules: ['-j A-B'] })
    expect(nat.get('A-B')).toEqual({ policy: '-', rules: [''] })
    expect(parseSave('').size).toBe(0)
  })

  test.each([':A - [0:0]', '*nat\nnonsense', '*nat\n-A A -j B'])('refused: %j', (text) =>
    expect(() => parseSave(text)).toThrow('line'),
  )

  test.each(goldenCases())('%s: canonical text is the text', (name) => {
    const text = goldenFile(name, 'iptables-save.txt')
    const lines = text.split('\n').filter((line) => line.startsWith('-A'))
    const rules = [...parseSave(text).values()].flatMap((table) =>
      [...table].flatMap(([chain, { rules: list }]) => list.map((rule) => `-A ${chain} ${rule}`)),
    )
    expect(rules.toSorted()).toEqual(lines.toSorted())
  })
})

test('restore input: declarations first, nothing for an idle table', () => {
  const idle = { table: 'filter', declare: [], commands: [] }
  expect(writeRestore([{ table: 'nat', declare: ['A'], commands: ['-A A -j DROP'] }, idle])).toBe(
    '*nat\n:A - [0:0]\n-A A -j DROP\nCOMMIT\n',
  )
  expect(writeRestore([idle])).toBe('')
})
