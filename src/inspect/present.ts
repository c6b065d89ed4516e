import type { InterfaceAddress, Link } from '../dummy/dummy.ts'
import { deviceName } from '../dummy/layer.ts'
import { allRoles, setSpec, temporaryName } from '../ipset/catalogue.ts'
import type { SetSpec } from '../ipset/ipset.ts'
import type { Iptables } from '../iptables/iptables.ts'
import { tables, type Table } from '../iptables/rules.ts'
import { parseSave, type SavedTable } from '../iptables/text.ts'
import { serverKey, type ObservedServer } from '../ipvs/ipvs.ts'
import { bucketOfServer } from '../ipvs/server-digest.ts'
import type { Family } from '../model/address.ts'
import type { SetRole } from '../model/sets.ts'
import type { Kernel } from '../open.ts'
import type { OwnedEntries, Wanted, WantedServer } from '../wanted/wanted.ts'
import type { ServerSurvey } from './servers.ts'

export interface PresentServers {
  readonly survey: ServerSurvey
  /** Those that were looked at closely, as they stand: all of a bucket that differs or has a destination at weight 0. */
  readonly observed: readonly ObservedServer[]
  /** Those that are wanted in the same buckets, by key. */
  readonly wanted: ReadonlyMap<string, WantedServer>
}

export interface PresentSet {
  readonly spec: SetSpec
  readonly members: number
  /** What is there and what is wanted; undefined: the same, by their sums, or it is not known what is wanted. */
  readonly closely: { readonly entries: readonly string[]; readonly wanted: OwnedEntries } | undefined
}

export interface PresentSets {
  /** Our own, by name. */
  readonly sets: ReadonlyMap<string, PresentSet>
  /** Names of sets in which a larger one was being built. */
  readonly temporary: readonly string[]
}

export interface PresentAddresses {
  readonly device: Link | undefined
  readonly count: number
  /** As of a set. */
  readonly closely: { readonly addresses: readonly InterfaceAddress[]; readonly wanted: OwnedEntries } | undefined
}

/** One family's kernel state, as far as it had to be looked at; an Error where a layer could not be read. */
export interface Present {
  readonly family: Family
  readonly ipvs: PresentServers | Error
  readonly ipset: PresentSets | Error
  readonly iptables: ReadonlyMap<Table, SavedTable> | Error
  readonly dummy: PresentAddresses | Error
}

/** How rules are read. */
export type RuleReader = Pick<Iptables, 'save'> & { readonly saveAll?: () => Promise<string> }

/** Rules as text, by family and table; they can be read before it is known what is wanted. */
export type SavedRules = ReadonlyMap<Family, ReadonlyMap<Table, SavedTable> | Error>

/** What of the kernel can be read before it is known what is wanted. */
export interface Survey {
  readonly rules: SavedRules
  /** Under way: the kernel takes longest over them. */
  readonly servers: Promise<ReadonlyMap<Family, ServerSurvey> | Error>
}

/** From so many virtual servers on the whole list is read instead of each. */
const manyServers = 256

export async function readRules(iptables: ReadonlyMap<Family, RuleReader>): Promise<SavedRules> {
  const read = async (tool: RuleReader): Promise<ReadonlyMap<Table, SavedTable>> => {
    // The nft variant prints nothing of a table that does not exist.
    const texts = tool.saveAll === undefined ? await Promise.all(tables.map((table) => tool.save(table))) : undefined
    const saved = parseSave(texts === undefined ? await tool.saveAll!() : texts.join(''))
    return new Map(tables.map((table) => [table, saved.get(table) ?? new Map()]))
  }
  const all = [...iptables].map(async ([family, tool]) => [family, await orError(() => read(tool))] as const)
  return new Map(await Promise.all(all))
}

/**
 * One family's kernel state beside what is wanted: sums, and a closer look only where they differ. Where it is not known
 * what is wanted, what stands is counted.
 */
