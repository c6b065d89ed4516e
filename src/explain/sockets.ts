import { readFileSync } from 'node:fs'
import { addressText, type Family, type Protocol } from '../model/address.ts'
import type { Told } from './kernel-state.ts'

/** TCP_LISTEN, and TCP_CLOSE, which is what /proc shows of a UDP socket without a peer. */
const waiting: Readonly<Record<'TCP' | 'UDP', string>> = { TCP: '0A', UDP: '07' }

/** Reads a file; "" where there is none. */
export type ReadFile = (path: string) => string

const readProc: ReadFile = (path) => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** Whether a process of this network namespace listens on an address and port. */
export function listens(protocol: Protocol, address: string, port: number, read: ReadFile = readProc): Told {
  if (protocol === 'SCTP') return 'sockets of SCTP are not looked for'
  const family: Family = address.includes(':') ? 'IPv6' : 'IPv4'
  const name = protocol.toLowerCase()
  // A socket of IPv6 on all addresses takes IPv4, too, unless it says otherwise, which /proc does not show.
  const sockets = [
    ...(family === 'IPv4' ? readSockets(read(`/proc/net/${name}`), waiting[protocol]) : []),
    ...readSockets(read(`/proc/net/${name}6`), waiting[protocol]),
  ]
  return sockets.some(
    (one) => one.port === port && [address, '0.0.0.0', '::', `::ffff:${address}`].includes(one.address),
  )
}

/** Local addresses of the sockets in a state: "0100007F:1F90", each group of eight digits a word of this machine. */
export function readSockets(text: string, state: string): { address: string; port: number }[] {
  const found: { address: string; port: number }[] = []
  for (const line of text.split('\n')) {
    const [, host, port, shown] = /^\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) \S+ ([0-9A-F]{2}) /.exec(line) ?? []
    if (host === undefined || port === undefined || shown !== state) continue
    const bytes = Buffer.from(host, 'hex').swap32()
    const mapped = bytes.length === 16 && bytes.subarray(0, 12).equals(mappedPrefix)
    found.push({ address: addressText(mapped ? bytes.subarray(12) : bytes), port: Number.parseInt(port, 16) })
  }
  return found
}

const mappedPrefix = Buffer.from('00000000000000000000ffff', 'hex')
