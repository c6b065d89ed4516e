import { deviceName } from '../../../src/dummy/layer.ts'
import { destinationKey } from '../../../src/ipvs/ipvs.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { describeError } from '../../../src/lib/errors.ts'
import type { Family } from '../../../src/model/address.ts'
import type { NodeRecord } from '../../../src/model/cluster.ts'
import { describeEvent, type ChurnEvent, type Round, type StackSettings } from './events.ts'
import { faulty, FaultSource } from './faults.ts'
import { Cluster, Generator, nodeDevices } from './generator.ts'
import { Guard, type Wanted } from './guard.ts'
import {
  difference,
  expectedState,
  nodeAddressesOf,
  observedState,
  planFamily,
  plannedOwners,
  plannedRules,
  type Dump,
  type PlanInput,
} from './plan.ts'
import { Random } from '../../random.ts'
import { describeReport, Stack, type Told } from './stack.ts'
import { Survivors, Tamperer, type Ports } from './tamper.ts'

/** Where a campaign takes place: a network namespace, or fakes. */
export interface World {
  /** Straight into the kernel, past the faults. */
  readonly ports: Ports
  /** Adds "address/prefix" to a device, as a person would. */
  addAddress(device: string, address: string): Promise<void>
  /** The kernel's state, read in another way than the daemon's. */
  dump(): Promise<Dump>
  pause(milliseconds: number): Promise<void>
}

export interface CampaignOptions {
  readonly seed: number
  readonly rounds: number
  /** No further round is begun after this time, … */
  readonly seconds?: number
  /** … but so many are played, however long they take. */
  readonly fewest?: number
  readonly world: World
  /** Milliseconds between two passes that read the kernel back. */
  readonly syncPeriod: number
  /** The longest pause between events, in milliseconds. */
  readonly longestPause: number
  /** How long a round may take to come to rest, in milliseconds. */
  readonly patience: number
  /** In every so many-th round the daemon is watched until it has looked again and found nothing to do. */
  readonly secondLook: number
  /** Whether to judge each single removal: only where no pass is at work while objects are told. */
  readonly guarded?: boolean
  readonly onRound?: (number: number) => void
}

export interface CampaignResult {
  readonly seed: number
  readonly rounds: number
  readonly seconds: number
  readonly passes: number
  readonly restarts: number
  /** Most virtual servers at a comparison. */
  readonly servers: number
  /** How many of each kind. */
  readonly events: Readonly<Record<string, number>>
  readonly tamperings: Readonly<Record<string, number>>
  readonly faults: Readonly<Record<string, number>>
}

/** The kernel was not as planned, or the daemon did not come to rest; the message says how to see it again. */
export class ChurnFailure extends Error {
  override readonly name = 'ChurnFailure'
}

const families: readonly Family[] = ['IPv4', 'IPv6']

/** Runs a campaign; throws ChurnFailure at the first round in which something is wrong. */
export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const campaign = new Campaign(options)
  try {
    return await campaign.run()
  } finally {
    await campaign.stop()
  }
}

