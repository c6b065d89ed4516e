import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { describeError } from '../../../src/lib/errors.ts'
import { ensureSysctl, readSysctl } from '../../../src/lib/sysctl.ts'

let folder: string
const name = 'net/ipv4/vs/conntrack'

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'sysctl-'))
  mkdirSync(join(folder, 'net/ipv4/vs'), { recursive: true })
  writeFileSync(join(folder, name), '0\n')
})
afterEach(() => rmSync(folder, { recursive: true }))

test('what differs is written, what is right is not', () => {
  expect(ensureSysctl(name, 1, folder)).toBe(true)
  expect(readSysctl(name, folder)).toBe('1')
  // Where it is read-only, but right already, nobody tries.
  chmodSync(join(folder, name), 0o444)
  expect(ensureSysctl(name, 1, folder)).toBe(false)
})

test('one that cannot be written is an error that names it, its value and the command', () => {
  let error: unknown
  try {
    ensureSysctl('net/ipv4/vs/expire_nodest_conn', 1, folder)
  } catch (thrown) {
    error = thrown
  }
  expect(error).toMatchObject({ code: 'PREFLIGHT' })
  expect(describeError(error)).toMatch(
    /^cannot set sysctl net\/ipv4\/vs\/expire_nodest_conn to 1: ENOENT.* — set it beforehand: sysctl -w net\.ipv4\.vs\.expire_nodest_conn=1$/,
  )
})
