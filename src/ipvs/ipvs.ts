import type { KernelError } from '../lib/errors.ts'
import type { Family, Protocol } from '../model/address.ts'

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

export interface ObservedDestination extends Destination {
  readonly activeConnections: number
  readonly inactiveConnections: number
  /** IP_VS_CONN_F_FWD_MASK bits; 0 is masquerading. */
  readonly forwarding: number
}

export interface ObservedServer {
  readonly server: VirtualServer
  readonly destinations: readonly ObservedDestination[]
}

export type IpvsChange =
  | { readonly kind: 'newServer' | 'setServer'; readonly server: VirtualServer }
  | { readonly kind: 'deleteServer'; readonly server: ServerId }
  | { readonly kind: 'newDestination' | 'setDestination'; readonly server: ServerId; readonly destination: Destination }
  | { readonly kind: 'deleteDestination'; readonly server: ServerId; readonly destination: DestinationId }

/** Seconds; 0 means "keep" when setting. */
export interface IpvsTimeouts {
  readonly tcp: number
  readonly tcpFin: number
  readonly udp: number
}

/** What we need of the kernel's IP virtual server, in our words. Changes are carried out in order. */
export interface Ipvs {
  /** One answer per change, same order: undefined where the kernel did it. Throws only when the socket itself failed. */
  apply(changes: readonly IpvsChange[]): Promise<readonly (KernelError | undefined)[]>
  /** All virtual servers of the namespace, both families; firewall-mark services are left out. */
  listServers(): Promise<readonly VirtualServer[]>
  /** A missing server has no destinations. */
  listDestinations(server: ServerId): Promise<readonly ObservedDestination[]>
  listAll(): Promise<readonly ObservedServer[]>
  timeouts(): Promise<IpvsTimeouts>
  setTimeouts(timeouts: IpvsTimeouts): Promise<void>
  close(): void
}

/** "10.96.0.1:443/TCP", "[fd00::1]:443/TCP" */
export function serverKey(id: ServerId): string {
  return id.family === 'IPv6' ? `[${id.address}]:${id.port}/${id.protocol}` : `${id.address}:${id.port}/${id.protocol}`
}

/** "10.0.0.1:8080", "[fd00::1]:8080" */
export function destinationKey(id: DestinationId): string {
  return id.address.includes(':') ? `[${id.address}]:${id.port}` : `${id.address}:${id.port}`
}
