import { watch } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { LineCounter, parseAllDocuments } from 'yaml'
import { systemClock } from '../lib/clock.ts'
import type { Clock } from '../lib/clock.ts'
import { describeError, ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { canonicalAddress, familyOf } from '../model/address.ts'
import type { ClusterListener, ClusterSource } from '../model/cluster.ts'
import {
  isJson,
  isName,
  objectKey,
  problemText,
  translateEndpointSlice,
  translateNode,
  translateService,
} from './translate.ts'
import type { Report } from './translate.ts'

export interface ManifestsOptions {
  readonly directory: string
  /** The own node's name: decides which Node is read and which endpoints are local. */
  readonly nodeName: string
  readonly log: Log
  readonly clock?: Clock
  /** How long the directory must be quiet before it is read. */
  readonly debounceMs?: number
  /** How often it is read without any notice. */
  readonly pollMs?: number
  /** Hears of each object as it was read, whatever the records keep of it. */
  readonly onObject?: (object: Readonly<Record<string, unknown>>) => void
}

type Json = Readonly<Record<string, unknown>>
type Kind = 'Service' | 'EndpointSlice' | 'Node'

export interface Manifest {
  readonly kind: Kind
  readonly key: string
  readonly object: Json
  readonly text: string
  readonly file: string
  readonly document: number
}

export interface FileState {
  /** Changes when the file does; undefined: it could not be read. */
  readonly stamp: string | undefined
  readonly manifests: readonly Manifest[]
  readonly ignored: readonly string[]
  readonly error?: string
}

const KINDS: Readonly<Record<string, Kind>> = {
  'v1/Service': 'Service',
  'v1/Node': 'Node',
  'discovery.k8s.io/v1/EndpointSlice': 'EndpointSlice',
}

/** Services, EndpointSlices and the own Node from a directory of manifests, followed as its files change. */
export class ManifestsSource implements ClusterSource {
  readonly #options: ManifestsOptions
  readonly #clock: Clock
  readonly #log: Log
  #files = new Map<string, FileState>()
  /** JSON text of each object the listener was told of, by kind and key. */
  readonly #told = new Map<string, string>()
  #complaints = new Set<string>()
  #directoryFault = ''
  #synced = false

  constructor(options: ManifestsOptions) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#log = options.log
  }

  /** Throws where the directory cannot be one: wrong settings should end the start, not be retried. */
  async check(): Promise<void> {
    const { directory } = this.#options
    const advice = 'give an existing, readable directory of manifests'
    try {
      if ((await stat(directory)).isDirectory()) await readdir(directory)
      else throw new Error('it is not a directory')
    } catch (error) {
      throw new ProxyError('CONFIG', `manifests directory ${directory} cannot be read`, { advice }, error)
    }
  }

  async run(listener: ClusterListener, signal: AbortSignal): Promise<void> {
    const { directory, debounceMs = 50, pollMs = 2000 } = this.#options
    while (!signal.aborted) {
      const noticed = new AbortController()
      const wake = AbortSignal.any([noticed.signal, signal])
      // The watch is set before the reading: a change during the reading is not missed.
      const stop = this.#notice(directory, () => noticed.abort())
      await this.#scan(listener)
      await this.#clock.sleep(pollMs, wake)
      if (noticed.signal.aborted) await this.#clock.sleep(debounceMs, signal)
      stop()
    }
  }

  /** Calls back at changes, as far as the file system tells; the poll finds what it does not. */
  #notice(directory: string, changed: () => void): () => void {
    try {
      const watcher = watch(directory, { persistent: false }, changed)
      watcher.on('error', changed)
      return () => watcher.close()
    } catch {
      return () => {}
    }
  }

  async #scan(listener: ClusterListener): Promise<void> {
    let files: Map<string, FileState>
    try {
      files = await this.#readFiles()
      this.#directoryFault = ''
    } catch (error) {
      // A volume being swapped has no directory for a moment: what was read stays in force.
      const fault = describeError(error)
      const { directory } = this.#options
      if (fault !== this.#directoryFault) this.#log.error(`manifests directory ${directory} cannot be read: ${fault}`)
      this.#directoryFault = fault
      return
    }
    const same = files.size === this.#files.size && [...files].every(([name, state]) => this.#files.get(name) === state)
    if (same && this.#synced) return
    this.#files = files
    const complaints = new Set<string>()
    const present = new Map<string, Manifest>()
    const ignored = new Set<string>()
    for (const state of this.#files.values()) {
      if (state.error !== undefined) complaints.add(state.error)
      for (const line of state.ignored) ignored.add(line)
      for (const manifest of state.manifests) {
        const id = `${manifest.kind} ${manifest.key}`
        const first = present.get(id)
        if (first === undefined) present.set(id, manifest)
        else complaints.add(`${id} is in ${place(first)} and again in ${place(manifest)}: the first is used`)
      }
    }
    this.#tell(listener, present, complaints)
    this.#complain(complaints, ignored)
    if (this.#synced) return
    this.#synced = true
    for (const kind of ['services', 'endpointslices', 'node'] as const) listener.synced(kind)
  }

  /** Logs what was not already so at the last reading. */
  #complain(complaints: Set<string>, ignored: ReadonlySet<string>): void {
    for (const text of complaints) if (!this.#complaints.has(text)) this.#log.error(text)
    for (const text of ignored) if (!this.#complaints.has(text)) this.#log.v(1, text)
    this.#complaints = complaints.union(ignored)
  }

  #tell(listener: ClusterListener, present: ReadonlyMap<string, Manifest>, complaints: Set<string>): void {
    for (const id of this.#told.keys()) {
      if (present.has(id)) continue
      this.#told.delete(id)
      const space = id.indexOf(' ')
      deliver(listener, id.slice(0, space), id.slice(space + 1), undefined, this.#options.nodeName, () => {})
    }
    for (const [id, manifest] of present) {
      const { kind, key, object, text } = manifest
      if (kind === 'Node' && key !== this.#options.nodeName) continue
      const report: Report = (problem) => complaints.add(`${place(manifest)}: ${problemText(problem)}`)
      this.#options.onObject?.(object)
      const unchanged = this.#told.get(id) === text
      this.#told.set(id, text)
      // An unchanged object is translated again only for its complaints, which are in force as long as it is.
      deliver(unchanged ? DEAF : listener, kind, key, object, this.#options.nodeName, report)
    }
  }

  async #readFiles(): Promise<Map<string, FileState>> {
    const { directory } = this.#options
    const files = new Map<string, FileState>()
    const names = (await readdir(directory)).filter((name) => /^[^.].*\.(ya?ml|json)$/.test(name)).sort()
    for (const name of names) {
      const before = this.#files.get(name)
      try {
        const path = join(directory, name)
        const { ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true })
        const stamp = `${ino} ${size} ${mtimeNs} ${ctimeNs}`
        const unchanged = before !== undefined && before.stamp === stamp
        files.set(name, unchanged ? before : readManifest(name, stamp, await readFile(path, 'utf8'), before))
      } catch (error) {
        const fault = `manifest ${name} cannot be read: ${describeError(error)}`
        const kept = before ?? { manifests: [], ignored: [] }
        files.set(name, before?.error === fault ? before : { ...kept, stamp: undefined, error: fault })
      }
    }
    return files
  }
}

const DEAF: ClusterListener = {
  serviceChanged: () => {},
  sliceChanged: () => {},
  nodeChanged: () => {},
  synced: () => {},
}

function deliver(
  to: ClusterListener,
  kind: string,
  key: string,
  object: Json | undefined,
  node: string,
  report: Report,
): void {
  if (kind === 'Service') to.serviceChanged(key, object && translateService(object, report))
  else if (kind === 'EndpointSlice') to.sliceChanged(key, object && translateEndpointSlice(object, node, report))
  else to.nodeChanged(object && translateNode(object, report))
}

function place(manifest: Manifest): string {
  return `${manifest.file} document ${manifest.document}`
}

class ManifestError extends Error {}

/** Reads one file. Never throws: where any document is beyond use, the file as it last was good stays in force as a whole. */
export function readManifest(file: string, stamp: string, text: string, before: FileState | undefined): FileState {
  const manifests: Manifest[] = []
  const ignored: string[] = []
  try {
    for (const { value, document, line } of documentsOf(file, text)) {
      if (value === null || value === undefined) continue
      addObject(value, { file, document, where: `document ${document}, line ${line}`, field: '' }, manifests, ignored)
    }
    return { stamp, manifests, ignored }
  } catch (error) {
    const kept = before?.manifests ?? []
    const state = kept.length > 0 ? 'its last good objects stay in force' : 'it has no objects'
    // Any other error is of what the parser cannot take: a thousand levels of brackets.
    const message = `manifest ${file}, ${describeError(error)} (${state})`
    return { stamp, manifests: kept, ignored: before?.ignored ?? [], error: message }
  }
}

interface Document {
  readonly value: unknown
  /** Both count from 1. */
  readonly document: number
  readonly line: number
}

/** JSON is YAML, but its own parser is a hundred times faster; what it refuses, the other one says where and why. */
function documentsOf(file: string, text: string): Iterable<Document> {
  if (file.endsWith('.json')) {
    try {
      return [{ value: JSON.parse(text), document: 1, line: 1 }]
    } catch {
      return yamlDocumentsOf(text)
    }
  }
  return yamlDocumentsOf(text)
}

function* yamlDocumentsOf(text: string): Generator<Document> {
  const lines = new LineCounter()
  const documents = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false, logLevel: 'error' })
  for (const [i, document] of (Array.isArray(documents) ? documents : []).entries()) {
    const where = `document ${i + 1}`
    const fault = document.errors[0]
    if (fault !== undefined) {
      const { line, col } = lines.linePos(fault.pos[0])
      throw new ManifestError(`${where}, line ${line}, column ${col}: ${fault.message}`)
    }
    const line = lines.linePos(document.range[0]).line
    try {
      yield { value: document.toJS({ maxAliasCount: 100 }), document: i + 1, line }
    } catch (error) {
      throw new ManifestError(`${where}, line ${line}: ${describeError(error)}`)
    }
  }
}

