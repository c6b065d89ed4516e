import type { ProxyConfig } from '../config/schema.ts'
import { serverKey } from '../ipvs/ipvs.ts'
import { Turn } from '../lib/turn.ts'
import type { Family } from '../model/address.ts'
import { DestinationList } from '../model/destination-list.ts'
import type { SetRole } from '../model/sets.ts'
import type { VirtualServer } from '../model/virtual-server.ts'
import type { Sum, WantedServer, WantedSummary } from './wanted.ts'

/**
 * What the daemon tells the commands over its socket: values as JSON, one a line, the last of them how many there were.
 * Whoever reads gets the whole or knows that it was cut. Program and commands are of one version; others are not asked.
 */
export const paths = {
  /** DaemonIdentity. */
  identity: '/identity',
  /** DaemonIdentity, then a FamilyWanted for each family that has synced. */
  wanted: '/wanted',
  /** WiredServer for each virtual server of `family` in `buckets`: numbers with commas between them, or "all". */
  servers: '/wanted/servers',
  /** Entry and owners for each entry of the set of `role`. */
  entries: '/wanted/entries',
  /** Address and owners for each address of `family`. */
  addresses: '/wanted/addresses',
} as const

/** The tool that a family's rules are read and written by. */
export interface ToolIdentity {
  readonly infix: '-nft' | '-legacy' | ''
  readonly variant: 'nft' | 'legacy'
  readonly version: string
  readonly randomFully: boolean
}

export interface FamilyIdentity {
  readonly family: Family
  readonly tool: ToolIdentity
  /** All is known, and was written once. */
  readonly synced: boolean
  /** Milliseconds since the epoch of the last good pass; 0 before the first. */
  readonly lastSync: number
  /** Service ports of which the kernel refused something in the last pass. */
  readonly refused: number
  /** Services and EndpointSlices that changed and are not planned yet. */
  readonly waiting: number
}

/** Who answers. */
export interface DaemonIdentity {
  readonly version: string
  readonly node: string
  /** The network namespace, as /proc/self/ns/net has it. */
  readonly namespace: string
  readonly config: ProxyConfig
  readonly manifests: string | undefined
  readonly master: string | undefined
  readonly healthy: boolean
  /** Why it is not healthy; "" where it is. */
  readonly reason: string
  /** What keeps the source of objects from telling what is new; "" where nothing does. */
  readonly trouble: string
  readonly families: readonly FamilyIdentity[]
}

type FamilyWanted = Omit<WantedSummary, 'sets'> & { readonly sets: readonly (readonly [SetRole, Sum])[] }

/** A virtual server, its destinations as [address, port, weight], its owners. */
type WiredServer = readonly [VirtualServer, readonly (readonly [string, number, number])[], readonly string[]]

export function wireSummary(summary: WantedSummary): FamilyWanted {
  return { ...summary, sets: [...summary.sets] }
}

export function readSummary(value: unknown): WantedSummary {
  const told = value as FamilyWanted
  return { ...told, sets: new Map(told.sets) }
}

export function wireServer({ server, destinations, owners }: WantedServer): WiredServer {
  return [server, [...destinations].map(({ address, port, weight }) => [address, port, weight] as const), owners]
}

/** Key and virtual server. */
export function readServer(value: unknown): readonly [string, WantedServer] {
  const [server, list, owners] = value as WiredServer
  const destinations = DestinationList.of(list.map(([address, port, weight]) => ({ address, port, weight })))
  return [serverKey(server), { server, destinations, owners }]
}

/** A piece as large as this is sent. */
const pieceLength = 16_384

/** Lines of values, in pieces, in turns with others. */
export async function* toLines(values: Iterable<unknown>): AsyncGenerator<string> {
  const turn = new Turn()
  let piece = ''
  let count = 0
  for (const value of values) {
    piece += `${JSON.stringify(value)}\n`
    count++
    if (piece.length >= pieceLength) {
      yield piece
      piece = ''
    }
    if (turn.isOver) await turn.next()
  }
  yield `${piece}${count}\n`
}

/** The values of a text of lines. Throws where its end is missing. */
export function fromLines(text: string): unknown[] {
  const lines = text.split('\n')
  const end = lines.length - 2
  if (end < 0 || lines.at(-1) !== '' || lines[end] !== String(end)) throw new Error('the answer was cut')
  return lines.slice(0, end).map((line): unknown => JSON.parse(line))
}