class Campaign {
  readonly #options: CampaignOptions
  readonly #generator: Generator
  /** The objects as told so far. */
  readonly #cluster = new Cluster()
  readonly #survivors = new Survivors()
  readonly #tamperer: Tamperer
  readonly #faults: ReadonlyMap<Family, FaultSource>
  readonly #counts = {
    events: new Map<string, number>(),
    tamperings: new Map<string, number>(),
    faults: new Map<string, number>(),
  }
  /** What happened in this round and the one before, for a report. */
  #story: string[] = []
  #lastStory: readonly string[] = []
  #settings: StackSettings
  #stack: Stack
  /** The last Node that the process at work was told. */
  #node: NodeRecord | undefined
  readonly #guard: Guard
  /** What the guard takes for wanted; made when it asks, after each event anew. */
  #wanted: Promise<Wanted | undefined> | undefined
  #judges = true
  #undisturbed = true
  #atOnce = false
  #passes = 0
  #restarts = 0
  #mostServers = 0

  constructor(options: CampaignOptions) {
    this.#options = options
    this.#generator = new Generator(options.seed, options)
    this.#tamperer = new Tamperer(options.world, this.#survivors)
    this.#faults = new Map(families.map((family) => [family, new FaultSource(this.#counts.faults)]))
    this.#settings = this.#generator.settings
    this.#guard = new Guard(options.world.ports, () => (this.#wanted ??= this.#plannedNow()))
    this.#stack = this.#newStack()
  }

  async run(): Promise<CampaignResult> {
    const { seed, rounds, seconds = Number.POSITIVE_INFINITY, fewest = 0, world, onRound } = this.#options
    // Real time, whatever the daemon's clock is made to say.
    const started = process.hrtime.bigint()
    for (const device of nodeDevices) await world.ports.dummy.createDevice(device)
    this.#stack.listener.synced('services')
    this.#stack.listener.synced('endpointslices')
    this.#stack.start()
    const elapsed = (): number => Number(process.hrtime.bigint() - started) / 1e9
    let done = 0
    for (; done < rounds && (done < fewest || elapsed() < seconds); done++) {
      const round = this.#generator.round()
      await this.#round(round)
      onRound?.(round.number)
    }
    const { events, tamperings, faults } = this.#counts
    return {
      seed,
      rounds: done,
      seconds: Math.round(elapsed()),
      passes: this.#passes,
      restarts: this.#restarts,
      servers: this.#mostServers,
      events: sorted(events),
      tamperings: sorted(tamperings),
      faults: sorted(faults),
    }
  }

  async stop(): Promise<void> {
    for (const faults of this.#faults.values()) faults.off()
    await this.#stack.stop()
  }

  #newStack(): Stack {
    const { world, syncPeriod, guarded } = this.#options
    const ports = guarded ? this.#guard.ports() : world.ports
    return new Stack({
      settings: this.#settings,
      syncPeriod,
      ports: new Map([...this.#faults].map(([family, faults]) => [family, faulty(ports, faults)])),
      say: (line) => this.#story.push(`    ${line}`),
    })
  }

  async #round(round: Round): Promise<void> {
    this.#lastStory = this.#story
    this.#story = [`round ${round.number}: faults ${JSON.stringify(round.faults)}`]
    this.#plannedFaults(round)
    this.#take()
    this.#judges = isCertain(round.events)
    this.#undisturbed = !touches(round.events, ['tamper'])
    this.#atOnce = round.number > 1 && !touches(round.events, ['restart'])
    await this.#applyAll(round.events, round)
    await this.#options.world.pause(this.#options.longestPause)
    await this.#settle(round)
    await this.#compare(round)
    const wrongs = this.#guard.wrongs.splice(0)
    if (wrongs.length > 0) this.#fail(round, 'something wanted was taken away', wrongs)
    // What a layer wrote it must not take for others' work. Where the kernel lied about success nobody can tell.
    const others = round.faults.denied > 0 || round.events.some(({ kind }) => kind === 'tamper' || kind === 'restart')
    const invented = others ? [] : this.#take().filter((told) => told.drift !== undefined)
    if (invented.length > 0) this.#fail(round, 'drift was told although nobody else wrote', invented.map(describeTold))
  }

  #plannedFaults(round: Round): void {
    for (const [salt, faults] of [...this.#faults.values()].entries()) faults.set(round.faults, salt)
  }

  /** What was told since the last call. */
  #take(): Told[] {
    const told = this.#stack.history.splice(0)
    this.#passes += told.filter(({ report }) => report !== undefined).length
    return told
  }

  async #applyAll(events: readonly ChurnEvent[], round: Round): Promise<void> {
    const { world, guarded } = this.#options
    for (const event of events) {
      const done = this.#apply(event, round)
      if (!guarded) await done
      else if (done !== undefined) {
        // What is told next must not come in the middle of a pass: the guard could not say what that pass may know.
        await done
        await world.pause(0)
      }
    }
  }

  #apply(event: ChurnEvent, round: Round): void | Promise<void> {
    const { world } = this.#options
    count(this.#counts.events, event.kind)
    this.#wanted = undefined
    this.#story.push(`  ${describeEvent(event)}`)
    switch (event.kind) {
      case 'service':
        if (event.service === undefined) this.#cluster.services.delete(event.key)
        else this.#cluster.services.set(event.key, event.service)
        return this.#stack.listener.serviceChanged(event.key, event.service)
      case 'slice':
        if (event.slice === undefined) this.#cluster.slices.delete(event.key)
        else this.#cluster.slices.set(event.key, event.slice)
        return this.#stack.listener.sliceChanged(event.key, event.slice)
      case 'node':
        this.#cluster.node = event.node
        this.#node = event.node ?? this.#node
        return this.#stack.listener.nodeChanged(event.node)
      case 'address':
        return this.#changeAddress(event)
      case 'tamper':
        return this.#tamper(event)
      case 'pause':
        return world.pause(event.milliseconds)
      case 'die':
        for (const faults of this.#faults.values()) faults.dieAfter(event.afterCalls)
        return
      case 'restart':
        return this.#restart(event, round)
    }
  }

  async #changeAddress({ device, address, present }: ChurnEvent & { kind: 'address' }): Promise<void> {
    const { dummy } = this.#options.world.ports
    const link = (await dummy.links()).find(({ name }) => name === device)
    await dummy[present ? 'bind' : 'unbind'](link!.index, [address])
    this.#stack.addressesChanged()
  }

  async #tamper({ what, seed }: ChurnEvent & { kind: 'tamper' }): Promise<void> {
    const done = await this.#tamperer.do(what, new Random(seed))
    this.#story.push(`    ${what}: ${done}`)
    if (done !== '' && !done.startsWith('failed')) count(this.#counts.tamperings, what)
  }

  async #restart(event: ChurnEvent & { kind: 'restart' }, round: Round): Promise<void> {
    await this.#stack.stop()
    this.#take()
    this.#plannedFaults(round)
    await this.#applyAll(event.meanwhile, round)
    this.#restarts++
    this.#settings = event.settings
    this.#stack = this.#newStack()
    this.#node = undefined
    this.#wanted = undefined
    const random = new Random(event.seed)
    const { listener } = this.#stack
    const { services, slices } = this.#cluster
    const tell = [
      ...[...services].map(
        ([key, service]) =>
          () =>
            listener.serviceChanged(key, service),
      ),
      ...[...slices].map(
        ([key, slice]) =>
          () =>
            listener.sliceChanged(key, slice),
      ),
    ]
    const node = (): void => {
      this.#node = this.#cluster.node
      this.#wanted = undefined
      listener.nodeChanged(this.#node)
    }
    const late = random.chance(0.4)
    if (!late) tell.push(node)
    for (const one of random.some(tell, tell.length)) one()
    listener.synced('services')
    listener.synced('endpointslices')
    this.#stack.start()
    if (late) {
      await this.#options.world.pause(random.between(0, this.#options.longestPause))
      node()
    }
  }

  /**
   * Ends the faults and waits until each family has read the kernel back and brought it in order, in one go; in some
   * rounds also until it has once more looked and found nothing to do.
   */
  async #settle(round: Round): Promise<void> {
    const { world, patience, syncPeriod } = this.#options
    for (const faults of this.#faults.values()) faults.off()
    const since = systemClock.now()
    const from = this.#stack.history.length
    for (;;) {
      if (this.#stack.failure !== undefined) this.#fail(round, 'the loop ended', [describeError(this.#stack.failure)])
      const told = this.#stack.history.slice(from)
      if (families.every((family) => this.#isAtRest(round, told, family, since))) return
      if (systemClock.now() - since > patience) {
        this.#fail(round, `no rest within ${patience} ms`, told.slice(-20).map(describeTold))
      }
      await world.pause(Math.max(1, syncPeriod / 5))
    }
  }

  #isAtRest(round: Round, all: readonly Told[], family: Family, since: number): boolean {
    const told = all.filter((one) => one.family === family)
    const full = (one: Told): boolean => one.report?.reason === 'period' && one.report.started > since
    const first = told.findIndex(full)
    if (first < 0) return false
    const after = told.slice(first + 1)
    if (!told[first]!.report!.well) {
      this.#fail(round, 'a whole pass without faults did not go well', [told[first]!, ...after].map(describeTold))
    }
    const restless = after.filter((one) => one.drift !== undefined || one.report.written.size > 0 || !one.report.well)
    if (restless.length > 0) this.#fail(round, 'the pass after a good one found work', after.map(describeTold))
    return round.number % this.#options.secondLook !== 0 || after.some(full)
  }

  #planInput(nodeAddresses: readonly string[]): PlanInput {
    const { iptables } = this.#options.world.ports
    return {
      cluster: this.#cluster,
      node: this.#node,
      settings: this.#settings,
      nodeAddresses,
      survivors: this.#survivors,
      randomFully: { IPv4: iptables.get('IPv4')!.randomFully, IPv6: iptables.get('IPv6')!.randomFully },
    }
  }

  async #plannedNow(): Promise<Wanted | undefined> {
    if (!this.#judges) return undefined
    const { dummy } = this.#options.world.ports
    const device = (await dummy.links()).find(({ name }) => name === deviceName)?.index
    const addresses = (await dummy.addresses()).filter(({ linkIndex }) => linkIndex !== device)
    const input = this.#planInput(addresses.map(({ address }) => address))
    const servers = families.flatMap((family) => [...planFamily(input, family).servers])
    return {
      servers: new Map(servers.map(([key, { destinations }]) => [key, new Set([...destinations].map(destinationKey))])),
      owners: plannedOwners(input),
      rules: new Set(plannedRules(input)),
      undisturbed: this.#undisturbed,
      atOnce: this.#atOnce,
    }
  }

  async #compare(round: Round): Promise<void> {
    const dump = await this.#options.world.dump()
    const input = this.#planInput(nodeAddressesOf(dump))
    const expected = expectedState(input)
    this.#mostServers = Math.max(this.#mostServers, expected.filter((line) => line.startsWith('ipvs -A')).length)
    const wrong = difference(expected, observedState(dump))
    if (wrong.length > 0) this.#fail(round, 'the kernel is not as planned ("-" missing, "+" too much)', wrong)
    if (!this.#options.guarded) return
    this.#guard.standing.clear()
    for (const rule of plannedRules(input)) this.#guard.standing.add(rule)
  }

  #fail(round: Round, what: string, lines: readonly string[]): never {
    const { seed } = this.#options
    throw new ChurnFailure(
      [
        `seed ${seed}, round ${round.number}: ${what}`,
        ...lines.map((line) => `  ${line}`),
        `again: CHURN_SEED=${seed} CHURN_ROUNDS=${round.number}`,
        'what happened, and what the daemon said:',
        ...this.#lastStory,
        ...this.#story,
      ].join('\n'),
    )
  }
}

/**
 * Whether the daemon knows at each moment what the guard knows: of a node address, or of a server or destination that
 * others touch, it learns only when it looks again.
 */
function isCertain(events: readonly ChurnEvent[]): boolean {
  const others = touches(
    events,
    ['tamper'],
    (event) => event.kind === 'tamper' && /server|dest|weight/.test(event.what),
  )
  return !others && !touches(events, ['address'])
}

/** Whether there is an event of these kinds, also while no process runs. */
function touches(
  events: readonly ChurnEvent[],
  kinds: readonly ChurnEvent['kind'][],
  suits: (event: ChurnEvent) => boolean = () => true,
): boolean {
  return events.some(
    (event) =>
      (kinds.includes(event.kind) && suits(event)) ||
      (event.kind === 'restart' && touches(event.meanwhile, kinds, suits)),
  )
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

function sorted(counts: ReadonlyMap<string, number>): Record<string, number> {
  return Object.fromEntries([...counts].sort(([a], [b]) => (a < b ? -1 : 1)))
}

function describeTold(told: Told): string {
  if (told.report !== undefined) return `pass ${describeReport(told.report)}`
  const { layer, kind, object, state } = told.drift
  return `drift ${told.family} ${layer} ${kind} ${object} ${state}`
}
