import { mapInTurns, PatientTurn } from '../lib/turn.ts'
import type { Family } from '../model/address.ts'
import { DestinationDigest } from '../model/destination-list.ts'
import { serverFlags, serverKey, type ConnectionCount, type KnownServer, type ServerId } from './ipvs.ts'
import { kernelFrequencies, type ProcDestination, type ProcServer } from './proc.ts'
import { ProcReading, type ProcFile } from './proc-file.ts'
import { identityHash, identityOf } from './server-digest.ts'

/** Of the kernel's clock that persistence timeouts are shown in; undefined until known. */
export interface KernelFrequency {
  ticksPerSecond?: number
}

/** Hashes of 32 bits in four bytes each. */
class HashList {
  #hashes = new Int32Array(1024)
  #length = 0

  add(hash: number): void {
    if (this.#length === this.#hashes.length) {
      const larger = new Int32Array(2 * this.#length)
      larger.set(this.#hashes)
      this.#hashes = larger
    }
    this.#hashes[this.#length++] = hash
  }

  /** A question for any hash; nothing may be added afterwards. */
  finder(): (hash: number) => boolean {
    const sorted = this.#hashes.subarray(0, this.#length).sort()
    return (hash) => {
      let low = 0
      for (let high = sorted.length; low < high;) {
        const middle = (low + high) >>> 1
        if (sorted[middle]! < hash) low = middle + 1
        else high = middle
      }
      return sorted[low] === hash
    }
  }
}

/** Notes virtual servers of a family that may not be as known. */
class FamilySurvey {
  readonly #known: ReadonlyMap<string, KnownServer>
  readonly #family: Family
  readonly #frequency: KernelFrequency
  readonly #digest = new DestinationDigest()
  readonly #seen = new HashList()
  #suspects: ServerId[] = []
  #current: { readonly id: ServerId; readonly former: KnownServer | undefined; readonly same: boolean } | undefined
  #count = 0
  readonly connections = { active: 0, inactive: 0 }

  constructor(family: Family, known: ReadonlyMap<string, KnownServer>, frequency: KernelFrequency) {
    this.#family = family
    this.#known = known
    this.#frequency = frequency
  }

  server(server: ProcServer): void {
    this.end()
    const { id, scheduler, ticks, onePacket } = server
    const former = this.#known.get(serverKey(id))
    if (former !== undefined) this.#seen.add(identityHash(server.protocol, server.words, server.port))
    const same = former !== undefined && !onePacket && this.#isSame(former, scheduler, ticks)
    this.#current = { id, former, same }
  }

  #isSame({ server }: KnownServer, scheduler: string, ticks: number): boolean {
    const persistent = (server.flags & serverFlags.persistent) !== 0
    if (server.scheduler !== scheduler || persistent !== ticks > 0) return false
    if (!persistent) return true
    const frequency = ticks / server.timeout
    if (this.#frequency.ticksPerSecond === undefined && kernelFrequencies.includes(frequency))
      this.#frequency.ticksPerSecond = frequency
    return frequency === this.#frequency.ticksPerSecond
  }

  destination({
    family,
    words,
    port,
    forwarding,
    weight,
    activeConnections,
    inactiveConnections,
  }: ProcDestination): void {
    this.#count++
    this.connections.active += activeConnections
    this.connections.inactive += inactiveConnections
    // An IPv4 address among IPv6 ones is known by its mapped form, which is a sum of its own: a closer look decides.
    const word = (at: number): number => (family === this.#family ? words[at]! : 0)
    this.#digest.add(word(0), word(1), word(2), word(3), port, forwarding === 0 ? weight : -1)
  }

  /** Judges the last server. */
  end(): void {
    if (this.#current !== undefined) {
      const { former, same, id } = this.#current
      const [first, second] = this.#digest.sums
      const matches =
        same &&
        former!.destinations.length === this.#count &&
        former!.destinations.digest[0] === first &&
        former!.destinations.digest[1] === second
      if (!matches) this.#suspects.push(id)
      this.#current = undefined
    }
    this.#digest.reset()
    this.#count = 0
  }

  /** Those noted since the last time. */
  takeSuspects(): readonly ServerId[] {
    const suspects = this.#suspects
    this.#suspects = []
    return suspects
  }

  /** Known servers that the file does not have. */
  unseen(): Promise<readonly ServerId[]> {
    const isSeen = this.#seen.finder()
    return mapInTurns(
      this.#known.values(),
      ({ server }) => (isSeen(identityOf(server)) ? undefined : server),
      new PatientTurn(),
    )
  }
}

/** Milliseconds after which a survey that was over at once is of no use to another family. */
const shelfLife = 20

/** What a survey has noted for a family since the last time. */
export interface Findings {
  /** Servers that may not be as known. */
  readonly suspects: readonly ServerId[]
  /** Of all servers of the family; undefined before the end. */
  readonly connections: ConnectionCount | undefined
}

/**
 * Goes through the proc file for all families and notes servers that may not be as known. Others may write meanwhile, and
 * between two parts of it: a server that they touched is noted or not.
 */
export class Survey {
  readonly #known: ReadonlyMap<Family, ReadonlyMap<string, KnownServer>>
  readonly #frequency: KernelFrequency
  readonly #reading: ProcReading
  readonly #families = new Map<Family, FamilySurvey>()
  /** Those that have the findings of the end. */
  readonly #served = new Set<Family>()
  #underWay: Promise<void> | undefined
  #parts = 0
  #reachedEndAt: number | undefined

  /** `known`: by family, as they are when it begins. */
  constructor(
    known: ReadonlyMap<Family, ReadonlyMap<string, KnownServer>>,
    frequency: KernelFrequency,
    open: () => ProcFile,
  ) {
    this.#known = known
    this.#frequency = frequency
    let current: FamilySurvey | undefined
    this.#reading = new ProcReading(
      {
        server: (one) => {
          current = this.#families.get(one.family)
          current?.server(one)
        },
        destination: (one) => current?.destination(one),
      },
      open,
    )
  }

  get hasBegun(): boolean {
    return this.#parts > 0
  }

  get isOver(): boolean {
    return this.#reading.isOver
  }

  /** Whether it has nothing more for this family. */
  isOverFor(family: Family): boolean {
    if (!this.isOver) return false
    if (this.#reachedEndAt === undefined || this.#served.has(family) || !this.#families.has(family)) return true
    return this.#parts === 1 && performance.now() - this.#reachedEndAt > shelfLife
  }

  /** Goes on for so many milliseconds of a core, or to the end; whoever asks meanwhile waits for the same part. */
  async goOn(allowance?: number): Promise<void> {
    if (this.isOver) return
    this.#underWay ??= this.#readOn(allowance).finally(() => (this.#underWay = undefined))
    await this.#underWay
  }

  async #readOn(allowance: number | undefined): Promise<void> {
    if (this.#parts++ === 0)
      for (const [family, known] of this.#known)
        this.#families.set(family, new FamilySurvey(family, known, this.#frequency))
    await this.#reading.goOn(allowance)
    if (!this.#reading.isAtEnd || this.#reachedEndAt !== undefined) return
    this.#reachedEndAt = performance.now()
    for (const one of this.#families.values()) one.end()
  }

  /** The findings for a family; at the end also the known servers that the file does not have. */
  async take(family: Family): Promise<Findings> {
    const survey = this.#families.get(family)
    if (survey === undefined) return { suspects: [], connections: undefined }
    const suspects = survey.takeSuspects()
    if (this.#reachedEndAt === undefined) return { suspects, connections: undefined }
    this.#served.add(family)
    return { suspects: [...suspects, ...(await survey.unseen())], connections: survey.connections }
  }

  /** Leaves the rest of the file unread. */
  close(): void {
    this.#reading.close()
  }
}
