import { readFileSync } from 'node:fs'
import type { ProxyConfig } from '../config/schema.ts'
import { wantedSysctls } from '../ipvs/kernel-settings.ts'
import { cpuCount, wantedConntrackSettings } from '../node/conntrack-limits.ts'
import { conntrackConfigOf, kernelSettingsOf } from '../settings.ts'

/** A kernel setting that matters here. */
export interface SysctlState {
  /** As sysctl(8) has it: "net.ipv4.vs.conntrack"; a path for what is no sysctl. */
  readonly name: string
  /** Undefined where there is none of the name. */
  readonly value: string | undefined
  /** "" where it is only worth knowing. */
  readonly wanted: string
  readonly ok: boolean
}

/** Worth knowing beside those that the daemon sets. */
const watched = [
  'net.ipv4.vs.conn_reuse_mode',
  'net.ipv4.vs.run_estimation',
  'net.ipv4.conf.all.rp_filter',
  'net.ipv4.conf.all.arp_ignore',
  'net.ipv4.conf.all.arp_announce',
  'net.bridge.bridge-nf-call-iptables',
  'net.bridge.bridge-nf-call-ip6tables',
  'net.ipv6.conf.all.forwarding',
  'net.netfilter.nf_conntrack_count',
  'net.netfilter.nf_conntrack_max',
]

function readPath(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return undefined
  }
}

/** The settings that the daemon makes, as they stand, and those that are worth knowing. */
export function readSysctls(
  config: ProxyConfig,
  read: (path: string) => string | undefined = readPath,
): readonly SysctlState[] {
  const states = new Map<string, SysctlState>()
  const nameOf = (path: string): string =>
    path.startsWith('/proc/sys/') ? path.slice('/proc/sys/'.length).replaceAll('/', '.') : path
  const note = (path: string, wanted: number, atLeast: boolean): void => {
    const value = read(path)
    const number = Number(value)
    const ok = value !== undefined && (number === wanted || (atLeast && (number >= wanted || number === 0)))
    const name = nameOf(path)
    states.set(name, { name, value, wanted: `${atLeast ? '>= ' : ''}${wanted}`, ok })
  }
  for (const [name, value] of wantedSysctls(kernelSettingsOf(config))) note(`/proc/sys/${name}`, value, false)
  for (const { path, value, atLeast } of wantedConntrackSettings(conntrackConfigOf(config), cpuCount())) {
    note(path, value, atLeast)
  }
  for (const name of watched) {
    if (states.has(name)) continue
    const value = read(`/proc/sys/${name.replaceAll('.', '/')}`)
    if (value !== undefined) states.set(name, { name, value, wanted: '', ok: true })
  }
  return [...states.values()]
}
