import type { Reply, Request, Routes } from '../health/server.ts'
import { bucketCount } from '../ipvs/server-digest.ts'
import { allRoles } from '../ipset/catalogue.ts'
import type { Family } from '../model/address.ts'
import { summarize, wantedAddresses, wantedEntries, wantedServers, type WantedSource } from './local.ts'
import { paths, toLines, wireServer, wireSummary, type DaemonIdentity } from './wire.ts'

const lines = (values: Iterable<unknown>): Reply => ({
  code: 200,
  type: 'application/x-ndjson',
  body: toLines(values),
})
const refused = (body: string): Reply => ({ code: 400, type: 'text/plain; charset=utf-8', body })

/** What the daemon tells the commands on its node: who it is, and what it wants in the kernel. */
export function wantedRoutes(
  identity: () => Promise<DaemonIdentity>,
  sources: ReadonlyMap<Family, WantedSource>,
): Routes {
  const ofFamily =
    (answer: (source: WantedSource, request: Request) => Reply) =>
    (request: Request): Reply => {
      const source = sources.get(request.query.get('family') as Family)
      return source === undefined ? refused('family must be one that is served') : answer(source, request)
    }
  return {
    [paths.identity]: async () => lines([await identity()]),
    [paths.wanted]: async () => {
      const told = await identity()
      const values: unknown[] = [told]
      for (const [family, source] of sources) {
        // Before the first sync it is not whole, and all of it would have to be added up.
        if (told.families.some((one) => one.family === family && one.synced))
          values.push(wireSummary(await summarize(source)))
      }
      return lines(values)
    },
    [paths.servers]: ofFamily((source, { query }) => lines(wiredServers(source, query.get('buckets') ?? 'all'))),
    [paths.entries]: ofFamily((source, { query }) => {
      const role = allRoles.find((name) => name === query.get('role'))
      return role === undefined ? refused('role must be one of the sets') : lines(wantedEntries(source, role))
    }),
    [paths.addresses]: ofFamily((source) => lines(wantedAddresses(source))),
  }
}

function* wiredServers(source: WantedSource, text: string): Generator {
  const buckets = text === 'all' ? allBuckets() : new Set(text.split(',').map(Number))
  for (const one of wantedServers(source, buckets)) yield wireServer(one)
}

export function allBuckets(): ReadonlySet<number> {
  return new Set(Array.from({ length: bucketCount }, (_, bucket) => bucket))
}
