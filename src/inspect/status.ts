import { release } from 'node:os'
import { allRoles, setSpec } from '../ipset/catalogue.ts'
import { ownChains, tables } from '../iptables/rules.ts'
import { version } from '../lib/version.ts'
import type { Family } from '../model/address.ts'
import { destinationKey } from '../model/virtual-server.ts'
import type { DaemonReport } from './daemon.ts'
import { reportOf } from './report.ts'
import { layerNames, type Difference, type LayerName } from './difference.ts'
import { rowOf } from './diff.ts'
import { lookAtKernel, withKernel, type FamilyLook, type Look, type Origin } from './look.ts'
import { otherWriters, type OtherWriter } from './others.ts'
import { columns, counted, head, notesText, print, section } from './output.ts'
import { drainingOf, type DrainingDestination } from './servers.ts'
import type { Inspection } from './setup.ts'
import { readSysctls, type SysctlState } from './sysctls.ts'
import type { WantedSummary } from '../wanted/wanted.ts'

/** Counts of one layer by what is counted. */
export type Counts = Readonly<Record<string, number>>

export interface LayerStatus {
  readonly layer: LayerName
  /** Undefined where it is not known. */
  readonly wanted: Counts | undefined
  /** Undefined where the layer could not be read. */
  readonly present: Counts | undefined
  /** How many things differ; undefined where it is not known what is wanted. */
  readonly drift: number | undefined
  readonly unread: string
}

export interface SetFill {
  readonly family: Family
  readonly set: string
  readonly members: number
  readonly size: number
}

export interface StatusResult {
  readonly node: string
  readonly version: string
  readonly kernel: string
  readonly iptables: string
  readonly daemon: DaemonReport
  /** Who says what is wanted. */
  readonly wanted: Origin
  readonly families: readonly { readonly family: Family; readonly layers: readonly LayerStatus[] }[]
  readonly drift: readonly Difference[]
  /** Service ports that are not served as they should be, and why. */
  readonly failing: readonly { readonly object: string; readonly reason: string }[]
  readonly sets: readonly SetFill[]
  readonly draining: readonly (DrainingDestination & { readonly family: Family })[]
  /** Virtual servers by scheduler. */
  readonly schedulers: Readonly<Record<string, number>>
  readonly sysctls: readonly SysctlState[]
  readonly others: readonly OtherWriter[]
  readonly notes: readonly string[]
}

/** What of the status is read elsewhere than in the look. */
export interface StatusFacts {
  readonly node: string
  readonly daemon: DaemonReport
  readonly sysctls: readonly SysctlState[]
  readonly notes: readonly string[]
}

export async function runStatus(inspection: Inspection): Promise<number> {
  // One after the other: while the objects are worked out nothing else has its turn, and the daemon would seem to be late.
  const daemon = await reportOf(inspection)
  const look = await withKernel((kernel) => lookAtKernel(inspection, kernel))
  print(inspection.command, statusOf(look, statusFacts(inspection, daemon)), statusText)
  return 0
}

export function statusFacts({ nodeName, config, notes }: Inspection, daemon: DaemonReport): StatusFacts {
  return { node: nodeName, daemon, sysctls: readSysctls(config), notes: notes.lines }
}

export function statusOf({ origin, families, rules, iptables }: Look, facts: StatusFacts): StatusResult {
  const tool = iptables.get('IPv4')
  return {
    ...facts,
    version,
    kernel: release(),
    iptables: tool === undefined ? '' : `${tool.version} (${tool.variant})`,
    wanted: origin,
    families: families.map((look) => ({ family: look.family, layers: layersOf(look) })),
    drift: families.flatMap(({ difference }) => difference.differences),
    failing: families.flatMap(failingOf),
    sets: families.flatMap(fillOf),
    draining: families.flatMap(({ family, present }) =>
      present.ipvs instanceof Error
        ? []
        : drainingOf(present.ipvs.observed, present.ipvs.wanted).map((one) => ({ family, ...one })),
    ),
    schedulers: schedulersOf(families),
    others: otherWriters(rules),
  }
}

