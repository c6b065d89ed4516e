import { expect, test } from 'vitest'
import { parseFlags } from '../../../src/cli/flags.ts'

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
])('$args', async ({ args, want, flags = [] }) => {
  const line = await parseFlags(args)
  expect(line).toMatchObject(want)
  expect([...line.flags]).toEqual(flags)
})

test.each([
  [['--no-such-flag'], /no-such-flag/],
  [['run'], /run/],
  [['--init-only'], /--init-only is not in use yet/],
])('refuses %s', async (args, message) => {
  await expect(parseFlags(args)).rejects.toThrow(message)
})

test('help names the flags', async () => {
  const { help } = await parseFlags(['--help'])
  for (const word of ['--config', '--manifests', '--ipvs-scheduler', '--cleanup']) expect(help).toContain(word)
})
