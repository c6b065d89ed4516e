import type { Reply } from '../health/server.ts'
import { time } from './format.ts'
import { html, type Html, type Value } from './html.ts'
import type { PageSources } from './sources.ts'

export interface Content {
  readonly title: string
  /** Of the navigation's entries the one that this belongs to. */
  readonly at: '/' | '/services' | '/explain'
  readonly body: Html
  /** What was searched for. */
  readonly search?: string
  readonly code?: number
}

/** Nothing but what this server itself gives may be loaded, no script runs, nobody may put it into a frame. */
export const securityHeaders: Readonly<Record<string, string>> = {
  'Content-Security-Policy':
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  'Cache-Control': 'no-store',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
}

const entries = [
  ['/', 'Overview'],
  ['/services', 'Services'],
  ['/explain', 'Explain'],
] as const

/** A whole page around its content. */
export function page(
  { nodeName, version }: Pick<PageSources, 'nodeName' | 'version'>,
  { title, at, body, search = '', code = 200 }: Content,
): Reply {
  const { text } = html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${title} · ${nodeName} · kube-ipvs-proxy</title>
        <link rel="stylesheet" href="/page.css?v=${version}" />
        <link rel="icon" type="image/svg+xml" href="/page.svg" />
      </head>
      <body>
        <a class="skip" href="#content">Skip to the content</a>
        <header class="top">
          <div>
            <div class="brand"><strong>kube-ipvs-proxy</strong><span>${nodeName}</span></div>
            <nav class="main" aria-label="Views">
              ${entries.map(
                ([path, name]) => html`<a href="${path}" ${path === at && html` aria-current="page"`}>${name}</a>`,
              )}
            </nav>
            <form class="search" role="search" action="/services" method="get">
              <input
                type="search"
                name="q"
                value="${search}"
                maxlength="200"
                aria-label="Search Services by name, namespace, address or port"
                placeholder="Name, namespace, address, port"
                autocomplete="off"
                spellcheck="false"
              />
              <button type="submit">Search</button>
            </form>
          </div>
        </header>
        <main id="content" tabindex="-1">${body}</main>
        <footer>Read from this node at ${time(Date.now())} UTC · version ${version} · this page changes nothing</footer>
      </body>
    </html> `
  return { code, type: 'text/html; charset=utf-8', body: text, headers: securityHeaders }
}

export type Column =
  | string
  | { readonly name: Value; readonly number?: true; readonly sorted?: 'ascending' | 'descending' }

/** A table that scrolls by itself where it is too wide; `name` is for those who do not see it. */
export function table(name: string, columns: readonly Column[], rows: readonly Html[]): Html {
  const head = columns.map((column) => {
    if (typeof column === 'string') return html`<th scope="col">${column}</th>`
    const { number, sorted } = column
    return html`<th scope="col" ${number && html` class="number"`}${sorted && html` aria-sort="${sorted}"`}>
      ${column.name}
    </th>`
  })
  return html`<div class="scroll" tabindex="0" role="region" aria-label="${name}">
    <table>
      <caption>
        ${name}
      </caption>
      <thead>
        <tr>
          ${head}
        </tr>
      </thead>
      <tbody>
        ${rows}
      </tbody>
    </table>
  </div>`
}

/** Names and values; those that are undefined are left out. */
export function factList(facts: readonly (readonly [name: string, value: Value])[]): Html {
  const known = facts.filter(([, value]) => value !== undefined && value !== '')
  return html`<dl class="facts">
    ${known.map(
      ([name, value]) =>
        html`<div>
          <dt>${name}</dt>
          <dd>${value}</dd>
        </div>`,
    )}
  </dl>`
}

export type Tone = 'good' | 'warn' | 'bad' | ''

export function tag(text: string, tone: Tone = ''): Html {
  return html`<span class="tag ${tone}">${text}</span>`
}
