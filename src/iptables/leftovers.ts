import { isMissingCommand, type RunCommand } from '../lib/process.ts'
import type { Family } from '../model/address.ts'
import type { Iptables } from './iptables.ts'
import { ownChains } from './rules.ts'
import { parseSave, targetOf, writeRestore, type TableInput } from './text.ts'

const leftoverTables = ['nat', 'filter', 'mangle'] as const
type LeftoverTable = (typeof leftoverTables)[number]

/** Chains that kube-proxy's iptables mode names after Services and endpoints, and the fixed ones that only it has. */
const foreignChain = /^KUBE-(?:(?:SVC|SVL|EXT|SEP|FW|XLB)-[A-Z0-9]+|EXTERNAL-SERVICES|NODEPORTS|PROXY-CANARY)$/

/** Whether a rule's target is a chain that kube-proxy's iptables mode alone has. */
export function isOfIptablesMode(target: string | undefined): boolean {
  return target !== undefined && foreignChain.test(target)
}

/** What another mode left in one table. */
export interface TableLeftovers {
  readonly table: LeftoverTable
  readonly chains: readonly string[]
  /** Jumps of kube-proxy's own into those chains, from chains that stay: "-D" takes them as they are. */
  readonly jumps: readonly { readonly from: string; readonly rule: string }[]
  /** Chains that somebody else's rule leads to: they are emptied, but have to stay. */
  readonly referenced: readonly string[]
}

export type Leftovers = readonly TableLeftovers[]

/** In the filter table KUBE-SERVICES is iptables mode's alone; in nat both modes have it. */
function isLeftover(table: LeftoverTable, name: string): boolean {
  if (foreignChain.test(name)) return true
  return table === 'filter' && name === 'KUBE-SERVICES'
}

/** The jumps that iptables mode itself makes carry comments of Kubernetes; whoever else jumps there is a stranger. */
function isKubeProxys(table: LeftoverTable, from: string, rule: string): boolean {
  const builtin = from === 'INPUT' || from === 'FORWARD' || from === 'OUTPUT' || from === 'PREROUTING'
  if (!builtin) return table !== 'mangle' && ownChains[table].includes(from)
  return /--comment "?kubernetes /.test(rule)
}

/**
 * Jumps of iptables mode to a chain that both modes have, KUBE-PROXY-FIREWALL: ours have other words, and none is in
 * OUTPUT, where it would drop the node's own packets to an address with source ranges.
 */
function isForeignJump(from: string, rule: string): boolean {
  return (
    (from === 'INPUT' || from === 'FORWARD' || from === 'OUTPUT') &&
    rule.includes('"kubernetes load balancer firewall"') &&
    targetOf(rule) === 'KUBE-PROXY-FIREWALL'
  )
}

/** What kube-proxy's iptables mode left in one family's tables. */
export async function findLeftovers(iptables: Pick<Iptables, 'save'>): Promise<Leftovers> {
  const found: TableLeftovers[] = []
  for (const table of leftoverTables) {
    const saved = parseSave(await iptables.save(table)).get(table)
    if (saved === undefined) continue
    const chains = [...saved.keys()].filter((name) => isLeftover(table, name))
    const gone = new Set(chains)
    const jumps: { from: string; rule: string }[] = []
    const referenced = new Set<string>()
    for (const [from, { rules }] of saved) {
      if (gone.has(from)) continue
      for (const rule of rules) {
        const target = targetOf(rule)
        if (target !== undefined && isForeignJump(from, rule)) jumps.push({ from, rule })
        if (target === undefined || !gone.has(target)) continue
        if (isKubeProxys(table, from, rule)) jumps.push({ from, rule })
        else referenced.add(target)
      }
    }
    if (chains.length + jumps.length > 0) found.push({ table, chains, jumps, referenced: [...referenced] })
  }
  return found
}

/**
 * Removes them in one restore; our own rules must stand by then, for Services are served by these up to now. Answers
 * what went, counted by kind.
 */
export async function removeLeftovers(
  iptables: Pick<Iptables, 'restore'>,
  leftovers: Leftovers,
): Promise<readonly string[]> {
  if (leftovers.length === 0) return []
  const counts = new Map<string, number>()
  const inputs = leftovers.map(({ table, chains, jumps, referenced }): TableInput => {
    const going = chains.filter((name) => !referenced.includes(name))
    for (const name of going) {
      const kind = `${name.replace(/^(KUBE-(?:SVC|SVL|EXT|SEP|FW|XLB))-.*/, '$1-*')} of table ${table}`
      counts.set(kind, (counts.get(kind) ?? 0) + 1)
    }
    return {
      table,
      declare: chains,
      commands: [...jumps.map(({ from, rule }) => `-D ${from} ${rule}`), ...going.map((name) => `-X ${name}`)],
    }
  })
  await iptables.restore(writeRestore(inputs))
  return [...counts].map(([kind, count]) => `${count} × ${kind}`)
}

const nftFamilies: Readonly<Record<Family, string>> = { IPv4: 'ip', IPv6: 'ip6' }

/** kube-proxy's table of nftables mode, "ip kube-proxy"; none where there is no tool nft. */
export async function findNftLeftovers(run: RunCommand, family: Family): Promise<readonly string[]> {
  const wanted = `${nftFamilies[family]} kube-proxy`
  try {
    const { code, stdout } = await run('nft', ['list', 'tables'])
    return code === 0 && stdout.split('\n').some((line) => line.trim() === `table ${wanted}`) ? [wanted] : []
  } catch (error) {
    if (isMissingCommand(error)) return []
    throw error
  }
}

/** Deletes the tables; answers what went. */
export async function removeNftLeftovers(run: RunCommand, tables: readonly string[]): Promise<readonly string[]> {
  const removed: string[] = []
  for (const table of tables) {
    const { code, stderr } = await run('nft', ['delete', 'table', ...table.split(' ')])
    if (code !== 0) throw new Error(`nft delete table ${table} exited with ${code}: ${stderr.trim()}`)
    removed.push(`nftables table ${table}`)
  }
  return removed
}
