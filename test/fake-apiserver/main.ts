import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { parseAllDocuments } from 'yaml'
import { FakeApiServer } from './server.ts'
import type { KubeObject } from './server.ts'

/** Runs the fake API server as a process: node main.ts --port 8443 --objects DIR|FILE [--cert F --key F] [--host H]. */
const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '0' },
    host: { type: 'string', default: '127.0.0.1' },
    objects: { type: 'string' },
    cert: { type: 'string' },
    key: { type: 'string' },
    'bookmark-ms': { type: 'string', default: '0' },
  },
})

function* objectsOf(path: string): Generator<KubeObject> {
  if (statSync(path).isDirectory()) {
    for (const name of readdirSync(path).sort()) if (/\.(ya?ml|json)$/.test(name)) yield* objectsOf(join(path, name))
    return
  }
  for (const value of documentsOf(path)) {
    if (value !== null) yield* value.kind.endsWith('List') ? (value.items ?? []) : [value]
  }
}

type Document = (KubeObject & { items?: KubeObject[] }) | null

/** JSON is YAML, but its own parser is a hundred times faster. */
function documentsOf(path: string): Document[] {
  const text = readFileSync(path, 'utf8')
  if (path.endsWith('.json')) return [JSON.parse(text) as Document]
  const documents = parseAllDocuments(text)
  return Array.isArray(documents) ? documents.map((document) => document.toJS() as Document) : []
}

const server = new FakeApiServer({
  port: Number(values.port),
  host: values.host,
  bookmarkMs: Number(values['bookmark-ms']),
  ...(values.cert && values.key
    ? { cert: readFileSync(values.cert, 'utf8'), key: readFileSync(values.key, 'utf8') }
    : {}),
})
if (values.objects !== undefined) for (const object of objectsOf(values.objects)) server.put(object)
const url = await server.start()
process.stdout.write(`${url}\n`)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(0))