interface Place {
  readonly file: string
  readonly document: number
  readonly where: string
  readonly field: string
}

function addObject(value: unknown, at: Place, manifests: Manifest[], ignored: string[], listType?: string): void {
  const fail = (field: string, reason: string): never => {
    const path = [at.field, field].filter((part) => part !== '').join('.')
    throw new ManifestError(`${at.where}: ${path === '' ? 'it' : path} ${reason}`)
  }
  if (!isJson(value)) return fail('', 'is not an object')
  const type = typeOf(value) ?? listType
  if (type === undefined) return fail(typeof value.kind === 'string' ? 'apiVersion' : 'kind', 'is missing')
  if (type.endsWith('List')) {
    if (value.items !== undefined && value.items !== null && !Array.isArray(value.items)) {
      return fail('items', 'is not a list')
    }
    const itemType = type === 'v1/List' ? undefined : type.slice(0, -'List'.length)
    for (const [i, item] of (Array.isArray(value.items) ? value.items : []).entries()) {
      const field = `${at.field === '' ? '' : `${at.field}.`}items[${i}]`
      addObject(item, { ...at, field }, manifests, ignored, itemType)
    }
    return
  }
  const kind = KINDS[type]
  if (kind === undefined) {
    ignored.push(`manifest ${at.file}, ${at.where}: kind ${type} is not used`)
    return
  }
  const { metadata } = value
  if (!isJson(metadata)) return fail('metadata', metadata === undefined ? 'is missing' : 'is not an object')
  if (!isName(metadata.name)) return fail('metadata.name', 'is not a name')
  const { namespace } = metadata
  if (namespace !== undefined && namespace !== null && namespace !== '' && !isName(namespace)) {
    return fail('metadata.namespace', 'is not a name')
  }
  const object = withDefaults(kind, { ...value, metadata: { ...metadata, ...spaceOf(kind, namespace) } })
  const key = objectKey(object)!
  manifests.push({ kind, key, object, text: JSON.stringify(object), file: at.file, document: at.document })
}

