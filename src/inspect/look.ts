import { existsSync } from 'node:fs'
import { openIptables, openKernel, readNodeAddresses, type Kernel } from '../compose.ts'
import type { IptablesTool } from '../iptables/restore.ts'
import type { Family } from '../model/address.ts'
import { checkCapability } from '../preflight.ts'
import { readCluster } from './cluster.ts'
import { differencesOf, type FamilyDifference } from './difference.ts'
import { readPresent, readRules, type Present, type SavedRules } from './present.ts'
import type { Inspection } from './setup.ts'
import { dispatchTo, WantedFamily, type Wanted } from './wanted.ts'

/** One family: what is wanted, what stands, and where they differ. */
export interface FamilyLook {
  readonly family: Family
  readonly wanted: Wanted
  readonly present: Present
  readonly difference: FamilyDifference
}

export interface Look {
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

/** Reads the cluster's objects and the kernel, both at a time, and compares them. */
export async function lookAtKernel(inspection: Inspection, kernel: Kernel): Promise<Look> {
  const { settings, nodeName, notes } = inspection
  const known: Family[] = existsSync('/proc/net/if_inet6') ? ['IPv4', 'IPv6'] : ['IPv4']
  const all = known.map(
    (family) =>
      new WantedFamily({
        family,
        settings,
        readNodeAddresses: () => readNodeAddresses(kernel.dummy, family),
        log: notes,
      }),
  )
  const source = await inspection.source()
  const [{ iptables, rules }] = await Promise.all([
    readTools(inspection),
    readCluster({ source, nodeName, log: notes }, dispatchTo(all.map(({ family, proxier }) => [family, proxier]))),
  ])
  const wanted = new Map<Family, Wanted>()
  for (const one of all) {
    const tool = iptables.get(one.family)
    // The daemon serves no family without its tool.
    if (tool !== undefined) wanted.set(one.family, await one.wanted(tool.randomFully))
  }
  const present = await readPresent(wanted, rules, { kernel, iptables })
  const families = [...wanted].map(([family, want]): FamilyLook => {
    const state = present.get(family)!
    const excludeCIDRs = settings.excludeCIDRs.filter((cidr) => cidr.family === family)
    return { family, wanted: want, present: state, difference: differencesOf(want, state, excludeCIDRs) }
  })
  return { families, rules, iptables }
}

async function readTools({ notes }: Inspection): Promise<Pick<Look, 'iptables' | 'rules'>> {
  const iptables = await openIptables(notes)
  return { iptables, rules: await readRules(iptables) }
}
