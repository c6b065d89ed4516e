import { readlinkSync } from 'node:fs'

/** The network namespace of this process, "net:[4026531840]"; "" where that cannot be told. */
export function networkNamespace(): string {
  try {
    return readlinkSync('/proc/self/ns/net')
  } catch {
    return ''
  }
}
