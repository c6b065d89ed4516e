// Random Services, and random questions to them.
import type { Family } from '../../../src/model/address.ts'
import type { Random } from '../../random.ts'
import {
  addressOf,
  bridgeOf,
  families,
  otherClient,
  pods,
  serviceAddress,
  whole,
  type Actor,
  type ServiceAddress,
  type Transport,
} from '../traffic/network.ts'
import { nodePortOf, type EndpointShape, type PortShape, type ServiceShape } from '../traffic/service.ts'
import type { Probe } from './lab.ts'

const mixed = (random: Random): 'Local' | 'Cluster' => (random.chance(0.4) ? 'Local' : 'Cluster')

export function randomService(random: Random, number: number): ServiceShape {
  const isHost = random.chance(0.15)
  const transports = random.chance(0.15) ? (['TCP', 'UDP', 'SCTP'] as const) : (['TCP', 'UDP'] as const)
  const type = random.weighted({ ClusterIP: 1, NodePort: 2, LoadBalancer: 4 })
  const ranges = [
    (family: Family) => whole(addressOf('client', family)),
    (family: Family) => whole(otherClient[family]),
    (family: Family) => whole(addressOf('a1', family)),
    (family: Family) => whole(addressOf('node-a', family)),
    (family: Family) => (family === 'IPv4' ? '10.244.0.0/16' : 'fd44::/16'),
    (family: Family) => (family === 'IPv4' ? '0.0.0.0/0' : '::/0'),
  ]
  const external = (kind: ServiceAddress): string[] => families.map((family) => serviceAddress(kind, number, family))
  return {
    name: `random-${number}`,
    number,
    type,
    endpoints: isHost ? [{ at: random.pick(['node-a', 'node-b'] as const) }] : randomEndpoints(random),
    ...(isHost ? { ports: [hostPort(number)] } : { transports }),
    ...(random.chance(0.15) ? { ipMode: 'Proxy' as const } : {}),
    spec: {
      externalTrafficPolicy: mixed(random),
      internalTrafficPolicy: mixed(random),
      ...(type !== 'LoadBalancer' && random.chance(0.3) ? { externalIPs: external('externalIP') } : {}),
      ...(random.chance(0.3)
        ? { loadBalancerSourceRanges: random.some(ranges, 2).flatMap((range) => families.map(range)) }
        : {}),
      ...(random.chance(0.25) ? { sessionAffinity: 'ClientIP' } : {}),
    },
  }
}

/** A server on the host's network. Over UDP it would answer with the address that its route to the client has. */
function hostPort(number: number): PortShape {
  return { name: 'tcp', protocol: 'TCP', port: 80, targetPort: 6443, nodePort: nodePortOf(number) }
}

function randomEndpoints(random: Random): EndpointShape[] {
  const hinted = random.chance(0.25)
  return random.some(pods, Number(random.weighted({ 0: 1, 1: 3, 2: 3, 3: 2, 4: 3 }))).map((at) => {
    const zone = `zone-of-node-${random.chance(0.8) ? at[0] : random.pick(['a', 'b'])}`
    return {
      at,
      state: random.weighted({ ready: 7, leaving: 1, gone: 1 }),
      ...(hinted ? { hints: { forZones: [{ name: zone }] } } : {}),
    }
  })
}

const loopback: Readonly<Record<Family, string>> = { IPv4: '127.0.0.1', IPv6: '::1' }

interface Source {
  readonly from: Actor
  readonly source?: string
}

/** Who may ask: others than the client know the way to node-a's own addresses alone. */
function randomSource(random: Random, family: Family, transport: Transport, isServiceAddress: boolean): Source {
  const own = (source: string): Source => ({ from: 'node-a', source })
  const sources: (() => Source)[] = [
    () => ({ from: 'client' }),
    () => ({ from: 'client' }),
    () => ({ from: 'client', source: otherClient[family] }),
    () => ({ from: 'a1' }),
    () => ({ from: 'a1' }),
    () => ({ from: 'a2' }),
    () => ({ from: 'node-a' }),
    () => ({ from: 'node-a' }),
    () => own(addressOf('node-a', family)),
    () => own(bridgeOf('node-a', family)),
    // SCTP itself lets no loopback address speak to another.
    ...(transport === 'SCTP' ? [] : [() => own(loopback[family])]),
    ...(isServiceAddress ? [] : [() => ({ from: 'b1' as const }), () => ({ from: 'node-b' as const })]),
  ]
  return random.pick(sources)()
}

export function randomProbe(random: Random, shape: ServiceShape): Probe {
  const family = random.pick(families)
  const { ports, transports = ['TCP', 'UDP'], number } = shape
  const known = ports?.map(({ protocol }) => protocol) ?? transports
  const transport: Transport = random.pick(known)
  const { type = 'LoadBalancer', spec = {} } = shape
  const kind = random.weighted({
    clusterIP: 5,
    // Those that the Service has not are asked seldom.
    loadBalancer: type === 'LoadBalancer' ? 5 : 1,
    externalIP: type === 'LoadBalancer' || 'externalIPs' in spec ? 4 : 1,
    node: 4,
    bridge: 2,
    loopback: 1,
    none: 2,
  })
  const port = nodePortOf(number)
  switch (kind) {
    case 'node':
    case 'bridge': {
      const address = kind === 'node' ? addressOf('node-a', family) : bridgeOf('node-a', family)
      return { ...randomSource(random, family, transport, false), address, port, transport, family }
    }
    case 'loopback':
      return { from: 'node-a', address: loopback[family], port, transport, family }
    case 'none': {
      const isNode = random.chance(0.4)
      const address = isNode ? addressOf('node-a', family) : serviceAddress('clusterIP', number, family)
      const place = { address, port: isNode ? random.pick([22, 23, 32000]) : 81, family }
      return { ...randomSource(random, family, 'TCP', !isNode), ...place, transport: 'TCP' }
    }
    default: {
      const address = serviceAddress(kind, number, family)
      return { ...randomSource(random, family, transport, true), address, port: 80, transport, family }
    }
  }
}
