import { finish, joined, step, withHash } from '../lib/digest.ts'
import { Turn } from '../lib/turn.ts'
import { putAddress, type Protocol } from '../model/address.ts'
import { serverFlags, type ServerId } from '../model/virtual-server.ts'
import type { KnownServer } from './ipvs.ts'

/**
 * Virtual servers are summed up in so many buckets, by their identity: where one differs, its bucket does, and a
 * thousandth of all has to be looked at.
 */
export const bucketCount = 1024

const protocolNumbers: Readonly<Record<Protocol, number>> = { TCP: 6, UDP: 17, SCTP: 132 }
const scratch = Buffer.alloc(16)
const scratchWords = new Int32Array(4)

/** Hash of an identity; `words` as in `ProcServer`. */
export function identityHash(protocol: Protocol, words: Int32Array, port: number): number {
  let hash = step(protocolNumbers[protocol], port)
  for (let i = 0; i < 4; i++) hash = step(hash, words[i]!)
  return hash
}

/** Where a virtual server of this identity hash is summed up. */
export function bucketOf(identity: number): number {
  return finish(identity, 0x85ebca6b) >>> 22
}

/** The bucket of a virtual server. */
export function bucketOfServer(id: ServerId): number {
  return bucketOf(identityOf(id))
}

/** Hash of its identity. */
export function identityOf({ protocol, address, port }: ServerId): number {
  if (putAddress(scratch, address.includes(':') ? 0 : 12, address) === 4) scratch.fill(0, 0, 12)
  for (let i = 0; i < 4; i++) scratchWords[i] = scratch.readInt32BE(4 * i)
  return identityHash(protocol, scratchWords, port)
}

const schedulerHashes = new Map<string, number>()

function schedulerHash(scheduler: string): number {
  let hash = schedulerHashes.get(scheduler)
  if (hash === undefined) {
    hash = scheduler.length
    for (const c of Buffer.from(scheduler)) hash = step(hash, c)
    schedulerHashes.set(scheduler, hash)
  }
  return hash
}

/**
 * What a virtual server adds to the sum of its bucket. `timeout`: seconds of persistence, 0 without; `sums`: those of its
 * destinations (DestinationDigest).
 */
export function serverHash(
  identity: number,
  scheduler: string,
  timeout: number,
  destinations: number,
  [first, second]: readonly [number, number],
): number {
  const hash = step(step(step(identity, schedulerHash(scheduler)), timeout), destinations)
  return joined(step(step(hash, first), second), step(step(hash + 1, second), first))
}

/** Virtual servers added up. */
export interface ServerSums {
  readonly servers: number
  readonly destinations: number
  /** By bucket. */
  readonly sums: readonly number[]
}

/** Adds up virtual servers as they are wanted, in turns with others. */
export async function sumServers(servers: Iterable<KnownServer>): Promise<ServerSums> {
  const turn = new Turn()
  const sums = Array.from<number>({ length: bucketCount }).fill(0)
  let count = 0
  let destinationCount = 0
  for (const { server, destinations } of servers) {
    if (turn.isOver) await turn.next()
    count++
    destinationCount += destinations.length
    const identity = identityOf(server)
    const timeout = (server.flags & serverFlags.persistent) === 0 ? 0 : server.timeout
    const hash = serverHash(identity, server.scheduler, timeout, destinations.length, destinations.digest)
    const bucket = bucketOf(identity)
    sums[bucket] = withHash(sums[bucket]!, hash)
  }
  return { servers: count, destinations: destinationCount, sums }
}
