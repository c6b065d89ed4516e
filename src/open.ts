import { existsSync } from 'node:fs'
import type { Flows } from './conntrack/flows.ts'
import { KernelFlows } from './conntrack/kernel-flows.ts'
import type { Dummy } from './dummy/dummy.ts'
import { KernelDummy } from './dummy/kernel-dummy.ts'
import { deviceName } from './dummy/layer.ts'
import type { Ipset } from './ipset/ipset.ts'
import { KernelIpset } from './ipset/kernel-ipset.ts'
import { ipsetErrnoNames } from './ipset/messages.ts'
import { RuleGeneration } from './iptables/generation.ts'
import { chooseVariant, IptablesTool, theHost } from './iptables/restore.ts'
import type { Ipvs, IpvsTraffic } from './ipvs/ipvs.ts'
import { KernelIpvs } from './ipvs/kernel-ipvs.ts'
import type { Log } from './lib/log.ts'
import type { RunCommand } from './lib/process.ts'
import { isIPv6LinkLocal, isLoopback, type Family } from './model/address.ts'
import { Connection, type CallObserver, type Traffic } from './netlink/connection.ts'
import { errnoName } from './netlink/errno.ts'
import { protocols } from './netlink/header.ts'

/** The kernel by netlink: one connection each, shared by the families. */
export interface Kernel {
  /** `reloaded` is called when ip_vs was found to have been loaded anew. */
  readonly ipvs: Ipvs & IpvsTraffic & { reloaded?: () => void }
  readonly ipset: Ipset
  readonly dummy: Dummy
  readonly flows: Flows
  readonly generation: RuleGeneration
  close(): void
}

/** Hears what the kernel is asked for, by layer: netlink messages as they go out, calls once they are answered. */
export interface KernelWatch {
  /** Counted up. */
  readonly traffic: Map<string, Traffic>
  answered(layer: string, operation: string, milliseconds: number): void
  /** `error`: errno by name, or "failed". */
  refused(layer: string, operation: string, error: string): void
}

export function openKernel(watch?: KernelWatch): Kernel {
  const connect = (layer: string, protocol: number) => (): Connection => {
    const counts = { messages: 0, sends: 0 }
    watch?.traffic.set(layer, counts)
    return Connection.open(protocol, { traffic: counts, observer: watch && observerOf(layer, watch) })
  }
  const ipvs = new KernelIpvs(connect('ipvs', protocols.generic))
  const ipset = new KernelIpset(connect('ipset', protocols.netfilter))
  const dummy = new KernelDummy(connect('dummy', protocols.route))
  const flows = new KernelFlows(connect('conntrack', protocols.netfilter))
  const generation = new RuleGeneration(connect('iptables', protocols.netfilter))
  return {
    ipvs,
    ipset,
    dummy,
    flows,
    generation,
    close: () => {
      for (const part of [ipvs, ipset, dummy, flows, generation]) part.close()
    },
  }
}

/** One layer's calls as a watch hears of them: errnos by name, those of ipset alone included. */
export function observerOf(layer: string, watch: KernelWatch): CallObserver {
  const names = layer === 'ipset' ? ipsetErrnoNames : undefined
  return {
    answered: (operation, milliseconds) => watch.answered(layer, operation, milliseconds),
    refused: (operation, errno) =>
      watch.refused(layer, operation, errno === 'failed' ? errno : errnoName(errno, names)),
  }
}

/** iptables of the families that this node can serve: IPv4 always, IPv6 where the kernel has it. */
export async function openIptables(log: Log, watch?: KernelWatch): Promise<ReadonlyMap<Family, IptablesTool>> {
  const choice = await chooseVariant()
  const host = watch === undefined ? theHost : { ...theHost, run: watched(theHost.run, watch) }
  const tools = new Map<Family, IptablesTool>([['IPv4', await IptablesTool.open('IPv4', choice, host)]])
  const primary = tools.get('IPv4')!
  log.v(1, 'iptables chosen', { variant: primary.variant, version: primary.version, reason: choice.reason })
  if (existsSync('/proc/net/if_inet6')) {
    try {
      const tool = await IptablesTool.open('IPv6', choice, host)
      await tool.save('nat')
      tools.set('IPv6', tool)
    } catch (error) {
      log.warn('ip6tables is not usable, IPv6 Services are left out', { error: String(error) })
    }
  }
  return tools
}

/** Runs of iptables-save and iptables-restore, told. */
function watched(run: RunCommand, watch: KernelWatch): RunCommand {
  return async (command, args, options) => {
    const operation = /-(save|restore)$/.exec(command)?.[1]
    if (operation === undefined) return run(command, args, options)
    const began = performance.now()
    let code: number | undefined
    try {
      const result = await run(command, args, options)
      code = result.code
      return result
    } finally {
      watch.answered('iptables', operation, performance.now() - began)
      if (code !== 0) watch.refused('iptables', operation, 'failed')
    }
  }
}

/** Addresses of a family on all links but the dummy device, without loopback and IPv6 link-local ones. */
export async function readNodeAddresses(dummy: Dummy, family: Family): Promise<string[]> {
  const device = (await dummy.links()).find(({ name }) => name === deviceName)?.index
  const addresses = await dummy.addresses({ family, isOn: (linkIndex) => linkIndex !== device })
  const own = addresses.filter(({ address }) => !isLoopback(address) && !isIPv6LinkLocal(address))
  return [...new Set(own.map(({ address }) => address))].sort()
}
