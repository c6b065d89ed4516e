import type { Owner } from '../reconcile/layer.ts'
import type { SetRole } from '../model/sets.ts'
import { serverKey } from '../model/virtual-server.ts'
import type { Contribution, OutFilterDrop, ServerWant } from './contribution.ts'

/** Where the ledger says what has come to be wanted and what no longer is. */
export interface Sinks {
  readonly sets: { want(role: SetRole, entry: string): void; unwant(role: SetRole, entry: string): void }
  readonly servers: { want(key: string, want: ServerWant): void; unwant(key: string): void }
  readonly addresses: { want(address: string): void; unwant(address: string): void }
}

/** Who wants a key: nearly always one owner, so that one is kept bare. */
class Shares {
  readonly #owners = new Map<string, Owner | Set<Owner>>()

  /** Whether the key has become wanted by this. */
  add(key: string, owner: Owner): boolean {
    const present = this.#owners.get(key)
    if (present === undefined) {
      this.#owners.set(key, owner)
      return true
    }
    if (typeof present !== 'string') present.add(owner)
    else if (present !== owner) this.#owners.set(key, new Set([present, owner]))
    return false
  }

  /** Whether the key has ceased to be wanted by this. */
  remove(key: string, owner: Owner): boolean {
    const present = this.#owners.get(key)
    if (present === undefined) return false
    if (typeof present === 'string') {
      if (present !== owner) return false
      this.#owners.delete(key)
      return true
    }
    present.delete(owner)
    if (present.size > 0) return false
    this.#owners.delete(key)
    return true
  }

  owners(key: string): Iterable<Owner> {
    const present = this.#owners.get(key)
    return present === undefined ? [] : typeof present === 'string' ? [present] : present
  }

  keys(): Iterable<string> {
    return this.#owners.keys()
  }

  get size(): number {
    return this.#owners.size
  }
}

interface Claim {
  readonly owner: Owner
  readonly want: ServerWant
}

/** Two owners claim one virtual server; the winner has it, the other waits. */
export interface ServerConflict {
  readonly server: string
  readonly winner: Owner
  readonly loser: Owner
}

/** Remembers each owner's last contribution and counts who wants what: the only place that counts. */
export class Ledger {
  readonly #sinks: Sinks
  readonly #onConflict: (conflict: ServerConflict) => void
  readonly #contributions = new Map<Owner, Contribution>()
  readonly #members = new Map<SetRole, Shares>()
  readonly #addresses = new Shares()
  /** Who claims each virtual server: nearly always one owner, so that the first claim is kept bare. */
  readonly #servers = new Map<string, Claim | readonly Claim[]>()
  readonly #drops = new Map<Owner, readonly OutFilterDrop[]>()
  /** All of them, until one changes. */
  #allDrops: readonly OutFilterDrop[] | undefined

  constructor(sinks: Sinks, onConflict: (conflict: ServerConflict) => void = () => {}) {
    this.#sinks = sinks
    this.#onConflict = onConflict
  }

