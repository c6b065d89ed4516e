import { expect, test } from 'vitest'
import { parseFlags } from '../../../src/cli/flags.ts'
import { ProxyError } from '../../../src/lib/errors.ts'

test.each<{ args: string[]; want: Record<string, unknown>; flags?: [string, string][] }>([
  { args: [], want: { operation: 'run', config: undefined, manifests: undefined } },
  { args: ['--version'], want: { operation: 'version' } },
  { args: ['--cleanup', '-v=2'], want: { operation: 'cleanup' }, flags: [['v', '2']] },
  {
    args: ['--config', '/x', '--hostname-override=n'],
    want: { operation: 'run', config: '/x' },
    flags: [['hostname-override', 'n']],
  },
  { args: ['--manifests=/y', '-v', '4'], want: { manifests: '/y' }, flags: [['v', '4']] },
  { args: ['--ipvs_min_sync_period=1s'], want: {}, flags: [['ipvs-min-sync-period', '1s']] },
  { args: ['--masquerade-all'], want: {}, flags: [['masquerade-all', '']] },
  { args: ['--version=raw'], want: { operation: 'version' } },
  { args: ['--cleanup=1'], want: { operation: 'cleanup' } },
  { args: ['--cleanup=false'], want: { operation: 'run' } },
  { args: ['-h'], want: { operation: 'help' } },
  { args: ['--init-only'], want: { operation: 'init' } },
  { args: ['--write-config-to=x'], want: { operation: 'writeConfig', writeConfigTo: 'x' } },
  { args: ['--config=a', '--config=b'], want: { config: 'b' } },
  { args: ['--config=', '--hostname-override='], want: { config: undefined }, flags: [['hostname-override', '']] },
  {
    args: ['--v=4', '--oom-score-adj', '-999'],
    want: {},
    flags: [
      ['v', '4'],
      ['oom-score-adj', '-999'],
    ],
  },
  {
    args: ['--nodeport-addresses=10.0.0.0/8', '--nodeport-addresses=11.0.0.0/8'],
    want: {},
    flags: [['nodeport-addresses', '10.0.0.0/8,11.0.0.0/8']],
  },
  { args: ['--ipvs-scheduler=lc', '--ipvs-scheduler=sh'], want: {}, flags: [['ipvs-scheduler', 'sh']] },
  { args: ['--boot-id-file=x', '--log-json-split-stream'], want: { operation: 'run' } },
  { args: ['--healthz-port=0'], want: {}, flags: [['healthz-port', '0']] },
])('$args', async ({ args, want, flags = [] }) => {
  const line = await parseFlags(args)
  expect(line).toMatchObject(want)
  expect(line.flags).toEqual(new Map(flags))
})

test.each([
  [['--no-such-flag'], 'unknown flag --no-such-flag'],
  [['--ipvs-schedular=rr'], 'unknown flag --ipvs-schedular; did you mean --ipvs-scheduler?'],
  [['-z'], 'unknown flag --z'],
  [['--constructor=1'], 'unknown flag --constructor'],
  [['run'], 'unexpected argument "run"'],
  [['--', 'run'], 'unexpected argument "run"'],
  [['--write-config-to=x', 'y'], 'unexpected argument "y"'],
  [['--write-config-to'], /Not enough arguments following: write-config-to/],
  [['--cleanup=perhaps'], '--cleanup: "perhaps" must be true or false'],
  [['--cluster-cidr', '--masquerade-all'], /Not enough arguments following: cluster-cidr/],
])('refuses %s', async (args, message) => {
  const error: unknown = await parseFlags(args).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(ProxyError)
  expect(error).toMatchObject({ code: 'CONFIG' })
  const text = (error as ProxyError).message
  if (typeof message === 'string') expect(text).toBe(message)
  else expect(text).toMatch(message)
})

test('help names the flags', async () => {
  const { help } = await parseFlags(['--help'])
  for (const word of ['--config', '--manifests', '--ipvs-scheduler', '--cleanup']) expect(help).toContain(word)
})