export async function readPresent(
  family: Family,
  wanted: Wanted | undefined,
  { rules, servers }: Survey,
  kernel: Pick<Kernel, 'ipvs' | 'ipset' | 'dummy'>,
): Promise<Present> {
  const ipset = await orError(() => readSets(kernel.ipset, family, wanted))
  const dummy = await orError(() => readAddresses(kernel.dummy, family, wanted))
  const surveys = await servers
  const ipvs =
    surveys instanceof Error ? surveys : await orError(() => readServers(kernel.ipvs, family, surveys, wanted))
  return { family, ipvs, ipset, dummy, iptables: rules.get(family) ?? new Map() }
}

export async function orError<T>(read: () => Promise<T>): Promise<T | Error> {
  try {
    return await read()
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  }
}

/**
 * What the file says is only a suspicion: it leaves servers out while others come and go, or where other network
 * namespaces have some. Those are asked for by netlink, which is exact.
 */
async function readServers(
  ipvs: Kernel['ipvs'],
  family: Family,
  surveys: ReadonlyMap<Family, ServerSurvey>,
  wanted: Wanted | undefined,
): Promise<PresentServers> {
  const survey = surveys.get(family)!
  const none = { survey, observed: [], wanted: new Map<string, WantedServer>() }
  if (wanted === undefined) return none
  const buckets = survey.differing(wanted.servers.sums).union(survey.withWeightZero)
  if (buckets.size === 0) return none
  const wantedThere = await wanted.serversIn(buckets)
  const standing = await ipvs.listServers()
  const suspects = standing.filter((one) => one.family === family && buckets.has(bucketOfServer(one)))
  const observed: ObservedServer[] = []
  if (suspects.length > manyServers) {
    const keys = new Set(suspects.map(serverKey))
    for (const one of await ipvs.listAll()) if (keys.has(serverKey(one.server))) observed.push(one)
  } else {
    for (const server of suspects) observed.push({ server, destinations: await ipvs.listDestinations(server) })
  }
  return { survey, observed, wanted: wantedThere }
}

async function readSets(ipset: Kernel['ipset'], family: Family, wanted: Wanted | undefined): Promise<PresentSets> {
  const names = new Set(await ipset.names())
  const found = new Map<string, PresentSet>()
  for (const role of allRoles) {
    const spec = setSpec(role, family)
    if (!names.has(spec.name)) continue
    const present = await readSet(ipset, role, spec, wanted)
    if (present !== undefined) found.set(spec.name, present)
  }
  const temporary = allRoles.map((role) => temporaryName(setSpec(role, family).name))
  return { sets: found, temporary: temporary.filter((name) => names.has(name)) }
}

async function readSet(
  ipset: Kernel['ipset'],
  role: SetRole,
  spec: SetSpec,
  wanted: Wanted | undefined,
): Promise<PresentSet | undefined> {
  const digest = await ipset.digest(spec.name)
  if (digest === undefined) return undefined
  const same = digest.sum === (wanted?.sets.get(role)?.sum ?? 0)
  if (wanted === undefined || (isSameType(digest.spec, spec) && same)) {
    return { spec: digest.spec, members: digest.count, closely: undefined }
  }
  const entries = await wanted.entriesOf(role)
  const list = await ipset.list(spec.name)
  return list && { spec: list.spec, members: list.entries.length, closely: { entries: list.entries, wanted: entries } }
}

/** Whether a set is of the type that we need; a bitmap has no family in the kernel. */
export function isSameType(a: SetSpec, b: SetSpec): boolean {
  return a.type === b.type && (a.type === 'bitmap:port' || a.family === b.family)
}

async function readAddresses(
  dummy: Kernel['dummy'],
  family: Family,
  wanted: Wanted | undefined,
): Promise<PresentAddresses> {
  const device = (await dummy.links()).find(({ name }) => name === deviceName)
  const filter = { family, isOn: (index: number) => index === device?.index }
  const { count, sum } = device === undefined ? { count: 0, sum: 0 } : await dummy.digest(filter)
  if (wanted === undefined || sum === wanted.addresses.sum) return { device, count, closely: undefined }
  const addresses = await wanted.allAddresses()
  const found = device === undefined ? [] : await dummy.addresses(filter)
  return { device, count: found.length, closely: { addresses: found, wanted: addresses } }
}
