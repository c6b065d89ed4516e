import { deviceName } from '../../../src/dummy/layer.ts'
import type { Dummy } from '../../../src/dummy/dummy.ts'
import { allRoles, setSpec } from '../../../src/ipset/catalogue.ts'
import type { Ipset, SetSpec } from '../../../src/ipset/ipset.ts'
import type { Iptables } from '../../../src/iptables/iptables.ts'
import { jumps, ownChains, tables } from '../../../src/iptables/rules.ts'
import { parseSave, targetOf, type SavedTable } from '../../../src/iptables/text.ts'
import { destinationKey, serverFlags, serverKey, type Ipvs, type ObservedServer } from '../../../src/ipvs/ipvs.ts'
import { describeError } from '../../../src/lib/errors.ts'
import { cidrContains, parseCidr, type Family } from '../../../src/model/address.ts'
import type { World } from './campaign.ts'
import type { Tampering } from './events.ts'
import { excludedRanges } from './generator.ts'
import type { Random } from '../../random.ts'

/** Ways into one kernel, or into the fakes of one. */
export interface Ports {
  readonly ipvs: Ipvs
  readonly ipset: Ipset
  readonly dummy: Dummy
  readonly iptables: ReadonlyMap<Family, Iptables & { readonly randomFully: boolean }>
}

/** What others have put into the kernel that is theirs to keep. */
export class Survivors {
  /** Destinations ("address:port") by the key of the virtual server. */
  readonly servers = new Map<string, ObservedServer>()
  readonly addresses = new Set<string>()
  /** "TABLE CHAIN RULE" */
  readonly rules: Readonly<Record<Family, string[]>> = { IPv4: [], IPv6: [] }
}

const families: readonly Family[] = ['IPv4', 'IPv6']
const excluded = families.map((family) => parseCidr(excludedRanges[family])!)

function isExcluded(address: string): boolean {
  return excluded.some((cidr) => cidrContains(cidr, address))
}

function numbered(family: Family, v4: string, v6: string, number: number): string {
  return family === 'IPv4' ? `${v4}.${number}` : `${v6}::${number.toString(16)}`
}

/** Others at work: each call does one thing to the kernel, past the daemon. */
export class Tamperer {
  readonly #ports: Ports
  readonly #addAddress: (device: string, address: string) => Promise<void>
  readonly #survivors: Survivors

  constructor(world: Pick<World, 'ports' | 'addAddress'>, survivors: Survivors) {
    this.#ports = world.ports
    this.#addAddress = (device, address) => world.addAddress(device, address)
    this.#survivors = survivors
  }

  /** Answers in words what was done, "" where there was nothing to do it to. */
  async do(what: Tampering, random: Random): Promise<string> {
    const family = random.pick(families)
    try {
      if (what.endsWith('server') || what.endsWith('servers')) return await this.#server(what, family, random)
      if (what.includes('destination') || what.includes('weight')) return await this.#destination(what, random)
      if (what.includes('entr') || what.endsWith('set')) return await this.#set(what, family, random)
      if (what.includes('device') || what.includes('address')) return await this.#address(what, family, random)
      return await this.#rule(what, family, random)
    } catch (error) {
      return `failed: ${describeError(error)}`
    }
  }

