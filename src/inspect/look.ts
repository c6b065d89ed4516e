import { existsSync } from 'node:fs'
import { IptablesTool } from '../iptables/restore.ts'
import { describeError } from '../lib/errors.ts'
import type { Family } from '../model/address.ts'
import { openIptables, openKernel, type Kernel } from '../open.ts'
import { checkCapability } from '../preflight.ts'
import type { FamilyIdentity } from '../wanted/wire.ts'
import type { Wanted } from '../wanted/wanted.ts'
import { wantedAt } from './ask.ts'
import { differencesOf, type FamilyDifference } from './difference.ts'
import { orError, readPresent, readRules, type Present, type SavedRules } from './present.ts'
import { surveyServers } from './servers.ts'
import type { Inspection } from './setup.ts'

/** One family: what is wanted, what stands, and where they differ. */
export interface FamilyLook {
  readonly family: Family
  /** Undefined where it is not known. */
  readonly wanted: Wanted | undefined
  readonly present: Present
  /** Without what is wanted: no differences, and what could not be read. */
  readonly difference: FamilyDifference
}

/** Who says what is wanted. */
export interface Origin {
  readonly from: 'daemon' | 'objects' | 'nobody'
  /** In words. */
  readonly text: string
}

export interface Look {
  readonly origin: Origin
  readonly families: readonly FamilyLook[]
  readonly rules: SavedRules
  readonly iptables: ReadonlyMap<Family, IptablesTool>
}

/** What stands in the kernel and can be asked of it, for the time of one command. */
export async function withKernel<T>(act: (kernel: Kernel) => Promise<T>): Promise<T> {
  checkCapability()
  const kernel = openKernel()
  try {
    return await act(kernel)
  } finally {
    kernel.close()
  }
}

/**
 * Compares what is wanted with the kernel. What is wanted the daemon says, where it can; else it is worked out from the
 * cluster's objects; where those cannot be had, what stands is told all the same.
 */
export async function lookAtKernel(inspection: Inspection, kernel: Kernel): Promise<Look> {
  const { settings } = inspection
  const servers = orError(() => surveyServers(undefined, inspection.copy))
  const iptables = await toolsOf(inspection)
  const [rules, { origin, wanted }] = await Promise.all([readRules(iptables), findWanted(inspection, kernel, iptables)])
  const lookAt = async (family: Family): Promise<FamilyLook> => {
    const want = wanted.get(family)
    const present = await readPresent(family, want, { rules, servers }, kernel)
    const excludeCIDRs = settings.excludeCIDRs.filter((cidr) => cidr.family === family)
    return { family, wanted: want, present, difference: differencesOf(want, present, excludeCIDRs) }
  }
  const families = await Promise.all(familiesOf(iptables).map(lookAt))
  return { origin, families, rules, iptables }
}

/** Families that the daemon would serve; without any tool, those that the kernel has. */
function familiesOf(iptables: ReadonlyMap<Family, IptablesTool>): readonly Family[] {
  if (iptables.size > 0) return [...iptables.keys()]
  return existsSync('/proc/net/if_inet6') ? ['IPv4', 'IPv6'] : ['IPv4']
}

/** The daemon knows which tools the node's rules are written by; to find out takes a dozen processes. */
async function toolsOf({ daemon, notes }: Inspection): Promise<ReadonlyMap<Family, IptablesTool>> {
  if (!(daemon instanceof Error)) {
    return new Map(
      daemon.identity.families.map(({ family, tool }) => [
        family,
        new IptablesTool(family, { infix: tool.infix, reason: 'the daemon uses it' }, tool),
      ]),
    )
  }
  try {
    return await openIptables(notes)
  } catch (error) {
    notes.error(`Rules cannot be read: ${describeError(error)}`)
    return new Map()
  }
}

interface FoundWanted {
  readonly origin: Origin
  readonly wanted: ReadonlyMap<Family, Wanted>
}

async function findWanted(
  inspection: Inspection,
  kernel: Kernel,
  iptables: ReadonlyMap<Family, IptablesTool>,
): Promise<FoundWanted> {
  const { daemon, sourceName } = inspection
  let why: string
  if (daemon instanceof Error) why = daemon.message
  else {
    const unsynced = daemon.identity.families.filter(({ synced }) => !synced)
    if (unsynced.length === 0) {
      const wanted = new Map(daemon.families.map((summary) => [summary.family, wantedAt(daemon.path, summary)]))
      return { origin: { from: 'daemon', text: daemonText(daemon.identity.families, daemon.identity.trouble) }, wanted }
    }
    why = `the daemon has not written everything once${daemon.identity.reason === '' ? '' : ` (${daemon.identity.reason})`}`
  }
  try {
    const { ownWanted } = await import('./planning.ts')
    const wanted = await ownWanted(inspection, kernel, iptables)
    return { origin: { from: 'objects', text: `worked out from the objects of ${sourceName}; ${why}` }, wanted }
  } catch (error) {
    return { origin: { from: 'nobody', text: `not known: ${describeError(error)}; ${why}` }, wanted: new Map() }
  }
}

function daemonText(families: readonly FamilyIdentity[], trouble: string): string {
  const now = Date.now()
  const age = (lastSync: number): number => Math.max(0, Math.round((now - lastSync) / 1000))
  const syncs = families.map(({ family, lastSync }) => `${family} ${age(lastSync)} s ago`)
  const waiting = families.reduce((most, one) => Math.max(most, one.waiting), 0)
  return [
    `what the daemon says, last sync ${syncs.join(', ')}`,
    ...(waiting === 0 ? [] : [`${waiting} changed objects are not planned yet`]),
    ...(trouble === '' ? [] : [`it may be behind: ${trouble}`]),
  ].join('; ')
}
