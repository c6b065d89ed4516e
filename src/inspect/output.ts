import type { Command } from '../cli/commands.ts'

/** Rows as text, columns aligned, two blanks between them; the last cell is not padded. A row of one cell is a remark. */
export function columns(rows: readonly (readonly string[])[], indent = ''): string {
  const widths: number[] = []
  for (const row of rows) {
    if (row.length === 1) continue
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length)
  }
  return rows
    .map((row) => {
      const cells = row.map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i]!)))
      return `${indent}${cells.join('  ')}`.trimEnd()
    })
    .map((line) => `${line}\n`)
    .join('')
}

/** A heading and what stands under it; nothing where there is none. */
export function section(title: string, body: string): string {
  return body === '' ? '' : `\n${title}\n${body}`
}

/** Lists that may be long are cut in text; JSON has them whole. */
export function head<T>(list: readonly T[], most: number, show: (one: T) => readonly string[]): string[][] {
  const rows = list.slice(0, most).map((one) => [...show(one)])
  if (list.length > most) rows.push([`… and ${list.length - most} more; -o json has them all`])
  return rows
}

/** "3 servers", "1 server", "2 entries" */
export function counted(count: number, noun: string): string {
  if (count === 1) return `1 ${noun}`
  return `${count} ${noun.endsWith('s') ? `${noun}es` : noun.endsWith('y') ? `${noun.slice(0, -1)}ies` : `${noun}s`}`
}

/** Maps and sets as objects and lists; an Error as its message. */
function plain(_key: string, value: unknown): unknown {
  if (value instanceof Map) return Object.fromEntries(value)
  if (value instanceof Set) return [...(value as Set<unknown>)]
  return value instanceof Error ? value.message : value
}

export function json(value: unknown): string {
  return `${JSON.stringify(value, plain, 2)}\n`
}

/** Writes a result as the command line asks for it. */
export function print<T extends { readonly notes: readonly string[] }>(
  { output }: Pick<Command, 'output'>,
  result: T,
  text: (result: T) => string,
): void {
  process.stdout.write(output === 'json' ? json(result) : text(result))
}

/** What was found in the objects on the way. */
export function notesText(notes: readonly string[]): string {
  return section(
    'Notes',
    columns(
      head(notes, 20, (note) => [note]),
      '  ',
    ),
  )
}
