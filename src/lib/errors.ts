/** A failure that was foreseen: what failed, on which object, what the other side said, and what to do about it. */
export interface ErrorFacts {
  /** The object concerned, in the field's own words: "virtual server 10.96.0.1:443/TCP". */
  readonly object?: string
  /** What was being done to it: "create", "list". */
  readonly operation?: string
  /** What an operator can do now. */
  readonly advice?: string
  readonly [fact: string]: unknown
}

export type ErrorCode =
  /** Wrong settings, flags or files: exit code 1. */
  | 'CONFIG'
  /** The node lacks a right, module, tool or scheduler: exit code 3. */
  | 'PREFLIGHT'
  /** The kernel refused a request. */
  | 'KERNEL'
  /** Bytes that are not what their layout says. */
  | 'CODEC'
  /** A command could not be run or failed. */
  | 'COMMAND'
  /** The API server could not be reached or refused. */
  | 'API'
  /** An object from the cluster source cannot be used. */
  | 'OBJECT'

export class ProxyError extends Error {
  readonly code: ErrorCode
  readonly facts: ErrorFacts

  constructor(code: ErrorCode, message: string, facts: ErrorFacts = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'ProxyError'
    this.code = code
    this.facts = facts
  }
}

/** The kernel's refusal of one request. `errno` is positive; `errnoName` is "EEXIST", "ENOENT", … or "errno 4103". */
export class KernelError extends ProxyError {
  readonly errno: number
  readonly errnoName: string

  constructor(errno: number, errnoName: string, operation: string, object: string, advice?: string) {
    super('KERNEL', `${operation} ${object}: ${errnoName}${advice === undefined ? '' : ` (${advice})`}`, {
      object,
      operation,
      errno: errnoName,
      ...(advice === undefined ? {} : { advice }),
    })
    this.name = 'KernelError'
    this.errno = errno
    this.errnoName = errnoName
  }
}

/** Any thrown value as one line of text, with its causes. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const cause = error.cause === undefined ? '' : `: ${describeError(error.cause)}`
  const advice = error instanceof ProxyError && !(error instanceof KernelError) && error.facts.advice
  return `${error.message}${cause}${typeof advice === 'string' ? ` — ${advice}` : ''}`
}
