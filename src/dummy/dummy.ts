import type { KernelError } from '../lib/errors.ts'
import type { Family } from '../model/address.ts'

export interface Link {
  readonly index: number
  readonly name: string
  /** IFLA_INFO_KIND: "dummy", "bridge", …; "" for plain devices. */
  readonly kind: string
}

export interface InterfaceAddress {
  readonly linkIndex: number
  readonly family: Family
  readonly address: string
  readonly prefix: number
}

export interface AddressFilter {
  readonly family: Family
  readonly isOn: (linkIndex: number) => boolean
}

/** Addresses at a glance. */
export interface AddressDigest {
  readonly count: number
  /** Sum of their hashes: see `addressHash`. */
  readonly sum: number
}

/** What we need of rtnetlink: the dummy device, its addresses, and the node's own ones. */
export interface Dummy {
  links(): Promise<readonly Link[]>
  /** All addresses of all links, or of some. */
  addresses(filter?: AddressFilter): Promise<readonly InterfaceAddress[]>
  digest(filter: AddressFilter): Promise<AddressDigest>
  /** Makes a dummy link, left down; EEXIST is an error here. */
  createDevice(name: string): Promise<void>
  deleteDevice(name: string): Promise<void>
  /** Gives a link that is down another name. */
  renameDevice(linkIndex: number, name: string): Promise<void>
  /** Adds /32 or /128 addresses; one that is there already is success. Answers which were refused, and why. */
  bind(linkIndex: number, addresses: readonly string[]): Promise<ReadonlyMap<string, KernelError>>
  /** Removes addresses, /32 or /128 unless written "10.0.0.1/24"; one that is absent is success. */
  unbind(linkIndex: number, addresses: readonly string[]): Promise<ReadonlyMap<string, KernelError>>
  close(): void
}