function spaceOf(kind: Kind, namespace: string | null | undefined): Json {
  return { namespace: kind === 'Node' ? undefined : namespace || 'default' }
}

function typeOf(object: Json): string | undefined {
  if (typeof object.apiVersion !== 'string' || typeof object.kind !== 'string') return undefined
  return `${object.apiVersion}/${object.kind}`
}

/** What the API server would have filled in and the translation does not take for granted. */
function withDefaults(kind: Kind, object: Json): Json {
  if (kind === 'EndpointSlice' && Array.isArray(object.ports)) {
    return { ...object, ports: object.ports.map((port: unknown) => (isJson(port) ? { name: '', ...port } : port)) }
  }
  const { spec } = object
  if (kind !== 'Service' || !isJson(spec)) return object
  const listed = Array.isArray(spec.clusterIPs) && spec.clusterIPs.length > 0 ? spec.clusterIPs : undefined
  const clusterIP: unknown = spec.clusterIP ?? listed?.[0]
  if (clusterIP === undefined || clusterIP === '' || clusterIP === 'None') return object
  const clusterIPs: readonly unknown[] = listed ?? [clusterIP]
  const given = Array.isArray(spec.ipFamilies) && spec.ipFamilies.length > 0
  const ipFamilies: unknown = given ? spec.ipFamilies : clusterIPs.map(familyOfText)
  return { ...object, spec: { ...spec, clusterIP, clusterIPs, ipFamilies } }
}

function familyOfText(text: unknown): string {
  return familyOf(typeof text === 'string' ? (canonicalAddress(text.trim()) ?? text) : '')
}
