import type { Answer } from '../explain/answers.ts'
import type { Hit } from '../explain/chains.ts'
import type { Explanation, ExplainRequest } from '../explain/explain.ts'
import { doubts, hitText, shownResults } from '../explain/text.ts'
import type { Step, Way } from '../explain/walk.ts'
import { describeError, ProxyError } from '../lib/errors.ts'
import { destinationKey, serverKey } from '../model/virtual-server.ts'
import { count, counted, duration } from './format.ts'
import { html, link, type Html } from './html.ts'
import { factList, table, tag, type Content, type Tone } from './layout.ts'
import type { PageSources } from './sources.ts'

const transports = ['TCP', 'UDP', 'SCTP'] as const

/** What the form has in it; `run` is set by its button. */
interface Form {
  readonly target: string
  readonly from: string
  readonly protocol: (typeof transports)[number] | undefined
  readonly run: boolean
}

function formOf(query: URLSearchParams): Form {
  const word = (name: string): string => (query.get(name) ?? '').trim().slice(0, 300)
  return {
    target: word('target'),
    from: word('from'),
    protocol: transports.find((one) => one === query.get('protocol')),
    run: query.get('run') === '1',
  }
}

/** Carries out one explanation at a time, each for so many milliseconds at most: it starts processes. */
export class Explainer {
  readonly #explain: PageSources['explain']
  readonly #most: number
  #isBusy = false

  constructor(explain: PageSources['explain'], most = 20_000) {
    this.#explain = explain
    this.#most = most
  }