  async #servers(): Promise<ObservedServer[]> {
    const all = await this.#ports.ipvs.listAll()
    return all.filter(({ server }) => !isExcluded(server.address)).sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1))
  }

  async #server(what: Tampering, family: Family, random: Random): Promise<string> {
    const { ipvs } = this.#ports
    if (what === 'foreign server' || what === 'excluded server') {
      const number = random.between(1, 40)
      const head = what === 'excluded server' ? ['172.30.0', 'fd00:172:30'] : ['10.96.0', 'fd00:10:96']
      const server = {
        family,
        protocol: random.pick(['TCP', 'UDP', 'SCTP'] as const),
        address: numbered(family, head[0]!, head[1]!, number),
        port: random.pick([80, 443, 9999]),
        scheduler: random.pick(['rr', 'wrr']),
        flags: random.pick([0, serverFlags.persistent]),
        timeout: 0,
      }
      if (server.flags !== 0) server.timeout = 300
      const destinations = [1, 2].map((n) => ({
        address: numbered(family, '10.244.1', 'fd00:10:244:1', n),
        port: 8080,
        weight: random.below(3),
      }))
      const [made] = await ipvs.apply([{ kind: 'newServer', server }])
      if (made !== undefined) return ''
      await ipvs.apply(destinations.map((destination) => ({ kind: 'newDestination', server, destination })))
      if (what === 'excluded server') {
        const observed = { activeConnections: 0, inactiveConnections: 0, forwarding: 0 }
        this.#survivors.servers.set(serverKey(server), {
          server,
          destinations: destinations.map((destination) => ({ ...destination, ...observed })),
        })
      }
      return serverKey(server)
    }
    const present = await this.#servers()
    if (present.length === 0) return ''
    if (what === 'clear servers') {
      await ipvs.apply(present.map(({ server }) => ({ kind: 'deleteServer', server })))
      return String(present.length)
    }
    const { server } = random.pick(present)
    if (what === 'delete server') await ipvs.apply([{ kind: 'deleteServer', server }])
    else {
      const persistent = (server.flags & serverFlags.persistent) === 0
      const change = random.pick([
        { scheduler: server.scheduler === 'lc' ? 'rr' : 'lc' },
        { flags: server.flags ^ serverFlags.persistent, timeout: persistent ? 77 : 0 },
      ])
      await ipvs.apply([{ kind: 'setServer', server: { ...server, ...change } }])
    }
    return serverKey(server)
  }

  async #destination(what: Tampering, random: Random): Promise<string> {
    const { ipvs } = this.#ports
    const present = await this.#servers()
    const withDestinations = present.filter(({ destinations }) => destinations.length > 0)
    if (what === 'foreign destination') {
      if (present.length === 0) return ''
      const { server } = random.pick(present)
      const address = numbered(server.family, '10.244.9', 'fd00:10:244:9', random.between(1, 9))
      const destination = { address, port: 9999, weight: random.below(3) }
      await ipvs.apply([{ kind: 'newDestination', server, destination }])
      return `${destinationKey(destination)} of ${serverKey(server)}`
    }
    if (withDestinations.length === 0) return ''
    const { server, destinations } = random.pick(withDestinations)
    const destination = random.pick(destinations)
    if (what === 'delete destination') await ipvs.apply([{ kind: 'deleteDestination', server, destination }])
    else {
      const weight = random.pick([0, 2, 100])
      await ipvs.apply([{ kind: 'setDestination', server, destination: { ...destination, weight } }])
    }
    return `${destinationKey(destination)} of ${serverKey(server)}`
  }

  async #set(what: Tampering, family: Family, random: Random): Promise<string> {
    const { ipset } = this.#ports
    const spec = setSpec(random.pick(allRoles), family)
    if (what === 'destroy set') {
      // Refused for a set that a rule names.
      await ipset.destroy(spec.name)
      return spec.name
    }
    if (what === 'foreign entry') {
      const entry = foreignEntry(spec, random)
      const refused = await ipset.add(spec, [entry])
      return refused.size > 0 ? '' : `${spec.name} ${entry}`
    }
    // A set that has something to lose.
    const filled: [SetSpec, readonly string[]][] = []
    for (const role of allRoles) {
      const one = setSpec(role, family)
      const entries = (await ipset.list(one.name))?.entries ?? []
      if (entries.length > 0) filled.push([one, entries.toSorted()])
    }
    if (filled.length === 0) return ''
    const [victim, entries] = random.pick(filled)
    const chosen = what === 'flush set' ? entries : random.some(entries, random.between(1, 3))
    await ipset.remove(victim, chosen)
    return `${victim.name} ${chosen.join(' ')}`
  }

  async #address(what: Tampering, family: Family, random: Random): Promise<string> {
    const { dummy } = this.#ports
    const { addresses } = this.#survivors
    const index = (await dummy.links()).find(({ name }) => name === deviceName)?.index
    if (index === undefined) return ''
    if (what === 'delete device') {
      await dummy.deleteDevice(deviceName)
      addresses.clear()
      return deviceName
    }
    const bound = (await dummy.addresses())
      .filter((one) => one.linkIndex === index && !isExcluded(one.address) && !one.address.startsWith('fe80'))
      .map(({ address }) => address)
      .sort()
    if (what === 'remove address') {
      const chosen = random.some(bound, random.between(1, 3))
      if (chosen.length > 0) await dummy.unbind(index, chosen)
      return chosen.join(' ')
    }
    const number = random.between(1, 40)
    if (what === 'wide address') {
      // In the place of a service address, or one that nobody knows.
      const stranger = numbered(family, '10.97.0', 'fd00:10:97', number)
      const address = bound.length > 0 && random.chance(0.5) ? random.pick(bound) : stranger
      if (address !== stranger) await dummy.unbind(index, [address])
      const text = `${address}/${address.includes(':') ? 64 : 24}`
      await this.#addAddress(deviceName, text)
      return text
    }
    const head = what === 'excluded address' ? ['172.30.0', 'fd00:172:30'] : ['10.96.0', 'fd00:10:96']
    const address = numbered(family, head[0]!, head[1]!, number)
    const refused = await dummy.bind(index, [address])
    if (refused.size > 0) return ''
    if (what === 'excluded address') addresses.add(address)
    return address
  }

  async #rule(what: Tampering, family: Family, random: Random): Promise<string> {
    const tool = this.#ports.iptables.get(family)!
    const table = random.pick(tables)
    const restore = (...lines: string[]): Promise<void> => tool.restore(`*${table}\n${lines.join('\n')}\nCOMMIT\n`)
    const saved: SavedTable = parseSave(await tool.save(table)).get(table) ?? new Map()
    const mine = ownChains[table].filter((name) => saved.has(name))
    const stranger = numbered(family, '198.51.100', '2001:db8:51', random.between(1, 250))
    const match = `-s ${stranger}/${family === 'IPv4' ? 32 : 128}`
    if (what === 'foreign rule') {
      const chain = random.pick(table === 'nat' ? ['PREROUTING', 'OUTPUT'] : ['INPUT', 'FORWARD', 'OUTPUT'])
      const rule = `${match} -j ${table === 'nat' ? 'ACCEPT' : 'DROP'}`
      await restore(random.chance(0.5) ? `-A ${chain} ${rule}` : `-I ${chain} 1 ${rule}`)
      this.#survivors.rules[family].push(`${table} ${chain} ${rule}`)
      return `${table} ${chain} ${rule}`
    }
    if (mine.length === 0) return ''
    const chain = random.pick(mine)
    const object = `${family} ${table} ${chain}`
    if (what === 'flush chain') await restore(`:${chain} - [0:0]`)
    else if (what === 'foreign rule in own chain') await restore(`-A ${chain} ${match} -j RETURN`)
    else if (what === 'delete chain') {
      const leading = [...saved].flatMap(([name, { rules }]) =>
        rules.filter((rule) => targetOf(rule) === chain).map((rule) => `-D ${name} ${rule}`),
      )
      await restore(`:${chain} - [0:0]`, ...leading, `-X ${chain}`)
    } else if (what === 'delete rule') {
      const rules = saved.get(chain)?.rules ?? []
      if (rules.length === 0) return ''
      const rule = random.pick(rules)
      await restore(`-D ${chain} ${rule}`)
      return `${object} ${rule}`
    } else {
      const jump = random.pick(jumps.filter((one) => one.table === table))
      await restore(what === 'delete jump' ? `-D ${jump.from} ${jump.rule}` : `-A ${jump.from} ${jump.rule}`)
      return `${family} ${table} ${jump.from} ${jump.rule}`
    }
    return object
  }
}

function nameOf({ server }: ObservedServer): string {
  return serverKey(server)
}

/** Some entry that the set may hold and that nobody wants, or perhaps somebody will. */
function foreignEntry({ type, family }: SetSpec, random: Random): string {
  if (type === 'bitmap:port') return String(random.between(30000, 31010))
  const address = numbered(family, '10.96.0', 'fd00:10:96', random.between(1, 40))
  if (type === 'hash:ip') return address
  const port = `${address},${random.pick(['tcp', 'udp', 'sctp'])}:${random.pick([80, 443, 9999])}`
  if (type === 'hash:ip,port') return port
  if (type === 'hash:ip,port,ip') return `${port},${address}`
  return `${port},${family === 'IPv4' ? '10.0.0.0/9' : 'fd00::/9'}`
}
