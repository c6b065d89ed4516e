import { constants } from 'node:os'
import { KernelError } from '../lib/errors.ts'

/** Positive errno by name. ENOTSUPP is the kernel's own (linux/errno.h) and leaks to user space at times. */
export const errno = { ...constants.errno, ENOTSUPP: 524 } as const

const names = new Map<number, string>()
// Aliases (EWOULDBLOCK, EOPNOTSUPP/ENOTSUP) share a number; the first is the name people know.
for (const name of ['EAGAIN', 'EOPNOTSUPP', ...Object.keys(errno)]) {
  const value = (errno as Readonly<Record<string, number>>)[name]
  if (value !== undefined && !names.has(value)) names.set(value, name)
}

/** "EEXIST"; `privateNames` adds a subsystem's own numbers; "errno 4999" where nobody knows. */
export function errnoName(value: number, privateNames?: ReadonlyMap<number, string>): string {
  return privateNames?.get(value) ?? names.get(value) ?? `errno ${value}`
}

/** What an operator can look at, whatever was asked. */
const generalAdvice: ReadonlyMap<number, string> = new Map([
  [errno.EPERM, 'needs the capability CAP_NET_ADMIN'],
  [errno.ENOMEM, 'the node, or the pod by its limit, is short of memory'],
  [errno.ENOBUFS, 'the kernel has no room for it: the node is short of memory'],
  [errno.EBUSY, 'something else holds it at this moment'],
])

/** A refusal in our words; what means the same everywhere is explained wherever it occurs. */
export function kernelError(
  value: number,
  operation: string,
  object: string,
  advice?: string,
  privateNames?: ReadonlyMap<number, string>,
): KernelError {
  const general = generalAdvice.get(value)
  const known = value === errno.EPERM ? general : (advice ?? general)
  return new KernelError(value, errnoName(value, privateNames), operation, object, known)
}
