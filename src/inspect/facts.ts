import { readFileSync } from 'node:fs'
import { release } from 'node:os'
import type { Kernel } from '../open.ts'
import { deviceName } from '../dummy/layer.ts'
import { findLeftovers, findNftLeftovers } from '../iptables/leftovers.ts'
import type { IptablesTool } from '../iptables/restore.ts'
import { describeError } from '../lib/errors.ts'
import { runCommand, type RunCommand } from '../lib/process.ts'
import { readSysctl } from '../lib/sysctl.ts'
import type { Family } from '../model/address.ts'
import type { Facts, LinkFacts } from './checks.ts'
import type { FamilyLook, Look } from './look.ts'
import type { Inspection } from './setup.ts'
import { fillOf } from './status.ts'
import { readSysctls } from './sysctls.ts'

/** Those that checks of their own look at. */
const ownChecks: ReadonlySet<string> = new Set([
  'net.ipv4.ip_forward',
  'net.ipv4.vs.conntrack',
  'net.ipv4.vs.conn_reuse_mode',
])

/** Reads what the checks look at. */
export async function readFacts(
  { config, settings }: Inspection,
  kernel: Kernel,
  look: Look,
  proxy: Facts['proxy'],
): Promise<Facts> {
  const { families } = look
  const links = await readLinks(kernel)
  const states = readSysctls(config)
  const sysctls = new Map(states.flatMap(({ name, value }) => (value === undefined ? [] : [[name, value]])))
  for (const { name } of links) {
    const value = readSysctl(`net/ipv4/conf/${name}/rp_filter`)
    if (value !== undefined) sysctls.set(`net.ipv4.conf.${name}.rp_filter`, value)
  }
  const surveys = families.flatMap(({ present }) => (present.ipvs instanceof Error ? [] : present.ipvs.survey))
  const tool = look.iptables.get('IPv4')
  return {
    release: release(),
    scheduler: settings.scheduler,
    excludeCIDRs: settings.excludeCIDRs,
    sysctls,
    wrongSysctls: states
      .filter(({ name, ok }) => !ok && !ownChecks.has(name))
      .map(({ name, value, wanted }) => ({ name, value: value ?? 'absent', wanted })),
    unread: new Map(
      families.flatMap(({ family, difference }) =>
        [...difference.unread].map(([layer, reason]): [string, string] => [`${family} ${layer}`, reason]),
      ),
    ),
    modules: readModules(),
    servers: total(surveys.map(({ servers }) => servers)),
    destinations: total(surveys.map(({ destinations }) => destinations)),
    servedFamilies: new Set(families.filter(isServed).map(({ family }) => family)),
    schedulersInUse: new Set(surveys.flatMap(({ schedulers }) => [...schedulers.keys()])),
    sets: families.flatMap(fillOf),
    filter: new Map(
      [...look.rules].flatMap(([family, tables]) => {
        const filter = tables instanceof Error ? undefined : tables.get('filter')
        return filter === undefined ? [] : [[family, filter] as const]
      }),
    ),
    variant: tool?.variant ?? 'unknown',
    chainsOfOtherVariant: tool === undefined ? [] : await chainsOfOtherVariant(tool.variant),
    leftovers: await readLeftovers(look.iptables),
    links,
    externalAddresses: (await Promise.all(families.map(externalAddresses))).flat(),
    serviceAddresses: settings.excludeCIDRs.length === 0 ? new Set() : await serviceAddresses(families),
    clashes: families.flatMap(({ wanted }) => wanted?.clashes ?? []),
    driftCount: total(families.map(({ difference }) => difference.differences.length)),
    proxy,
    unknownWanted: look.origin.from === 'nobody' ? look.origin.text : '',
  }
}

/** Where it is not known what is wanted, what stands decides. */
function isServed({ wanted, present }: FamilyLook): boolean {
  if (wanted !== undefined) return wanted.servers.servers > 0
  return !(present.ipvs instanceof Error) && present.ipvs.survey.servers > 0
}

async function serviceAddresses(families: readonly FamilyLook[]): Promise<ReadonlySet<string>> {
  const found = new Set<string>()
  for (const { wanted } of families)
    for (const address of (await wanted?.allAddresses())?.keys() ?? []) found.add(address)
  return found
}

function total(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0)
}

async function readLinks({ dummy }: Kernel): Promise<readonly LinkFacts[]> {
  const [links, addresses] = [await dummy.links(), await dummy.addresses()]
  return links.map(({ index, name, kind }) => ({
    name,
    kind,
    // Those of the dummy device are the Services', and many.
    addresses: name === deviceName ? [] : addresses.filter(({ linkIndex }) => linkIndex === index),
  }))
}

function readModules(): ReadonlySet<string> {
  try {
    const lines = readFileSync('/proc/modules', 'utf8').split('\n')
    return new Set(lines.map((line) => line.split(' ')[0]!))
  } catch {
    return new Set()
  }
}

/** Addresses of entries "10.0.0.1,tcp:80" in sets of addresses from outside. */
async function externalAddresses({ wanted }: FamilyLook): Promise<readonly string[]> {
  const found = new Set<string>()
  for (const role of ['loadBalancer', 'externalIP', 'externalIPLocal'] as const) {
    if (wanted?.sets.has(role) !== true) continue
    for (const entry of (await wanted.entriesOf(role)).keys()) found.add(entry.slice(0, entry.indexOf(',')))
  }
  if (wanted === undefined || found.size === 0) return []
  const bound = await wanted.allAddresses()
  return [...found].filter((address) => bound.has(address))
}

/** KUBE- chains that the tools of the other variant see; asking the legacy ones for a table would make it. */
export async function chainsOfOtherVariant(
  variant: 'nft' | 'legacy',
  run: RunCommand = runCommand,
  readNames: (path: string) => string = readOrNothing,
): Promise<readonly string[]> {
  const found = new Set<string>()
  for (const [name, file] of [
    ['iptables', '/proc/net/ip_tables_names'],
    ['ip6tables', '/proc/net/ip6_tables_names'],
  ] as const) {
    const tables = variant === 'legacy' ? ['nat', 'filter'] : readNames(file).split('\n').filter(Boolean)
    const command = `${name}-${variant === 'nft' ? 'legacy' : 'nft'}-save`
    for (const table of tables) {
      try {
        const { code, stdout } = await run(command, ['-t', table], { timeoutMs: 10_000 })
        if (code !== 0) continue
        for (const [, chain] of stdout.matchAll(/^:(KUBE-\S+) /gm)) {
          // kubelet leaves its hint in both.
          if (!/^KUBE-(IPTABLES-HINT|KUBELET-CANARY)$/.test(chain!)) found.add(`${table} ${chain}`)
        }
      } catch {
        // No such tool: nobody has written with it.
      }
    }
  }
  return [...found]
}

function readOrNothing(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

async function readLeftovers(iptables: ReadonlyMap<Family, IptablesTool>): Promise<readonly string[]> {
  const found: string[] = []
  for (const [family, tool] of iptables) {
    try {
      for (const { table, chains, jumps } of await findLeftovers(tool)) {
        const [first] = chains
        if (first !== undefined) found.push(`${family} ${table}: ${chains.length} chains, such as ${first}`)
        else if (jumps.length > 0) found.push(`${family} ${table}: ${jumps.length} rules of iptables mode`)
      }
      for (const table of await findNftLeftovers(runCommand, family)) found.push(`nftables table ${table}`)
    } catch (error) {
      found.push(`${family}: could not be looked for: ${describeError(error)}`)
    }
  }
  return found
}