  /** Undefined: another one is under way. Rejects after the time, and when the client has gone. */
  async run(request: ExplainRequest, gone: AbortSignal): Promise<Explanation | undefined> {
    if (this.#isBusy) return undefined
    this.#isBusy = true
    const late = AbortSignal.timeout(this.#most)
    try {
      return await this.#explain(request, AbortSignal.any([gone, late]))
    } catch (error) {
      if (!late.aborted) throw error
      const advice = 'the node is very busy or has very many rules: run the command explain there'
      throw new ProxyError('COMMAND', `no end after ${this.#most / 1000} s`, { operation: 'explain', advice })
    } finally {
      this.#isBusy = false
    }
  }
}

/**
 * The form and, where it was sent (`run=1`), its answer: `target`, `from`, `protocol` as of the command. A request that
 * another site's page made gets the form alone: nobody's browser shall start processes here unasked.
 */
export async function explanation(
  explainer: Explainer,
  query: URLSearchParams,
  site: string,
  gone: AbortSignal,
): Promise<Content> {
  const form = formOf(query)
  const content = (result: Html | '', code = 200): Content => ({
    title: form.target === '' ? 'Explain' : `Explain ${form.target}`,
    at: '/explain',
    code,
    body: html`<h1>Explain</h1>
      <p class="lead">
        Follows the first packet of a connection through this node, on the rules, sets, routes and virtual servers that
        the kernel has now. It changes nothing.
      </p>
      ${formPart(form)} ${result}`,
  })
  if (!form.run) return content('')
  if (site === 'cross-site') {
    return content(note('warn', 'Another site’s page asked for this.', 'Press the button to have it explained.'), 403)
  }
  if (form.target === '') return content(note('bad', 'No target.', 'Give a Service, or an address and port.'), 400)
  const { target, from, protocol } = form
  const began = performance.now()
  try {
    const found = await explainer.run(
      { target, ...(from === '' ? {} : { from }), ...(protocol === undefined ? {} : { protocol }) },
      gone,
    )
    if (found === undefined) {
      return content(
        note('warn', 'Another explanation is under way.', 'One runs at a time: try again in a moment.'),
        429,
      )
    }
    return content(resultPart(found, performance.now() - began))
  } catch (error) {
    if (gone.aborted || !(error instanceof ProxyError)) throw error
    const isWrong = error.code === 'CONFIG'
    return content(
      note('bad', isWrong ? 'This cannot be asked.' : 'It could not be explained.', describeError(error)),
      isWrong ? 400 : 503,
    )
  }
}

function note(tone: Tone, heading: string, text: string): Html {
  return html`<div class="note ${tone}" role="alert"><strong>${heading}</strong> ${text}</div>`
}

function formPart({ target, from, protocol }: Form): Html {
  return html`<form class="explain panel" action="/explain" method="get" aria-label="Explain a packet">
    <div>
      <label for="target">To</label
      ><input
        id="target"
        name="target"
        value="${target}"
        required
        maxlength="300"
        autocomplete="off"
        spellcheck="false"
        aria-describedby="target-hint"
      />
      <p class="hint" id="target-hint">namespace/service[:port], 10.96.0.10:80, [fd00::10]:53/UDP</p>
    </div>
    <div>
      <label for="from">From</label
      ><input
        id="from"
        name="from"
        value="${from}"
        placeholder="outside"
        maxlength="300"
        autocomplete="off"
        spellcheck="false"
        aria-describedby="from-hint"
      />
      <p class="hint" id="from-hint">outside, node, a pod’s address, or address@link</p>
    </div>
    <div>
      <label for="protocol">Protocol</label
      ><select id="protocol" name="protocol">
        <option value="">as the target</option>
        ${transports.map((one) => html`<option${one === protocol && html` selected`}>${one}</option>`)}
      </select>
    </div>
    <div><button class="primary" type="submit" name="run" value="1">Explain</button></div>
  </form>`
}

const answers: Readonly<Record<Answer, string>> = {
  answered: 'an answer',
  refused: 'a refusal, at once',
  unreachable: 'an error, at once',
  nothing: 'no answer: it waits in vain',
  leaves: 'what another machine decides',
  unknown: 'something that cannot be told',
}

function toneOf({ code, answer, isCertain }: Explanation['verdict']): Tone {
  if (code === 'partly-served' || code === 'cannot-tell') return 'warn'
  if (answer === 'answered') return isCertain ? 'good' : 'warn'
  return answer === 'leaves' || answer === 'unknown' ? 'warn' : 'bad'
}

function resultPart(found: Explanation, milliseconds: number): Html {
  const { verdict, target, service, origin, ways, endpoints = [], differences = [], findings } = found
  const tone = toneOf(verdict)
  const where =
    origin.kind === 'node'
      ? 'a process of this node'
      : html`<span class="mono">${origin.address}</span>,
          ${origin.kind === 'pod' ? 'on this node' : 'outside this node'}${origin.inLink !== '' && html`, in by <span class="mono">${origin.inLink}</span>`}`
  const [way, ...others] = ways
  return html`<section aria-labelledby="verdict">
      <h2 id="verdict">Verdict</h2>
      <div class="note ${tone}">
        ${tag(verdict.code, tone)} <strong>${verdict.text}</strong>
        <p class="muted">
          The client gets ${answers[verdict.answer]}.${!verdict.isCertain && ' Not all on the way could be told.'}
        </p>
        ${verdict.advice !== undefined && html`<p>What to do: ${verdict.advice}</p>`}
      </div>
      <div class="panel">
        ${factList([
          ['From', where],
          ['To', html`<span class="mono">${serverKey(target)}</span>`],
          [
            'Service',
            service &&
              html`<a href="${link('/service', { name: service.key })}">${service.key}</a
                >${service.port.name !== '' && html` <span class="muted">port ${service.port.name}</span>`}`,
          ],
          ['Explained in', duration(milliseconds)],
        ])}
      </div>
    </section>
    ${listSection(
      'differences',
      'Not as wanted',
      differences.map(({ text }) => text),
    )}
    ${way !== undefined && wayPart(way, others.length)} ${listSection('doubts', 'Doubts', doubts(ways))}
    ${
      endpoints.length > 0 &&
      html`<section aria-labelledby="endpoints">
        <h2 id="endpoints">Endpoints</h2>
        ${table(
          'Endpoints of the Service',
          ['Endpoint', 'Node', 'Used', 'Why'],
          endpoints.map(
            ({ endpoint, isLocal, isEligible, reason }) =>
              html`<tr>
                <th scope="row" class="mono">${endpoint}</th>
                <td>${isLocal ? 'this node' : 'another node'}</td>
                <td>${isEligible ? tag('used', 'good') : tag('not used')}</td>
                <td>${reason}</td>
              </tr> `,
          ),
        )}
      </section>`
    }
    ${listSection('findings', 'Findings', findings)}`
}

function listSection(id: string, title: string, lines: readonly string[]): Html | '' {
  if (lines.length === 0) return ''
  return html`<section aria-labelledby="${id}">
    <h2 id="${id}">${title}</h2>
    <div class="panel">
      <ul class="plain">
        ${lines.map((line) => html`<li>${line}</li>`)}
      </ul>
    </div>
  </section>`
}

function wayPart(way: Way, others: number): Html {
  const results = way.balanced?.results ?? []
  const shown = shownResults(results)
  const more = results.length - shown.length
  return html`<section aria-labelledby="way">
    <h2 id="way">The way</h2>
    ${others > 0 && html`<p class="muted">${count(others)} other ways are possible: see the doubts.</p>`}
    <div class="panel">${stepList(way.steps)}</div>
    ${shown.map(
      ({ destination, ways }) =>
        html`<h3>With <span class="mono">${destinationKey(destination)}</span></h3>
          <div class="panel">${stepList(ways[0]?.steps ?? [], way.steps.length + 1)}</div>`,
    )}
    ${more > 0 && html`<p class="muted after">${counted(more, 'destination')} more: the end is the same.</p>`}
  </section>`
}

/** `start`: the number of the first. */
function stepList(steps: readonly Step[], start = 1): Html {
  if (steps.length === 0) return html`<p class="empty">Nothing on the way concerns the packet.</p>`
  return html`<ol class="steps" start="${start}">
    ${steps.map(
      ({ direction, place, text, hits }) =>
        html`<li>
          ${direction === 'reply' && html`<span class="muted">answer · </span>`}<span class="place">${place}</span
          >${text !== '' && html` <span>${text}</span>`}
          ${
            hits.length > 0 &&
            html`<ul class="hits">
              ${hits.map(hitItem)}
            </ul>`
          }
        </li> `,
    )}
  </ol>`
}

function hitItem(hit: Hit): Html {
  const foreign = hit.number !== 0 && !hit.ours
  // Lines break between words only: a browser would break them in "--match-set", too.
  const words = hitText(hit)
    .split(' ')
    .map((word) => html`<span class="word">${word}</span> `)
  return html`<li class="${foreign ? 'foreign' : 'own'}"><code>${words}</code></li>`
}
