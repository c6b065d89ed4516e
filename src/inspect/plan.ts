import { buildFamily } from '../compose.ts'
import { FakeDummy } from '../dummy/fake-dummy.ts'
import { deviceName } from '../dummy/layer.ts'
import { FakeIpset } from '../ipset/fake-ipset.ts'
import { FakeIptables } from '../iptables/fake-iptables.ts'
import { tables } from '../iptables/rules.ts'
import { FakeIpvs } from '../ipvs/fake-ipvs.ts'
import { describeError, ProxyError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { canonicalAddress, type Family } from '../model/address.ts'
import type { NodeRecord } from '../model/cluster.ts'
import type { PassReport, Proxier } from '../proxier/proxier.ts'
import { readCluster, type ObjectSource } from './cluster.ts'
import { dispatchTo, noEffects, unobserved } from './wanted.ts'
import { notesText, print, section } from './output.ts'
import type { Inspection } from './setup.ts'

/** What would be programmed for one family, in the forms of the tools. */
export interface FamilyPlan {
  readonly family: Family
  /** As `ipvsadm -Sn`. */
  readonly ipvsadm: string
  /** As `ipset save`. */
  readonly ipset: string
  /** As `iptables-save`, tables nat and filter. */
  readonly iptables: string
  /** As the lines of `ip address show kube-ipvs0`. */
  readonly addresses: string
}

export interface PlanResult {
  readonly node: string
  /** Addresses that the node was taken to have. */
  readonly nodeAddresses: readonly string[]
  readonly families: readonly FamilyPlan[]
  readonly notes: readonly string[]
}

export interface PlanOptions {
  readonly source: ObjectSource
  readonly nodeName: string
  readonly settings: Inspection['settings']
  /** Undefined: those of the Node object. */
  readonly nodeAddresses: readonly string[] | undefined
  readonly log: Log
}

/** The daemon's whole stack over kernels in memory: their dumps are what it would have written. */
export async function makePlan(options: PlanOptions): Promise<Omit<PlanResult, 'notes'>> {
  const { source, nodeName, log } = options
  const kernels = (['IPv4', 'IPv6'] as const).map((family) => new PlannedFamily(family, options))
  let node: NodeRecord | undefined
  const listener = dispatchTo(
    kernels.map(({ family, proxier }) => [family, proxier]),
    (record) => (node = record),
  )
  await readCluster({ source, nodeName, log }, listener)
  if (node === undefined) log.warn(`There is no Node ${nodeName}: its zone, podCIDRs and addresses are not known`)
  const nodeAddresses = options.nodeAddresses ?? node?.addresses ?? []
  const families: FamilyPlan[] = []
  for (const kernel of kernels) families.push(await kernel.run(nodeAddresses))
  return { node: nodeName, nodeAddresses, families }
}

class PlannedFamily {
  readonly family: Family
  readonly proxier: Proxier
  readonly #ipvs = new FakeIpvs()
  readonly #ipset = new FakeIpset()
  readonly #dummy = new FakeDummy()
  readonly #iptables = Object.assign(new FakeIptables(), { randomFully: true })
  readonly #passed = Promise.withResolvers<PassReport>()
  readonly #log: Log

  constructor(family: Family, { settings, log }: Pick<PlanOptions, 'settings' | 'log'>) {
    this.family = family
    this.#log = log
    // Which schedulers the node's kernel has is not asked here.
    this.#ipvs.schedulers.add(settings.scheduler)
    const observer = {
      ...unobserved,
      passed: (report: PassReport) => this.#passed.resolve(report),
      restoreFailed: () => {},
    }
    const kernel = { ipvs: this.#ipvs, ipset: this.#ipset, dummy: this.#dummy }
    this.proxier = buildFamily(family, settings, kernel, this.#iptables, log, observer, noEffects)
  }

  async run(nodeAddresses: readonly string[]): Promise<FamilyPlan> {
    const { family } = this
    if (this.proxier.lacksPodCIDR) {
      throw new ProxyError('OBJECT', `the Node has no podCIDR of ${family}: the daemon would write nothing yet`, {
        advice: 'detectLocalMode NodeCIDR needs one; add it to spec.podCIDRs of the Node',
      })
    }
    const link = this.#dummy.addLink('node', '')
    for (const address of nodeAddresses) this.#dummy.addAddress(link, address)
    const stop = new AbortController()
    const running = this.proxier.run(stop.signal)
    const { refused } = await this.#passed.promise
    stop.abort()
    await running
    for (const [owner, error] of refused) this.#log.error(`${owner}: ${describeError(error)}`)
    return {
      family,
      ipvsadm: this.#ipvs.dump(),
      ipset: this.#ipset.dump(),
      iptables: (await Promise.all(tables.map((table) => this.#iptables.save(table)))).join(''),
      // Indented as ip(8) does.
      addresses: this.#dummy.dump(deviceName).replaceAll(/^(?=.)/gm, '    '),
    }
  }
}

/** Addresses given as text; throws ProxyError CONFIG for what is none. */
export function parseAddresses(text: string | undefined): readonly string[] | undefined {
  return text?.split(',').map((word) => {
    const address = canonicalAddress(word.trim())
    if (address !== undefined) return address
    throw new ProxyError('CONFIG', `--node-address: ${JSON.stringify(word)} must be an IP address`, {
      advice: 'see kube-ipvs-proxy plan --help',
    })
  })
}

/** What manifests, or the API's objects, would come to in this node's kernel. */
export async function runPlan(inspection: Inspection): Promise<number> {
  const { nodeName, settings, notes, command } = inspection
  const nodeAddresses = parseAddresses(command.options.get('node-address'))
  const source = await inspection.source()
  const plan = await makePlan({ source, nodeName, settings, nodeAddresses, log: notes })
  print(command, { ...plan, notes: notes.lines }, planText)
  return 0
}

export function planText({ node, nodeAddresses, families, notes }: PlanResult): string {
  const parts = families.map(({ family, ipvsadm, ipset, iptables, addresses }) =>
    [
      section(`# ${family}: ipvsadm -Sn`, ipvsadm),
      section(`# ${family}: ipset save`, ipset),
      section(`# ${family}: ${family === 'IPv4' ? 'iptables' : 'ip6tables'}-save`, iptables),
      section(`# ${family}: ip address show ${deviceName}`, addresses),
    ].join(''),
  )
  const own = nodeAddresses.join(', ') || 'no addresses'
  return `# node ${node}: ${own}\n${parts.join('')}${notesText(notes)}`
}
