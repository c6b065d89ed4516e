import type { Family } from '../model/address.ts'
import { destinationKey, serverKey } from '../model/virtual-server.ts'
import { clock, count, counted, duration, time } from './format.ts'
import type { DriftCount, History, PassRecord } from './history.ts'
import { html, link, type Html } from './html.ts'
import { factList, table, tag, type Content } from './layout.ts'
import { countServices } from './listing.ts'
import { LiveServers } from './live.ts'
import { plot } from './plot.ts'
import type { PageSources } from './sources.ts'

/** So many passes, and draining destinations, are listed unless more are asked for. */
const listed = 25

/** The node at a glance; `passes=all` lists every pass that is kept. */
export async function overview(sources: PageSources, query: URLSearchParams): Promise<Content> {
  const { nodeName, version, startedAt, families, history } = sources
  const now = Date.now()
  const node = [...families.values()].map(({ view }) => view().node).find((one) => one !== undefined)
  const facts = [...families.values()].map(({ view }) => view().facts)
  return {
    title: 'Overview',
    at: '/',
    body: html`<h1>${nodeName}</h1>
      <p class="lead">
        ${[...families.keys()].join(' and ')} · version ${version} · running for ${duration(now - startedAt)}
      </p>
      ${healthNote(sources)}
      <div class="panel">
        ${factList([
          ['Services', html`<a href="/services">${count(countServices(families))}</a>`],
          ['Scheduler', facts[0]?.scheduler],
          ['Zone', facts[0]?.zone],
          ['Node addresses', (node?.addresses ?? []).join(', ')],
          ['Pod ranges', (node?.podCIDRs ?? []).join(', ')],
          ['Node ports served on', facts.flatMap(({ nodePortAddresses }) => nodePortAddresses).join(', ')],
        ])}
      </div>
      <section aria-labelledby="sync">
        <h2 id="sync">Sync</h2>
        ${syncTable(sources, now)} ${syncPlot(history)} ${passTable(history, query.get('passes') === 'all')}
      </section>
      <section aria-labelledby="kernel">
        <h2 id="kernel">In the kernel</h2>
        ${layerTable(families)}
      </section>
      <section aria-labelledby="drift">
        <h2 id="drift">Drift</h2>
        ${driftPart(history, now)}
      </section>
      <section aria-labelledby="draining">
        <h2 id="draining">Draining endpoints</h2>
        ${await drainingPart(sources)}
      </section>`,
  }
}

function healthNote({ trouble, families, history }: PageSources): Html {
  const why = trouble()
  if (why !== '') return html`<div class="note bad"><strong>The node does not keep up:</strong> ${why}</div>`
  const failed = [...families.keys()].filter((family) => (history.lastPass(family)?.failure ?? '') !== '')
  if (failed.length === 0) {
    return html`<div class="note good"><strong>The node keeps up.</strong> Every family is in sync.</div>`
  }
  return html`<div class="note warn">
    <strong>Not all is in the kernel:</strong> the last pass of ${failed.join(' and ')} failed, and is tried again.
  </div>`
}

function syncTable({ families, history }: PageSources, now: number): Html {
  const rows = [...families].map(([family, { figures }]) => {
    const last = history.lastPass(family)
    const good = history.lastGoodPass(family)
    const { lastLook } = figures
    return html`<tr>
      <th scope="row">${family}</th>
      <td>${resultOf(last)}</td>
      <td class="tight">${good === undefined ? 'not yet' : agoText(good.ended, now)}</td>
      <td class="number">${last && duration(last.took)}</td>
      <td class="number">${last && count(last.planned)}</td>
      <td class="number">${last && count(last.written)}</td>
      <td class="tight">
        ${lastLook === undefined ? 'not yet' : html`${agoText(lastLook.endedAt, now)}, took ${duration(lastLook.took)}`}
      </td>
    </tr> `
  })
  const number = (name: string) => ({ name, number: true }) as const
  return table(
    'Last pass by family',
    ['Family', 'Last pass', 'In sync', number('Took'), number('Service ports'), number('Written'), 'Kernel looked at'],
    rows,
  )
}

