import { ProxyError } from '../lib/errors.ts'
import { Turn } from '../lib/turn.ts'
import { isJson } from './translate.ts'

/** An event of a watch as it came; what its type allows for is not checked. */
export interface WatchEvent {
  readonly type: unknown
  readonly object: unknown
}

/** No object of the API server's store is nearly as large: a stream with more bytes in one line is none of events. */
export const mostLineBytes = 32 * 1024 * 1024

/** Milliseconds: whoever waits longer for bytes has waited for a later round of the event loop. */
const wait = 1

/**
 * The events of a watch's byte stream, one a line. A socket hands over megabytes in one go: between two events others have
 * their turn; but an event that comes alone is taken at once. Throws ProxyError API for what is no event.
 */
export async function* watchEvents(body: AsyncIterable<Buffer>, most = mostLineBytes): AsyncGenerator<WatchEvent> {
  for await (const line of lines(body, most)) yield readEvent(line)
}

function readEvent(line: string): WatchEvent {
  let event: unknown
  try {
    event = JSON.parse(line)
  } catch (error) {
    throw new ProxyError('API', 'a watch event is not JSON', {}, error)
  }
  if (!isJson(event)) throw new ProxyError('API', 'a watch event is not an object')
  return { type: event.type, object: event.object }
}

/** Lines of a byte stream; a last line without an end is none, since it may be half of one. */
async function* lines(body: AsyncIterable<Buffer>, most: number): AsyncGenerator<string> {
  let parts: Buffer[] = []
  let length = 0
  const turn = new Turn()
  let asked = performance.now()
  for await (const chunk of body) {
    if (performance.now() - asked > wait) turn.restart()
    let start = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      const last = chunk.subarray(start, end)
      const line = (parts.length === 0 ? last : Buffer.concat([...parts, last])).toString('utf8')
      parts = []
      length = 0
      start = end + 1
      if (turn.isOver) await turn.next()
      if (line.trim() !== '') yield line
    }
    if (start < chunk.length) {
      parts.push(chunk.subarray(start))
      length += chunk.length - start
      if (length > most) throw new ProxyError('API', `a watch event has more than ${most} bytes`)
    }
    asked = performance.now()
  }
}
