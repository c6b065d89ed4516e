import type {
  EndpointPortRecord,
  EndpointSliceRecord,
  NodeRecord,
  ServicePortRecord,
  ServiceRecord,
} from '../../../src/model/cluster.ts'
import { familyOf, type Family, type Protocol } from '../../../src/model/address.ts'
import type { ChurnEvent, FaultPlan, FaultyPort, Round, StackSettings, Tampering } from './events.ts'
import { Random } from '../../random.ts'
import { EndpointList, type EndpointRecord } from '../../../src/model/endpoint-list.ts'

/** Virtual servers and addresses in these ranges are somebody else's. */
export const excludedRanges: Readonly<Record<Family, string>> = { IPv4: '172.30.0.0/16', IPv6: 'fd00:172:30::/48' }

/** Addresses of node ports where the settings say "ranges". */
export const nodePortRanges: readonly string[] = ['192.168.0.0/24', 'fd00:192::/64']

export const nodeName = 'node1'

/** Devices that addresses come to and go from. */
export const nodeDevices: readonly string[] = ['node0', 'node1']

const families: readonly Family[] = ['IPv4', 'IPv6']

/** "10.96.0.1" … or "fd00:10:96::1" …: the head and so many numbers. */
function pool(v4: string, v6: string, count: number): Readonly<Record<Family, readonly string[]>> {
  const numbers = Array.from({ length: count }, (_, i) => i + 1)
  return { IPv4: numbers.map((n) => `${v4}.${n}`), IPv6: numbers.map((n) => `${v6}::${n.toString(16)}`) }
}

const clusterIPs = pool('10.96.0', 'fd00:10:96', 40)
const pods = pool('10.244.1', 'fd00:10:244:1', 30)
const ownAddresses = pool('192.168.0', 'fd00:192', 3)
const outsideAddresses = pool('203.0.113', '2001:db8', 5)
/** Load balancer addresses and external IPs; the first of each kind are addresses that the node may have, too. */
const publicAddresses: Readonly<Record<Family, readonly string[]>> = {
  IPv4: [...outsideAddresses.IPv4, ownAddresses.IPv4[1]!],
  IPv6: [...outsideAddresses.IPv6, ownAddresses.IPv6[1]!],
}
/** Those that come to the node and go. */
const nodeAddresses: readonly string[] = families.flatMap((family) => [
  ...ownAddresses[family],
  ...outsideAddresses[family].slice(0, 2),
])
const sourceRanges: readonly string[] = [
  '10.0.0.0/8',
  '192.168.0.0/16',
  '203.0.113.77/32',
  '198.51.100.0/25',
  'fd00::/8',
  '2001:db8:77::/64',
  '2001:db8::77/128',
]
const zones: readonly string[] = ['a', 'b', 'c']
const portNames: readonly string[] = ['http', 'https', 'dns', 'metrics', 'a']
const portNumbers: readonly number[] = [53, 80, 443, 8080, 9090]
/** The last two may go before all others where a process starts. */
const serviceNames: readonly string[] = [
  ...Array.from({ length: 28 }, (_, i) => `${i % 3 ? 'default' : 'a'}/svc-${i}`),
  'default/kubernetes',
  'kube-system/kube-dns',
]
const sliceNames: readonly string[] = Array.from({ length: 70 }, (_, i) => `default/slice-${i}`)
const schedulers: readonly string[] = ['rr', 'rr', 'wrr', 'lc', 'sh', 'mh']

const tamperings: Readonly<Record<Tampering, number>> = {
  'delete server': 4,
  'edit server': 4,
  'foreign server': 4,
  'excluded server': 2,
  'clear servers': 1,
  'delete destination': 4,
  'foreign destination': 4,
  'change weight': 4,
  'remove entries': 4,
  'foreign entry': 4,
  'flush set': 3,
  'destroy set': 3,
  'flush chain': 3,
  'delete chain': 2,
  'delete rule': 3,
  'foreign rule in own chain': 3,
  'foreign rule': 2,
  'delete jump': 3,
  'double jump': 2,
  'delete device': 2,
  'remove address': 4,
  'foreign address': 4,
  'excluded address': 2,
  'wide address': 3,
}

