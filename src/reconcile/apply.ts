import { ProxyError } from '../lib/errors.ts'
import { Turn } from '../lib/turn.ts'
import type { Layer, Outcome, Owner } from './layer.ts'

export interface LayerOutcome extends Outcome {
  readonly layer: string
  readonly step: 'add' | 'remove'
  /** Not tried at all: a layer that it needs is broken. */
  readonly waits?: true
}

/**
 * Foundations first, the address last: a service address answers only once everything behind it stands; removal goes
 * the other way round. A layer that fails stops only the growth of those that need it, never a layer that works.
 * `grow`: nothing is removed, for not everything that is wanted has been said yet. `onBroken` hears at once of a layer
 * that failed.
 */
export async function applyOnce(
  layers: readonly Layer[],
  unread: ReadonlySet<string>,
  extent: 'whole' | 'grow' = 'whole',
  onBroken: (layer: string) => void = () => {},
): Promise<LayerOutcome[]> {
  const outcomes: LayerOutcome[] = []
  const held = new Set<Owner>()
  const broken = new Set<string>(unread)
  const turn = new Turn(1)
  const step = async (layer: Layer, name: 'add' | 'remove'): Promise<void> => {
    if (turn.isOver) await turn.next()
    let outcome: Outcome
    try {
      outcome = await layer[name](held, broken)
    } catch (error) {
      outcome = { applied: 0, refused: new Map(), broken: asError(error) }
    }
    outcomes.push({ ...outcome, layer: layer.name, step: name })
    if (outcome.broken) {
      broken.add(layer.name)
      onBroken(layer.name)
    }
    for (const owner of outcome.refused.keys()) held.add(owner)
  }
  for (const layer of layers) {
    // A layer whose truth could not be read must not be written to from memory.
    if (unread.has(layer.name)) continue
    const missing = layer.needs.find((name) => broken.has(name))
    if (missing !== undefined) {
      broken.add(layer.name)
      outcomes.push({
        layer: layer.name,
        step: 'add',
        waits: true,
        applied: 0,
        refused: new Map(),
        broken: new ProxyError('KERNEL', `${layer.name} waits for ${missing}, which failed`),
      })
      continue
    }
    await step(layer, 'add')
  }
  if (extent === 'grow') return outcomes
  // Nothing may be taken from under a layer that has not let go of it.
  const standing = new Set<string>()
  for (const layer of layers.toReversed()) {
    if (standing.has(layer.name) || unread.has(layer.name)) {
      for (const name of layer.needs) standing.add(name)
      continue
    }
    await step(layer, 'remove')
    if (outcomes.at(-1)?.broken) for (const name of layer.needs) standing.add(name)
  }
  return outcomes
}

export function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}

/** Collects refusals by owner; the first error of an owner is kept. */
export class Refusals {
  readonly byOwner = new Map<Owner, Error>()

  add(owners: Iterable<Owner>, error: Error): void {
    for (const owner of owners) if (!this.byOwner.has(owner)) this.byOwner.set(owner, error)
  }
}

/** Whether an entry has to wait: each of its owners is held. Nearly always none is, and nobody need be asked for them. */
export function isHeld(owners: () => Iterable<Owner>, held: ReadonlySet<Owner>): boolean {
  if (held.size === 0) return false
  let any = false
  for (const owner of owners()) {
    if (!held.has(owner)) return false
    any = true
  }
  return any
}
