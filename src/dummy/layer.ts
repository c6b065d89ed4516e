import { withHash } from '../lib/digest.ts'
import { KernelError, ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { Thrift } from '../lib/thrift.ts'
import { mapInTurns } from '../lib/turn.ts'
import { cidrContains, isIPv6LinkLocal, type Cidr, type Family } from '../model/address.ts'
import { isHeld, Refusals } from '../reconcile/apply.ts'
import { DeltaSet } from '../reconcile/delta-set.ts'
import {
  repairAll,
  type Count,
  type Drift,
  type Judge,
  type Layer,
  type Outcome,
  type Owner,
} from '../reconcile/layer.ts'
import { WriteGuard } from '../reconcile/write-guard.ts'
import type { Dummy, InterfaceAddress } from './dummy.ts'
import { addressHash } from './messages.ts'

export const deviceName = 'kube-ipvs0'

/** Addresses of one call: many take long to be put into messages, and others shall have their turn. */
const addressesPerPart = 250

/** So many addresses are read again in every look; more than that take no more than this share of a core. */
const fewAddresses = 2000
const readingShare = 0.005

export interface DummyLayerOptions {
  readonly family: Family
  readonly dummy: Dummy
  readonly log: Log
  /** Addresses in these ranges that this process did not bind itself stay on the device. */
  readonly excludeCIDRs: readonly Cidr[]
  readonly ownersOf: (address: string) => Iterable<Owner>
  /** Whether drift of the device itself is told: the families share it, one of them speaks for both. */
  readonly speaksForDevice: boolean
  /** For tests. */
  readonly thrift?: Thrift
}

/**
 * The dummy device and the service addresses of one family on it. Never set up: its addresses are in the local routing
 * table all the same. CNIs recognise IPVS mode by its name.
 */
export class DummyLayer implements Layer {
  readonly name = 'dummy'
  readonly needs: readonly string[] = ['ipset', 'iptables', 'ipvs']
  readonly #options: DummyLayerOptions
  readonly #addresses = new DeltaSet(addressHash)
  readonly #ownBound = new Set<string>()
  #index: number | undefined
  /** The name that somebody else had given to our device, until it is told. */
  #foundAs: string | undefined
  #adopted = false
  readonly #guard = new WriteGuard()
  readonly #thrift: Thrift
  /** Sum of the hashes of addresses that are left to others; undefined before they were read. */
  #othersSum: number | undefined

  constructor(options: DummyLayerOptions) {
    this.#options = options
    this.#thrift = options.thrift ?? new Thrift(readingShare)
  }

  want(address: string): void {
    this.#addresses.want(address)
  }

  unwant(address: string): void {
    this.#addresses.unwant(address)
  }

  /** Count and sum of the addresses that are wanted. */
  get wantedSum(): { readonly count: number; readonly sum: number } {
    return { count: this.#addresses.wantedCount, sum: this.#addresses.wantedSum }
  }

  *counts(): Iterable<Count> {
    yield { kind: 'address', wanted: this.#addresses.wantedCount, present: this.#addresses.presentCount }
  }

  async resync(thrifty = false, judge: Judge = repairAll): Promise<readonly Drift[]> {
    const isDue = this.#addresses.presentCount < fewAddresses || this.#thrift.isDue
    if (thrifty && !isDue && this.#index !== undefined) {
      const index = await this.#findDevice()
      // Another device, or none, has none of them; one that had another name is to be told.
      if (index === this.#index && this.#foundAs === undefined) return []
    }
    return this.#thrift.during(() => this.#compare(judge))
  }

  async #compare(judge: Judge): Promise<readonly Drift[]> {
    const drifts: Drift[] = []
    const report = (kind: string, object: string, state: string): void => {
      if (this.#adopted) drifts.push({ layer: this.name, kind, object, state })
    }
    const former = this.#index
    const hadDevice = former !== undefined
    const read = await this.#guard.quietly(() => this.#read())
    if (read === undefined || !this.#guard.isAt(read.mark)) return []
    const { mark } = read
    const { found, index } = read.found
    this.#index = index
    if (this.#foundAs !== undefined) report('device', `${deviceName}, which had become ${this.#foundAs}`, 'changed')
    this.#foundAs = undefined
    if (this.#index === undefined) {
      // Its addresses went with it: one thing happened, one line says so.
      if (hadDevice && this.#options.speaksForDevice) report('device', deviceName, 'missing')
      this.#addresses.observedNone()
      this.#adopted = true
      return drifts
    }
    const replaced = hadDevice && former !== this.#index
    if (replaced && this.#options.speaksForDevice) report('device', deviceName, 'changed')
    if (found === 'as known') return drifts
    const now = new Set<string>()
    let othersSum = 0
    for (const { family, address, prefix } of found) {
      // With another prefix it is not the address that we bind, and the kernel removes it by that prefix only.
      const key = prefix === (family === 'IPv4' ? 32 : 128) ? address : `${address}/${prefix}`
      const kept = !this.#addresses.isWanted(key) && !this.#ownBound.has(key) && this.#isExcluded(address)
      if (kept || isIPv6LinkLocal(address)) othersSum = withHash(othersSum, addressHash(key))
      else now.add(key)
    }
    const { missing, foreign } = await this.#addresses.differences(now)
    // Written meanwhile: the next look judges them.
    if (!this.#guard.isAt(mark)) return drifts
    this.#othersSum = othersSum
    const isTaken = (address: string, state: string): boolean => {
      if (!this.#adopted || !hadDevice || replaced) return true
      const drift = { layer: this.name, kind: 'address', object: `${address} on ${deviceName}`, state }
      if (!judge(drift)) return false
      drifts.push(drift)
      return true
    }
    this.#addresses.take({
      missing: missing.filter((address) => isTaken(address, 'missing')),
      foreign: foreign.filter((address) => isTaken(address, 'foreign')),
    })
    this.#adopted = true
    return drifts
  }

  async add(held: ReadonlySet<Owner>): Promise<Outcome> {
    let applied = 0
    if (this.#index === undefined) {
      await this.#createDevice()
      applied++
    }
    const refusals = new Refusals()
    const all = await mapInTurns(this.#addresses.additions(), (address) =>
      isHeld(() => this.#options.ownersOf(address), held) ? undefined : address,
    )
    for (let from = 0; from < all.length; from += addressesPerPart) {
      const additions = all.slice(from, from + addressesPerPart)
      applied += await this.#guard.write(async () => {
        await this.#makeRoom(new Set(additions))
        const refused = await this.#options.dummy.bind(this.#index!, additions)
        for (const address of additions) {
          if (refused.has(address)) continue
          this.#addresses.observed(address)
          this.#ownBound.add(address)
        }
        for (const [address, error] of refused) refusals.add(this.#options.ownersOf(address), error)
        return additions.length - refused.size
      })
    }
    return { applied, refused: refusals.byOwner }
  }

  async remove(_held: ReadonlySet<Owner>): Promise<Outcome> {
    const removals = [...this.#addresses.removals()]
    if (removals.length === 0 || this.#index === undefined) return { applied: 0, refused: new Map() }
    const refusals = new Refusals()
    const index = this.#index
    const applied = await this.#guard.write(async () => {
      const refused = await this.#options.dummy.unbind(index, removals)
      for (const address of removals) {
        if (refused.has(address)) continue
        this.#addresses.gone(address)
        this.#ownBound.delete(address)
      }
      for (const [address, error] of refused) refusals.add([`address ${address}`], error)
      return removals.length - refused.size
    })
    return { applied, refused: refusals.byOwner }
  }

  /** IPv6 has an address but once on a device: one of another prefix must go first. */
  async #makeRoom(additions: ReadonlySet<string>): Promise<void> {
    const others = [...this.#addresses.removals()].filter((key) => additions.has(key.replace(/\/\d+$/, '')))
    if (others.length === 0) return
    const refused = await this.#options.dummy.unbind(this.#index!, others)
    for (const key of others) if (!refused.has(key)) this.#addresses.gone(key)
  }

  /** Device and addresses as they stand. */
  async #read(): Promise<{
    readonly index: number | undefined
    readonly found: readonly InterfaceAddress[] | 'as known'
  }> {
    const { dummy, family } = this.#options
    const index = await this.#findDevice()
    if (index === undefined) return { index, found: [] }
    const filter = { family, isOn: (linkIndex: number) => linkIndex === index }
    const known = this.#othersSum === undefined ? undefined : withHash(this.#othersSum, this.#addresses.presentSum)
    const isKnown = known !== undefined && known === (await dummy.digest(filter)).sum
    return { index, found: isKnown ? 'as known' : await dummy.addresses(filter) }
  }

  async #findDevice(): Promise<number | undefined> {
    const links = await this.#options.dummy.links()
    const link = links.find(({ name }) => name === deviceName)
    if (link === undefined) {
      const renamed = links.find(({ index, kind }) => index === this.#index && kind === 'dummy')
      if (renamed === undefined) return undefined
      // Under another name its addresses would be the node's own: a new device beside it would be the worse repair.
      await this.#guard.write(() => this.#options.dummy.renameDevice(renamed.index, deviceName))
      this.#foundAs = renamed.name
      return renamed.index
    }
    if (link.kind !== 'dummy') {
      throw new ProxyError('KERNEL', `device ${deviceName} exists but is no dummy device (${link.kind || 'no kind'})`, {
        object: deviceName,
        advice: `remove or rename it: ip link delete ${deviceName}`,
      })
    }
    return link.index
  }

  async #createDevice(): Promise<void> {
    try {
      await this.#guard.write(() => this.#options.dummy.createDevice(deviceName))
    } catch (error) {
      // The other family's layer was quicker.
      if (!(error instanceof KernelError && error.errnoName === 'EEXIST')) throw error
    }
    this.#index = await this.#findDevice()
    if (this.#index === undefined) {
      throw new ProxyError('KERNEL', `device ${deviceName} was made but is not there`, { object: deviceName })
    }
  }

  #isExcluded(address: string): boolean {
    return this.#options.excludeCIDRs.some((cidr) => cidrContains(cidr, address))
  }
}
