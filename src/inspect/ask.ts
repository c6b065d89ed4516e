import { connect } from 'node:net'
import type { Family } from '../model/address.ts'
import { bucketCount } from '../ipvs/server-digest.ts'
import { fromLines, paths, readServer, readSummary, type DaemonIdentity } from '../wanted/wire.ts'
import type { OwnedEntries, Wanted, WantedSummary } from '../wanted/wanted.ts'

/** Longer than that nobody waits for a process of the same node. */
const patience = 10_000

/**
 * GET over a socket of the file system; the body of the answer. HTTP/1.0 is all that it takes: Node's own client would cost a
 * command a third of its start.
 */
export function askSocket(path: string, target: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = []
    const socket = connect(path, () => void socket.write(`GET ${target} HTTP/1.0\r\nHost: localhost\r\n\r\n`))
    socket.setTimeout(patience, () => socket.destroy(new Error(`no answer within ${patience} ms`)))
    socket.on('error', reject)
    socket.on('data', (part: Buffer) => void parts.push(part))
    socket.on('end', () => {
      const text = Buffer.concat(parts).toString('utf8')
      const end = text.indexOf('\r\n\r\n')
      const [, status = ''] = /^HTTP\/1\.[01] (\d+)/.exec(text) ?? []
      if (end < 0 || status !== '200') reject(new Error(`it answers ${status || 'nothing that is HTTP'}`))
      else resolve(text.slice(end + 4))
    })
  })
}

/** What the daemon at a socket says. */
export interface DaemonTold {
  readonly identity: DaemonIdentity
  /** Of each family that it serves; none where only its identity was asked for. */
  readonly families: readonly WantedSummary[]
}

/** Asks the daemon at a socket who it is and, `whole`, what it wants. Rejects where nobody answers. */
export async function askDaemonAt(path: string, whole: boolean): Promise<DaemonTold> {
  const [identity, ...families] = fromLines(await askSocket(path, whole ? paths.wanted : paths.identity))
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- whoever answers there runs as root, and says its version first
  return { identity: identity as DaemonIdentity, families: families.map(readSummary) }
}

/** What a daemon wants of one family, the parts asked for as they are needed. */
export function wantedAt(path: string, summary: WantedSummary): Wanted {
  const family: Family = summary.family
  const ask = async (target: string, query: string): Promise<unknown[]> =>
    fromLines(await askSocket(path, `${target}?family=${family}&${query}`))
  const owned = (values: unknown[]): OwnedEntries => new Map(values as [string, string[]][])
  return {
    ...summary,
    serversIn: async (buckets) => {
      // A line of a request has its limit.
      const which = buckets.size > bucketCount / 4 ? 'all' : [...buckets].join(',')
      const all = await ask(paths.servers, `buckets=${which}`)
      return new Map(all.map(readServer))
    },
    entriesOf: async (role) => owned(await ask(paths.entries, `role=${role}`)),
    allAddresses: async () => owned(await ask(paths.addresses, '')),
  }
}
