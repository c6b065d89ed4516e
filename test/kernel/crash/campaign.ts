import { once } from 'node:events'
import { rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { objectKey, translateEndpointSlice, translateNode, translateService } from '../../../src/kube/translate.ts'
import type { EndpointSliceRecord, ServiceRecord } from '../../../src/model/cluster.ts'
import { Cluster } from '../churn/generator.ts'
import { difference, expectedState, nodeAddressesOf, observedState, type Dump } from '../churn/plan.ts'
import { Random } from '../../random.ts'
import { Survivors } from '../churn/tamper.ts'
import { Daemon, Namespace, nodeObject, program, run, temporaryFolder } from '../lab.ts'
import {
  clusterIP,
  far,
  files,
  isAsked,
  loadBalancerIP,
  near,
  numbersOf,
  objectsOf,
  pods,
  randomModel,
  type Model,
} from './objects.ts'

export interface CampaignOptions {
  readonly seed: number
  readonly kills: number
  /** After every twenty kills, so that a campaign that is stopped says what it has shown. */
  readonly onProgress?: (result: CampaignResult) => void
}

/** How often each kind of moment came. */
export interface CampaignResult {
  readonly seed: number
  readonly kills: Readonly<Record<Kind, number>>
  /** Killed before the daemon had written everything. */
  readonly amid: number
  readonly asked: number
  readonly answered: number
  readonly wrong: readonly string[]
}

/**
 * What the killed process is at: a start with nothing in the kernel, a start after changes that nobody watched, or changes as
 * they come.
 */
type Kind = 'cold' | 'start' | 'change'

interface Expectation {
  readonly by: readonly string[]
  readonly must: boolean
}
type Expectations = Record<string, { readonly from: Record<string, Expectation> }>

interface Counts {
  readonly asked: number
  readonly answered: number
  readonly wrong: readonly string[]
}

const settings = {
  scheduler: 'rr',
  nodePorts: 'all',
  masqueradeAll: false,
  masqueradeBit: 14,
  strictExternal: false,
  detector: 'cidr',
} as const

interface Records {
  readonly service: ServiceRecord | undefined
  readonly slice: EndpointSliceRecord | undefined
}

function recordsOf(model: Model): readonly (readonly [string, Records])[] {
  return objectsOf(model).map((object) => {
    const service = translateService(object, () => {})
    const slice = service === undefined ? translateEndpointSlice(object, 'node1', () => {}) : undefined
    return [objectKey(object)!, { service, slice }]
  })
}

/** Leaves out destinations of weight 0 that connections hold, which have to stay until those have ended. */
function withoutDraining(save: string, list: string): string {
  const draining = new Set<string>()
  let server = ''
  for (const line of list.split('\n')) {
    const [first, second, , weight, active, inactive] = line.trim().split(/ +/)
    if (first === 'TCP') server = second!
    else if (weight === '0' && `${active}${inactive}` !== '00') draining.add(`-a -t ${server} -r ${second} -m -w 0`)
  }
  return save
    .split('\n')
    .filter((line) => !draining.has(line.trim()))
    .join('\n')
}

/** A node with pods and a client, whose daemon is killed again and again; the kernel must be as planned after each start. */
export class Campaign {
  readonly #options: CampaignOptions
  readonly #random: Random
  readonly #node = new Namespace('node')
  readonly #client = new Namespace('client')
  readonly #pods = new Namespace('pods')
  readonly #models = new Map<number, Model>()
  readonly #records = new WeakMap<Model, ReturnType<typeof recordsOf>>()
  readonly #randomFully: Record<'IPv4' | 'IPv6', boolean> = { IPv4: true, IPv6: true }
  readonly #kills: Record<Kind, number> = { cold: 0, start: 0, change: 0 }
  #folder!: { path: string; remove: () => Promise<void> }
  #server!: ChildProcess
  #prober!: ChildProcess
  #counts: Counts = { asked: 0, answered: 0, wrong: [] }
  #answered: (() => void) | undefined
  #daemon!: Daemon
  /** Milliseconds that the last start took until everything was written. */
  #startTime = 4000
  #amid = 0

  constructor(options: CampaignOptions) {
    this.#options = options
    this.#random = new Random(options.seed)
  }

  async run(): Promise<CampaignResult> {
    await this.#build()
    try {
      for (let file = 0; file < files; file++) await this.#change(file, 1)
      await this.#start()
      await this.#compare('the first start')
      await this.#expect(this.#models, true)
      for (let i = 0; i < this.#options.kills; i++) {
        const kind = this.#random.weighted({ cold: 1, start: 4, change: 5 })
        await this.#round(kind)
        this.#kills[kind]++
        if ((i + 1) % 20 === 0) this.#options.onProgress?.(await this.#result())
      }
      return await this.#result()
    } finally {
      await this.#destroy()
    }
  }

  async #result(): Promise<CampaignResult> {
    await this.#order({ report: true })
    return { seed: this.#options.seed, kills: this.#kills, amid: this.#amid, ...this.#counts }
  }

  async #round(kind: Kind): Promise<void> {
    const before = new Map(this.#models)
    const isCold = kind === 'cold'
    if (kind !== 'change') await this.#daemon.stop('SIGKILL')
    if (isCold) {
      await this.#expect(before, false)
      this.#node.run(process.execPath, program, '--cleanup')
    }
    const changed = this.#random.some(
      Array.from({ length: files }, (_, i) => i),
      this.#random.between(1, 4),
    )
    const after = this.#draw(changed)
    // From here on either may answer, and what is in both has to.
    await this.#expect(after, !isCold, before)
    const begun = performance.now()
    const longest = kind === 'change' ? 1200 : this.#startTime * 1.1
    if (kind !== 'change') this.#launch()
    for (const file of changed) await this.#write(file)
    const moment = this.#random.below(Math.ceil(longest))
    await sleep(Math.max(0, moment - (performance.now() - begun)))
    if (!this.#daemon.lines.some(({ msg, family }) => msg.includes('In sync for the first') && family === 'IPv4'))
      this.#amid++
    await this.#daemon.stop('SIGKILL')
    await this.#start()
    await this.#compare(`${kind}, killed after ${moment} ms`)
    await this.#expect(after, true)
  }

  /** New Services for some places of the files. */
  #draw(changed: readonly number[]): ReadonlyMap<number, Model> {
    for (const file of changed) {
      for (const number of numbersOf(file)) {
        if (this.#random.chance(0.3)) this.#models.set(number, randomModel(this.#random, number))
      }
    }
    return new Map(this.#models)
  }

  async #change(file: number, share: number): Promise<void> {
    for (const number of numbersOf(file)) {
      if (this.#random.chance(share)) this.#models.set(number, randomModel(this.#random, number))
    }
    await this.#write(file)
  }

  /** At once, as the API server tells an object: never half of a file. */
  async #write(file: number): Promise<void> {
    const items = numbersOf(file).flatMap((number) => objectsOf(this.#models.get(number)!))
    const path = join(this.#folder.path, `part-${file}.json`)
    await writeFile(`${path}.new`, JSON.stringify({ apiVersion: 'v1', kind: 'List', items }))
    await rename(`${path}.new`, path)
  }

  #launch(): void {
    this.#daemon = new Daemon(this.#node, [
      `--manifests=${this.#folder.path}`,
      '--proxy-mode=ipvs',
      '--hostname-override=node1',
      '--cluster-cidr=10.244.0.0/16,fd00:10:244::/48',
      '--ipvs-sync-period=2s',
      '-v=2',
    ])
  }

  async #start(): Promise<void> {
    const begun = performance.now()
    this.#launch()
    await this.#daemon.synced()
    this.#startTime = performance.now() - begun
  }

  /** Waits until the kernel is as planned: a destination whose last connection has ended goes a moment later. */
  async #compare(what: string): Promise<void> {
    let dump = this.#dump()
    const plan = expectedState({
      cluster: this.#translated(),
      node: translateNode(nodeObject('node1', '10.0.2.15'), () => {}),
      settings,
      nodeAddresses: nodeAddressesOf(dump),
      survivors: new Survivors(),
      randomFully: this.#randomFully,
    })
    let found: string[] = []
    for (let attempt = 0; attempt < 60; attempt++) {
      found = difference(plan, observedState(dump))
      if (found.length === 0) return
      await sleep(500)
      dump = this.#dump()
    }
    throw new Error(
      `seed ${this.#options.seed}, ${what}: the kernel is not as planned\n${found.slice(0, 40).join('\n')}`,
    )
  }

  /** All objects as records; those of a model that has been there before are not translated again. */
  #translated(): Cluster {
    const cluster = new Cluster()
    for (const model of this.#models.values()) {
      let records = this.#records.get(model)
      if (records === undefined) this.#records.set(model, (records = recordsOf(model)))
      for (const [key, { service, slice }] of records) {
        if (service !== undefined) cluster.services.set(key, service)
        if (slice !== undefined) cluster.slices.set(key, slice)
      }
    }
    return cluster
  }

  /** By one shell: entering the namespace for each tool takes longer than the tools do. */
  #dump(): Dump {
    const commands = ['ipvsadm -Ln', 'ipvsadm -Sn', 'ipset save', 'iptables-save', 'ip6tables-save', 'ip -o addr']
    const texts = this.#node.run('sh', '-ec', commands.join('; echo =====; ')).split('=====\n')
    const [list, servers, sets, IPv4, IPv6, addresses] = texts as [string, string, string, string, string, string]
    return { servers: withoutDraining(servers, list), sets, rules: { IPv4, IPv6 }, addresses }
  }

  /** What clients may and must hear by these Services, and by those of before where they still may stand. */
  async #expect(models: ReadonlyMap<number, Model>, must: boolean, before = models): Promise<void> {
    const expect: Expectations = {}
    const both = (number: number): Model[] => [models.get(number)!, before.get(number)!]
    for (const model of models.values()) {
      if (!isAsked(model)) continue
      const [now, then] = both(model.number) as [Model, Model]
      const by = [...new Set([...now.endpoints, ...then.endpoints])]
      const kept = now.endpoints.some((one) => then.endpoints.includes(one))
      expect[`${clusterIP(model.number)}:80`] = { from: { [near]: { by, must: must && kept } } }
      if (!now.isRanged && !then.isRanged) continue
      const isServed = now.isRanged && then.isRanged
      expect[`${loadBalancerIP(model.number)}:80`] = {
        // Whoever is of no range of the Service is never answered, whatever else happens.
        from: { [near]: { by, must: must && kept && isServed }, [far]: { by: [], must: false } },
      }
    }
    await this.#order({ expect })
  }

  #order(order: object): Promise<void> {
    return new Promise((settle) => {
      this.#answered = settle
      this.#prober.stdin!.write(`${JSON.stringify(order)}\n`)
    })
  }

  async #build(): Promise<void> {
    this.#folder = await temporaryFolder()
    const { name } = this.#node
    run('ip', 'link', 'add', 'eth0', 'netns', this.#client.name, 'type', 'veth', 'peer', 'eth0', 'netns', name)
    run('ip', 'link', 'add', 'eth0', 'netns', this.#pods.name, 'type', 'veth', 'peer', 'cni0', 'netns', name)
    this.#node.ip(
      'link set eth0 up',
      'address add 10.0.2.15/24 dev eth0',
      'link set cni0 up',
      'address add 10.244.1.1/24 dev cni0',
    )
    this.#client.ip(
      'link set eth0 up',
      ...[near, far].map((address) => `address add ${address}/24 dev eth0`),
      ...['10.96.0.0/12', '203.0.112.0/20'].map((range) => `route add ${range} via 10.0.2.15`),
    )
    this.#pods.ip(
      'link set eth0 up',
      ...pods.map((address) => `address add ${address}/24 dev eth0`),
      'route add default via 10.244.1.1',
    )
    await writeFile(join(this.#folder.path, 'node.json'), JSON.stringify(nodeObject('node1', '10.0.2.15')))
    this.#server = this.#pods.spawn(process.execPath, [join(import.meta.dirname, 'server.mjs')])
    await once(this.#server.stdout!, 'data')
    const prober = [process.execPath, join(import.meta.dirname, 'prober.mjs')]
    this.#prober = spawn('ip', ['netns', 'exec', this.#client.name, ...prober], { stdio: ['pipe', 'pipe', 'inherit'] })
    createInterface({ input: this.#prober.stdout! }).on('line', (line) => {
      this.#counts = JSON.parse(line) as Counts
      this.#answered?.()
    })
  }

  async #destroy(): Promise<void> {
    await this.#daemon?.stop('SIGKILL')
    this.#prober?.stdin!.end()
    this.#server?.kill('SIGKILL')
    for (const namespace of [this.#node, this.#client, this.#pods]) namespace.destroy()
    await this.#folder.remove()
  }
}
