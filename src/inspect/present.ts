import type { Kernel } from '../compose.ts'
import type { InterfaceAddress, Link } from '../dummy/dummy.ts'
import { deviceName } from '../dummy/layer.ts'
import { addressHash } from '../dummy/messages.ts'
import { allRoles, setSpec, temporaryName } from '../ipset/catalogue.ts'
import { entryHash } from '../ipset/entries.ts'
import type { SetSpec } from '../ipset/ipset.ts'
import type { Iptables } from '../iptables/iptables.ts'
import { tables, type Table } from '../iptables/rules.ts'
import { parseSave, type SavedTable } from '../iptables/text.ts'
import { serverKey, type ObservedServer, type ServerId } from '../ipvs/ipvs.ts'
import type { ProcFile } from '../ipvs/kernel-ipvs.ts'
import { withHash } from '../lib/digest.ts'
import type { Family } from '../model/address.ts'
import { surveyServers, type ServerSurvey } from './servers.ts'
import type { Wanted } from './wanted.ts'

export interface PresentServers {
  readonly survey: ServerSurvey
  /** Those that may differ, that nobody wants, or that have a destination at weight 0, as they stand. */
  readonly observed: readonly ObservedServer[]
  /** Keys of wanted ones that do not stand. */
  readonly missing: readonly string[]
}

export interface PresentSet {
  readonly spec: SetSpec
  readonly members: number
  /** Undefined: those that are wanted, by their sum. */
  readonly entries: readonly string[] | undefined
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
  /** Undefined: those that are wanted, by their sum. */
  readonly addresses: readonly InterfaceAddress[] | undefined
}

/** One family's kernel state, as far as it had to be looked at; an Error where a layer could not be read. */
export interface Present {
  readonly family: Family
  readonly ipvs: PresentServers | Error
  readonly ipset: PresentSets | Error
  readonly iptables: ReadonlyMap<Table, SavedTable> | Error
  readonly dummy: PresentAddresses | Error
}

export interface PresentOptions {
  readonly kernel: Pick<Kernel, 'ipvs' | 'ipset' | 'dummy'>
  /** By family; a family without one is not looked at. */
  readonly iptables: ReadonlyMap<Family, Pick<Iptables, 'save'>>
  /** Stands in for /proc/net/ip_vs. */
  readonly openProc?: () => ProcFile
}

/** From so many suspects on the whole list is read instead of each. */
const manySuspects = 256

/** Rules as text, by family and table; they can be read before it is known what is wanted. */
export type SavedRules = ReadonlyMap<Family, ReadonlyMap<Table, SavedTable> | Error>

export async function readRules(iptables: ReadonlyMap<Family, Pick<Iptables, 'save'>>): Promise<SavedRules> {
  const read = async (tool: Pick<Iptables, 'save'>): Promise<ReadonlyMap<Table, SavedTable>> => {
    const saved = await Promise.all(tables.map((table) => tool.save(table)))
    // The nft variant prints nothing of a table that does not exist.
    return new Map(tables.map((table, i) => [table, parseSave(saved[i]!).get(table) ?? new Map()]))
  }
  const all = [...iptables].map(async ([family, tool]) => [family, await orError(() => read(tool))] as const)
  return new Map(await Promise.all(all))
}

/** The kernel's state beside what is wanted: whole reads that are cheap, and a closer look only where sums differ. */
export async function readPresent(
  wanted: ReadonlyMap<Family, Wanted>,
  rules: SavedRules,
  options: PresentOptions,
): Promise<ReadonlyMap<Family, Present>> {
  const { kernel, openProc } = options
  const servers = new Map([...wanted].map(([family, want]) => [family, want.servers]))
  const surveys = await orError(() => surveyServers(servers, openProc))
  const families = [...wanted].map(async ([family, want]): Promise<[Family, Present]> => {
    const ipvs =
      surveys instanceof Error ? surveys : await orError(() => readServers(kernel.ipvs, surveys.get(family)!))
    const ipset = await orError(() => readSets(kernel.ipset, want))
    const dummy = await orError(() => readAddresses(kernel.dummy, want))
    return [family, { family, ipvs, ipset, dummy, iptables: rules.get(family) ?? new Map() }]
  })
  return new Map(await Promise.all(families))
}

async function orError<T>(read: () => Promise<T>): Promise<T | Error> {
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
async function readServers(ipvs: Kernel['ipvs'], survey: ServerSurvey): Promise<PresentServers> {
  const { suspects, missing, withWeightZero } = survey
  if (suspects.length + missing.length + withWeightZero.length === 0) return { survey, observed: [], missing: [] }
  const keys = new Set([...suspects, ...missing, ...withWeightZero].map(serverKey))
  const observed: ObservedServer[] = []
  if (keys.size > manySuspects) {
    for (const one of await ipvs.listAll()) if (keys.has(serverKey(one.server))) observed.push(one)
  } else {
    for (const server of await ipvs.listServers()) {
      if (keys.has(serverKey(server))) observed.push({ server, destinations: await ipvs.listDestinations(server) })
    }
  }
  const standing = new Set(observed.map(({ server }) => serverKey(server)))
  const isGone = (id: ServerId): boolean => !standing.has(serverKey(id))
  return { survey, observed, missing: missing.filter(isGone).map(serverKey) }
}

async function readSets(ipset: Kernel['ipset'], { family, sets }: Wanted): Promise<PresentSets> {
  const names = new Set(await ipset.names())
  const found = new Map<string, PresentSet>()
  for (const role of allRoles) {
    const spec = setSpec(role, family)
    if (!names.has(spec.name)) continue
    const present = await readSet(ipset, spec, sets.get(role))
    if (present !== undefined) found.set(spec.name, present)
  }
  const temporary = allRoles.map((role) => temporaryName(setSpec(role, family).name))
  return { sets: found, temporary: temporary.filter((name) => names.has(name)) }
}

async function readSet(
  ipset: Kernel['ipset'],
  spec: SetSpec,
  wanted: ReadonlySet<string> = new Set(),
): Promise<PresentSet | undefined> {
  const digest = await ipset.digest(spec.name)
  if (digest === undefined) return undefined
  let sum = 0
  for (const entry of wanted) sum = withHash(sum, entryHash(spec, entry))
  if (isSameType(digest.spec, spec) && digest.sum === sum) {
    return { spec: digest.spec, members: wanted.size, entries: undefined }
  }
  const list = await ipset.list(spec.name)
  return list && { spec: list.spec, members: list.entries.length, entries: list.entries }
}

/** Whether a set is of the type that we need; a bitmap has no family in the kernel. */
export function isSameType(a: SetSpec, b: SetSpec): boolean {
  return a.type === b.type && (a.type === 'bitmap:port' || a.family === b.family)
}

async function readAddresses(dummy: Kernel['dummy'], { family, addresses }: Wanted): Promise<PresentAddresses> {
  const device = (await dummy.links()).find(({ name }) => name === deviceName)
  if (device === undefined) return { device, count: 0, addresses: [] }
  const filter = { family, isOn: (index: number) => index === device.index }
  let sum = 0
  for (const address of addresses) sum = withHash(sum, addressHash(address))
  if ((await dummy.digest(filter)) === sum) return { device, count: addresses.size, addresses: undefined }
  const found = await dummy.addresses(filter)
  return { device, count: found.length, addresses: found }
}
