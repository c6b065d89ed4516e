/** Text that is markup: only the template makes it. */
export class Html {
  readonly text: string

  /** Takes the text as markup, unescaped: for what stands in our own source. */
  constructor(text: string) {
    this.text = text
  }
}

/** What may stand in a template. Undefined and false are nothing; lists are their members one after another. */
export type Value = Html | string | number | undefined | false | readonly Value[]

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

/** For text and for attributes in quotes. */
export function escaped(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => entities[character]!)
}

function textOf(value: Value): string {
  if (value instanceof Html) return value.text
  if (value === undefined || value === false) return ''
  if (typeof value === 'object') return value.map(textOf).join('')
  return escaped(String(value))
}

/** Markup with every value escaped that is not markup itself; attributes must stand in quotes. */
export function html(pieces: TemplateStringsArray, ...values: readonly Value[]): Html {
  let text = pieces[0]!
  for (const [i, value] of values.entries()) text += textOf(value) + pieces[i + 1]!
  return new Html(text)
}

/** A path with a query; parameters that are undefined or "" are left out. */
export function link(path: string, parameters: Readonly<Record<string, string | number | undefined>> = {}): string {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== '') query.set(name, String(value))
  }
  const text = query.toString()
  return text === '' ? path : `${path}?${text}`
}
