import type { Fields, Log } from '../lib/log.ts'

/** What was said while a command worked: shown with its result instead of between its lines. */
export class Notes implements Log {
  readonly #lines = new Set<string>()

  /** Each once, in the order in which they were said. */
  get lines(): readonly string[] {
    return [...this.#lines]
  }

  error(message: string, fields?: Fields): void {
    this.#add(message, fields)
  }

  warn(message: string, fields?: Fields): void {
    this.#add(message, fields)
  }

  info(): void {}

  v(): void {}

  isOn(): boolean {
    return false
  }

  child(): Log {
    return this
  }

  setVerbosity(): void {}

  #add(message: string, fields: Fields = {}): void {
    // An object's problem says in its message what its fields say again.
    const told = Object.entries(fields).filter(([name, value]) => !message.includes(String(value)) && name !== 'value')
    const detail = told.map(([name, value]) => `${name} ${typeof value === 'string' ? value : JSON.stringify(value)}`)
    this.#lines.add(detail.length === 0 ? message : `${message} (${detail.join(', ')})`)
  }
}