function resultOf(pass: PassRecord | undefined): Html {
  if (pass === undefined) return tag('none yet', 'warn')
  if (pass.failure === '') return tag('well', 'good')
  const refused = pass.refused > 0 ? html` ${counted(pass.refused, 'service port')} refused` : ''
  return html`${tag('failed', 'bad')}${refused}
    <div class="bad-text">${pass.failure}</div>`
}

function agoText(at: number, now: number): Html {
  const stamp = new Date(at).toISOString()
  return html`<time datetime="${stamp}" title="${time(at)} UTC"
      >${duration(Math.max(0, Math.round((now - at) / 1000) * 1000))}</time
    >
    ago`
}

function syncPlot(history: History): Html {
  const key = (family: Family): Html =>
    html`<li>
      <svg viewBox="0 0 10 10" aria-hidden="true"><circle class="${family}" cx="5" cy="5" r="5" /></svg>${family}
    </li>`
  return html`<div class="panel">
    <ul class="legend" aria-label="Key of the plot">
      ${key('IPv4')}${key('IPv6')}
      <li>
        <svg viewBox="0 0 10 10" aria-hidden="true"><path class="failed" d="M1 1l8 8m0 -8l-8 8" /></svg>failed
      </li>
    </ul>
    <div class="plot-scroll" tabindex="0" role="region" aria-label="Plot of the sync history">
      ${plot(history.passes())}
    </div>
  </div>`
}

const reasons = { change: 'change', period: 'look at the kernel', retry: 'retry' } as const

function passTable(history: History, all: boolean): Html | '' {
  const passes = history.passes().toReversed()
  if (passes.length === 0) return ''
  const shown = all ? passes : passes.slice(0, listed)
  const number = (name: string) => ({ name, number: true }) as const
  const rows = shown.map(
    (one) =>
      html`<tr>
        <td class="tight">${clock(one.ended)}</td>
        <td>${one.family}</td>
        <td>${reasons[one.reason]}</td>
        <td class="number">${duration(one.took)}</td>
        <td class="number">${count(one.planned)}</td>
        <td class="number">${count(one.written)}</td>
        <td>${one.failure === '' ? tag('well', 'good') : html`${tag('failed', 'bad')} ${one.failure}`}</td>
      </tr> `,
  )
  const more =
    shown.length < passes.length &&
    html`<p class="muted">
      The newest ${count(shown.length)}.
      <a href="${link('/', { passes: 'all' })}#sync">All ${count(passes.length)} that are kept</a>
    </p>`
  return html`<details${all && html` open`}><summary>Passes as a table</summary>
${more}${table(
    'Passes, the newest first',
    ['Ended (UTC)', 'Family', 'Reason', number('Took'), number('Service ports'), number('Written'), 'Result'],
    rows,
  )}</details>`
}

