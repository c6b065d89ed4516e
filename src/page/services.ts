import { PatientTurn } from '../lib/turn.ts'
import type { ServiceRecord } from '../model/cluster.ts'
import { count, counted, duration } from './format.ts'
import { html, link, type Html } from './html.ts'
import { table, type Column, type Content } from './layout.ts'
import {
  connectionsIn,
  countEndpoints,
  findServices,
  slicesOf,
  sortKeys,
  sortServices,
  type Direction,
  type Sorted,
  type SortKey,
} from './listing.ts'
import { liveConnections, LiveServers, mostServers, type LiveConnections } from './live.ts'
import type { PageSources } from './sources.ts'

/** So many Services are on a page. */
export const perPage = 100

/** What is asked of the list, as its links carry it. */
interface View {
  readonly search: string
  readonly by: SortKey
  readonly direction: Direction
  readonly page: number
}

function viewOf(query: URLSearchParams): View {
  const by = sortKeys.find((key) => key === query.get('sort')) ?? 'name'
  const order = query.get('order')
  const page = Number(query.get('page') ?? 1)
  return {
    search: (query.get('q') ?? '').trim().slice(0, 200),
    by,
    direction: order === 'up' || order === 'down' ? order : firstDirection(by),
    page: Number.isSafeInteger(page) && page >= 1 ? page : 1,
  }
}

/** Names from the first, numbers from the greatest; who sorts by what is ready looks for what is not. */
function firstDirection(by: SortKey): Direction {
  return by === 'name' || by === 'ready' ? 'up' : 'down'
}

function linkTo({ search, by, direction, page }: View): string {
  return link('/services', {
    q: search,
    sort: by === 'name' ? undefined : by,
    order: direction === firstDirection(by) ? undefined : direction,
    page: page === 1 ? undefined : page,
  })
}

/** The list of Services: `q`, `sort`, `order` ("up", "down"), `page`. */
export async function services(sources: PageSources, query: URLSearchParams): Promise<Content> {
  const asked = viewOf(query)
  const found = await findServices(sources.families, asked.search)
  const sorted = await sortServices(sources, found, asked.by, asked.direction)
  const pages = Math.max(1, Math.ceil(found.length / perPage))
  const view = { ...asked, page: Math.min(asked.page, pages) }
  const from = (view.page - 1) * perPage
  const shown = sorted.services.slice(from, from + perPage)
  const { rows, note } = await rowsOf(sources, shown, sorted)
  const which =
    view.search === '' ? '' : html` for <strong>${view.search}</strong> · <a href="/services">all Services</a>`
  const range = shown.length === 0 ? '' : ` · ${count(from + 1)} to ${count(from + shown.length)}`
  return {
    title: view.search === '' ? 'Services' : `Services: ${view.search}`,
    at: '/services',
    search: view.search,
    body: html`<h1>Services</h1>
      <p class="lead">${counted(found.length, 'Service')}${range}${which}${shown.length > 0 && html`<br />${note}`}</p>
      ${
        shown.length === 0
          ? html`<div class="panel">
              <p class="empty">
                ${view.search === '' ? 'The daemon knows no Service with a cluster IP.' : 'No Service has all of these words in its name, addresses or ports.'}
              </p>
            </div>`
          : html`${table('Services', columnsOf(view), rows)} ${pager(view, pages)}`
      }`,
  }
}

function columnsOf(view: View): readonly Column[] {
  const sortable = (by: SortKey, name: string, number?: true): Column => {
    const isCurrent = view.by === by
    const direction = isCurrent ? (view.direction === 'up' ? 'down' : 'up') : firstDirection(by)
    const arrow = isCurrent && html`<span aria-hidden="true"> ${view.direction === 'up' ? '↑' : '↓'}</span>`
    return {
      name: html`<a href="${linkTo({ ...view, by, direction, page: 1 })}">${name}${arrow}</a>`,
      ...(number && { number }),
      ...(isCurrent && { sorted: view.direction === 'up' ? ('ascending' as const) : ('descending' as const) }),
    }
  }
  return [
    sortable('name', 'Service'),
    'Type',
    'Cluster IP',
    'Ports',
    sortable('ready', 'Ready', true),
    sortable('endpoints', 'Endpoints', true),
    sortable('active', 'Active', true),
    sortable('inactive', 'Inactive', true),
    { name: 'New / s', number: true },
  ]
}

