import { withHash } from '../lib/digest.ts'
import type { KernelError } from '../lib/errors.ts'
import { mapInTurns, PatientTurn } from '../lib/turn.ts'
import { Connection, type IsPart, type Message } from '../netlink/connection.ts'
import { errno, kernelError } from '../netlink/errno.ts'
import { protocols } from '../netlink/header.ts'
import type { AddressDigest, AddressFilter, Dummy, InterfaceAddress, Link } from './dummy.ts'
import {
  bindError,
  bindMessage,
  createDeviceError,
  addressLink,
  createDeviceMessage,
  decodeInterfaceAddress,
  decodeLink,
  deleteDeviceError,
  deleteDeviceMessage,
  hashOfMessage,
  renameDeviceError,
  renameDeviceMessage,
  isGone,
  listAddressesMessage,
  listLinksMessage,
  unbindError,
  unbindMessage,
} from './messages.ts'

/** Links and addresses by rtnetlink. */
export class KernelDummy implements Dummy {
  readonly #connection: Connection

  /** `connect` gives a connection of NETLINK_ROUTE. */
  constructor(connect: () => Connection = () => Connection.open(protocols.route)) {
    this.#connection = connect()
  }

  static async open(): Promise<KernelDummy> {
    return new KernelDummy()
  }

  async links(): Promise<readonly Link[]> {
    return (await this.#dump(listLinksMessage(), 'links')).map(decodeLink)
  }

  async addresses(filter?: AddressFilter): Promise<readonly InterfaceAddress[]> {
    const payloads = await this.#dump(listAddressesMessage(filter?.family), 'addresses', filter && partOf(filter))
    return mapInTurns(payloads, decodeInterfaceAddress, new PatientTurn())
  }

  async digest(filter: AddressFilter): Promise<AddressDigest> {
    let sum = 0
    let count = 0
    const isPart = partOf(filter)
    const result = await this.#connection.scan(listAddressesMessage(filter.family), () => {
      sum = 0
      count = 0
      return (answer) => {
        if (!isPart(answer)) return
        sum = withHash(sum, hashOfMessage(answer))
        count++
      }
    })
    if (result !== 0) throw kernelError(result, 'list', 'addresses')
    return { count, sum }
  }

  async createDevice(name: string): Promise<void> {
    const reply = await this.#connection.request(createDeviceMessage(name))
    if (reply.errno !== 0) throw createDeviceError(reply.errno, name)
  }

  async deleteDevice(name: string): Promise<void> {
    const reply = await this.#connection.request(deleteDeviceMessage(name))
    if (reply.errno !== 0 && !isGone(reply.errno)) throw deleteDeviceError(reply.errno, name)
  }

  async renameDevice(linkIndex: number, name: string): Promise<void> {
    const reply = await this.#connection.request(renameDeviceMessage(linkIndex, name))
    if (reply.errno !== 0) throw renameDeviceError(reply.errno, linkIndex, name)
  }

  bind(linkIndex: number, addresses: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return this.#each(linkIndex, addresses, bindMessage, bindError, (value) => value === errno.EEXIST)
  }

  unbind(linkIndex: number, addresses: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return this.#each(linkIndex, addresses, unbindMessage, unbindError, isGone)
  }

  close(): void {
    this.#connection.close()
  }

  async #each(
    linkIndex: number,
    addresses: readonly string[],
    message: (linkIndex: number, address: string) => Message,
    refusal: (value: number, linkIndex: number, address: string) => KernelError,
    isFine: (value: number) => boolean,
  ): Promise<ReadonlyMap<string, KernelError>> {
    const results = await this.#connection.batch(addresses.map((address) => message(linkIndex, address)))
    const refused = new Map<string, KernelError>()
    for (const [index, address] of addresses.entries()) {
      const result = results[index] ?? 0
      if (result !== 0 && !isFine(result)) refused.set(address, refusal(result, linkIndex, address))
    }
    return refused
  }

  async #dump(message: Message, object: string, isPart?: IsPart): Promise<readonly Buffer[]> {
    const reply = await this.#connection.dump(message, isPart)
    if (reply.errno !== 0) throw kernelError(reply.errno, 'list', object)
    return reply.payloads
  }
}

/** Told by the message's head alone: those of a device with ten thousand addresses need not be decoded. */
function partOf(filter: AddressFilter): IsPart {
  return ({ datagram, start, end }) => filter.isOn(addressLink(datagram, start, end))
}
