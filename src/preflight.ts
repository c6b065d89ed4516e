import { readFileSync } from 'node:fs'
import type { Dummy } from './dummy/dummy.ts'
import { deviceName } from './dummy/layer.ts'
import { allRoles, setSpec } from './ipset/catalogue.ts'
import type { Ipset } from './ipset/ipset.ts'
import type { Ipvs, VirtualServer } from './ipvs/ipvs.ts'
import { describeError, KernelError, ProxyError } from './lib/errors.ts'

/**
 * Capabilities of linux/capability.h that are needed, as bits of CapEff. NET_RAW: iptables opens a raw socket to ask for the
 * number of an ipset, and its legacy variant for every table.
 */
export const neededCapabilities = { NET_ADMIN: 12n, NET_RAW: 13n } as const

/** Throws ProxyError PREFLIGHT unless this process may administer the network of its namespace. */
export function checkCapability(status: string = readFileSync('/proc/self/status', 'utf8')): void {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`)
  const missing = Object.entries(neededCapabilities).filter(([, bit]) => ((effective >> bit) & 1n) === 0n)
  if (missing.length === 0) return
  const names = missing.map(([name]) => `CAP_${name}`).join(' and ')
  const what = missing.length === 1 ? 'capability' : 'capabilities'
  throw new ProxyError('PREFLIGHT', `this process lacks the ${what} ${names}`, {
    object: 'process',
    advice: `run it as root, or with securityContext.capabilities.add: [${Object.keys(neededCapabilities).join(', ')}]`,
  })
}

/** An address of TEST-NET-2 (RFC 5737): nobody's traffic is touched by the probe. */
const probe: VirtualServer = {
  family: 'IPv4',
  protocol: 'TCP',
  address: '198.51.100.0',
  port: 20000,
  scheduler: '',
  flags: 0,
  timeout: 0,
}

/** Throws ProxyError PREFLIGHT where the kernel has no IPVS or not the scheduler. */
export async function checkIpvs(ipvs: Ipvs, scheduler: string): Promise<void> {
  let servers: readonly VirtualServer[]
  try {
    servers = await ipvs.listServers()
  } catch (error) {
    throw lacking('IPVS is not available in this kernel', 'load it: modprobe ip_vs', error)
  }
  // A scheduler in use is there; so nothing is written on a node that is being taken over.
  if (servers.some((server) => server.scheduler === scheduler)) return
  const server = { ...probe, scheduler }
  const [refusal] = await ipvs.apply([{ kind: 'newServer', server }])
  if (refusal !== undefined && refusal.errnoName !== 'EEXIST') {
    if (refusal.errnoName === 'ENOENT') {
      throw lacking(
        `ipvs.scheduler: the kernel has no scheduler "${scheduler}"`,
        `load it: modprobe ip_vs_${scheduler}, or choose another`,
        refusal,
      )
    }
    throw lacking('IPVS refuses a virtual server', 'see the kernel log', refusal)
  }
  await ipvs.apply([{ kind: 'deleteServer', server }])
}

/**
 * Throws ProxyError PREFLIGHT where the kernel has no ipset or one too old; has it load what our sets need, before the first
 * pass would have to wait for it.
 */
export async function checkIpset(ipset: Ipset): Promise<void> {
  let protocol: number
  try {
    protocol = await ipset.protocol()
  } catch (error) {
    throw lacking('ipset is not available in this kernel', 'load it: modprobe ip_set', error)
  }
  if (protocol < 6) throw lacking(`the kernel speaks ipset protocol ${protocol}, 6 is needed`, 'use a newer kernel')
  const specs = new Map(allRoles.map((role) => setSpec(role, 'IPv4')).map((spec) => [spec.type, spec]))
  for (const spec of specs.values()) {
    // A kernel may lack one kind: what does not need it works, and creating a set of it tells.
    await ipset.loadType(spec).catch(() => {})
  }
}

/** Makes the dummy device where it is missing; throws ProxyError PREFLIGHT where the kernel cannot. */
export async function checkDummy(dummy: Dummy): Promise<void> {
  try {
    if ((await dummy.links()).some(({ name }) => name === deviceName)) return
    await dummy.createDevice(deviceName)
  } catch (error) {
    if (error instanceof KernelError && error.errnoName === 'EEXIST') return
    throw lacking(`device ${deviceName} cannot be made`, 'load the module: modprobe dummy', error)
  }
}

function lacking(message: string, advice: string, cause?: unknown): ProxyError {
  // The cause's own advice would be said twice.
  const text = cause === undefined ? message : `${message}: ${describeError(cause)}`
  return new ProxyError('PREFLIGHT', text, { advice })
}
