import { describe, expect, test } from 'vitest'
import { ListSplitter } from '../../../src/kube/list-splitter.ts'

function split(bytes: Uint8Array, size: number): { items: unknown[]; head: unknown } {
  const items: unknown[] = []
  const splitter = new ListSplitter((json) => items.push(JSON.parse(json)))
  for (let i = 0; i < bytes.length; i += size) splitter.push(bytes.subarray(i, i + size))
  return { head: splitter.end(), items }
}

const good: Record<string, string> = {
  'no items': '{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[]}',
  'items null': '{"kind":"ServiceList","metadata":{"resourceVersion":"7"},"items":null}',
  'no member items': '{"metadata":{}}',
  'empty object': ' {} \n',
  'two items': '{"metadata":{"resourceVersion":"7"},"items":[{"a":1},{"b":[{"c":"d"},[]]}]}',
  'metadata after items': '{"items":[{"a":1}],"metadata":{"resourceVersion":"9","continue":"x"},"kind":"L"}',
  'white space everywhere': '\n{ "items" :\t[ { "a" : 1 } ,\r\n {} ] , "metadata" : { "resourceVersion" : "1" } }\n',
  'braces and quotes in strings': String.raw`{"items":[{"a":"}]\"{[,","b":"\\"},{"c":"\\\""}],"metadata":{"x":"]}"}}`,
  'a nested member called items': '{"metadata":{"items":[1,2]},"items":[{"items":[{"items":[]}]}]}',
  'characters of several bytes': '{"items":[{"name":"zürich-東京-🐙"}],"metadata":{"ä":"ö"}}',
  'scalars as members': '{"a":1,"b":true,"c":null,"d":-1.5e3,"items":[{}],"e":"x","f":[1,{"g":2}],"h":0}',
  'an escaped key': String.raw`{"\u0069tems":[{"a":1}],"metadata":{}}`,
}

describe('ListSplitter', () => {
  for (const [name, text] of Object.entries(good)) {
    const bytes = Buffer.from(text)
    for (const [how, size] of [
      ['one chunk', bytes.length],
      ['byte by byte', 1],
      ['threes', 3],
    ] as const) {
      test(`${name}, ${how}`, () => {
        const { items, ...head }: { items?: unknown[] | null } = JSON.parse(text)
        expect(split(bytes, size)).toEqual({ head: items === null ? { ...head, items } : head, items: items ?? [] })
      })
    }
  }

  test('every beginning of a list is incomplete', () => {
    const bytes = Buffer.from('{"kind":"L","items":[{"a":"b"},{"c":1}],"metadata":{"resourceVersion":"7"}}')
    for (let length = 0; length < bytes.length; length++) {
      expect(() => split(bytes.subarray(0, length), bytes.length), `${length} bytes`).toThrow('in the middle')
    }
  })

  for (const text of [
    '[]',
    'null',
    '{"items":{}}',
    '{"items":[1]}',
    '{"items":[{}{}]}',
    '{a:1}',
    '{"a" 1}',
    '{"a":1,}',
    '{}{}',
    '{"a":tru}',
  ]) {
    for (const size of [text.length, 1]) {
      test(`refuses ${text} in chunks of ${size}`, () => expect(() => split(Buffer.from(text), size)).toThrow(/list/))
    }
  }
})
