import { describe, expect, test } from 'vitest'
import { chooseVariant, detectVersion, IptablesTool, linesAround, parseVersion } from '../../../src/iptables/restore.ts'
import type { Host } from '../../../src/iptables/restore.ts'
import { describeError, ProxyError } from '../../../src/lib/errors.ts'
import { isMissingCommand, runCommand } from '../../../src/lib/process.ts'
import type { CommandResult } from '../../../src/lib/process.ts'

/** A host whose commands print these texts; others are missing, except those with a leading "!", which fail. */
function host(commands: Record<string, string>, files: Record<string, string> = {}) {
  const ran: string[] = []
  const it: Host = {
    run: (command, args) => {
      const shown = [command, ...args].join(' ')
      ran.push(shown)
      if (!Object.keys(commands).some((one) => one.split(' ')[0] === command))
        return Promise.reject(new ProxyError('COMMAND', shown, { errno: 'ENOENT' }))
      const stdout = commands[shown] ?? ''
      const result: CommandResult = stdout.startsWith('!')
        ? { code: 2, stdout: '', stderr: stdout.slice(1) }
        : { code: 0, stdout, stderr: '' }
      return Promise.resolve(result)
    },
    read: (path) => Promise.resolve(files[path] ?? ''),
  }
  return { ran, ...it }
}

const hint = '*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n'
const canary = '*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n'
const rules = '*nat\n:A - [0:0]\n-A A -j DROP\nCOMMIT\n'
const tools = Object.fromEntries(
  ['', '-nft', '-legacy'].flatMap((infix) =>
    ['iptables', 'ip6tables'].flatMap((name) => [
      [`${name}${infix}`, ''],
      [`${name}${infix}-save`, ''],
    ]),
  ),
)
const mangle4 = { '/proc/net/ip_tables_names': 'mangle\n' }
const mangle6 = { '/proc/net/ip6_tables_names': 'filter\nmangle\n' }

describe('variant', () => {
  test.each([
    ['nft hint', { 'iptables-nft-save -t mangle': hint }, {}, '-nft'],
    ['nft hint of IPv6', { 'ip6tables-nft-save -t mangle': canary }, {}, '-nft'],
    ['legacy hint', { 'iptables-legacy-save -t mangle': hint }, mangle4, '-legacy'],
    ['legacy hint of IPv6', { 'ip6tables-legacy-save -t mangle': canary }, mangle6, '-legacy'],
    ['both hints', { 'iptables-nft-save -t mangle': hint, 'iptables-legacy-save -t mangle': hint }, mangle4, '-nft'],
    ['more legacy rules', { 'iptables-legacy-save -t mangle': rules }, mangle4, '-legacy'],
    ['more nft rules', { 'iptables-nft-save': rules }, {}, '-nft'],
    ['a draw', { 'iptables-nft-save': rules, 'iptables-legacy-save -t mangle': rules }, mangle4, ''],
    ['nothing', {}, {}, ''],
  ])('%s', async (_, commands, files, infix) =>
    expect(await chooseVariant(host({ ...tools, ...commands }, files))).toMatchObject({ infix }),
  )

  test('a legacy table that does not exist is not asked for', async () => {
    const it = host({ ...tools, 'iptables-legacy-save -t mangle': hint }, { '/proc/net/ip_tables_names': 'nat\n' })
    expect((await chooseVariant(it)).infix).toBe('')
    expect(it.ran.filter((one) => one.includes('legacy-save'))).toEqual(['iptables-legacy-save -t nat'])
  })

  test('without variants it is the plain command', async () =>
    expect((await chooseVariant(host({ iptables: '' }))).infix).toBe(''))
})

describe('version', () => {
  test.each([
    ['iptables v1.8.9 (nf_tables)', { variant: 'nft', version: '1.8.9', randomFully: true }],
    ['ip6tables v1.8.4 (legacy)', { variant: 'legacy', version: '1.8.4', randomFully: true }],
    ['iptables v1.6.2', { variant: 'legacy', version: '1.6.2', randomFully: true }],
    ['iptables v1.6.1', { variant: 'legacy', version: '1.6.1', randomFully: false }],
    ['iptables v1.10', { variant: 'legacy', version: '1.10', randomFully: true }],
    ['nonsense', undefined],
  ])('%s', (text, version) => expect(parseVersion(text)).toEqual(version))

  const plain = { infix: '', reason: '' } as const
  test('a missing tool says what to install', async () =>
    expect(await detectVersion('IPv6', plain, host({})).catch((error: unknown) => error)).toMatchObject({
      code: 'PREFLIGHT',
      message: 'ip6tables is not there',
      facts: { advice: 'install the package "iptables", version 1.6.2 or newer' },
    }))
  test('a tool without version', async () =>
    expect(await detectVersion('IPv4', plain, host({ iptables: '' })).catch((e: unknown) => e)).toMatchObject({
      code: 'PREFLIGHT',
    }))
})

