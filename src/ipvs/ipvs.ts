import type { KernelError } from '../lib/errors.ts'
import type { Destination, DestinationId, ServerId, VirtualServer } from '../model/virtual-server.ts'

export { destinationKey, serverFlags, serverKey } from '../model/virtual-server.ts'
export type { Destination, DestinationId, ServerId, VirtualServer } from '../model/virtual-server.ts'

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
