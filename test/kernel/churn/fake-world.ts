import { FakeDummy } from '../../../src/dummy/fake-dummy.ts'
import { FakeIpset } from '../../../src/ipset/fake-ipset.ts'
import type { SetSpec } from '../../../src/ipset/ipset.ts'
import { FakeIptables } from '../../../src/iptables/fake-iptables.ts'
import { tables } from '../../../src/iptables/rules.ts'
import { FakeIpvs } from '../../../src/ipvs/fake-ipvs.ts'
import type { Family } from '../../../src/model/address.ts'
import type { World } from './campaign.ts'
import type { Dump } from './plan.ts'

const families: readonly Family[] = ['IPv4', 'IPv6']

/** An ipset that knows which of its sets rules name: those cannot be destroyed. */
class NamedIpset extends FakeIpset {
  readonly existing = new Set<string>()
  readonly #named: () => ReadonlySet<string>

  constructor(named: () => ReadonlySet<string>) {
    super()
    this.#named = named
  }

  override async create(spec: SetSpec): Promise<void> {
    await super.create(spec)
    this.existing.add(spec.name)
  }

  override async destroy(name: string): Promise<void> {
    if (this.existing.has(name)) this.setReferences(name, this.#named().has(name) ? 1 : 0)
    await super.destroy(name)
    this.existing.delete(name)
  }
}

/** The fakes as a world; `pause` moves the clock. */
export class FakeWorld implements World {
  readonly ports: World['ports']
  readonly #ipvs = new FakeIpvs()
  readonly #ipset: NamedIpset
  readonly #dummy = new FakeDummy()
  readonly #iptables: ReadonlyMap<Family, FakeIptables & { readonly randomFully: boolean }>
  readonly #pause: (milliseconds: number) => Promise<unknown>

  constructor(pause: (milliseconds: number) => Promise<unknown>) {
    this.#pause = pause
    const named = (): ReadonlySet<string> =>
      new Set([...this.#iptables.values()].flatMap((tool) => [...tool.referencedSets()]))
    const ipset = new NamedIpset(named)
    const options = { sets: () => ipset.existing }
    this.#iptables = new Map(
      families.map((family) => [family, Object.assign(new FakeIptables(options), { randomFully: true })]),
    )
    this.#ipset = ipset
    this.ports = { ipvs: this.#ipvs, ipset: this.#ipset, dummy: this.#dummy, iptables: this.#iptables }
  }

  async dump(): Promise<Dump> {
    const links = new Map((await this.#dummy.links()).map(({ index, name }) => [index, name]))
    const addresses = (await this.#dummy.addresses()).map(
      ({ linkIndex, family, address, prefix }) =>
        `${linkIndex}: ${links.get(linkIndex)}    ${family === 'IPv4' ? 'inet' : 'inet6'} ${address}/${prefix} scope global`,
    )
    const rules = async (family: Family): Promise<string> =>
      (await Promise.all(tables.map((table) => this.#iptables.get(family)!.save(table)))).join('')
    // What the fakes remember of calls would otherwise grow for ever.
    for (const fake of [this.#ipvs, this.#ipset, this.#dummy]) fake.calls.length = 0
    for (const tool of this.#iptables.values()) tool.restores.length = 0
    return {
      servers: this.#ipvs.dump(),
      sets: this.#ipset.dump(),
      rules: { IPv4: await rules('IPv4'), IPv6: await rules('IPv6') },
      addresses: addresses.join('\n'),
    }
  }

  async addAddress(device: string, text: string): Promise<void> {
    const link = (await this.#dummy.links()).find(({ name }) => name === device)
    const [address = '', prefix] = text.split('/')
    this.#dummy.addAddress(link!.index, address, Number(prefix))
  }

  async pause(milliseconds: number): Promise<void> {
    await this.#pause(milliseconds)
  }
}
