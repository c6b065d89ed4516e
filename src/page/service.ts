import { judgeEndpoints, type Eligibility } from '../explain/eligibility.ts'
import type { FoundServer, ObservedDestination } from '../ipvs/ipvs.ts'
import { PatientTurn } from '../lib/turn.ts'
import { familyOf, type Family } from '../model/address.ts'
import type { ServicePortRecord, ServiceRecord } from '../model/cluster.ts'
import { destinationKey, serverFlags, serverKey, type VirtualServer } from '../model/virtual-server.ts'
import { ownerOf } from '../proxier/cluster-state.ts'
import { endpointKey, isExternallyAccessible, mergeEndpoints, type PortEndpoint } from '../proxier/endpoint-choice.ts'
import { count, counted, duration } from './format.ts'
import { html, link, type Html } from './html.ts'
import { factList, table, tag, type Content } from './layout.ts'
import { countEndpoints, serviceOf, slicesOf } from './listing.ts'
import { LiveServers, mostServers } from './live.ts'
import { numberText } from './services.ts'
import type { FamilySources, PageSources } from './sources.ts'

/** So many endpoints of a port are listed unless all are asked for. */
const listed = 100

const number = (name: string) => ({ name, number: true }) as const

/** One Service: `name` is "namespace/name"; `all=1` lists all its endpoints, however many. */
export async function service(sources: PageSources, query: URLSearchParams): Promise<Content> {
  const name = query.get('name') ?? ''
  const record = serviceOf(sources.families, name)
  if (record === undefined) return unknownService(name)
  const live = new LiveServers(sources.findServer)
  const sections: Html[] = []
  for (const port of record.ports) {
    for (const [family, one] of sources.families) {
      if (!record.clusterIPs.some((address) => familyOf(address) === family)) continue
      sections.push(await portSection(record, port, family, one, live, query.get('all') === '1'))
    }
  }
  const [namespace = '', plain = ''] = record.key.split('/')
  return {
    title: record.key,
    at: '/services',
    body: html`<h1><span class="muted">${namespace}/</span>${plain}</h1>
      <p class="lead">${record.type} · ${counted(record.ports.length, 'port')}</p>
      ${live.trouble !== '' && html`<div class="note bad"><strong>The kernel could not be asked:</strong> ${live.trouble}</div>`}
      ${live.trouble === '' && !live.isWhole && html`<div class="note warn">Only ${count(mostServers)} virtual servers are asked for at once; the others are left out.</div>`}
      <div class="panel">${factsOf(record, sources)}</div>
      ${sections}`,
  }
}

function unknownService(name: string): Content {
  return {
    title: 'No such Service',
    at: '/services',
    code: 404,
    body: html`<h1>No such Service</h1>
      <div class="note warn">
        The daemon knows no Service <strong>${name}</strong> with a cluster IP. Headless Services, those of type
        ExternalName and those of other proxies are not its own.
      </div>
      <p><a href="/services">All Services</a></p>`,
  }
}

function factsOf(record: ServiceRecord, { families }: PageSources): Html {
  const { ready, total } = countEndpoints(slicesOf(families, record.key))
  const policy = (local: boolean): string => (local ? 'Local' : 'Cluster')
  const addresses = (list: readonly string[]): Html | undefined =>
    list.length === 0 ? undefined : html`<span class="mono">${list.join(', ')}</span>`
  return factList([
    ['Cluster IPs', addresses(record.clusterIPs)],
    ['External IPs', addresses(record.externalIPs)],
    ['Load balancer IPs', addresses(record.loadBalancerIPs)],
    ['Endpoints ready', html`${count(ready)} of ${count(total)}`],
    ['Internal traffic policy', policy(record.internalLocal)],
    ['External traffic policy', policy(record.externalLocal)],
    [
      'Session affinity',
      record.affinitySeconds === 0 ? 'none' : `client IP, ${duration(record.affinitySeconds * 1000)}`,
    ],
    ['Source ranges', addresses(record.sourceRanges)],
    ['Health check node port', record.healthCheckNodePort === 0 ? undefined : record.healthCheckNodePort],
  ])
}

/** A virtual server that the port wants, and how it stands. */
interface Standing {
  readonly server: VirtualServer
  readonly wanted: number
  readonly found: FoundServer | 'absent' | 'unknown'
  /** Another service port wants it too, and has it. */
  readonly winner: string | undefined
}

