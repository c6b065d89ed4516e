import pino from 'pino'

export type Fields = Readonly<Record<string, unknown>>

/**
 * Logging as klog has it: errors, warnings and information always, `v(n, …)` only when the verbosity is at least n.
 * Lines are written synchronously: nothing is lost when the process is killed.
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

/** JSON lines on standard error (file descriptor 2). `verbosity` is klog's -v. */
export function createLog(verbosity: number): Log {
  const logger = pino(
    { base: null, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: (label) => ({ level: label }) } },
    pino.destination({ dest: 2, sync: true }),
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
