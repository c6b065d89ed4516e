import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { expect, test } from 'vitest'

const src = resolve(import.meta.dirname, '../../src')

/** Who may look at whom: the table of ARCHITECTURE.md. */
const rooms: Record<string, string[]> = {
  lib: [],
  model: ['lib'],
  netlink: ['lib', 'model'],
  reconcile: ['lib'],
  ipvs: ['lib', 'model', 'reconcile', 'netlink'],
  ipset: ['lib', 'model', 'reconcile', 'netlink'],
  dummy: ['lib', 'model', 'reconcile', 'netlink'],
  conntrack: ['lib', 'model', 'reconcile', 'netlink'],
  iptables: ['lib', 'model', 'netlink', 'reconcile'],
  node: ['lib', 'model'],
  config: ['lib', 'model'],
  metrics: ['lib', 'model'],
  kube: ['lib', 'model'],
  health: ['lib', 'model'],
  debug: [],
  proxier: ['lib', 'model', 'reconcile'],
  explain: ['lib', 'model', 'netlink', 'ipvs', 'ipset', 'dummy', 'iptables', 'conntrack', 'kube', 'proxier'],
  wanted: ['config', 'dummy', 'health', 'ipset', 'iptables', 'ipvs', 'lib', 'model', 'proxier'],
  page: ['lib', 'model', 'reconcile', 'ipvs', 'metrics', 'health', 'proxier', 'explain'],
  trace: ['lib', 'model', 'netlink', 'conntrack', 'explain', 'ipvs'],
  cli: ['config', 'lib'],
  inspect: [
    'cli',
    'compose.ts',
    'config',
    'dummy',
    'ipset',
    'iptables',
    'ipvs',
    'kube',
    'lib',
    'model',
    'node',
    'open.ts',
    'preflight.ts',
    'proxier',
    'read-config.ts',
    'settings.ts',
    'wanted',
  ],
}

test.each(Object.entries(rooms))('%s imports only what it may', (room, allowed) => {
  const wrong: string[] = []
  for (const file of readdirSync(join(src, room), { recursive: true, encoding: 'utf8' })) {
    if (!file.endsWith('.ts')) continue
    const path = join(src, room, file)
    for (const [, from] of readFileSync(path, 'utf8').matchAll(/from '(\.[^']+)'/g)) {
      const target = relative(src, resolve(dirname(path), from!)).split('/')[0]!
      // package.json is above all rooms.
      if (target === '..') continue
      if (target !== room && !allowed.includes(target)) wrong.push(`${room}/${file} → ${target}`)
    }
  }
  expect(wrong).toEqual([])
})

test('every room is in the table', () => {
  const folders = readdirSync(src, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  expect(folders.map(({ name }) => name).sort()).toEqual(Object.keys(rooms).sort())
})
