import { existsSync, readFileSync } from 'node:fs'
import { KernelDummy } from '../dummy/kernel-dummy.ts'
import type { InterfaceAddress, Link } from '../dummy/dummy.ts'
import { deviceName } from '../dummy/layer.ts'
import { SetMembership } from '../ipset/membership.ts'
import { parseSave } from '../iptables/text.ts'
import { KernelIpvs } from '../ipvs/kernel-ipvs.ts'
import type { ObservedServer } from '../ipvs/ipvs.ts'
import { describeError } from '../lib/errors.ts'
import { isMissingCommand, runCommand, type RunCommand } from '../lib/process.ts'
import { readSysctl } from '../lib/sysctl.ts'
import { isIPv6LinkLocal, isLoopback, type Family } from '../model/address.ts'
import { serverKey, type ServerId } from '../model/virtual-server.ts'
import { neighbour, sendsBack } from './bridge-ports.ts'
import { readForeignChains } from './foreign-chains.ts'
import type { ForeignChain, KernelState, RuleSet } from './kernel-state.ts'
import { readNativeChains } from './native-chains.ts'
import { Routes } from './routes.ts'
import { listens } from './sockets.ts'
import { pinnedDestination, readStaleFlows } from './standing-flows.ts'
import { soughtIn } from './sought.ts'

/** The kernel of this network namespace, asked as the walk goes; nothing is changed, no module is loaded. */
export interface LiveState extends KernelState {
  close(): void
}

/** Reads what is read at once (rules, links); a part that cannot be read is a finding. */
export async function openLiveState(family: Family, run: RunCommand = runCommand): Promise<LiveState> {
  const findings: string[] = []
  const noted = async <T>(what: string, reading: Promise<T>, otherwise: T): Promise<T> => {
    try {
      return await reading
    } catch (error) {
      findings.push(`${what} cannot be read: ${describeError(error)}`)
      return otherwise
    }
  }
  const dummy = new KernelDummy()
  const [iptables, links, chains] = await Promise.all([
    readRuleSets(family, run, findings),
    noted<readonly Link[]>('links', dummy.links(), []),
    noted<readonly ForeignChain[]>('nftables chains', readForeignChains(family), []),
  ])
  const { ruleSets: native, unread } = await readNativeChains(family, chains, run)
  const device = links.find(({ name }) => name === deviceName)?.index
  // Those of the dummy device are not even decoded.
  const addresses = dummy.addresses({ family, isOn: (index) => index !== device })
  const own = (await noted<readonly InterfaceAddress[]>('addresses', addresses, [])).map(({ address }) => address)
  dummy.close()
  const hasIpvs = existsSync('/proc/net/ip_vs')
  const ipvs = new KernelIpvs()
  const sets = new SetMembership()
  const routes = new Routes(links.map(({ index, name }) => [index, name]))
  const servers = new Map<string, Promise<ObservedServer | undefined | string>>()
  const findServer = async (id: ServerId): Promise<ObservedServer | undefined | string> => {
    if (!hasIpvs) return undefined
    try {
      return await ipvs.find(id)
    } catch (error) {
      return `virtual server ${serverKey(id)} cannot be read: ${describeError(error)}`
    }
  }
  if (!hasIpvs) findings.push('the kernel has no IPVS: the module ip_vs is not loaded')
  return {
    family,
    ruleSets: [...iptables, ...native],
    foreignChains: unread,
    links,
    nodeAddresses: [...new Set(own)].filter((address) => !isLoopback(address) && !isIPv6LinkLocal(address)),
    findings,
    inSet: (name, directions, packet) => sets.has(name, soughtIn(packet, directions)),
    hasEntry: (set, entry) => sets.hasEntry(set, entry),
    server: (id) => {
      const key = serverKey(id)
      if (!servers.has(key)) servers.set(key, findServer(id))
      return servers.get(key)!
    },
    setRoom: (set) => sets.room(set),
    serverOfMark: async (mark, id) => {
      if (!hasIpvs) return undefined
      try {
        return await ipvs.findByMark(mark, id)
      } catch (error) {
        return `the virtual server of firewall mark ${mark} cannot be read: ${describeError(error)}`
      }
    },
    pinned: (id, client) => pinnedDestination(id, client),
    staleFlows: async (server) => {
      try {
        return await readStaleFlows(server, readSysctl('net/ipv4/vs/expire_nodest_conn') === '1')
      } catch (error) {
        return `tracked flows cannot be read: ${describeError(error)}`
      }
    },
    route: (query) => routes.find(query),
    sysctl: readSysctl,
    listens,
    sendsBack: (link, address) => {
      const index = links.find(({ name }) => name === link)?.index
      return sendsBack(link, async () => (index === undefined ? undefined : neighbour(index, address)))
    },
    close: () => {
      for (const part of [ipvs, sets, routes]) part.close()
    },
  }
}

const commands: Readonly<Record<Family, string>> = { IPv4: 'iptables', IPv6: 'ip6tables' }
const legacyNames: Readonly<Record<Family, string>> = {
  IPv4: '/proc/net/ip_tables_names',
  IPv6: '/proc/net/ip6_tables_names',
}

/** Both variants where both have tables: packets pass either. Legacy tables are read only where the kernel has any. */
async function readRuleSets(family: Family, run: RunCommand, findings: string[]): Promise<RuleSet[]> {
  const command = commands[family]
  const legacy = readLines(legacyNames[family])
  const sets: RuleSet[] = []
  const read = async (variant: string, name: string): Promise<boolean> => {
    try {
      const { code, stdout, stderr } = await run(name, [])
      if (code !== 0) findings.push(`rules of ${name} cannot be read: ${stderr.trim()}`)
      else sets.push({ variant, tables: parseSave(stdout) })
      return true
    } catch (error) {
      if (!isMissingCommand(error)) findings.push(`rules of ${name} cannot be read: ${describeError(error)}`)
      return !isMissingCommand(error)
    }
  }
  const hasNft = await read('nft', `${command}-nft-save`)
  const hasLegacy = legacy.length > 0 && (await read('legacy', `${command}-legacy-save`))
  if (!hasNft && !hasLegacy && !(await read('', `${command}-save`))) {
    findings.push(`rules of iptables cannot be read: neither ${command}-nft-save nor ${command}-save is there`)
  } else if (legacy.length > 0 && !hasLegacy && hasNft) {
    findings.push(`there are legacy tables (${legacy.join(', ')}), and no ${command}-legacy-save to read them`)
  }
  return sets
}

function readLines(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split('\n').filter(Boolean)
  } catch {
    return []
  }
}
