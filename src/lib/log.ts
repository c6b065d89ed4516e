import pino from 'pino'
import { LineSink } from './line-sink.ts'

export type Fields = Readonly<Record<string, unknown>>

/**
 * Logging as klog has it: errors, warnings and information always, `v(n, …)` only when the verbosity is at least n.
 * Lines are written at once as long as their reader keeps up: nothing is lost when the process is killed. One that does not
 * read keeps nothing waiting.
 */
export interface Log {
  error(message: string, fields?: Fields): void
  warn(message: string, fields?: Fields): void
  info(message: string, fields?: Fields): void
  v(level: number, message: string, fields?: Fields): void
  /** Whether `v` of this level is written: for lines whose fields cost something. */
  isOn(level: number): boolean
  child(fields: Fields): Log
  setVerbosity(level: number): void
}

interface Verbosity {
  level: number
}

function wrap(logger: pino.Logger, verbosity: Verbosity): Log {
  return {
    error: (message, fields) => logger.error(fields ?? {}, message),
    warn: (message, fields) => logger.warn(fields ?? {}, message),
    info: (message, fields) => logger.info(fields ?? {}, message),
    v: (level, message, fields) => {
      if (level <= verbosity.level) logger.info({ v: level, ...fields }, message)
    },
    isOn: (level) => level <= verbosity.level,
    child: (fields) => wrap(logger.child(fields), verbosity),
    setVerbosity: (level) => {
      verbosity.level = level
    },
  }
}

/** What JSON leaves as it is, and a terminal or a viewer takes for a command: C1, direction and line marks, half characters. */
const invisible =
  /[\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|[\u{d800}-\u{dfff}]|[\u{e0000}-\u{e0fff}]/gu

function escaped(line: string): string {
  return line.replaceAll(invisible, (character) =>
    Array.from(
      { length: character.length },
      (_, i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, '0')}`,
    ).join(''),
  )
}

/** JSON lines, on standard error unless said otherwise. `verbosity` is klog's -v. */
export function createLog(verbosity: number, sink: LineSink = LineSink.standardError()): Log {
  const logger = pino(
    {
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      hooks: { streamWrite: escaped },
    },
    sink,
  )
  return wrap(logger, { level: verbosity })
}

/** A log that says nothing, for tests. */
export const silentLog: Log = {
  error: () => {},
  warn: () => {},
  info: () => {},
  v: () => {},
  isOn: () => false,
  child: () => silentLog,
  setVerbosity: () => {},
}
