import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { command, ipvsText, makeParts } from '../../../src/inspect/bundle.ts'
import { kubeconfigSecrets, redact } from '../../../src/inspect/redact.ts'
import { tarArchive } from '../../../src/inspect/tar.ts'
import { ProxyError } from '../../../src/lib/errors.ts'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'bundle-'))
})

afterEach(() => {
  rmSync(folder, { recursive: true, force: true })
})

describe('the archive', () => {
  test.each([0, 1, 511, 512, 513, 70_000])('a file of %d bytes is unpacked as it was', (size) => {
    const content = 'x'.repeat(size)
    const path = join(folder, 'a.tar.gz')
    const files = [
      { name: 'top/a.txt', content },
      { name: 'top/deep/ü.txt', content: 'größer\n' },
    ]
    writeFileSync(path, gzipSync(tarArchive(files, new Date('2026-01-02T03:04:05Z'))))
    execFileSync('tar', ['-xzf', path, '-C', folder])
    expect(readFileSync(join(folder, 'top/a.txt'), 'utf8')).toBe(content)
    expect(readFileSync(join(folder, 'top/deep/ü.txt'), 'utf8')).toBe('größer\n')
    expect(statSync(join(folder, 'top/a.txt')).mtime.toISOString()).toBe('2026-01-02T03:04:05.000Z')
  })

  test('is whole blocks, with two of zeros at its end', () => {
    const archive = tarArchive([{ name: 'a', content: 'b' }], new Date(0))
    expect(archive.length).toBe(4 * 512)
    expect(archive.subarray(-1024).every((byte) => byte === 0)).toBe(true)
  })

  test.each(['', 'x'.repeat(101)])('refuses the name "%s"', (name) => {
    expect(() => tarArchive([{ name, content: '' }], new Date(0))).toThrow(ProxyError)
  })
})

const secrets = {
  token: 'token-of-the-user-4711',
  tokenFile: 'token-out-of-a-file-4712',
  password: 'pass word 4713',
  key: '-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIKEY4714\n-----END EC PRIVATE KEY-----',
  certificate: '-----BEGIN CERTIFICATE-----\nCERT4715\n-----END CERTIFICATE-----',
  execEnv: 'exec-environment-4716',
  execArg: 'exec-argument-4717',
  provider: 'refresh-me-4718',
}

function writeKubeconfig(): string {
  const path = join(folder, 'kubeconfig')
  writeFileSync(join(folder, 'token'), `${secrets.tokenFile}\n`)
  const base64 = (text: string): string => Buffer.from(text).toString('base64')
  const users = [
    { name: 'a', user: { token: secrets.token, tokenFile: 'token', username: 'admin', password: secrets.password } },
    {
      name: 'b',
      user: { 'client-key-data': base64(secrets.key), 'client-certificate-data': base64(secrets.certificate) },
    },
    {
      name: 'c',
      user: { exec: { command: 'login', args: [secrets.execArg], env: [{ name: 'A', value: secrets.execEnv }] } },
    },
    { name: 'd', user: { 'auth-provider': { name: 'oidc', config: { 'refresh-token': secrets.provider } } } },
  ]
  writeFileSync(path, JSON.stringify({ apiVersion: 'v1', kind: 'Config', users }))
  return path
}

