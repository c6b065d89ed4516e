import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { describeError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'

/** The conntrack section of the configuration. Durations in milliseconds; 0: left alone. */
export interface ConntrackConfig {
  readonly maxPerCore: number
  readonly min: number
  readonly tcpEstablishedTimeout: number
  readonly tcpCloseWaitTimeout: number
  readonly tcpBeLiberal: boolean
  readonly udpTimeout: number
  readonly udpStreamTimeout: number
}

/** One kernel setting as wanted. */
export interface KernelSetting {
  readonly path: string
  readonly value: number
  /** A greater value is as good: it is never lowered. */
  readonly atLeast: boolean
}

/** The kernel's files as this needs them; both throw as node:fs does. */
export interface SettingFiles {
  read(path: string): string
  write(path: string, value: string): void
}

const realFiles: SettingFiles = {
  read: (path) => readFileSync(path, 'utf8'),
  write: (path, value) => writeFileSync(path, value),
}

/** kube-proxy's bound on maxPerCore × CPUs: large machines need no more. */
const mostByCores = 1_048_576

/**
 * What the configuration asks for. nf_conntrack_max is maxPerCore × CPUs, not above 1,048,576, but at least `min`: other
 * than kube-proxy we let a larger `min` count, for an operator wrote it. The hash table has a bucket for four entries.
 */
export function wantedConntrackSettings(config: ConntrackConfig, cpus: number): readonly KernelSetting[] {
  const settings: KernelSetting[] = []
  const sysctl = (name: string, value: number, atLeast = false): void => {
    settings.push({ path: `/proc/sys/net/netfilter/${name}`, value, atLeast })
  }
  if (config.maxPerCore > 0) {
    const max = Math.max(Math.min(config.maxPerCore * cpus, mostByCores), config.min)
    sysctl('nf_conntrack_max', max, true)
    const buckets = Math.floor(max / 4)
    settings.push({ path: '/sys/module/nf_conntrack/parameters/hashsize', value: buckets, atLeast: true })
  }
  const seconds = (name: string, milliseconds: number): void => {
    if (milliseconds > 0) sysctl(name, Math.max(1, Math.round(milliseconds / 1000)))
  }
  seconds('nf_conntrack_tcp_timeout_established', config.tcpEstablishedTimeout)
  seconds('nf_conntrack_tcp_timeout_close_wait', config.tcpCloseWaitTimeout)
  if (config.tcpBeLiberal) sysctl('nf_conntrack_tcp_be_liberal', 1)
  seconds('nf_conntrack_udp_timeout', config.udpTimeout)
  seconds('nf_conntrack_udp_timeout_stream', config.udpStreamTimeout)
  return settings
}

/** Writes what differs. A setting that cannot be written is logged: Services work without it. */
export function applyConntrackLimits(
  config: ConntrackConfig,
  log: Log,
  files: SettingFiles = realFiles,
  cpus = cpuCount(),
): void {
  for (const { path, value, atLeast } of wantedConntrackSettings(config, cpus)) {
    let current: number | undefined
    try {
      current = Number(files.read(path).trim())
    } catch {
      // Cannot be read: the attempt to write says why.
    }
    // A limit of 0 is none at all.
    if (current !== undefined && (atLeast ? current >= value || current === 0 : current === value)) continue
    try {
      files.write(path, String(value))
      log.v(1, 'Conntrack setting written', { path, value, before: current })
    } catch (error) {
      log.warn('A conntrack setting cannot be written; the kernel keeps its own', {
        path,
        value,
        before: current,
        error: describeError(error),
        advice: 'run --init-only in a privileged init container, or set it to 0 in the configuration to leave it alone',
      })
    }
  }
}

/** CPUs that the kernel has, whatever a container may use of them. */
export function cpuCount(folder = '/sys/devices/system/cpu'): number {
  try {
    const count = readdirSync(folder).filter((name) => /^cpu\d+$/.test(name)).length
    if (count > 0) return count
  } catch {
    // No sysfs: Node's own count.
  }
  return availableParallelism()
}
