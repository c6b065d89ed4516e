import { withHash } from '../lib/digest.ts'
import { KernelError } from '../lib/errors.ts'
import { familyOf } from '../model/address.ts'
import { errno } from '../netlink/errno.ts'
import type { AddressDigest, AddressFilter, Dummy, InterfaceAddress, Link } from './dummy.ts'
import { addressHash, bindError, createDeviceError, renameDeviceError } from './messages.ts'

/**
 * Says what goes wrong: called with the operation ("bind", "links", …) and its object. For one address a KernelError
 * answers that address alone; any other error is thrown, as when the socket failed.
 */
export type Fault = (operation: string, object: string) => Error | undefined

/** Links and addresses in memory; refuses what the kernel refuses, with the same errno. */
export class FakeDummy implements Dummy {
  /** What was asked for, in order: "createDevice kube-ipvs0", "bind 10.96.0.1". */
  readonly calls: string[] = []
  fault: Fault | undefined
  #links: Link[] = [{ index: 1, name: 'lo', kind: '' }]
  #addresses: InterfaceAddress[] = [
    { linkIndex: 1, family: 'IPv4', address: '127.0.0.1', prefix: 8 },
    { linkIndex: 1, family: 'IPv6', address: '::1', prefix: 128 },
  ]
  #lastIndex = 1

  async links(): Promise<readonly Link[]> {
    this.#calledOrThrow('links', '')
    return [...this.#links]
  }

  async addresses(filter?: AddressFilter): Promise<readonly InterfaceAddress[]> {
    this.#calledOrThrow('addresses', '')
    return this.#select(filter)
  }

  async digest(filter: AddressFilter): Promise<AddressDigest> {
    this.#calledOrThrow('digest', '')
    const found = this.#select(filter)
    return {
      count: found.length,
      sum: found.reduce((sum, { address, prefix }) => withHash(sum, addressHash(`${address}/${prefix}`)), 0),
    }
  }

  #select(filter?: AddressFilter): readonly InterfaceAddress[] {
    return this.#addresses.filter(
      ({ family, linkIndex }) => !filter || (family === filter.family && filter.isOn(linkIndex)),
    )
  }

  async createDevice(name: string): Promise<void> {
    this.#calledOrThrow('createDevice', name)
    if (name === '' || name.length > 15) throw createDeviceError(errno.ERANGE, name)
    if (this.#links.some((link) => link.name === name)) throw createDeviceError(errno.EEXIST, name)
    this.addLink(name, 'dummy')
  }

  async deleteDevice(name: string): Promise<void> {
    this.#calledOrThrow('deleteDevice', name)
    const at = this.#links.findIndex((link) => link.name === name)
    if (at < 0) return
    const [gone] = this.#links.splice(at, 1)
    this.#addresses = this.#addresses.filter((present) => present.linkIndex !== gone?.index)
  }

  async renameDevice(linkIndex: number, name: string): Promise<void> {
    this.#calledOrThrow('renameDevice', name)
    if (!this.#links.some(({ index }) => index === linkIndex)) throw renameDeviceError(errno.ENODEV, linkIndex, name)
    if (this.#links.some((link) => link.name === name)) throw renameDeviceError(errno.EEXIST, linkIndex, name)
    this.#links = this.#links.map((link) => (link.index === linkIndex ? { ...link, name } : link))
  }

  async bind(linkIndex: number, addresses: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return this.#each('bind', addresses, (address) => {
      if (!this.#links.some((link) => link.index === linkIndex)) return bindError(errno.ENODEV, linkIndex, address)
      if (address === '::' || /^ff..:/.test(address)) return bindError(errno.EADDRNOTAVAIL, linkIndex, address)
      if (!this.#has(linkIndex, address)) this.addAddress(linkIndex, address)
      return undefined
    })
  }

  async unbind(linkIndex: number, addresses: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return this.#each('unbind', addresses, (address) => {
      this.#addresses = this.#addresses.filter((present) => !isThat(present, linkIndex, address))
      return undefined
    })
  }

  close(): void {
    this.calls.push('close')
  }

  /** Another link of the node; answers its index. */
  addLink(name: string, kind: string): number {
    this.#links.push({ index: ++this.#lastIndex, name, kind })
    return this.#lastIndex
  }

  /** Another address of the node. */
  addAddress(linkIndex: number, address: string, prefix = familyOf(address) === 'IPv4' ? 32 : 128): void {
    this.#addresses.push({ linkIndex, family: familyOf(address), address, prefix })
  }

  /** Takes an address away behind the caller's back. */
  removeAddress(linkIndex: number, address: string): void {
    this.#addresses = this.#addresses.filter((a) => a.linkIndex !== linkIndex || a.address !== address)
  }

  /** The addresses of a device as `ip addr show` prints their lines, sorted. */
  dump(name: string): string {
    const link = this.#links.find((present) => present.name === name)
    const lines = this.#addresses
      .filter((present) => present.linkIndex === link?.index)
      .map(({ family, address, prefix }) =>
        family === 'IPv4'
          ? `inet ${address}/${prefix} scope global ${name}`
          : `inet6 ${address}/${prefix} scope global`,
      )
    return lines
      .sort()
      .map((line) => `${line}\n`)
      .join('')
  }

  #has(linkIndex: number, address: string): boolean {
    return this.#addresses.some(
      (present) =>
        isThat(present, linkIndex, address) ||
        // ipv6_add_addr looks for the address alone, IPv4 for the prefix, too.
        (present.family === 'IPv6' && present.linkIndex === linkIndex && present.address === address),
    )
  }

  #each(
    operation: 'bind' | 'unbind',
    addresses: readonly string[],
    act: (address: string) => KernelError | undefined,
  ): ReadonlyMap<string, KernelError> {
    const refused = new Map<string, KernelError>()
    for (const address of addresses) {
      const error = this.#called(operation, address)
      if (error !== undefined && !(error instanceof KernelError)) throw error
      const refusal = error ?? act(address)
      if (refusal !== undefined) refused.set(address, refusal)
    }
    return refused
  }

  #calledOrThrow(operation: string, object: string): void {
    const error = this.#called(operation, object)
    if (error !== undefined) throw error
  }

  #called(operation: string, object: string): Error | undefined {
    this.calls.push(object === '' ? operation : `${operation} ${object}`)
    return this.fault?.(operation, object)
  }
}

/** `text`: /32 or /128 unless it says otherwise. */
function isThat(present: InterfaceAddress, linkIndex: number, text: string): boolean {
  const [address, prefix = present.family === 'IPv4' ? 32 : 128] = text.split('/')
  return present.linkIndex === linkIndex && present.address === address && present.prefix === Number(prefix)
}
