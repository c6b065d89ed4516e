import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { ProxyError } from '../../../src/lib/errors.ts'
import { ListSplitter } from '../../../src/kube/list-splitter.ts'
import { watchEvents, type WatchEvent } from '../../../src/kube/watch-events.ts'

async function* cut(text: string, length: number): AsyncGenerator<Buffer> {
  const bytes = Buffer.from(text)
  for (let at = 0; at < bytes.length; at += length) yield bytes.subarray(at, at + length)
}

async function read(text: string, length = 1000, most?: number): Promise<WatchEvent[]> {
  const events: WatchEvent[] = []
  for await (const event of watchEvents(cut(text, length), most)) events.push(event)
  return events
}

describe('events, one a line', () => {
  test.each([
    { name: 'one', text: '{"type":"ADDED","object":{"a":1}}\n', events: [{ type: 'ADDED', object: { a: 1 } }] },
    { name: 'without anything', text: '{}\n', events: [{ type: undefined, object: undefined }] },
    { name: 'empty lines between', text: '\n{"type":"A"}\r\n \n', events: [{ type: 'A', object: undefined }] },
    { name: 'half of one at the end', text: '{"type":"A"}\n{"type":"B"}', events: [{ type: 'A', object: undefined }] },
    { name: 'letters of several bytes', text: '{"type":"ä→🙂"}\n', events: [{ type: 'ä→🙂', object: undefined }] },
  ])('$name', async ({ text, events }) => {
    for (const length of [1, 2, 3, 7, 1000]) expect(await read(text, length)).toEqual(events)
  })

  test.each([
    { name: 'no JSON', text: '{"type":\n', reason: 'is not JSON' },
    { name: 'a list', text: '[]\n', reason: 'is not an object' },
    { name: 'null', text: 'null\n', reason: 'is not an object' },
    { name: 'a line without an end', text: 'x'.repeat(2000), reason: 'more than 1000 bytes' },
  ])('refuses $name', async ({ text, reason }) => {
    for (const length of [1, 100]) {
      const error: unknown = await read(text, length, 1000).catch((thrown: unknown) => thrown)
      expect(error).toBeInstanceOf(ProxyError)
      expect(String(error)).toContain(reason)
    }
  })
})

describe('others have their turn', () => {
  const line = Buffer.from('{"type":"A"}\n')

  /** Rounds of the event loop so far. */
  let round = 0
  let counting: NodeJS.Immediate
  const count = (): void => {
    round++
    counting = setImmediate(count)
  }
  beforeEach(count)
  afterEach(() => clearImmediate(counting))

  test('where many events lie ready', async () => {
    async function* ready(): AsyncGenerator<Buffer> {
      for (let i = 0; i < 10; i++) yield Buffer.concat([line, line])
    }
    const before = round
    for await (const event of watchEvents(ready())) {
      expect(event.type).toBe('A')
      const end = performance.now() + 5
      while (performance.now() < end);
    }
    expect(round - before).toBeGreaterThan(8)
  })

  test('but an event that comes alone is taken in the round that it came in', async () => {
    const came: number[] = []
    async function* alone(): AsyncGenerator<Buffer> {
      for (let i = 0; i < 20; i++) {
        await new Promise((wake) => setTimeout(wake, 8))
        came.push(round)
        yield line
      }
    }
    const taken: number[] = []
    for await (const event of watchEvents(alone())) {
      expect(event.type).toBe('A')
      taken.push(round)
    }
    expect(taken).toEqual(came)
  })
})

test('a list’s value without an end is given up', () => {
  const splitter = new ListSplitter(() => {}, 1000)
  expect(() => {
    splitter.push(Buffer.from('{"items":[{"a":"'))
    for (let i = 0; i < 100; i++) splitter.push(Buffer.from('x'.repeat(100)))
  }).toThrow('a value of more than 1000 bytes')
})
