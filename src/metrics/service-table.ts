/** Numbers of a service port. Counters count from when each of its virtual servers was made. */
export const columns = [
  'connections',
  'incomingPackets',
  'outgoingPackets',
  'incomingBytes',
  'outgoingBytes',
  'activeConnections',
  'inactiveConnections',
  'ready',
  'draining',
  /** Virtual servers whose counters are in, and those whose destinations are. */
  'counted',
  'standing',
] as const

export type Column = (typeof columns)[number]

/** A row per service port, in plain numbers: ten thousand of them are a megabyte, not a hundred thousand objects. */
export class ServiceTable {
  readonly #rows = new Map<string, number>()
  readonly #labels: string[] = []
  #room = 256
  readonly #columns: Record<Column, Float64Array>

  constructor() {
    const empty = columns.map((column) => [column, new Float64Array(this.#room)])
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- built of all columns
    this.#columns = Object.fromEntries(empty) as Record<Column, Float64Array>
  }

  get size(): number {
    return this.#labels.length
  }

  /** The row of this key; `labels` are asked for where there is none yet. */
  row(key: string, labels: () => string): number {
    const present = this.#rows.get(key)
    if (present !== undefined) return present
    const row = this.#labels.length
    this.#rows.set(key, row)
    this.#labels.push(labels())
    if (row >= this.#room) this.#grow()
    return row
  }

  /** The row of this key, where there is one. */
  find(key: string): number | undefined {
    return this.#rows.get(key)
  }

  /** Forgets all rows. */
  clear(): void {
    this.#rows.clear()
    this.#labels.length = 0
    for (const column of columns) this.#columns[column].fill(0)
  }

  add(row: number, column: Column, value: number): void {
    this.#columns[column][row]! += value
  }

  /** Keeps the greater of what there is and this. */
  raise(row: number, column: Column, value: number): void {
    const values = this.#columns[column]
    if (value > values[row]!) values[row] = value
  }

  value(row: number, column: Column): number {
    return this.#columns[column][row]!
  }

  labels(row: number): string {
    return this.#labels[row]!
  }

  /**
   * At most so many rows, those with the most connections ever; of equals the ones that came first. The order of the
   * busiest changes slowly, so that series do not come and go.
   */
  busiest(most: number): readonly number[] {
    const rows = Array.from({ length: this.size }, (_, row) => row)
    if (rows.length <= most) return rows
    const connections = this.#columns.connections
    const sorted = connections.slice(0, this.size).sort()
    const least = sorted[this.size - most]!
    const above = rows.filter((row) => connections[row]! > least)
    const equal = rows.filter((row) => connections[row] === least)
    return [...above, ...equal.slice(0, most - above.length)]
  }

  #grow(): void {
    this.#room *= 2
    for (const column of columns) {
      const larger = new Float64Array(this.#room)
      larger.set(this.#columns[column])
      this.#columns[column] = larger
    }
  }
}