async function portSection(
  record: ServiceRecord,
  port: ServicePortRecord,
  family: Family,
  { view, ledger }: FamilySources,
  live: LiveServers,
  all: boolean,
): Promise<Html> {
  const owner = ownerOf(record.key, port)
  const standings: Standing[] = []
  for (const { server, destinations } of ledger.contribution(owner)?.servers ?? []) {
    const [winner] = ledger.serverOwners(serverKey(server))
    const found = winner === owner ? await live.find(server) : 'unknown'
    standings.push({ server, wanted: destinations.length, found, winner: winner === owner ? undefined : winner })
  }
  const state = view()
  const { facts } = state
  const endpoints = mergeEndpoints(state.slices(record.key), port)
  const inside = judgeEndpoints(record, port, endpoints, facts, true)
  const outside = isExternallyAccessible(record, port)
    ? judgeEndpoints(record, port, endpoints, facts, false)
    : undefined
  const rows = await endpointRows(endpoints, inside, outside, standings, all ? Number.POSITIVE_INFINITY : listed)
  const id = `${family}-${port.name || port.port}-${port.protocol}`
  const title = `${port.name === '' ? '' : `${port.name} · `}${port.port}/${port.protocol}`
  return html`<section aria-labelledby="${id}">
    <h2 id="${id}">${title} <span class="muted">· ${family}</span></h2>
    <h3>Virtual servers</h3>
    ${
      standings.length === 0
        ? html`<div class="panel"><p class="empty">None yet: the port waits to be planned.</p></div>`
        : table(
            `Virtual servers of ${title}, ${family}`,
            [
              'Virtual server',
              'Of',
              'Scheduler',
              number('Destinations'),
              number('Active'),
              number('Inactive'),
              number('New / s'),
              'State',
              'Way',
            ],
            standings.map((one) => serverRow(record, one)),
          )
    }
    <h3>Endpoints</h3>
    ${
      rows.list.length === 0
        ? html`<div class="panel"><p class="empty">None: no EndpointSlice has an endpoint of this port.</p></div>`
        : html`${table(
            `Endpoints of ${title}, ${family}`,
            [
              'Endpoint',
              'Node',
              'State',
              'Used',
              number('Weight'),
              number('In servers'),
              number('Active'),
              number('Inactive'),
            ],
            rows.list,
          )}
          ${rows.left > 0 && html`<p class="muted">${count(rows.list.length)} of ${count(rows.list.length + rows.left)}. <a href="${link('/service', { name: record.key, all: 1 })}#${id}">List all</a></p>`}`
    }
  </section> `
}

/** What of the Service an address is. */
function kindOf({ clusterIPs, externalIPs, loadBalancerIPs }: ServiceRecord, address: string): string {
  if (clusterIPs.includes(address)) return 'cluster IP'
  if (loadBalancerIPs.includes(address)) return 'load balancer'
  return externalIPs.includes(address) ? 'external IP' : 'node port'
}

function serverRow(record: ServiceRecord, { server, wanted, found, winner }: Standing): Html {
  const key = serverKey(server)
  const there = typeof found === 'object' ? found : undefined
  const sum = (which: 'activeConnections' | 'inactiveConnections'): number | undefined =>
    there?.destinations.reduce((total, one) => total + one[which], 0)
  const has = there?.server ?? server
  const persistent = (has.flags & serverFlags.persistent) !== 0
  return html`<tr>
    <th scope="row" class="mono tight">${key}</th>
    <td class="tight">${kindOf(record, server.address)}</td>
    <td class="tight">
      ${has.scheduler}${persistent && html` <span class="muted">persistent ${duration(has.timeout * 1000)}</span>`}
    </td>
    <td class="number">
      ${numberText(there?.destinations.length)}${there !== undefined && there.destinations.length !== wanted && html` <span class="warn-text">of ${count(wanted)} wanted</span>`}
    </td>
    <td class="number">${numberText(sum('activeConnections'))}</td>
    <td class="number">${numberText(sum('inactiveConnections'))}</td>
    <td class="number">${numberText(there?.connectionsPerSecond)}</td>
    <td>${serverState(found, winner)}</td>
    <td class="tight"><a href="${link('/explain', { target: key })}" aria-label="Explain ${key}">Explain</a></td>
  </tr> `
}

function serverState(found: Standing['found'], winner: string | undefined): Html {
  if (winner !== undefined) return html`${tag('held', 'warn')} ${winner} has it`
  if (found === 'absent') return tag('missing', 'bad')
  return found === 'unknown' ? tag('not asked') : tag('stands', 'good')
}

