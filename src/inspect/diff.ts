import { layerNames, type Difference } from './difference.ts'
import { lookAtKernel, withKernel, type Look, type Origin } from './look.ts'
import { columns, counted, head, notesText, print, section } from './output.ts'
import type { Inspection } from './setup.ts'

export interface DiffResult {
  readonly node: string
  readonly differs: boolean
  readonly differences: readonly Difference[]
  /** Layers that could not be read, "IPv4 ipvs", and why: what stands there is not known. */
  readonly unread: Readonly<Record<string, string>>
  /** Who says what is wanted. */
  readonly wanted: Origin
  readonly notes: readonly string[]
}

export function diffResult(
  node: string,
  { families, origin }: Pick<Look, 'families' | 'origin'>,
  notes: readonly string[],
): DiffResult {
  const differences = families.flatMap(({ difference }) => difference.differences)
  const unread = Object.fromEntries(
    families.flatMap(({ family, difference }) =>
      [...difference.unread].map(([layer, reason]) => [`${family} ${layer}`, reason]),
    ),
  )
  const differs = differences.length > 0 || Object.keys(unread).length > 0 || origin.from === 'nobody'
  return { node, differs, differences, unread, wanted: origin, notes }
}

/** Wanted against kernel. Answers 1 where they differ or either could not be read, 0 where all is as wanted. */
export async function runDiff(inspection: Inspection): Promise<number> {
  const { nodeName, notes, command } = inspection
  const look = await withKernel((kernel) => lookAtKernel(inspection, kernel))
  const result = diffResult(nodeName, look, notes.lines)
  print(command, result, diffText)
  return result.differs ? 1 : 0
}

/** Differences by layer; a layer with very many is cut. */
export function diffText({ differs, differences, unread, wanted, notes }: DiffResult): string {
  const origin = section('Wanted', `  ${wanted.text}\n`)
  if (!differs) return `The kernel is as wanted.\n${origin}${notesText(notes)}`
  const byLayer = layerNames.map((layer) => {
    const own = differences.filter((one) => one.layer === layer)
    if (own.length === 0) return ''
    return section(`${layer}: ${counted(own.length, 'difference')}`, columns(head(own, 50, rowOf), '  '))
  })
  const failed = columns(
    Object.entries(unread).map(([layer, reason]) => [layer, reason]),
    '  ',
  )
  const heading =
    wanted.from === 'nobody'
      ? 'It is not known what is wanted.'
      : `The kernel differs: ${counted(differences.length, 'difference')}.`
  return `${heading}\n${byLayer.join('')}${section('Could not be read', failed)}${origin}${notesText(notes)}`
}

export function rowOf({ family, state, kind, object, detail, owners }: Difference): readonly string[] {
  const who = owners.length === 0 ? '' : `for ${owners.join(', ')}`
  return [family, state, kind, object, [who, detail].filter(Boolean).join('; ')]
}
