import type { Log } from '../lib/log.ts'
import { ensureSysctl } from '../lib/sysctl.ts'

export interface KernelSettings {
  readonly strictARP: boolean
  /** Kernel release as uname has it: "6.1.0-42-amd64". */
  readonly release: string
  /** net.ipv4.vs.conn_reuse_mode where the configuration names it; "": by the release. */
  readonly connReuseMode: string
}

/**
 * The sysctls of IPVS mode, as kube-proxy sets them: name and value. conn_reuse_mode is touched only from 4.1 to
 * below 5.9, where 1 delays new connections by a second when a source port is used again. Some distributions have the
 * cure in older kernels: the configuration can say so.
 */
export function wantedSysctls(settings: KernelSettings): [string, number][] {
  const wanted: [string, number][] = [['net/ipv4/vs/conntrack', 1]]
  const [major = 0, minor = 0] = settings.release.split(/[.-]/).map(Number)
  const version = major * 1000 + minor
  if (settings.connReuseMode !== '') wanted.push(['net/ipv4/vs/conn_reuse_mode', Number(settings.connReuseMode)])
  else if (version >= 4001 && version < 5009) wanted.push(['net/ipv4/vs/conn_reuse_mode', 0])
  wanted.push(
    ['net/ipv4/vs/expire_nodest_conn', 1],
    ['net/ipv4/vs/expire_quiescent_template', 1],
    ['net/ipv4/ip_forward', 1],
  )
  if (settings.strictARP) wanted.push(['net/ipv4/conf/all/arp_ignore', 1], ['net/ipv4/conf/all/arp_announce', 2])
  return wanted
}

/** Writes those that differ; throws ProxyError PREFLIGHT at the first that cannot be written. */
export function applySysctls(settings: KernelSettings, log: Log): void {
  for (const [name, value] of wantedSysctls(settings)) {
    if (ensureSysctl(name, value)) log.v(1, 'Sysctl set', { sysctl: name, value })
  }
}