/** The objects and node addresses as they are after the events generated so far. */
export class Cluster {
  readonly services = new Map<string, ServiceRecord>()
  readonly slices = new Map<string, EndpointSliceRecord>()
  node: NodeRecord | undefined
}

export interface GeneratorOptions {
  /** The longest pause between events, in milliseconds. */
  readonly longestPause: number
}

/**
 * Makes up rounds of events, the same ones for the same seed. It never looks at the kernel or at a clock: which events
 * come does not depend on how fast anything goes.
 */
export class Generator {
  readonly cluster = new Cluster()
  readonly #random: Random
  readonly #options: GeneratorOptions
  readonly #present = new Set<string>()
  settings: StackSettings
  #number = 0

  constructor(seed: number, options: GeneratorOptions) {
    this.#random = new Random(seed)
    this.#options = options
    this.settings = this.#newSettings()
  }

  round(): Round {
    const random = this.#random
    const events: ChurnEvent[] = []
    const tampers = random.chance(0.5)
    const count = this.#number === 0 ? 40 : random.between(1, 20)
    for (let i = 0; i < count; i++) events.push(...this.#event(tampers, true))
    if (random.chance(0.06)) events.push(...this.#restart())
    return { number: ++this.#number, faults: this.#faults(), events }
  }

  #faults(): FaultPlan {
    const random = this.#random
    const seed = random.seed()
    const rate = random.pick([0, 0.03, 0.1, 0.3, 0.6])
    const share = (): number => (random.chance(0.6) ? rate : 0)
    // A pass reads some forty times: already one failure in a hundred leaves hardly a pass without.
    const unread = random.pick([0, 0, 0.005, 0.02, 0.1])
    const plan = { seed, unread, gone: share(), torn: share(), refused: share(), denied: random.chance(0.3) ? rate : 0 }
    const all: readonly FaultyPort[] = ['ipvs', 'ipset', 'dummy', 'iptables']
    // Now and then one part of the kernel is gone altogether.
    if (random.chance(0.06)) return { ...plan, unread: 1, gone: 1, ports: [random.pick(all)] }
    return random.chance(0.4) ? { ...plan, ports: random.some(all, random.between(1, 2)) } : plan
  }

  #event(tampers: boolean, running: boolean): ChurnEvent[] {
    const random = this.#random
    const { services, slices } = this.cluster
    const what = random.weighted({
      'new service': services.size < 24 ? 9 : 1,
      'change service': services.size > 0 ? 22 : 0,
      'rename service': services.size > 0 ? 2 : 0,
      'repeat service': services.size > 0 ? 1 : 0,
      'switch service': services.size > 0 ? 2 : 0,
      'delete service': services.size > 0 ? 6 : 0,
      'new slice': slices.size < 50 ? 12 : 1,
      'change slice': slices.size > 0 ? 30 : 0,
      'move endpoint': slices.size > 1 ? 3 : 0,
      'delete slice': slices.size > 0 ? 6 : 0,
      node: 4,
      address: 5,
      tamper: tampers ? 22 : 0,
      pause: running ? 7 : 0,
    })
    switch (what) {
      case 'new service':
        return this.#tellService(this.#newService(random.pick(serviceNames)))
      case 'change service':
        return this.#tellService(this.#changeService(random.pick([...services.values()])))
      case 'rename service':
        return this.#renameService(random.pick([...services.values()]))
      case 'repeat service':
        return this.#tellService(structuredClone(random.pick([...services.values()])))
      case 'switch service': {
        // ExternalName or headless and back: the source tells such a Service as gone.
        const service = random.pick([...services.values()])
        const gone: ChurnEvent = { kind: 'service', key: service.key, service: undefined }
        return [gone, ...(random.chance(0.5) ? this.#pause() : []), ...this.#tellService(this.#changeService(service))]
      }
      case 'delete service':
        return this.#deleteService(random.pick([...services.keys()]))
      case 'new slice':
        return this.#tellSlice(this.#newSlice(random.pick(sliceNames)))
      case 'change slice':
        return this.#tellSlice(this.#changeSlice(random.pick([...slices.values()])))
      case 'move endpoint':
        return this.#moveEndpoint()
      case 'delete slice':
        return this.#tellSlice(undefined, random.pick([...slices.keys()]))
      case 'node':
        return this.#changeNode()
      case 'address':
        return this.#changeAddress()
      case 'tamper':
        return [{ kind: 'tamper', what: random.weighted(tamperings), seed: random.seed() }]
      case 'pause':
        return this.#pause()
    }
  }

  #pause(): ChurnEvent[] {
    return [{ kind: 'pause', milliseconds: this.#random.between(0, this.#options.longestPause) }]
  }

  #restart(): ChurnEvent[] {
    const random = this.#random
    const before: ChurnEvent[] = []
    if (random.chance(0.4)) {
      before.push({ kind: 'die', afterCalls: random.below(60) })
      for (let i = random.below(6); i > 0; i--) before.push(...this.#event(false, true))
      before.push(...this.#pause())
    }
    const meanwhile: ChurnEvent[] = []
    for (let i = random.below(8); i > 0; i--) meanwhile.push(...this.#event(true, false))
    if (random.chance(0.4)) this.settings = this.#newSettings()
    return [...before, { kind: 'restart', settings: this.settings, seed: random.seed(), meanwhile }]
  }

  #newSettings(): StackSettings {
    const random = this.#random
    return {
      scheduler: random.pick(schedulers),
      nodePorts: random.pick(['all', 'primary', 'ranges']),
      masqueradeAll: random.chance(0.3),
      strictExternal: random.chance(0.4),
      masqueradeBit: random.pick([14, 15]),
      detector: random.pick(['none', 'cidr', 'bridge']),
    }
  }

  #tellService(service: ServiceRecord): ChurnEvent[] {
    this.cluster.services.set(service.key, service)
    return [{ kind: 'service', key: service.key, service }]
  }

  #deleteService(key: string): ChurnEvent[] {
    this.cluster.services.delete(key)
    const events: ChurnEvent[] = [{ kind: 'service', key, service: undefined }]
    if (this.#random.chance(0.3)) return events
    // Slices go after their Service or before it; some are left behind.
    for (const slice of this.cluster.slices.values()) {
      if (slice.service === key) events.push(...this.#tellSlice(undefined, slice.key))
    }
    return this.#random.chance(0.5) ? events : events.toReversed()
  }

  /** The same Service under another name: its addresses change hands, in either order of the two events. */
  #renameService(service: ServiceRecord): ChurnEvent[] {
    const random = this.#random
    const key = random.pick(serviceNames)
    if (key === service.key) return []
    this.cluster.services.delete(service.key)
    const gone: ChurnEvent = { kind: 'service', key: service.key, service: undefined }
    const come = this.#tellService({ ...service, key })
    const events = random.chance(0.5) ? [gone, ...come] : [...come, gone]
    for (const slice of this.cluster.slices.values()) {
      if (slice.service === service.key && random.chance(0.7))
        events.push(...this.#tellSlice({ ...slice, service: key }))
    }
    return events
  }

  #newService(key: string): ServiceRecord {
    const random = this.#random
    const listed = random.weighted({ IPv4: 4, IPv6: 2, 'IPv4 IPv6': 3, 'IPv6 IPv4': 1 }).split(' ') as Family[]
    const service: ServiceRecord = {
      key,
      type: random.weighted({ ClusterIP: 3, NodePort: 2, LoadBalancer: 3 }),
      clusterIPs: listed.map((family) => this.#clusterIP(family)),
      externalIPs: random.chance(0.3) ? this.#publicAddresses(listed) : [],
      loadBalancerIPs: this.#publicAddresses(listed),
      sourceRanges: random.chance(0.4) ? random.some(sourceRanges, random.between(1, 3)) : [],
      ports: this.#newPorts(),
      affinitySeconds: random.pick([0, 0, 0, 1, 60, 10800, 86400]),
      internalLocal: random.chance(0.2),
      externalLocal: random.chance(0.3),
      healthCheckNodePort: random.between(31000, 31005),
    }
    return this.#tidy(service)
  }

  #changeService(service: ServiceRecord): ServiceRecord {
    const random = this.#random
    const what = random.weighted({
      type: 3,
      ports: 4,
      port: 8,
      order: 1,
      clusterIP: 2,
      family: 2,
      externalIPs: 4,
      loadBalancerIPs: 4,
      sourceRanges: 4,
      affinity: 3,
      internal: 3,
      external: 4,
      health: 2,
      all: 2,
    })
    const listed = service.clusterIPs.map(familyOf)
    switch (what) {
      case 'type':
        return this.#tidy({ ...service, type: random.pick(['ClusterIP', 'NodePort', 'LoadBalancer']) })
      case 'ports':
        return this.#tidy({ ...service, ports: this.#newPorts() })
      case 'port':
        return this.#tidy({ ...service, ports: this.#changePort(service.ports) })
      case 'order':
        return { ...service, ports: service.ports.toReversed(), externalIPs: service.externalIPs.toReversed() }
      case 'clusterIP':
        return { ...service, clusterIPs: listed.map((family) => this.#clusterIP(family)) }
      case 'family': {
        // A second family comes or goes; the first one stays as it is.
        const [first] = service.clusterIPs
        if (first === undefined || service.clusterIPs.length > 1) return { ...service, clusterIPs: [first!] }
        return { ...service, clusterIPs: [first, this.#clusterIP(familyOf(first) === 'IPv4' ? 'IPv6' : 'IPv4')] }
      }
      case 'externalIPs':
        return this.#tidy({ ...service, externalIPs: random.chance(0.3) ? [] : this.#publicAddresses(listed) })
      case 'loadBalancerIPs':
        return this.#tidy({ ...service, loadBalancerIPs: random.chance(0.2) ? [] : this.#publicAddresses(listed) })
      case 'sourceRanges':
        return { ...service, sourceRanges: random.some(sourceRanges, random.between(0, 3)) }
      case 'affinity':
        return { ...service, affinitySeconds: random.pick([0, 0, 1, 60, 10800, 86400]) }
      case 'internal':
        return { ...service, internalLocal: !service.internalLocal }
      case 'external':
        return this.#tidy({ ...service, externalLocal: !service.externalLocal })
      case 'health':
        return this.#tidy({ ...service, healthCheckNodePort: random.between(31000, 31005) })
      case 'all':
        return this.#newService(service.key)
    }
  }

  /** What the API server would not have let in is taken out, most times. */
  #tidy(service: ServiceRecord): ServiceRecord {
    const random = this.#random
    if (random.chance(0.03)) return service
    const { type } = service
    const withNodePorts = type === 'NodePort' || (type === 'LoadBalancer' && random.chance(0.9))
    const externalLocal = service.externalLocal && (type !== 'ClusterIP' || service.externalIPs.length > 0)
    return {
      ...service,
      loadBalancerIPs: type === 'LoadBalancer' ? service.loadBalancerIPs : [],
      sourceRanges: type === 'LoadBalancer' ? service.sourceRanges : [],
      ports: service.ports.map((port) => {
        if (!withNodePorts) return port.nodePort === 0 ? port : { ...port, nodePort: 0 }
        return port.nodePort === 0 ? { ...port, nodePort: this.#nodePort() } : port
      }),
      externalLocal,
      healthCheckNodePort: type === 'LoadBalancer' && externalLocal ? service.healthCheckNodePort : 0,
    }
  }

  #newPorts(): ServicePortRecord[] {
    const random = this.#random
    const count = random.pick([1, 1, 1, 2, 2, 3])
    if (count === 1 && random.chance(0.5)) return [this.#newPort('')]
    return unique(random.some(portNames, count).map((name) => this.#newPort(name)))
  }

  #newPort(name: string): ServicePortRecord {
    return { name, protocol: this.#protocol(), port: this.#random.pick(portNumbers), nodePort: 0 }
  }

  #changePort(ports: readonly ServicePortRecord[]): readonly ServicePortRecord[] {
    const random = this.#random
    const at = random.below(ports.length)
    const port = ports[at]!
    const withPort = (change: Partial<ServicePortRecord>): ServicePortRecord[] =>
      unique(ports.with(at, { ...port, ...change }))
    const freeNames = portNames.filter((name) => ports.every((other) => other.name !== name))
    switch (random.weighted({ add: 3, remove: 3, rename: 3, renumber: 4, protocol: 3, nodePort: 4 })) {
      case 'add':
        if (port.name === '' || freeNames.length === 0) return withPort({ port: random.pick(portNumbers) })
        return unique([...ports, this.#newPort(random.pick(freeNames))])
      case 'remove':
        return ports.length === 1 ? withPort({ port: random.pick(portNumbers) }) : ports.toSpliced(at, 1)
      case 'rename':
        return freeNames.length === 0 ? ports : withPort({ name: random.pick(freeNames) })
      case 'renumber':
        return withPort({ port: random.pick(portNumbers) })
      case 'protocol':
        return withPort({ protocol: this.#protocol() })
      case 'nodePort':
        return withPort({ nodePort: this.#nodePort() })
    }
  }

  #protocol(): Protocol {
    return this.#random.weighted({ TCP: 6, UDP: 3, SCTP: 2 })
  }

  /** One that is free, most times: of two Services that change places the events may come in either order. */
  #nodePort(): number {
    const random = this.#random
    const numbers = Array.from({ length: 40 }, (_, i) => 30000 + i)
    const taken = new Set(
      [...this.cluster.services.values()].flatMap(({ ports }) => ports.map((port) => port.nodePort)),
    )
    const free = numbers.filter((number) => !taken.has(number))
    return random.pick(free.length === 0 || random.chance(0.05) ? numbers : free)
  }

  #clusterIP(family: Family): string {
    const random = this.#random
    const taken = new Set([...this.cluster.services.values()].flatMap((service) => service.clusterIPs))
    const free = clusterIPs[family].filter((address) => !taken.has(address))
    return random.pick(random.chance(0.03) ? clusterIPs[family] : free)
  }

  #publicAddresses(listed: readonly Family[]): string[] {
    const random = this.#random
    return listed.flatMap((family) => {
      const addresses = random.some(publicAddresses[family], random.pick([0, 1, 1, 1, 1, 2, 2]))
      // Nothing keeps a Service from naming the cluster IP of another one.
      return random.chance(0.02) ? [...addresses, random.pick(clusterIPs[family])] : addresses
    })
  }

  #tellSlice(slice: EndpointSliceRecord | undefined, key = slice!.key): ChurnEvent[] {
    if (slice === undefined) this.cluster.slices.delete(key)
    else this.cluster.slices.set(key, slice)
    return [{ kind: 'slice', key, slice }]
  }

  #newSlice(key: string): EndpointSliceRecord {
    const random = this.#random
    const services = [...this.cluster.services.keys()]
    // Some belong to a Service that is not there, or not yet.
    const service = services.length === 0 || random.chance(0.1) ? random.pick(serviceNames) : random.pick(services)
    const clusterIP = random.pick(this.cluster.services.get(service)?.clusterIPs ?? ['10.96.0.1', 'fd00::1'])
    const family = familyOf(clusterIP)
    const hinted = random.chance(0.3)
    return {
      key,
      service,
      family,
      ports: this.#slicePorts(service),
      endpoints: EndpointList.of(
        random.some(pods[family], random.below(6)).map((address) => this.#endpoint(address, hinted)),
      ),
      triggerTime: random.chance(0.5) ? 1_700_000_000_000 + random.below(1_000_000) : 0,
    }
  }

  #slicePorts(service: string): EndpointPortRecord[] {
    const random = this.#random
    const wanted = this.cluster.services.get(service)?.ports ?? [this.#newPort('')]
    const ports = wanted
      .filter(() => random.chance(0.95))
      .map(({ name, protocol }) => ({ name, protocol, port: random.pick([8080, 8443, 5353]) }))
    return random.chance(0.1) ? [...ports, { name: 'other', protocol: 'TCP', port: 1 }] : ports
  }

  #endpoint(address: string, hinted: boolean): EndpointRecord {
    const random = this.#random
    const state = random.weighted({ ready: 7, starting: 1, ending: 2, ended: 1 })
    return {
      address,
      ready: state === 'ready',
      serving: state === 'ready' || state === 'ending',
      terminating: state === 'ending' || state === 'ended',
      local: random.chance(0.3),
      ...(hinted && random.chance(0.95) ? { zones: random.some(zones, random.between(1, 2)) } : {}),
      ...(hinted && random.chance(0.3) ? { nodes: random.some([nodeName, 'node2'], random.between(1, 2)) } : {}),
    }
  }

  #changeSlice(slice: EndpointSliceRecord): EndpointSliceRecord {
    const random = this.#random
    const endpoints = [...slice.endpoints]
    const put = (list: readonly EndpointRecord[]): EndpointSliceRecord => ({
      ...slice,
      endpoints: EndpointList.of(list),
    })
    const at = random.below(endpoints.length)
    const what = random.weighted({
      add: 5,
      remove: endpoints.length > 0 ? 5 : 0,
      state: endpoints.length > 0 ? 8 : 0,
      place: endpoints.length > 0 ? 2 : 0,
      hints: 2,
      all: 3,
      none: 1,
      ports: 3,
      service: 1,
      time: 1,
    })
    switch (what) {
      case 'add':
        return put([...endpoints, this.#endpoint(random.pick(pods[slice.family]), false)])
      case 'remove':
        return put(endpoints.toSpliced(at, 1))
      case 'state': {
        const { ready, serving, terminating } = this.#endpoint('', false)
        return put(endpoints.with(at, { ...endpoints[at]!, ready, serving, terminating }))
      }
      case 'place':
        return put(endpoints.with(at, { ...endpoints[at]!, local: !endpoints[at]!.local }))
      case 'hints':
        return put(endpoints.map(({ address }) => this.#endpoint(address, random.chance(0.8))))
      case 'all':
        return {
          ...this.#newSlice(slice.key),
          family: slice.family,
          service: slice.service,
          endpoints: EndpointList.of(this.#fresh(slice)),
        }
      case 'none':
        return put([])
      case 'ports':
        return { ...slice, ports: this.#slicePorts(slice.service) }
      case 'service':
        return { ...slice, service: random.pick(serviceNames) }
      case 'time':
        return { ...slice, triggerTime: 1_700_000_000_000 + random.below(1_000_000) }
    }
  }

  /** All endpoints are others now, as after a rollout. */
  #fresh({ family }: EndpointSliceRecord): EndpointRecord[] {
    const random = this.#random
    return random.some(pods[family], random.between(1, 5)).map((address) => this.#endpoint(address, false))
  }

  #moveEndpoint(): ChurnEvent[] {
    const random = this.#random
    const from = random.pick([...this.cluster.slices.values()])
    const others = [...this.cluster.slices.values()].filter((one) => one.family === from.family && one !== from)
    const [endpoint, ...rest] = from.endpoints
    if (endpoint === undefined || others.length === 0) return []
    const to = others.find((one) => one.service === from.service) ?? random.pick(others)
    const come = this.#tellSlice({ ...to, endpoints: EndpointList.of([...to.endpoints, endpoint]) })
    const gone = this.#tellSlice({ ...from, endpoints: EndpointList.of(rest) })
    return random.chance(0.5) ? [...come, ...gone] : [...gone, ...come]
  }

  #changeNode(): ChurnEvent[] {
    const random = this.#random
    const before = this.cluster.node
    const fresh: NodeRecord = {
      name: nodeName,
      addresses: families.flatMap((family) => (random.chance(0.9) ? [random.pick(ownAddresses[family])] : [])),
      podCIDRs: [],
      zone: random.pick(['', ...zones]),
      eligible: random.chance(0.8),
    }
    const changed: NodeRecord | undefined =
      before === undefined
        ? fresh
        : random.pick([
            undefined,
            fresh,
            { ...before, zone: fresh.zone },
            { ...before, zone: fresh.zone },
            { ...before, addresses: fresh.addresses },
            { ...before, eligible: fresh.eligible },
          ])
    this.cluster.node = changed
    return [{ kind: 'node', node: changed }]
  }

  #changeAddress(): ChurnEvent[] {
    const random = this.#random
    const device = random.pick(nodeDevices)
    const address = random.pick(nodeAddresses)
    const at = `${device} ${address}`
    const present = !this.#present.has(at)
    if (present) this.#present.add(at)
    else this.#present.delete(at)
    return [{ kind: 'address', device, address, present }]
  }
}

/** Without those that repeat an earlier port and protocol. */
function unique(ports: readonly ServicePortRecord[]): ServicePortRecord[] {
  return ports.filter(
    (port, i) => ports.findIndex((other) => other.port === port.port && other.protocol === port.protocol) === i,
  )
}
