import { checks, examine, type Finding } from './checks.ts'
import { readFacts } from './facts.ts'
import { proxyOf } from './report.ts'
import { lookAtKernel, withKernel } from './look.ts'
import { columns, counted, notesText, print } from './output.ts'
import type { Inspection } from './setup.ts'

export interface DoctorResult {
  readonly node: string
  /** How many checks were made. */
  readonly checks: number
  readonly findings: readonly Finding[]
  readonly notes: readonly string[]
}

/** Looks for known traps. Answers 1 where one is an error, otherwise 0. */
export async function runDoctor(inspection: Inspection): Promise<number> {
  const { nodeName, notes, command } = inspection
  const findings = await withKernel(async (kernel) => {
    const proxy = await proxyOf(inspection)
    const look = await lookAtKernel(inspection, kernel)
    return examine(await readFacts(inspection, kernel, look, proxy))
  })
  print(command, { node: nodeName, checks: checks.length, findings, notes: notes.lines }, doctorText)
  return findings.some(({ severity }) => severity === 'error') ? 1 : 0
}

export function doctorText({ node, checks: count, findings, notes }: DoctorResult): string {
  const heading = `Node ${node}: ${counted(count, 'check')}, ${counted(findings.length, 'finding')}\n`
  const parts = findings.map(({ id, title, severity, found, why, fix }) => {
    const rows = columns(
      [
        ['found', found],
        ['why', why],
        ['fix', fix],
      ],
      '  ',
    )
    return `\n${severity}  ${id}: ${title}\n${rows}`
  })
  return `${heading}${parts.join('')}${notesText(notes)}`
}