function layersOf({ wanted, present, difference }: FamilyLook): LayerStatus[] {
  return layerNames.map((layer) => ({
    layer,
    wanted: wanted && wantedCounts(layer, wanted),
    present: presentCounts(layer, present),
    drift: wanted && difference.differences.filter((one) => one.layer === layer).length,
    unread: difference.unread.get(layer) ?? '',
  }))
}

function sum(numbers: Iterable<number>): number {
  let total = 0
  for (const number of numbers) total += number
  return total
}

function wantedCounts(layer: LayerName, { servers, sets, rules, addresses }: WantedSummary): Counts {
  switch (layer) {
    case 'ipvs':
      return { server: servers.servers, destination: servers.destinations }
    case 'ipset':
      return { entry: sum([...sets.values()].map(({ count }) => count)) }
    case 'iptables':
      return { chain: rules.chains.length, rule: sum(rules.chains.map((one) => one.rules.length)) }
    case 'dummy':
      return { address: addresses.count }
  }
}

function presentCounts(layer: LayerName, present: FamilyLook['present']): Counts | undefined {
  const { ipvs, ipset, iptables, dummy } = present
  switch (layer) {
    case 'ipvs':
      if (ipvs instanceof Error) return undefined
      return { server: ipvs.survey.servers, destination: ipvs.survey.destinations }
    case 'ipset':
      if (ipset instanceof Error) return undefined
      return { entry: sum([...ipset.sets.values()].map(({ members }) => members)) }
    case 'iptables': {
      if (iptables instanceof Error) return undefined
      const own = tables.flatMap((table) => ownChains[table].flatMap((name) => iptables.get(table)?.get(name) ?? []))
      return { chain: own.length, rule: sum(own.map(({ rules }) => rules.length)) }
    }
    case 'dummy':
      return dummy instanceof Error ? undefined : { address: dummy.count }
  }
}

/** What a Service port lacks, one line each, and what it does not get because another has it. */
function failingOf({ wanted, difference }: FamilyLook): StatusResult['failing'] {
  const reasons = new Map<string, string[]>()
  for (const { owners, state, kind, object } of difference.differences) {
    for (const owner of owners) reasons.set(owner, [...(reasons.get(owner) ?? []), `${kind} ${object} ${state}`])
  }
  const lacking = [...reasons].map(([object, [first = '', ...more]]) => ({
    object,
    reason: more.length === 0 ? first : `${first}, and ${more.length} more`,
  }))
  const losers = (wanted?.conflicts ?? []).map(({ server, winner, loser }) => ({
    object: loser,
    reason: `virtual server ${server} is that of ${winner}`,
  }))
  const clashes = (wanted?.clashes ?? []).map(({ owner, address }) => ({
    object: owner,
    reason: `its address ${address} is an address of this node, too`,
  }))
  const refused = (wanted?.refused ?? []).map(({ owner, address, reason }) => ({
    object: owner,
    reason: `its address ${address} is not served: ${reason}`,
  }))
  return [...lacking, ...losers, ...clashes, ...refused]
}

export function fillOf({ family, present }: Pick<FamilyLook, 'family' | 'present'>): SetFill[] {
  if (present.ipset instanceof Error) return []
  const { sets } = present.ipset
  return allRoles.flatMap((role) => {
    const { name } = setSpec(role, family)
    const found = sets.get(name)
    if (found === undefined) return []
    const size = found.spec.type === 'bitmap:port' ? 65_536 : found.spec.maxelem
    return [{ family, set: name, members: found.members, size }]
  })
}

function schedulersOf(families: readonly FamilyLook[]): Record<string, number> {
  const total: Record<string, number> = {}
  for (const { present } of families) {
    if (present.ipvs instanceof Error) continue
    for (const [name, count] of present.ipvs.survey.schedulers) total[name] = (total[name] ?? 0) + count
  }
  return total
}

