import { expect, test } from 'vitest'
import { readArguments } from '../../../src/cli/arguments.ts'

const grammar = {
  flags: new Map([
    ['config', 'value'],
    ['v', 'value'],
    ['output', 'value'],
    ['cleanup', 'switch'],
    ['help', 'switch'],
  ] as const),
  short: { o: 'output', h: 'help' },
}

test.each<{ args: string[]; values?: [string, string[]][]; words?: string[]; unfinished?: string[] }>([
  { args: [] },
  { args: ['--config=x', '--config', 'y'], values: [['config', ['x', 'y']]] },
  { args: ['--config=a=b\nc'], values: [['config', ['a=b\nc']]] },
  { args: ['--config='], values: [['config', ['']]] },
  { args: ['--config', '-5'], values: [['config', ['-5']]] },
  { args: ['--config', '-'], values: [['config', ['-']]] },
  { args: ['--config', '--cleanup'], values: [['config', ['--cleanup']]], unfinished: ['config'] },
  { args: ['--config'], values: [['config', ['']]], unfinished: ['config'] },
  { args: ['--cleanup', 'false'], values: [['cleanup', ['']]], words: ['false'] },
  { args: ['--cleanup=false'], values: [['cleanup', ['false']]] },
  { args: ['-v=2', '-v', '4'], values: [['v', ['2', '4']]] },
  {
    args: ['-o', 'json', '-h'],
    values: [
      ['output', ['json']],
      ['help', ['']],
    ],
  },
  { args: ['a', '-', '--', '--config', 'b'], words: ['a', '-', '--config', 'b'] },
  { args: ['--unknown', 'x', 'y'], values: [['unknown', ['']]], words: ['x', 'y'] },
  { args: ['--unknown=x'], values: [['unknown', ['x']]] },
  { args: ['--constructor=1'], values: [['constructor', ['1']]] },
  { args: ['---x'], values: [['-x', ['']]] },
])('$args', ({ args, values = [], words = [], unfinished = [] }) => {
  expect(readArguments(args, grammar)).toEqual({ values: new Map(values), words, unfinished })
})
