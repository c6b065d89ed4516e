import type { IptablesTool } from '../iptables/restore.ts'
import type { Family } from '../model/address.ts'
import { readNodeAddresses, type Kernel } from '../open.ts'
import type { Wanted } from '../wanted/wanted.ts'
import { readCluster } from './cluster.ts'
import type { Inspection } from './setup.ts'
import { dispatchTo, WantedFamily } from './wanted.ts'

/**
 * What is wanted, worked out from the cluster's objects as the daemon does, of each family that has a tool. Throws
 * ProxyError CONFIG, API or OBJECT.
 */
export async function ownWanted(
  { settings, nodeName, notes, source }: Inspection,
  kernel: Pick<Kernel, 'dummy'>,
  iptables: ReadonlyMap<Family, Pick<IptablesTool, 'randomFully'>>,
): Promise<ReadonlyMap<Family, Wanted>> {
  const all = [...iptables.keys()].map(
    (family) =>
      new WantedFamily({
        family,
        settings,
        readNodeAddresses: () => readNodeAddresses(kernel.dummy, family),
        log: notes,
      }),
  )
  const listener = dispatchTo(all.map(({ family, proxier }) => [family, proxier]))
  await readCluster({ source: await source(), nodeName, log: notes }, listener)
  const wanted = new Map<Family, Wanted>()
  for (const one of all) wanted.set(one.family, await one.wanted(iptables.get(one.family)!.randomFully))
  return wanted
}