function layerTable(families: PageSources['families']): Html {
  const kinds = new Map<string, { layer: string; kind: string; cells: Map<Family, Html> }>()
  for (const [family, { figures }] of families) {
    for (const { layer, kind, wanted, present } of figures.counts()) {
      const key = `${layer} ${kind}`
      const row = kinds.get(key) ?? { layer, kind, cells: new Map<Family, Html>() }
      const differs = wanted !== present
      row.cells.set(
        family,
        html`<td class="number">${count(wanted)}</td>
          <td class="number">${differs ? html`<span class="warn-text">${count(present)}</span>` : count(present)}</td>`,
      )
      kinds.set(key, row)
    }
  }
  const rows = [...kinds.values()].map(
    ({ layer, kind, cells }) =>
      html`<tr>
        <th scope="row">${kind}</th>
        <td class="muted">${layer}</td>
        ${[...families.keys()].map(
          (family) =>
            cells.get(family) ??
            html`<td class="number zero">–</td>
              <td class="number zero">–</td>`,
        )}
      </tr> `,
  )
  const columns = [...families.keys()].flatMap(
    (family) =>
      [
        { name: `${family} wanted`, number: true },
        { name: `${family} present`, number: true },
      ] as const,
  )
  const total = [...families].map(([family, { figures }]) => ({ family, connections: figures.connections }))
  const known = total.filter(({ connections }) => connections !== undefined)
  const connections =
    known.length > 0 &&
    html`<p class="muted">
      Connections by the last look:
      ${known
        .map(
          ({ family, connections: one }) => `${family} ${count(one!.active)} active, ${count(one!.inactive)} inactive`,
        )
        .join('; ')}.
    </p>`
  return html`${connections}${table('Wanted and present', ['What', 'Layer', ...columns], rows)}`
}

function driftPart(history: History, now: number): Html {
  const counts = history.driftCounts()
  const since = `since ${time(history.since)} UTC`
  if (counts.length === 0) return html`<p class="empty">Nobody else has changed what is ours ${since}.</p>`
  const countRows = counts.map(
    (one: DriftCount) =>
      html`<tr>
        <th scope="row">${one.kind} ${one.state}</th>
        <td class="muted">${one.layer}</td>
        <td>${one.family}</td>
        <td class="number">${count(one.count)}</td>
      </tr> `,
  )
  const rows = history.drifts().map(
    ({ at, family, layer, kind, object, state }) =>
      html`<tr>
        <td class="tight">${agoText(at, now)}</td>
        <td>${family}</td>
        <td class="tight">${kind} ${state}</td>
        <td class="muted">${layer}</td>
        <td><code>${object}</code></td>
      </tr> `,
  )
  return html`<p>What somebody else had changed ${since}, all of it to be put right by the next pass.</p>
    ${table('Drift by kind', ['What', 'Layer', 'Family', { name: 'How often', number: true }], countRows)}
    <details>
      <summary>The newest ${count(rows.length)}</summary>
      ${table('Newest drift', ['Found', 'Family', 'What', 'Layer', 'Object'], rows)}
    </details>`
}

async function drainingPart({ families, findServer }: PageSources): Promise<Html> {
  const total = [...families.values()].reduce((sum, { figures }) => sum + figures.draining, 0)
  if (total === 0) return html`<p class="empty">None: no destination waits for its connections to end.</p>`
  const live = new LiveServers(findServer)
  const rows: Html[] = []
  for (const { figures, ledger } of families.values()) {
    for (const { server, destination } of figures.drainingDestinations()) {
      if (rows.length === listed) break
      const key = serverKey(server)
      const found = await live.find(server)
      const one =
        typeof found === 'object'
          ? found.destinations.find((other) => destinationKey(other) === destinationKey(destination))
          : undefined
      const [owner = ''] = ledger.serverOwners(key)
      const [service = ''] = /^[^/]*\/[^/:]*/.exec(owner) ?? []
      rows.push(
        html`<tr>
          <th scope="row"><code>${destinationKey(destination)}</code></th>
          <td><code>${key}</code></td>
          <td>${service === '' ? '' : html`<a href="${link('/service', { name: service })}">${service}</a>`}</td>
          <td class="number">${one === undefined ? '–' : count(one.activeConnections)}</td>
          <td class="number">${one === undefined ? '–' : count(one.inactiveConnections)}</td>
        </tr> `,
      )
    }
  }
  const number = (name: string) => ({ name, number: true }) as const
  const more = rows.length < total && html`<p class="muted">${count(rows.length)} of ${count(total)}.</p>`
  return html`${more}${table(
    'Draining endpoints',
    ['Endpoint', 'Virtual server', 'Service', number('Active'), number('Inactive')],
    rows,
  )}`
}
