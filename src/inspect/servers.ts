import type { ObservedServer, ServerId } from '../ipvs/ipvs.ts'
import { kernelFrequencies, ProcParser, type ProcDestination, type ProcServer, type ProcVisitor } from '../ipvs/proc.ts'
import { readProcFile, type ProcFile } from '../ipvs/proc-file.ts'
import { bucketCount, bucketOf, identityHash, serverHash } from '../ipvs/server-digest.ts'
import { withHash } from '../lib/digest.ts'
import { ProxyError } from '../lib/errors.ts'
import { Turn } from '../lib/turn.ts'
import type { Family } from '../model/address.ts'
import { DestinationDigest } from '../model/destination-list.ts'
import { serverKey } from '../model/virtual-server.ts'
import type { WantedServer } from '../wanted/wanted.ts'
import type { ProcCopy } from './proc-copy.ts'

/** A destination at weight 0 that nobody wants any more and that has connections left. */
export interface DrainingDestination {
  readonly server: string
  readonly address: string
  readonly port: number
  readonly activeConnections: number
  readonly inactiveConnections: number
}

/** The virtual servers of one family at a glance. */
export interface ServerSurvey {
  readonly servers: number
  readonly destinations: number
  /** How many virtual servers have which scheduler. */
  readonly schedulers: ReadonlyMap<string, number>
  /** Buckets of those with a destination at weight 0. */
  readonly withWeightZero: ReadonlySet<number>
  /** Buckets in which the sums differ. */
  differing(sums: readonly number[]): ReadonlySet<number>
}

/** Goes through /proc/net/ip_vs once, for one family: counts, and sums up what is there by bucket. */
class Survey implements ProcVisitor, ServerSurvey {
  readonly schedulers = new Map<string, number>()
  readonly withWeightZero = new Set<number>()
  servers = 0
  destinations = 0
  readonly #family: Family
  readonly #digest = new DestinationDigest()
  /** Of those without persistence; of those with it, as their time would be at each of the frequencies. */
  readonly #plain = emptySums()
  readonly #persistent = kernelFrequencies.map(emptySums)
  #inServer = false
  #identity = 0
  #scheduler = ''
  #ticks = 0
  #onePacket = false
  #count = 0
  #weightZero = false

  constructor(family: Family) {
    this.#family = family
  }

  server({ family, protocol, words, port, scheduler, ticks, onePacket }: ProcServer): void {
    this.end()
    this.#inServer = family === this.#family
    if (!this.#inServer) return
    this.servers++
    this.schedulers.set(scheduler, (this.schedulers.get(scheduler) ?? 0) + 1)
    this.#identity = identityHash(protocol, words, port)
    this.#scheduler = scheduler
    this.#ticks = ticks
    this.#onePacket = onePacket
  }

  destination({ family, words, port, forwarding, weight }: ProcDestination): void {
    if (!this.#inServer) return
    this.#count++
    if (weight === 0) this.#weightZero = true
    const ours = forwarding === 0 ? weight : -1
    // An IPv4 address among IPv6 ones is known by its mapped form, which is a sum of its own: a closer look decides.
    if (family === this.#family) this.#digest.add(words[0]!, words[1]!, words[2]!, words[3]!, port, ours)
    else this.#digest.add(0, 0, 0, 0, port, ours)
  }

  /** Adds the last server. */
  end(): void {
    if (!this.#inServer) return
    this.#inServer = false
    this.destinations += this.#count
    const bucket = bucketOf(this.#identity)
    // Nobody wants one that sees each packet by itself: it gets a time that none has.
    if (this.#ticks === 0) this.#add(this.#plain, bucket, this.#onePacket ? -1 : 0)
    else
      for (const [i, sums] of this.#persistent.entries()) this.#add(sums, bucket, this.#ticks / kernelFrequencies[i]!)
    if (this.#weightZero) this.withWeightZero.add(bucket)
    this.#digest.reset()
    this.#count = 0
    this.#weightZero = false
  }

  #add(sums: number[], bucket: number, timeout: number): void {
    const hash = serverHash(this.#identity, this.#scheduler, timeout, this.#count, this.#digest.sums)
    sums[bucket] = withHash(sums[bucket]!, hash)
  }

  /** At the frequency at which the fewest differ: the kernel does not tell its own. */
  differing(sums: readonly number[]): ReadonlySet<number> {
    const each = this.#persistent.map((persistent) => {
      const found = new Set<number>()
      for (const [bucket, plain] of this.#plain.entries()) {
        if (withHash(plain, persistent[bucket]!) !== sums[bucket]) found.add(bucket)
      }
      return found
    })
    return each.reduce((least, found) => (found.size < least.size ? found : least))
  }
}

function emptySums(): number[] {
  return Array.from<number>({ length: bucketCount }).fill(0)
}

/**
 * Surveys of all families in one reading: of the copy where there is one and it comes to its end, else of the kernel's file,
 * for which `open` may stand in. Throws ProxyError PREFLIGHT.
 */
export async function surveyServers(
  open?: () => ProcFile,
  copy?: ProcCopy,
): Promise<ReadonlyMap<Family, ServerSurvey>> {
  try {
    if (copy !== undefined) return await surveyCopy(copy)
  } catch {
    // Read again: a copy is there to save time.
  }
  const reading = new Surveys()
  try {
    await readProcFile(reading, open)
  } catch (error) {
    throw new ProxyError('PREFLIGHT', 'IPVS is not there in this kernel', { advice: 'load it: modprobe ip_vs' }, error)
  }
  return reading.end()
}

async function surveyCopy(copy: ProcCopy): Promise<ReadonlyMap<Family, ServerSurvey>> {
  const reading = new Surveys()
  const parser = new ProcParser(reading)
  const turn = new Turn(1)
  for await (const chunk of copy.chunks()) {
    parser.push(chunk)
    if (turn.isOver) await turn.next()
  }
  return reading.end()
}

/** One reading for all families. */
class Surveys implements ProcVisitor {
  readonly #surveys = new Map((['IPv4', 'IPv6'] as const).map((family) => [family, new Survey(family)]))
  #current: Survey | undefined

  server(server: ProcServer): void {
    this.#current?.end()
    this.#current = this.#surveys.get(server.family)
    this.#current?.server(server)
  }

  destination(one: ProcDestination): void {
    this.#current?.destination(one)
  }

  end(): ReadonlyMap<Family, ServerSurvey> {
    for (const survey of this.#surveys.values()) survey.end()
    return this.#surveys
  }
}

/** Those of the observed servers' destinations that only wait for their last connections. */
export function drainingOf(
  servers: readonly ObservedServer[],
  wanted: ReadonlyMap<string, WantedServer>,
): readonly DrainingDestination[] {
  return servers.flatMap(({ server, destinations }) => {
    const key = serverKey(server)
    const kept = new Set<string>()
    for (const { address, port } of wanted.get(key)?.destinations ?? []) kept.add(`${address} ${port}`)
    return destinations
      .filter(({ weight, address, port }) => weight === 0 && !kept.has(`${address} ${port}`))
      .map(({ address, port, activeConnections, inactiveConnections }) => ({
        server: key,
        address,
        port,
        activeConnections,
        inactiveConnections,
      }))
  })
}

export type { ServerId }
