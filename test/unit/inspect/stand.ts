import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { HttpServer } from '../../../src/health/server.ts'
import { differencesOf, type Difference } from '../../../src/inspect/difference.ts'
import { askDaemonAt, wantedAt } from '../../../src/inspect/ask.ts'
import { readPresent, readRules, type Present } from '../../../src/inspect/present.ts'
import { surveyServers } from '../../../src/inspect/servers.ts'
import { WantedFamily } from '../../../src/inspect/wanted.ts'
import { serverFlags, type ObservedServer } from '../../../src/ipvs/ipvs.ts'
import type { ProcFile } from '../../../src/ipvs/proc-file.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { addressBytes, parseCidr } from '../../../src/model/address.ts'
import type { EndpointSliceRecord, ServiceRecord } from '../../../src/model/cluster.ts'
import { wantedRoutes } from '../../../src/wanted/routes.ts'
import type { DaemonIdentity } from '../../../src/wanted/wire.ts'
import type { Wanted } from '../../../src/wanted/wanted.ts'
import { Rig, usualSettings } from '../proxier/rig.ts'

/** An address as /proc/net/ip_vs has it. */
function procAddress(address: string): string {
  const hex = Buffer.from(addressBytes(address)).toString('hex')
  return hex.length === 8 ? hex.toUpperCase() : `[${hex.match(/.{4}/g)!.join(':')}]`
}

const padded = (number: number, width: number): string => String(number).padEnd(width)

/** The text of /proc/net/ip_vs for these servers, with a clock of 250 ticks a second. */
export function procText(servers: readonly ObservedServer[]): string {
  const forwarding = ['Masq', 'Local', 'Tunnel', 'Route', 'Bypass']
  const at = (one: { address: string; port: number }): string =>
    `${procAddress(one.address)}:${one.port.toString(16).toUpperCase().padStart(4, '0')}`
  const lines = servers.flatMap(({ server, destinations }) => {
    const persistent =
      (server.flags & serverFlags.persistent) === 0 ? '' : ` persistent ${250 * server.timeout} FFFFFFFF`
    return [
      `${server.protocol}  ${at(server)} ${server.scheduler} ${persistent}`,
      ...destinations.map(
        (one) =>
          `  -> ${at(one)}      ${forwarding[one.forwarding]!.padEnd(7)} ${padded(one.weight, 6)} ${padded(one.activeConnections, 10)} ${padded(one.inactiveConnections, 10)}`,
      ),
    ]
  })
  return `IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n${lines.map((line) => `${line}\n`).join('')}`
}

/** A text read as a file of the kernel, a few bytes at a time. */
export function procFile(text: string): ProcFile {
  const bytes = Buffer.from(text, 'latin1')
  let at = 0
  return {
    read: (buffer) => {
      const count = bytes.copy(buffer, 0, at, Math.min(bytes.length, at + 50))
      at += count
      return count
    },
    close: () => {},
  }
}

export interface Objects {
  readonly services: readonly ServiceRecord[]
  readonly slices: readonly EndpointSliceRecord[]
}

/** A daemon that has written these objects into kernels in memory, and the same objects as they are wanted. */
export async function stand({ services, slices }: Objects): Promise<{ rig: Rig; wanted: Wanted }> {
  const rig = new Rig()
  const family = new WantedFamily({
    family: 'IPv4',
    settings: usualSettings,
    readNodeAddresses: () => Promise.resolve(['192.168.0.1']),
    log: silentLog,
  })
  for (const proxier of [rig.proxier, family.proxier]) {
    for (const service of services) proxier.serviceChanged(service.key, service)
    for (const slice of slices) proxier.sliceChanged(slice.key, slice)
    proxier.synced('services')
    proxier.synced('endpointslices')
  }
  rig.start()
  await rig.next()
  await rig.stop()
  return { rig, wanted: await family.wanted(true) }
}

/** The same as the daemon tells it, over a real socket. */
export async function told(rig: Rig): Promise<Wanted> {
  const folder = mkdtempSync(join(tmpdir(), 'told-'))
  const path = join(folder, 'run', 'status.sock')
  const identity = { version: 'test', families: [{ family: 'IPv4', synced: true }] } as unknown as DaemonIdentity
  const routes = wantedRoutes(() => Promise.resolve(identity), new Map([['IPv4', rig.stack.wanted]]))
  const server = new HttpServer({ name: 'status', at: { path }, hardFail: true, routes, log: silentLog })
  await server.start()
  onTestFinished(() => {
    server.close()
    rmSync(folder, { recursive: true })
  })
  const { families } = await askDaemonAt(path, true)
  return wantedAt(path, families[0]!)
}

/** What stands in the kernel in memory, beside what is wanted. */
export async function presentOf(rig: Rig, wanted: Wanted | undefined): Promise<Present> {
  const text = procText(await rig.ipvs.listAll())
  const rules = await readRules(new Map([['IPv4', rig.iptables]]))
  return readPresent('IPv4', wanted, { rules, servers: surveyServers(() => procFile(text)) }, rig)
}

/** Where the kernel in memory differs from what is wanted, as the commands see it. */
export async function differences(
  rig: Rig,
  wanted: Wanted,
  excludeCIDRs: readonly string[] = [],
): Promise<Difference[]> {
  const cidrs = excludeCIDRs.map((cidr) => parseCidr(cidr)!)
  const found = differencesOf(wanted, await presentOf(rig, wanted), cidrs)
  if (found.unread.size > 0) throw new Error(JSON.stringify([...found.unread]))
  return [...found.differences]
}
