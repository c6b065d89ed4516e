import { execFileSync } from 'node:child_process'

/** Runs a command with standard input; gives its output. */
export function run(command: string, args: readonly string[], input?: string): string {
  return execFileSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 1 << 30,
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    ...(input === undefined ? {} : { input }),
  })
}

/** The same, with its standard error shown. */
export function runShown(command: string, args: readonly string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 30, stdio: ['ignore', 'pipe', 'inherit'] })
}

/** A kernel state as input for the tools that kube-proxy and administrators use. */
export interface ToolInput {
  readonly ipvsadm: string
  readonly ipset: string
  readonly ip: string
  readonly iptables: string
}

/** Reads the state of this namespace. */
export function dumpState(): ToolInput {
  const addresses = run('ip', ['-o', '-4', 'address', 'show', 'dev', 'kube-ipvs0'])
    .split('\n')
    .flatMap((line) => /inet (\S+)/.exec(line)?.[1] ?? [])
  return {
    ipvsadm: run('ipvsadm', ['-Sn']),
    ipset: run('ipset', ['save'])
      .split('\n')
      .filter((line) => !line.includes('KUBE-6-'))
      .map((line) => line.replace(/ (bucketsize|initval) \S+/g, ''))
      .join('\n'),
    ip: addresses.map((address) => `address add ${address} dev kube-ipvs0`).join('\n') + '\n',
    iptables: run('iptables-save', []),
  }
}

/** Seconds each tool takes to make that state in this namespace, which must be empty. */
export function writeByTools(input: ToolInput): Record<string, number> {
  const took: Record<string, number> = {}
  const timed = (name: string, command: string, args: readonly string[], text: string): void => {
    const began = performance.now()
    run(command, args, text)
    took[name] = (performance.now() - began) / 1000
  }
  // IPVS takes no destination in a namespace without any address.
  run('ip', ['link', 'set', 'lo', 'up'])
  run('ip', ['link', 'add', 'kube-ipvs0', 'type', 'dummy'])
  timed('ipset restore', 'ipset', ['restore'], input.ipset)
  timed('iptables-restore', 'iptables-restore', ['--noflush'], input.iptables)
  timed('ipvsadm -R', 'ipvsadm', ['-R'], input.ipvsadm)
  timed('ip -batch', 'ip', ['-batch', '-'], input.ip)
  return took
}