export function statusText(status: StatusResult): string {
  const { node, kernel, iptables, families, drift, failing, sets, draining, schedulers, sysctls, others } = status
  const wrong = sysctls.filter(({ ok }) => !ok)
  const full = sets.filter(({ members }) => members > 0)
  return [
    columns([
      ['Node', node],
      ['Program', `kube-ipvs-proxy ${status.version}`],
      ['Kernel', kernel],
      ['iptables', iptables || 'unknown'],
      ['Daemon', daemonText(status.daemon)],
      ['Wanted', status.wanted.text],
      ['Drift', driftText(status)],
      [
        'Schedulers',
        Object.entries(schedulers)
          .map(([name, count]) => `${name} (${counted(count, 'virtual server')})`)
          .join(', ') || 'none in use',
      ],
    ]),
    section(
      'Layers',
      columns([['FAMILY', 'LAYER', 'WANTED', 'PRESENT', 'DRIFT'], ...families.flatMap(layerRows)], '  '),
    ),
    section('Drift', columns(head(drift, 10, rowOf), '  ')),
    section(
      'Not served as wanted',
      columns(
        head(failing, 20, ({ object, reason }) => [object, reason]),
        '  ',
      ),
    ),
    full.length === 0 ? '' : section('Sets', columns([['SET', 'MEMBERS', 'SIZE', 'FILL'], ...full.map(setRow)], '  ')),
    draining.length === 0 ? '' : section('Draining', drainingTable(draining)),
    section(
      `Sysctls${wrong.length === 0 ? '' : `: ${wrong.length} not as they should be`}`,
      columns([['NAME', 'VALUE', 'WANTED', ''], ...sysctls.map(sysctlRow)], '  '),
    ),
    others.length === 0 ? '' : section('Who else writes rules', othersTable(others)),
    notesText(status.notes),
  ].join('')
}

function driftText({ drift, wanted }: StatusResult): string {
  if (wanted.from === 'nobody') return 'not known'
  return drift.length === 0 ? 'none' : `${counted(drift.length, 'difference')}; see diff`
}

function daemonText({ answers, reason, healthy, lastSyncAge, refused }: DaemonReport): string {
  if (!answers) return `does not answer, its last sync is unknown (${reason})`
  const ages = Object.entries(lastSyncAge).map(([family, age]) => `${family} ${age} s ago`)
  const waiting = Object.entries(refused).filter(([, count]) => count > 0)
  return [
    healthy === undefined ? 'health unknown' : healthy ? 'healthy' : 'unhealthy',
    `last sync ${ages.join(', ') || 'unknown'}`,
    ...waiting.map(([family, count]) => `${counted(count, 'service port')} of ${family} refused by the kernel`),
    ...(reason === '' ? [] : [reason]),
  ].join('; ')
}

function pairs(counts: Counts): string {
  return Object.entries(counts)
    .map(([name, count]) => counted(count, name))
    .join(', ')
}

function layerRows({ family, layers }: StatusResult['families'][number]): string[][] {
  return layers.map(({ layer, wanted, present, drift, unread }) => [
    family,
    layer,
    wanted === undefined ? '?' : pairs(wanted),
    present === undefined ? `could not be read: ${unread}` : pairs(present),
    present === undefined ? '?' : String(drift ?? '?'),
  ])
}

function setRow({ set, members, size }: SetFill): string[] {
  return [set, String(members), String(size), `${((100 * members) / size).toFixed(1)} %`]
}

function drainingTable(draining: StatusResult['draining']): string {
  const rows = head(draining, 50, (one) => [
    one.server,
    destinationKey(one),
    String(one.activeConnections),
    String(one.inactiveConnections),
  ])
  return columns([['VIRTUAL SERVER', 'DESTINATION', 'ACTIVE', 'INACTIVE'], ...rows], '  ')
}

function sysctlRow({ name, value, wanted, ok }: SysctlState): string[] {
  return [name, value ?? 'absent', wanted || '-', ok ? '' : 'differs']
}

function othersTable(others: readonly OtherWriter[]): string {
  const rows = others.map(({ who, chains, rules, tables }) => [who, String(chains), String(rules), tables.join(', ')])
  return columns([['WHO', 'CHAINS', 'RULES', 'TABLES'], ...rows], '  ')
}
