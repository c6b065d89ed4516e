import { spawn } from 'node:child_process'
import { closeSync, openSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** A copy of /proc/net/ip_vs that may still be growing. */
export interface ProcCopy {
  /**
   * Its bytes as they come, in pieces that are overwritten by the next one. Throws where the copy does not come to its end; what it
   * has given then counts for nothing.
   */
  chunks(): AsyncGenerator<Buffer, void>
}

/** Commands that compare what is wanted with the whole kernel state. */
const wholeLooks: ReadonlySet<string> = new Set(['status', 'diff', 'doctor', 'migrate', 'support-bundle'])

export function isWholeLook(command: string): boolean {
  return wholeLooks.has(command)
}

let begun: ProcCopy | undefined

/**
 * Begins to copy the kernel's file by a process of its own, for a command that reads it whole. With very many virtual servers
 * the kernel takes longer over it than this program over its start, and both can go on at once. The copy has no name: it goes
 * with this process.
 */
export function beginCopyFor(command: string): void {
  if (isWholeLook(command)) begun ??= beginCopy('cat', ['/proc/net/ip_vs'])
}

/** The copy that was begun, or one that begins now, for one reading; undefined where none can be made or is of use. */
export function takeCopyFor(command: string): ProcCopy | undefined {
  beginCopyFor(command)
  const copy = begun
  begun = undefined
  return copy
}

/** A command's output as a growing copy. */
export function beginCopy(command: string, args: readonly string[]): ProcCopy | undefined {
  const file = openNameless()
  if (file === undefined) return undefined
  const child = spawn(command, args, { stdio: ['ignore', file, 'ignore'] })
  // Nobody may come to ask for it.
  child.unref()
  let end: 'whole' | 'failed' | undefined
  child.on('error', () => (end = 'failed'))
  child.on('exit', (code) => (end = code === 0 ? 'whole' : 'failed'))
  return {
    chunks: async function* () {
      child.ref()
      const buffer = Buffer.allocUnsafe(65_536)
      let at = 0
      try {
        for (;;) {
          // Asked first: what the process wrote before its end is there to be read.
          const before = end
          const count = readSync(file, buffer, 0, buffer.length, at)
          at += count
          if (count > 0) yield buffer.subarray(0, count)
          else if (before === 'whole') return
          else if (before === 'failed') throw new Error(`${command} ${args.join(' ')} failed`)
          else await sleep(10)
        }
      } finally {
        closeSync(file)
      }
    },
  }
}

/** A file without a name, for this process and its children; undefined where none can be made. */
function openNameless(): number | undefined {
  for (const folder of ['/dev/shm', tmpdir()]) {
    const path = join(folder, `kube-ipvs-proxy-${process.pid}-${Date.now()}`)
    try {
      const file = openSync(path, 'wx+', 0o600)
      rmSync(path)
      return file
    } catch {
      // A read-only root, or no room: the next place, or none.
    }
  }
  return undefined
}
