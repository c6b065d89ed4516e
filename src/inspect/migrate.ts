import { existsSync } from 'node:fs'
import { release } from 'node:os'
import { isJson, objectKey } from '../kube/translate.ts'
import { describeError } from '../lib/errors.ts'
import { runCommand, type RunCommand } from '../lib/process.ts'
import type { ClusterListener } from '../model/cluster.ts'
import { readCluster } from './cluster.ts'
import { readFacts } from './facts.ts'
import { lookAtKernel, withKernel } from './look.ts'
import {
  examineMigration,
  migrationCheckCount,
  neededModules,
  type MigrationFacts,
  type MigrationFinding,
  type ServiceTraits,
} from './migrate-checks.ts'
import { otherWriters } from './others.ts'
import { columns, counted, notesText, print } from './output.ts'
import type { Inspection } from './setup.ts'

export interface MigrationResult {
  readonly node: string
  /** Where the settings are from; "" where these are defaults. */
  readonly settings: string
  /** How many checks were made. */
  readonly checks: number
  readonly findings: readonly MigrationFinding[]
  readonly notes: readonly string[]
}

/** Says what replacing kube-proxy will change here. Answers 1 where something has to be done first, otherwise 0. */
export async function runMigrateCheck(inspection: Inspection): Promise<number> {
  const { nodeName, notes, command, migration } = inspection
  const { from, running, mode, problems } = migration!
  const findings = await withKernel(async (kernel) => {
    const look = await lookAtKernel(inspection, kernel)
    const proxy = running === undefined ? 'none' : running.isOurs ? 'ours' : { mode: running.mode }
    const facts: MigrationFacts = {
      ...(await readFacts(inspection, kernel, look, proxy)),
      running,
      config: inspection.config,
      settingsFrom: from,
      settingsMode: mode,
      problems,
      services: await readTraits(inspection),
      writers: otherWriters(look.rules).map(({ who }) => who),
      available: await findModules(neededModules(inspection.settings.scheduler)),
    }
    return examineMigration(facts)
  })
  const result = { node: nodeName, settings: from, checks: migrationCheckCount, findings, notes: notes.lines }
  print(command, result, migrationText)
  return findings.some(({ severity }) => severity === 'error') ? 1 : 0
}

export function migrationText({ node, settings, checks, findings, notes }: MigrationResult): string {
  const source = settings === '' ? 'defaults' : settings
  const heading = `Node ${node}: ${counted(checks, 'check')}, ${counted(findings.length, 'finding')}\nSettings: ${source}\n`
  const parts = findings.map(({ id, title, severity, found, change, todo }) => {
    const rows = [
      ['found', found],
      ['change', change],
      ['to do', todo],
    ]
    const told = columns(
      rows.filter(([, text]) => text !== ''),
      '  ',
    )
    return `\n${severity}  ${id}: ${title}\n${told}`
  })
  return `${heading}${parts.join('')}${notesText(notes)}`
}

const ignored: ClusterListener = {
  serviceChanged: () => {},
  sliceChanged: () => {},
  nodeChanged: () => {},
  synced: () => {},
}

/** Traits of the Services; none where the objects cannot be had, which a check of its own tells. */
async function readTraits({ source, nodeName, notes }: Inspection): Promise<ServiceTraits> {
  const services: unknown[] = []
  try {
    const onService = (object: unknown): void => void services.push(object)
    await readCluster({ source: await source(), nodeName, log: notes, onService }, ignored)
  } catch (error) {
    notes.warn(`Services are not known: ${describeError(error)}`)
  }
  return traitsOf(services)
}

/** Prefixes of annotations that those leave who give out load balancer addresses. */
const announcers: readonly (readonly [RegExp, string])[] = [
  [/^metallb\.(universe\.tf|io)\//, 'MetalLB'],
  [/^kube-vip\.io\//, 'kube-vip'],
  [/^purelb\.io\//, 'PureLB'],
]

export function traitsOf(services: readonly unknown[]): ServiceTraits {
  const nodePorts: string[] = []
  const affinity: string[] = []
  const externalLocal: string[] = []
  const found = new Set<string>()
  for (const object of services) {
    const name = objectKey(object)
    if (!isJson(object) || name === undefined) continue
    const spec = isJson(object.spec) ? object.spec : {}
    const ports = Array.isArray(spec.ports) ? (spec.ports as unknown[]) : []
    if (ports.some((port) => isJson(port) && Number(port.nodePort) > 0)) nodePorts.push(name)
    if (spec.sessionAffinity === 'ClientIP') affinity.push(name)
    if (spec.externalTrafficPolicy === 'Local') externalLocal.push(name)
    const metadata = isJson(object.metadata) && isJson(object.metadata.annotations) ? object.metadata.annotations : {}
    for (const annotation of Object.keys(metadata)) {
      for (const [pattern, who] of announcers) if (pattern.test(annotation)) found.add(who)
    }
  }
  return { count: services.length, nodePorts, affinity, externalLocal, announcers: [...found] }
}

/** Asks modprobe without loading anything; it knows what is built in, too. */
async function findModules(
  names: readonly string[],
  run: RunCommand = runCommand,
): Promise<ReadonlyMap<string, boolean>> {
  const found = new Map<string, boolean>()
  // Without the folder of this kernel's modules it can tell nothing.
  if (!existsSync(`/lib/modules/${release()}`)) return found
  for (const name of names) {
    try {
      found.set(name, (await run('modprobe', ['--dry-run', name])).code === 0)
    } catch {
      // No modprobe: not known.
    }
  }
  return found
}