/** What the virtual servers of a port have of one endpoint. */
interface Share {
  readonly weights: Set<number>
  servers: number
  active: number
  inactive: number
}

function sharesOf(standings: readonly Standing[]): Map<string, Share> {
  const shares = new Map<string, Share>()
  for (const { found } of standings) {
    if (typeof found === 'string') continue
    for (const one of found.destinations) addTo(shares, one)
  }
  return shares
}

function addTo(shares: Map<string, Share>, one: ObservedDestination): void {
  const key = destinationKey(one)
  const share = shares.get(key) ?? { weights: new Set(), servers: 0, active: 0, inactive: 0 }
  share.weights.add(one.weight)
  share.servers++
  share.active += one.activeConnections
  share.inactive += one.inactiveConnections
  shares.set(key, share)
}

async function endpointRows(
  endpoints: readonly PortEndpoint[],
  inside: readonly Eligibility[],
  outside: readonly Eligibility[] | undefined,
  standings: readonly Standing[],
  most: number,
): Promise<{ list: Html[]; left: number }> {
  const shares = sharesOf(standings)
  const standing = standings.filter(({ found }) => typeof found === 'object').length
  const list: Html[] = []
  const turn = new PatientTurn()
  for (const [i, endpoint] of endpoints.entries()) {
    const key = endpointKey(endpoint)
    const share = shares.get(key)
    shares.delete(key)
    if (list.length >= most) continue
    if (turn.isOver) await turn.next()
    list.push(endpointRow(key, stateOf(endpoint), whereOf(endpoint), useOf(inside[i]!, outside?.[i]), share, standing))
  }
  // Those that are endpoints no more.
  for (const [key, share] of shares) {
    if (list.length >= most) break
    const drains = [...share.weights].every((weight) => weight === 0)
    const use = drains
      ? html`<span class="muted">drains until its connections end</span>`
      : html`${tag('not wanted', 'bad')}`
    list.push(endpointRow(key, tag('removed', 'warn'), '', use, share, standing))
  }
  return { list, left: Math.max(0, endpoints.length + shares.size - list.length) }
}

function endpointRow(
  key: string,
  state: Html,
  where: Html | '',
  use: Html,
  share: Share | undefined,
  standing: number,
): Html {
  return html`<tr>
    <th scope="row" class="mono tight">${key}</th>
    <td class="tight">${where}</td>
    <td>${state}</td>
    <td>${use}</td>
    <td class="number">
      ${share === undefined ? html`<span class="zero">–</span>` : [...share.weights].sort((a, b) => b - a).join(', ')}
    </td>
    <td class="number">
      ${share === undefined ? html`<span class="zero">0</span>` : count(share.servers)}<span class="muted">
        of ${count(standing)}</span
      >
    </td>
    <td class="number">${numberText(share?.active)}</td>
    <td class="number">${numberText(share?.inactive)}</td>
  </tr> `
}

function stateOf({ ready, serving, terminating }: PortEndpoint): Html {
  if (ready) return tag('ready', 'good')
  if (terminating) return tag(serving ? 'terminating, serving' : 'terminating', 'warn')
  return tag(serving ? 'serving, not ready' : 'not ready', 'bad')
}

function whereOf({ local, zones, nodes }: PortEndpoint): Html {
  const hints = [
    ...(zones === undefined ? [] : [`zone ${zones.join(', ')}`]),
    ...(nodes === undefined ? [] : [`node ${nodes.join(', ')}`]),
  ]
  return html`${local ? 'this node' : 'another node'}${hints.length > 0 && html`<div class="muted">hints: ${hints.join('; ')}</div>`}`
}

/** Whether the addresses of the Service send to it: the cluster IP, and those that are reached from outside. */
function useOf(inside: Eligibility, outside: Eligibility | undefined): Html {
  const one = ({ isEligible, reason }: Eligibility): Html =>
    isEligible
      ? html`yes${reason === 'ready' ? '' : html` <span class="muted">· ${reason}</span>`}`
      : html`no <span class="muted">· ${reason}</span>`
  const same = outside === undefined || (outside.isEligible === inside.isEligible && outside.reason === inside.reason)
  if (same) return one(inside)
  return html`<div>cluster IP: ${one(inside)}</div>
    <div>from outside: ${one(outside)}</div>`
}
