import { expect, test } from 'vitest'
import { Html, html, link, type Value } from '../../../src/page/html.ts'

const cases: readonly (readonly [name: string, value: Value, text: string])[] = [
  ['a tag', '<script>alert(1)</script>', '&lt;script&gt;alert(1)&lt;/script&gt;'],
  ['quotes of both kinds', `" onload='x'`, '&quot; onload=&#39;x&#39;'],
  ['an ampersand', 'a & b &amp; c', 'a &amp; b &amp;amp; c'],
  ['a number', 42, '42'],
  ['0', 0, '0'],
  ['nothing', undefined, ''],
  ['what does not hold', false, ''],
  ['markup', html`<b>${'<'}</b>`, '<b>&lt;</b>'],
  ['a list of both', ['<', html`<i></i>`, ['>']], '&lt;<i></i>&gt;'],
  ['what is declared to be markup', new Html('<hr>'), '<hr>'],
]

test.each(cases)('%s in a template', (_name, value, text) => {
  expect(html`<p title="${value}">${value}</p>`.text).toBe(`<p title="${text}">${text}</p>`)
})

test('no object passes for markup that no template has made', () => {
  const alike = { text: '<hr>' } as unknown as Value
  expect(() => html`${alike}`).toThrow(TypeError)
})

test.each([
  ['no parameters', {}, '/services'],
  ['some that are nothing', { q: '', page: undefined }, '/services'],
  ['what has a meaning in queries', { q: 'a&b=c#d e', page: 2 }, '/services?q=a%26b%3Dc%23d+e&page=2'],
] as const)('a link with %s', (_name, parameters, text) => {
  expect(link('/services', parameters)).toBe(text)
})
