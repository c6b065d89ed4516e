import type { Kernel } from './open.ts'
import { deviceName } from './dummy/layer.ts'
import { allRoles, setComment, setSpec } from './ipset/catalogue.ts'
import { IpsetLayer } from './ipset/layer.ts'
import { IptablesLayer } from './iptables/layer.ts'
import type { IptablesTool } from './iptables/restore.ts'
import { serverKey, type ServerId } from './ipvs/ipvs.ts'
import { KernelError } from './lib/errors.ts'
import type { Log } from './lib/log.ts'
import type { Family } from './model/address.ts'
import { asError } from './reconcile/apply.ts'

const families: readonly Family[] = ['IPv4', 'IPv6']

/**
 * Removes what is ours from the kernel, and nothing else: virtual servers on addresses of the dummy device or named by
 * our sets, the device, our jumps and chains, our sets; both families. Goes on after a failure; answers all failures.
 */
export async function cleanup(
  kernel: Kernel,
  iptables: ReadonlyMap<Family, IptablesTool>,
  log: Log,
): Promise<readonly Error[]> {
  const failures: Error[] = []
  const attempt = async (what: string, action: () => Promise<void>): Promise<void> => {
    try {
      await action()
      log.v(1, 'Removed', { what })
    } catch (error) {
      failures.push(asError(error))
      log.error('Could not be removed; going on', { what, error: asError(error).message })
    }
  }
  await attempt('virtual servers', () => removeServers(kernel))
  await attempt(`device ${deviceName}`, async () => {
    const link = (await kernel.dummy.links()).find(({ name }) => name === deviceName)
    if (link?.kind === 'dummy') await kernel.dummy.deleteDevice(deviceName)
  })
  for (const family of families) {
    const tool = iptables.get(family)
    if (tool === undefined) continue
    await attempt(`iptables rules, ${family}`, async () => {
      await new IptablesLayer({
        family,
        iptables: tool,
        log,
        rules: {
          setName: (role) => setSpec(role, family).name,
          comment: setComment,
          masqueradeBit: 14,
          masqueradeAll: false,
          randomFully: tool.randomFully,
        },
      }).cleanup()
    })
  }
  for (const family of families) {
    await attempt(`sets, ${family}`, async () => {
      const errors = await new IpsetLayer({ family, ipset: kernel.ipset, log, ownersOf: () => [] }).cleanup()
      if (errors.length > 0) throw new Error(errors.map(({ message }) => message).join('; '))
    })
  }
  return failures
}

async function removeServers(kernel: Kernel): Promise<void> {
  const device = (await kernel.dummy.links()).find(({ name }) => name === deviceName)?.index
  const interfaceAddresses = await kernel.dummy.addresses()
  const bound = new Set(
    interfaceAddresses.filter(({ linkIndex }) => linkIndex === device).map(({ address }) => address),
  )
  const nodeAddresses = new Set(
    interfaceAddresses.filter(({ linkIndex }) => linkIndex !== device).map(({ address }) => address),
  )
  const named = await namedBySets(kernel)
  const isOurs = (server: ServerId): boolean =>
    bound.has(server.address) ||
    named.has(`${server.address},${server.protocol.toLowerCase()}:${server.port}`) ||
    (nodeAddresses.has(server.address) && named.has(`${server.protocol} ${server.port}`))
  const ours = (await kernel.ipvs.listServers()).filter(isOurs)
  const answers = await kernel.ipvs.apply(ours.map((server) => ({ kind: 'deleteServer', server })))
  const refused = answers.filter((error) => error !== undefined && error.errnoName !== 'ESRCH') as KernelError[]
  if (refused.length > 0) {
    throw new Error(
      `${refused.length} of ${ours.length} virtual servers, first ${serverKey(ours[0]!)}: ${refused[0]!.message}`,
    )
  }
}

/** Service addresses "address,protocol:port" and node ports "PROTOCOL port" that our sets have. */
async function namedBySets(kernel: Kernel): Promise<ReadonlySet<string>> {
  const names = new Set(await kernel.ipset.names())
  const found = new Set<string>()
  for (const family of families) {
    for (const role of allRoles) {
      const { name, type } = setSpec(role, family)
      if (!names.has(name) || role === 'healthCheckNodePort') continue
      for (const entry of (await kernel.ipset.list(name))?.entries ?? []) {
        if (type === 'hash:ip,port') found.add(entry)
        if (type === 'bitmap:port') found.add(`${role.endsWith('TCP') ? 'TCP' : 'UDP'} ${entry}`)
      }
    }
  }
  return found
}