describe('what must never be in a bundle', () => {
  test('any secret of the kubeconfig, wherever it turns up', async () => {
    const known = kubeconfigSecrets(writeKubeconfig())
    const encoded = Buffer.from(secrets.key).toString('base64')
    const everything = [...Object.values(secrets), encoded].join(' and ')
    const files = await makeParts(
      [
        { name: 'good.txt', make: async () => `before ${everything} after` },
        { name: 'json.json', make: async () => JSON.stringify({ deep: [everything] }) },
        { name: 'bad.txt', make: () => Promise.reject(new Error(`refused: ${everything}`)) },
      ],
      known,
    )
    expect(files.map(({ name }) => name)).toEqual(['good.txt', 'json.json', 'bad.txt.failed.txt'])
    for (const { content } of files) {
      for (const word of ['4711', '4712', '4713', '4714', '4715', '4716', '4717', '4718', encoded.slice(10, 40)]) {
        expect(content).not.toContain(word)
      }
    }
    expect(files[0]!.content).toMatch(/^before .* after$/s)
  })

  test.each([
    ['a bearer header', 'Authorization: Bearer abcdefgh12345678', 'abcdefgh'],
    ['a basic header in JSON', '{"authorization":"Basic dXNlcjpwYXNz"}', 'dXNlcjpwYXNz'],
    ['a header without its name', 'sent bearer abcdefgh12345678', 'abcdefgh'],
    ['a JSON web token', 'x eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrOHMifQ.c2lnbmF0dXJl y', 'eyJhbGci'],
    ['a private key', 'a -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- b', 'MIIE'],
    ['a private key that is cut off', '-----BEGIN PRIVATE KEY-----\nMIIE', 'MIIE'],
    ['a token in YAML', 'token: abcdef', 'abcdef'],
    ['key data in YAML', 'client-key-data: LS0tLS1CRUdJTg==', 'LS0tLS1'],
    ['a password on a command line', 'curl --password=hunter22', 'hunter22'],
    ['credentials in a URL', 'https://admin:hunter22@10.0.0.1:6443/api', 'hunter22'],
  ])('%s', (_name, text, secret) => {
    const clean = redact(text)
    expect(clean).not.toContain(secret)
    expect(clean).toContain('[left out]')
  })

  test.each([
    '-A KUBE-SERVICES -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -j ACCEPT',
    '10.96.0.1:443/TCP',
    'https://10.0.0.1:6443/api',
    'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1.7e+09',
    'add KUBE-LOOP-BACK 10.0.0.1,tcp:80,10.0.0.1',
  ])('but not what is no secret: %s', (text) => {
    expect(redact(text)).toBe(text)
  })

  test('a kubeconfig that cannot be read has none', () => {
    expect(kubeconfigSecrets(join(folder, 'nowhere'))).toEqual([])
  })
})

describe('parts', () => {
  test('a command that fails says so, one that only complains tells what it has', async () => {
    const run = (code: number, stdout: string) => () => Promise.resolve({ code, stdout, stderr: 'no such thing' })
    const files = await makeParts(
      [
        command('a.txt', 'tool', ['x'], run(0, 'fine')),
        command('b.txt', 'tool', ['x'], run(255, 'nearly')),
        command('c.txt', 'tool', ['x'], run(1, '')),
      ],
      [],
    )
    expect(files).toEqual([
      { name: 'a.txt', content: 'fine' },
      { name: 'b.txt', content: 'nearly' },
      { name: 'c.txt.failed.txt', content: 'tool x exited with 1: no such thing\n' },
    ])
  })

  test('virtual servers as ipvsadm prints them', () => {
    const server = {
      family: 'IPv4',
      protocol: 'TCP',
      address: '10.0.0.1',
      port: 80,
      scheduler: 'rr',
      flags: 1,
      timeout: 60,
    } as const
    const destination = { address: '10.1.0.1', port: 8080, weight: 1, activeConnections: 0, inactiveConnections: 0 }
    expect(
      ipvsText([
        {
          server,
          destinations: [
            { ...destination, forwarding: 0 },
            { ...destination, forwarding: 3, weight: 0 },
          ],
        },
        { server: { ...server, family: 'IPv6', protocol: 'SCTP', address: 'fd00::1', flags: 0 }, destinations: [] },
      ]),
    ).toBe(
      [
        '-A -t 10.0.0.1:80 -s rr -p 60',
        '-a -t 10.0.0.1:80 -r 10.1.0.1:8080 -m -w 1',
        '-a -t 10.0.0.1:80 -r 10.1.0.1:8080 -g -w 0',
        '-A --sctp-service [fd00::1]:80 -s rr',
        '',
      ].join('\n'),
    )
  })
})
