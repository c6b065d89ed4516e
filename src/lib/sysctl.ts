import { readFileSync, writeFileSync } from 'node:fs'
import { ProxyError } from './errors.ts'

const theFolder = '/proc/sys'

/** The value of a sysctl, "net/ipv4/ip_forward"; undefined where there is none or it cannot be read. */
export function readSysctl(name: string, folder = theFolder): string | undefined {
  try {
    return readFileSync(`${folder}/${name}`, 'utf8').trim()
  } catch {
    return undefined
  }
}

/** Writes a sysctl unless it has the value already; answers whether it wrote. Throws ProxyError PREFLIGHT. */
export function ensureSysctl(name: string, value: number, folder = theFolder): boolean {
  if (readSysctl(name, folder) === String(value)) return false
  try {
    writeFileSync(`${folder}/${name}`, String(value), { flag: 'r+' })
    return true
  } catch (error) {
    throw new ProxyError(
      'PREFLIGHT',
      `cannot set sysctl ${name} to ${value}`,
      {
        object: name,
        operation: 'set sysctl',
        advice: `set it beforehand: sysctl -w ${name.replaceAll('/', '.')}=${value}`,
      },
      error,
    )
  }
}
