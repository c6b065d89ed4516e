import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { commandNames } from '../../../src/cli/commands.ts'
import { parseFlags } from '../../../src/cli/flags.ts'
import { ProxyError } from '../../../src/lib/errors.ts'

test.each<{ args: string[]; command: Record<string, unknown>; line?: Record<string, unknown>; flags?: string[][] }>([
  { args: ['status'], command: { name: 'status', argument: '', output: 'text' } },
  { args: ['status', '-o', 'json'], command: { name: 'status', output: 'json' } },
  { args: ['diff', '--output=json'], command: { name: 'diff', output: 'json' } },
  {
    args: ['diff', '--manifests=/m', '--hostname-override', 'n', '--cluster_cidr=10.0.0.0/8'],
    command: { name: 'diff' },
    line: { manifests: '/m' },
    flags: [
      ['hostname-override', 'n'],
      ['cluster-cidr', '10.0.0.0/8'],
    ],
  },
  {
    args: ['plan', '--config', '/c', '--master=http://a'],
    command: { name: 'plan' },
    line: { config: '/c', master: 'http://a' },
  },
  {
    args: ['plan', '--node-address=10.0.0.1', '--node-address=fd00::1'],
    command: { name: 'plan', options: new Map([['node-address', '10.0.0.1,fd00::1']]) },
  },
  { args: ['conns', 'web'], command: { name: 'conns', argument: 'web', options: new Map() } },
  {
    args: ['conns', '--limit=5', 'default/web'],
    command: { name: 'conns', argument: 'default/web', options: new Map([['limit', '5']]) },
  },
  {
    args: ['explain', 'default/web:http', '--from=pod/a', '-o', 'json'],
    command: { name: 'explain', argument: 'default/web:http', output: 'json' },
  },
  {
    args: ['trace', '--kernel-debug', 'default/web', '--for=1m30s', '--count=9'],
    command: {
      name: 'trace',
      argument: 'default/web',
      options: new Map([
        ['for', '1m30s'],
        ['count', '9'],
        ['kernel-debug', 'true'],
      ]),
    },
  },
  { args: ['trace', 'web', '--kernel-debug=false'], command: { name: 'trace', options: new Map() } },
  { args: ['support-bundle', 'x.tar.gz'], command: { name: 'support-bundle', argument: 'x.tar.gz' } },
  {
    args: ['doctor', '-v=4', '--ipvs-scheduler=sh'],
    command: { name: 'doctor' },
    flags: [
      ['v', '4'],
      ['ipvs-scheduler', 'sh'],
    ],
  },
])('$args', async ({ args, command, line = {}, flags = [] }) => {
  const parsed = await parseFlags(args)
  expect(parsed).toMatchObject({ operation: 'command', command, ...line })
  expect(parsed.flags).toEqual(new Map(flags as [string, string][]))
})

test.each([
  [['conns'], /^conns needs SERVICE: /],
  [['support-bundle'], /^support-bundle needs FILE: /],
  [['status', 'web'], 'unexpected argument "web"'],
  [['conns', 'a', 'b'], 'unexpected argument "b"'],
  [['conns', 'a', '--limit=many'], '--limit: "many" must be a whole number'],
  [['diff', '-o', 'yaml'], '--output: "yaml" must be text or json'],
  [['diff', '--output'], /Not enough arguments following: output/],
  [['trace', 'web', '--for=soon'], '--for: "soon" must be a duration such as 30s or 2m'],
  [['trace', 'web', '--count=0'], '--count: "0" must be a number from 1 to 100'],
  [['trace', 'web', '--kernel-debug=loud'], '--kernel-debug: "loud" must be true or false'],
  [['diff', '--limit=5'], 'unknown flag --limit'],
  [['diff', '--manifest=x'], 'unknown flag --manifest; did you mean --manifests?'],
  [['status', '--cleanup'], '--cleanup does not go with a command'],
  [['--config=x', 'status'], 'unexpected argument "status"; a command stands first'],
  [['statsu'], 'unexpected argument "statsu"; did you mean the command status?'],
  [['support-bundle', 'x', '-o', 'json'], /unknown flag --o/],
])('refuses %s', async (args, message) => {
  const error: unknown = await parseFlags(args).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(ProxyError)
  expect(error).toMatchObject({ code: 'CONFIG' })
  const text = (error as ProxyError).message
  if (typeof message === 'string') expect(text).toBe(message)
  else expect(text).toMatch(message)
})

describe('help', () => {
  test.each(commandNames)('of %s is its own', async (name) => {
    const { operation, help } = await parseFlags([name, '--help'])
    expect(operation).toBe('help')
    expect(help).toContain(`kube-ipvs-proxy ${name}`)
    expect(help).toContain('--manifests')
    expect(help).not.toContain('--cleanup')
  })

  test('of the daemon names the commands', async () => {
    const { help } = await parseFlags(['--help'])
    for (const name of commandNames) expect(help).toMatch(new RegExp(`^ *${name} +\\S`, 'm'))
  })

  test('a wrong command line points to the help of its command', async () => {
    const error: unknown = await parseFlags(['conns']).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ facts: { advice: 'see kube-ipvs-proxy conns --help' } })
  })
})

test('the start script knows every command: it starts them faster than the daemon', () => {
  const script = readFileSync(resolve(import.meta.dirname, '../../../bin/kube-ipvs-proxy'), 'utf8')
  const [, names = ''] = /^ {2}(.*)\) exec/m.exec(script) ?? []
  expect(names.split(' | ').sort()).toEqual([...commandNames].sort())
})
