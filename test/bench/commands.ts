import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { root } from './daemon.ts'

/** One command of this node: what is measured, from the start of its process to its end. */
interface Measured {
  readonly name: string
  readonly command: string
  readonly args: readonly string[]
  /** What it must have said, so that a failure is no figure. */
  readonly says?: RegExp
}

/** Seconds of each command, in turns, so that a slow moment of the machine falls on all of them; medians. */
export async function timeCommands(measured: readonly Measured[], runs: number): Promise<Record<string, number>> {
  const took = new Map<string, number[]>(measured.map(({ name }) => [name, []]))
  for (let i = 0; i < runs; i++) {
    for (const one of measured) took.get(one.name)!.push(await timed(one))
  }
  return Object.fromEntries([...took].map(([name, all]) => [name, all.sort((a, b) => a - b)[all.length >> 1]!]))
}

async function timed({ name, command, args, says }: Measured): Promise<number> {
  const began = performance.now()
  // ipvsadm writes a line for each destination: as others have it, to nobody.
  const child = spawn(command, args, {
    stdio: ['ignore', says === undefined ? 'ignore' : 'pipe', 'pipe'],
    env: { ...process.env, NODE_ENV: 'production' },
  })
  const parts: Buffer[] = []
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (part: Buffer) => void parts.push(part))
  await once(child, 'close')
  const seconds = (performance.now() - began) / 1000
  const text = Buffer.concat(parts).toString()
  if (says !== undefined && !says.test(text)) throw new Error(`${name} said:\n${text}`)
  return seconds
}

const program = join(root, 'bin/kube-ipvs-proxy')

/** Ours beside ipvsadm; `flags`: what a command is given where no daemon can tell it. */
export function ownCommands(prefix: string, service: string, flags: readonly string[]): readonly Measured[] {
  const ours = (name: string, args: readonly string[], says: RegExp): Measured => {
    return { name: `${prefix}${name}`, command: program, args: [...args, ...flags], says }
  }
  return [
    ours('status', ['status'], /Drift +none/),
    ours('diff', ['diff'], /^The kernel is as wanted/),
    ours('explain', ['explain', service], /^verdict/im),
  ]
}

export const ipvsadm: Measured = { name: 'ipvsadm', command: 'ipvsadm', args: ['-Ln'] }
export const bareNode: Measured = { name: 'bareNode', command: process.execPath, args: ['-e', '0'] }
