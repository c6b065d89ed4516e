import { spawn, type ChildProcessByStdio } from 'node:child_process'
import type { Readable, Writable } from 'node:stream'

/**
 * A shell beside us whose end is tied to ours: it reads its standard input to the end, which comes when we close it or are
 * killed, and then does what its script says. In a session of its own, for Ctrl-C at a terminal goes to all of a group.
 */
export function startHelper(
  script: string,
  args: readonly string[] = [],
): ChildProcessByStdio<Writable, Readable, Readable> {
  const child = spawn('sh', ['-c', script, 'kube-ipvs-proxy-trace', ...args], {
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C' },
  })
  // It may end before we have written all: how it ended says why.
  child.stdin.on('error', () => {})
  return child
}

/** Resolves with the exit code once the helper and its output are through. */
export function helperEnd(child: ChildProcessByStdio<Writable, Readable, Readable>): Promise<number | null> {
  return new Promise((settle) => {
    if (child.exitCode !== null) return settle(child.exitCode)
    child.on('close', (code) => settle(code))
    child.on('error', () => settle(null))
  })
}