  /** Puts an owner's new contribution in the place of its last one; undefined: the owner is gone. */
  replace(owner: Owner, next: Contribution | undefined): void {
    const last = this.#contributions.get(owner)
    // New claims first: an entry that both have must not look unwanted in between.
    if (next !== undefined) {
      for (const { role, entry } of next.members) {
        if (this.#shares(role).add(entry, owner)) this.#sinks.sets.want(role, entry)
      }
      for (const address of next.addresses) {
        if (this.#addresses.add(address, owner)) this.#sinks.addresses.want(address)
      }
    }
    if (last !== undefined) {
      const members = new Set(next?.members.map(({ role, entry }) => `${role} ${entry}`))
      for (const { role, entry } of last.members) {
        if (members.has(`${role} ${entry}`)) continue
        if (this.#shares(role).remove(entry, owner)) this.#sinks.sets.unwant(role, entry)
      }
      const addresses = new Set(next?.addresses)
      for (const address of last.addresses) {
        if (!addresses.has(address) && this.#addresses.remove(address, owner)) this.#sinks.addresses.unwant(address)
      }
    }
    this.#replaceServers(owner, last?.servers ?? [], next?.servers ?? [])
    const drops = next?.drops ?? []
    if (drops.length > 0 || this.#drops.has(owner)) {
      this.#allDrops = undefined
      if (drops.length === 0) this.#drops.delete(owner)
      else this.#drops.set(owner, drops)
    }
    // Of a Service without an address of this family there is nothing to remember.
    if (next === undefined || isNothing(next)) this.#contributions.delete(owner)
    else this.#contributions.set(owner, next)
  }

  #replaceServers(owner: Owner, last: readonly ServerWant[], next: readonly ServerWant[]): void {
    const touched = new Set<string>()
    for (const one of next) {
      const key = serverKey(one.server)
      const others = this.#claims(key).filter((claim) => claim.owner !== owner)
      // Its own cluster IP, named as an external address, too, stays its own.
      const isInside =
        touched.has(key) && this.#claims(key).some(({ want, ...claim }) => claim.owner === owner && !want.outside)
      const want = isInside ? { server: one.server, destinations: one.destinations } : one
      touched.add(key)
      this.#setClaims(key, [...others, { owner, want }])
    }
    for (const { server } of last) {
      const key = serverKey(server)
      if (touched.has(key)) continue
      touched.add(key)
      this.#setClaims(
        key,
        this.#claims(key).filter((claim) => claim.owner !== owner),
      )
    }
    for (const key of touched) {
      const claims = this.#claims(key)
      const winner = winnerOf(claims)
      if (winner === undefined) {
        this.#sinks.servers.unwant(key)
        continue
      }
      for (const claim of claims) {
        if (claim !== winner) this.#onConflict({ server: key, winner: winner.owner, loser: claim.owner })
      }
      this.#sinks.servers.want(key, winner.want)
    }
  }

  #claims(key: string): readonly Claim[] {
    const present = this.#servers.get(key)
    return present === undefined ? [] : 'owner' in present ? [present] : present
  }

  #setClaims(key: string, claims: readonly Claim[]): void {
    if (claims.length === 0) this.#servers.delete(key)
    else this.#servers.set(key, claims.length === 1 ? claims[0]! : claims)
  }

  #shares(role: SetRole): Shares {
    let shares = this.#members.get(role)
    if (shares === undefined) this.#members.set(role, (shares = new Shares()))
    return shares
  }

  memberOwners(role: SetRole, entry: string): Iterable<Owner> {
    return this.#members.get(role)?.owners(entry) ?? []
  }

  addressOwners(address: string): Iterable<Owner> {
    return this.#addresses.owners(address)
  }

  serverOwners(key: string): Iterable<Owner> {
    const winner = winnerOf(this.#claims(key))
    return winner === undefined ? [] : [winner.owner]
  }

  owners(): Iterable<Owner> {
    return this.#contributions.keys()
  }

  /** Virtual servers that are wanted, each as the one who has it wants it. */
  *servers(): Iterable<ServerWant> {
    for (const claims of this.#servers.values()) {
      const winner = 'owner' in claims ? claims : winnerOf(claims)
      if (winner !== undefined) yield winner.want
    }
  }

  /** Entries that are wanted in the set of a role. */
  members(role: SetRole): Iterable<string> {
    return this.#members.get(role)?.keys() ?? []
  }

  /** Addresses that are wanted on the dummy device. */
  addresses(): Iterable<string> {
    return this.#addresses.keys()
  }

  /** Service ports that claim a virtual server which another one has. */
  *conflicts(): Iterable<ServerConflict> {
    for (const [server, claims] of this.#servers) {
      const winner = 'owner' in claims ? undefined : winnerOf(claims)
      if (winner === undefined || 'owner' in claims) continue
      for (const claim of claims) if (claim !== winner) yield { server, winner: winner.owner, loser: claim.owner }
    }
  }

  /** Roles of sets that have at least one member. */
  nonEmptyRoles(): Set<SetRole> {
    const roles = new Set<SetRole>()
    for (const [role, shares] of this.#members) if (shares.size > 0) roles.add(role)
    return roles
  }

  /** The same list as long as nothing of it changes. */
  drops(): readonly OutFilterDrop[] {
    return (this.#allDrops ??= [...this.#drops.values()].flat())
  }

  /** What an owner contributes now. */
  contribution(owner: Owner): Contribution | undefined {
    return this.#contributions.get(owner)
  }
}

/**
 * A cluster IP or a node port, which the API server gave away, comes before an external address, which anybody may write
 * into a Service; of the same kind the first by name.
 */
function winnerOf(claims: readonly Claim[]): Claim | undefined {
  let winner: Claim | undefined
  for (const claim of claims) if (winner === undefined || comesBefore(claim, winner)) winner = claim
  return winner
}

function comesBefore(a: Claim, b: Claim): boolean {
  const [outside, other] = [a.want.outside === true, b.want.outside === true]
  return outside === other ? a.owner < b.owner : other
}

function isNothing({ servers, members, addresses }: Contribution): boolean {
  return servers.length === 0 && members.length === 0 && addresses.length === 0
}