async function rowsOf(
  { families, findServer }: PageSources,
  shown: readonly ServiceRecord[],
  { reading, trouble }: Sorted,
): Promise<{ rows: Html[]; note: string }> {
  const live = new LiveServers(findServer)
  const rows: Html[] = []
  const turn = new PatientTurn(1)
  for (const service of shown) {
    if (turn.isOver) await turn.next()
    const now = await liveConnections(families, service, live)
    // What the order is by is what is shown, or it would not look sorted.
    const read = reading && connectionsIn(reading, families, service)
    rows.push(rowOf(service, countEndpoints(slicesOf(families, service.key)), now, reading === undefined ? now : read))
  }
  const order = trouble === '' ? '' : `Connections could not be read, the order is by name: ${trouble}. `
  return { rows, note: order + noteOf(live, reading) }
}

function noteOf(live: LiveServers, reading: Sorted['reading']): string {
  const order =
    reading === undefined
      ? 'Connections as the kernel has them now.'
      : `Active and inactive connections, and the order, by a reading ${duration(Math.max(0, Date.now() - reading.at))} old.`
  if (live.trouble !== '') return `${order} The kernel could not be asked: ${live.trouble}.`
  return live.isWhole ? order : `${order} Only ${mostServers} virtual servers are asked for at once: – was not.`
}

function rowOf(
  service: ServiceRecord,
  { ready, total }: { readonly ready: number; readonly total: number },
  live: LiveConnections | undefined,
  connections: { readonly active: number; readonly inactive: number } | undefined,
): Html {
  const [namespace = '', name = ''] = service.key.split('/')
  const none = ready === 0 && total > 0
  return html`<tr>
    <th scope="row" class="name">
      <a href="${link('/service', { name: service.key })}"><span class="muted">${namespace}/</span>${name}</a>
    </th>
    <td class="tight">${service.type}</td>
    <td class="mono tight">${service.clusterIPs.map((address) => html`<div>${address}</div>`)}</td>
    <td class="tight">${portsText(service)}</td>
    <td class="number">${none ? html`<span class="bad-text">0</span>` : numberText(ready)}</td>
    <td class="number">${numberText(total)}</td>
    <td class="number">${numberText(connections?.active)}</td>
    <td class="number">${numberText(connections?.inactive)}</td>
    <td class="number">${numberText(live?.rate)}</td>
  </tr> `
}

export function numberText(value: number | undefined): Html {
  if (value === undefined) return html`<span class="zero">–</span>`
  return value === 0 ? html`<span class="zero">0</span>` : html`${count(value)}`
}

/** So many ports of a Service are named in its row. */
const mostPorts = 3

function portsText({ ports }: ServiceRecord): Html {
  const shown = ports.slice(0, mostPorts).map(({ port, protocol, nodePort }) => {
    const node = nodePort === 0 ? '' : html`<span class="muted">:${nodePort}</span>`
    return html`<div>${port}${node}<span class="muted">/${protocol}</span></div>`
  })
  const more = ports.length > mostPorts && html`<div class="muted">and ${count(ports.length - mostPorts)} more</div>`
  return html`${shown}${more}`
}

function pager(view: View, pages: number): Html | '' {
  if (pages === 1) return ''
  const near = [1, view.page - 2, view.page - 1, view.page, view.page + 1, view.page + 2, pages]
  const numbers = [...new Set(near.filter((page) => page >= 1 && page <= pages))].sort((a, b) => a - b)
  const step = (page: number, name: string, rel: string): Html | '' =>
    page < 1 || page > pages ? '' : html`<li><a rel="${rel}" href="${linkTo({ ...view, page })}">${name}</a></li>`
  const items = numbers.map((page, i) => {
    const gap = i > 0 && page - numbers[i - 1]! > 1 && html`<li aria-hidden="true"><span class="gap">…</span></li>`
    const current = page === view.page
    return html`${gap}
      <li>
        <a href="${linkTo({ ...view, page })}" ${current && html` aria-current="page"`} aria-label="Page ${page}"
          >${count(page)}</a
        >
      </li>`
  })
  return html`<nav aria-label="Pages">
    <ul class="pager">
      ${step(view.page - 1, 'Previous', 'prev')}${items}${step(view.page + 1, 'Next', 'next')}
    </ul>
  </nav>`
}
