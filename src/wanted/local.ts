import { addressHash } from '../dummy/messages.ts'
import { allRoles, setSpec } from '../ipset/catalogue.ts'
import { entryHash } from '../ipset/entries.ts'
import type { ChainSet } from '../iptables/rules.ts'
import { serverKey } from '../ipvs/ipvs.ts'
import { bucketOfServer, sumServers } from '../ipvs/server-digest.ts'
import { withHash } from '../lib/digest.ts'
import { Turn } from '../lib/turn.ts'
import type { Family } from '../model/address.ts'
import type { SetRole } from '../model/sets.ts'
import type { Ledger } from '../proxier/ledger.ts'
import type { OwnedEntries, Sum, Wanted, WantedServer, WantedSummary } from './wanted.ts'

/** Where one family's wanted state is looked up. */
export interface WantedSource {
  readonly family: Family
  readonly ledger: Ledger
  readonly rules: () => ChainSet
  /** Sums that are kept anyhow; added up where there are none. */
  readonly setSums?: () => Iterable<readonly [SetRole, Sum]>
  readonly addressSum?: () => Sum
}

/** Adds up what is wanted, in turns with others: it may change meanwhile, and the sums then fit neither state. */
export async function summarize(source: WantedSource): Promise<WantedSummary> {
  const { family, ledger, rules } = source
  return {
    family,
    servers: await sumServers(ledger.servers()),
    sets: new Map(source.setSums?.() ?? (await addUpSets(source))),
    rules: rules(),
    addresses: source.addressSum?.() ?? (await addUp(ledger.addresses(), addressHash)),
    ...(await troublesOf(ledger)),
    conflicts: [...ledger.conflicts()].sort((a, b) => (a.server < b.server ? -1 : 1)),
  }
}

async function addUpSets({ family, ledger }: WantedSource): Promise<[SetRole, Sum][]> {
  const sums: [SetRole, Sum][] = []
  for (const role of allRoles) {
    const spec = setSpec(role, family)
    const sum = await addUp(ledger.members(role), (entry) => entryHash(spec, entry))
    if (sum.count > 0) sums.push([role, sum])
  }
  return sums
}

async function addUp(keys: Iterable<string>, hashOf: (key: string) => number): Promise<Sum> {
  const turn = new Turn()
  let count = 0
  let sum = 0
  for (const key of keys) {
    if (turn.isOver) await turn.next()
    count++
    sum = withHash(sum, hashOf(key))
  }
  return { count, sum }
}

/** Addresses that are not served as they should be, and whose. */
async function troublesOf(ledger: Ledger): Promise<Pick<WantedSummary, 'clashes' | 'refused'>> {
  const turn = new Turn(64)
  const clashes: { owner: string; address: string }[] = []
  const refused: { owner: string; address: string; reason: string }[] = []
  for (const owner of ledger.owners()) {
    if (turn.isOver) await turn.next()
    const contribution = ledger.contribution(owner)
    for (const address of contribution?.clashes ?? []) clashes.push({ owner, address })
    for (const one of contribution?.refused ?? []) refused.push({ owner, ...one })
  }
  return { clashes: clashes.sort(byOwner), refused: refused.sort(byOwner) }
}

function byOwner(a: { owner: string; address: string }, b: { owner: string; address: string }): number {
  return `${a.owner} ${a.address}` < `${b.owner} ${b.address}` ? -1 : 1
}

/** Virtual servers of some buckets as they are wanted. */
export function* wantedServers({ ledger }: WantedSource, buckets: ReadonlySet<number>): Generator<WantedServer> {
  for (const { server, destinations } of ledger.servers()) {
    if (!buckets.has(bucketOfServer(server))) continue
    yield { server, destinations, owners: [...ledger.serverOwners(serverKey(server))] }
  }
}

/** Entries of a set as they are wanted, with their owners. */
export function* wantedEntries({ ledger }: WantedSource, role: SetRole): Generator<[string, string[]]> {
  for (const entry of ledger.members(role)) yield [entry, [...ledger.memberOwners(role, entry)]]
}

/** Addresses as they are wanted, with their owners. */
export function* wantedAddresses({ ledger }: WantedSource): Generator<[string, string[]]> {
  for (const address of ledger.addresses()) yield [address, [...ledger.addressOwners(address)]]
}

/** What is wanted as this process knows it. */
export async function localWanted(source: WantedSource): Promise<Wanted> {
  const listed = async (entries: Iterable<readonly [string, readonly string[]]>): Promise<OwnedEntries> =>
    new Map(entries)
  return {
    ...(await summarize(source)),
    serversIn: async (buckets) =>
      new Map([...wantedServers(source, buckets)].map((one) => [serverKey(one.server), one])),
    entriesOf: (role) => listed(wantedEntries(source, role)),
    allAddresses: () => listed(wantedAddresses(source)),
  }
}