describe('tool', () => {
  const commands = {
    'iptables-nft --version': 'iptables v1.8.9 (nf_tables)',
    'iptables-nft-save -t nat': rules,
    'iptables-nft-restore --noflush -w 5': '!iptables-restore: line 3 failed',
  }

  test('save, and a failed restore with the lines around', async () => {
    const it = host(commands)
    const tool = await IptablesTool.open('IPv4', { infix: '-nft', reason: '' }, it)
    expect(tool).toMatchObject({ variant: 'nft', version: '1.8.9', randomFully: true })
    expect(await tool.save('nat')).toBe(rules)
    const error = await tool.restore('*nat\n:A - [0:0]\n-A A -j X\nCOMMIT\n').catch((e: unknown) => e)
    expect(error).toMatchObject({ code: 'COMMAND', facts: { lines: '2: :A - [0:0]\n3: -A A -j X\n4: COMMIT' } })
    expect(String(error)).toContain('line 3 failed')
  })

  test.each([
    [
      'the lock is held',
      'Another app is currently holding the xtables lock; still 0s 0us time ahead to have a chance to grab the lock...',
      /lslocks/,
    ],
    ['no right', 'Could not fetch rule set generation id: Permission denied (you must be root)', /CAP_NET_ADMIN/],
    [
      'rules of the other variant',
      "iptables-restore v1.8.9 (legacy): can't initialize iptables table `nat': Table does not exist",
      /other variant/,
    ],
  ])('%s: the error has the command, its words and what to do', async (_name, words, advice) => {
    const it = host({ ...commands, 'iptables-nft-restore --noflush -w 5': `!${words}` })
    const tool = await IptablesTool.open('IPv4', { infix: '-nft', reason: '' }, it)
    const error: unknown = await tool.restore('*nat\nCOMMIT\n').catch((e: unknown) => e)
    const text = describeError(error)
    expect(text).toContain('iptables-nft-restore exited with 2: ')
    expect(text).toContain(words)
    expect(text).toMatch(advice)
  })

  test('a tool that goes missing while the daemon runs fails its calls, and says what to install', async () => {
    const choice = { infix: '-nft', reason: '' } as const
    const version = await detectVersion('IPv4', choice, host(commands))
    const gone = new IptablesTool('IPv4', choice, version, host({}))
    for (const call of [() => gone.save('nat'), () => gone.restore('*nat\nCOMMIT\n')]) {
      const error: unknown = await call().catch((e: unknown) => e)
      expect(describeError(error)).toMatch(/^iptables-nft-(save|restore) is not there.*install the package "iptables"/)
    }
  })

  test.each([
    ['Error occurred at line: 1', '1: a\n2: b'],
    ['line 3: RULE_APPEND failed', '2: b\n3: c'],
    ['no number', ''],
  ])('lines around: %s', (stderr, lines) => expect(linesAround('a\nb\nc', stderr)).toBe(lines))
})

describe('commands', () => {
  test('input, output, status, environment', async () => {
    const script = 'cat; echo "$WORD $LC_ALL" >&2; exit 3'
    expect(await runCommand('sh', ['-c', script], { input: 'hello', env: { WORD: 'x' } })).toEqual({
      code: 3,
      stdout: 'hello',
      stderr: 'x C\n',
    })
  })
  test('missing', async () =>
    expect(isMissingCommand(await runCommand('no-such-command-here', []).catch((e: unknown) => e))).toBe(true))
  test('too long', async () =>
    await expect(runCommand('sh', ['-c', 'sleep 60'], { timeoutMs: 100 })).rejects.toThrow('no end after 0.1 s'))
  test('ended by a signal', async () => await expect(runCommand('sh', ['-c', 'kill -9 $$'])).rejects.toThrow('SIGKILL'))
  test('input nobody reads', async () =>
    expect((await runCommand('true', [], { input: 'x'.repeat(1_000_000) })).code).toBe(0))
})
