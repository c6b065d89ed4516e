import { readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { expect, test } from 'vitest'
import { parseFlags } from '../../../src/cli/flags.ts'
import { defaultSocket } from '../../../src/config/schema.ts'
import { neededCapabilities } from '../../../src/preflight.ts'
import { manifests } from './documents.ts'

const read = (name: string): string => readFileSync(join(manifests, 'standalone', name), 'utf8')
const unit = read('kube-ipvs-proxy.service')
const all = (name: string): string[] =>
  [...unit.matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value]) => value!)
const [flags] = /^KUBE_IPVS_PROXY_FLAGS=(.*)$/m.exec(read('kube-ipvs-proxy.env'))!.slice(1)

test('the unit runs the daemon, and before it, with all rights, what needs more', async () => {
  const program = '/opt/kube-ipvs-proxy/bin/kube-ipvs-proxy'
  expect(all('ExecStart')).toEqual([`${program} $KUBE_IPVS_PROXY_FLAGS`])
  expect(all('ExecStartPre')).toContain(`+${program} --init-only $KUBE_IPVS_PROXY_FLAGS`)
  const run = await parseFlags(flags!.split(' '))
  expect(run.operation).toBe('run')
  expect(all('ConditionPathIsDirectory')).toEqual([run.manifests])
  expect((await parseFlags(['--init-only', ...flags!.split(' ')])).operation).toBe('init')
})

test('it has the capabilities that the program asks for, and writes where the program does', () => {
  const names = Object.keys(neededCapabilities).map((name) => `CAP_${name}`)
  expect(all('CapabilityBoundingSet')).toEqual([names.join(' ')])
  expect(all('RuntimeDirectory')).toEqual([basename(dirname(defaultSocket))])
  expect(all('ReadWritePaths')).toEqual(['/run/xtables.lock'])
})

test.each([
  'NoNewPrivileges=yes',
  'ProtectSystem=strict',
  'ProtectHome=yes',
  'ProtectKernelModules=yes',
  'ProtectKernelTunables=yes',
  'PrivateTmp=yes',
  'RestrictNamespaces=yes',
  'SystemCallFilter=@system-service',
])('it is hardened: %s', (line) => {
  expect(unit.split('\n')).toContain(line)
})
