import { flat } from '../lib/flat.ts'
import type { Family, Protocol } from './address.ts'

/** A virtual server's identity in the kernel. */
export interface ServerId {
  readonly family: Family
  readonly protocol: Protocol
  readonly address: string
  readonly port: number
}

/** IP_VS_SVC_F_* of linux/ip_vs.h, those that we set or compare. HASHED (0x2) is the kernel's own and never appears here. */
export const serverFlags = { persistent: 0x1, schedulerFlag2: 0x10 } as const

export interface VirtualServer extends ServerId {
  readonly scheduler: string
  readonly flags: number
  /** Persistence timeout in seconds; 0 without persistence. */
  readonly timeout: number
}

export interface DestinationId {
  readonly address: string
  readonly port: number
}

/** A destination; always forwarded by masquerading, thresholds 0. */
export interface Destination extends DestinationId {
  readonly weight: number
}

/** "10.96.0.1:443/TCP", "[fd00::1]:443/TCP" */
export function serverKey(id: ServerId): string {
  return id.family === 'IPv6'
    ? flat('[', id.address, ']:', id.port, '/', id.protocol)
    : flat(id.address, ':', id.port, '/', id.protocol)
}

/** "10.0.0.1:8080", "[fd00::1]:8080" */
export function destinationKey(id: DestinationId): string {
  return id.address.includes(':') ? `[${id.address}]:${id.port}` : `${id.address}:${id.port}`
}
