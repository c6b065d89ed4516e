import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { describeError, ProxyError } from '../../../src/lib/errors.ts'
import { Connection, type Message } from '../../../src/netlink/connection.ts'
import { resolveFamily } from '../../../src/netlink/generic.ts'
import type { OpenSocket } from '../../../src/netlink/socket.ts'
import { fakeKernel, message, refusing, result } from './fake-socket.ts'

const request = (size = 4, type = 0x20): Message => ({
  type,
  write: (writer) => {
    const at = writer.reserve(size)
    writer.buffer.fill(7, at, at + size)
  },
})
const requests = (count: number, size = 4): Message[] => Array.from({ length: count }, () => request(size))
const payloads = (reply: { payloads: readonly Buffer[] }): string[] => reply.payloads.map(String)

/** No send takes long. */
const standing = { now: () => 0 }

describe('batch', () => {
  it('sends at most 256 messages, the last of each send acknowledged', async () => {
    const kernel = fakeKernel(refusing(() => 0))
    const connection = new Connection(kernel.open, standing)
    expect(await connection.batch(requests(600))).toEqual(Array.from({ length: 600 }).fill(0))
    expect(kernel.sends.map((send) => send.messages.length)).toEqual([256, 256, 88])
    for (const { messages } of kernel.sends) {
      expect(messages.map((one) => one.flags & 4).filter((ack) => ack !== 0)).toHaveLength(1)
      expect(messages.at(-1)?.flags).toBe(5)
    }
    const sequences = kernel.sends.flatMap((send) => send.messages.map((one) => one.sequence))
    expect(new Set(sequences).size).toBe(600)
    expect(kernel.opened).toBe(1)
  })

  it('sends fewer where the kernel takes long over each, and more again where it does not', async () => {
    let now = 0
    let each = 1
    const kernel = fakeKernel((messages) => {
      now += messages.length * each
      return refusing(() => 0)(messages)
    })
    const connection = new Connection(kernel.open, { now: () => now })
    const sizes = async (count: number): Promise<number[]> => {
      const before = kernel.sends.length
      await connection.batch(requests(count))
      return kernel.sends.slice(before).map((send) => send.messages.length)
    }
    expect(await sizes(280)).toEqual([256, 10, 10, 4])
    each = 5
    expect(await sizes(30)).toEqual([10, 8, 8, 4])
    each = 0.01
    expect(await sizes(500)).toEqual([8, 16, 32, 64, 128, 252])
  })

  it('sends at most 128 kB, but one message in any case', async () => {
    const kernel = fakeKernel(refusing(() => 0))
    const connection = new Connection(kernel.open)
    await connection.batch([...requests(5, 60_000), request(200_000), request()])
    expect(kernel.sends.map((send) => send.messages.length)).toEqual([2, 2, 1, 1, 1])
    expect(Math.max(...kernel.sends.map((send) => send.bytes))).toBe(200_016)
  })

  it('gives each refusal to its message', async () => {
    const kernel = fakeKernel(refusing((one) => (one.sequence % 100 === 0 ? 17 : one.sequence === 300 ? 2 : 0)))
    const refused: [number, number][] = []
    const results = await new Connection(kernel.open, standing).batch(requests(300), (index, errno) =>
      refused.push([index, errno]),
    )
    expect(results.flatMap((errno, index) => (errno === 0 ? [] : [[index, errno]]))).toEqual([
      [99, 17],
      [199, 17],
      [299, 17],
    ])
    expect(refused.map(([index]) => index)).toEqual([99, 199, 299])
  })

  it('of nothing sends nothing', async () => {
    const kernel = fakeKernel(() => [])
    expect(await new Connection(kernel.open).batch([])).toEqual([])
    expect(kernel.opened).toBe(0)
  })

  it('waits for the one before', async () => {
    const kernel = fakeKernel(refusing(() => 0))
    const connection = new Connection(kernel.open, standing)
    await Promise.all([connection.batch(requests(300)), connection.batch(requests(10)), connection.request(request())])
    expect(kernel.sends.map((send) => send.messages.length)).toEqual([256, 44, 10, 1])
  })

  it('passes on the request that an error repeats', async () => {
    const echo = Buffer.concat([Buffer.alloc(16), Buffer.from('the request')])
    const kernel = fakeKernel(([one]) => [result(2, one!.sequence, 2, 0, echo)])
    const echoes: string[] = []
    await new Connection(kernel.open).batch(requests(1), (_index, _errno, bytes) => echoes.push(String(bytes)))
    expect(echoes).toEqual(['the request'])
  })
})

describe('request', () => {
  it('gathers answers up to the acknowledgement and ignores strangers', async () => {
    const kernel = fakeKernel(([one]) => [
      message(0x20, one!.sequence + 7, Buffer.from('other')),
      Buffer.concat([message(1, one!.sequence, Buffer.alloc(0)), message(0x20, one!.sequence, Buffer.from('mine'))]),
      result(2, one!.sequence, 0),
    ])
    const reply = await new Connection(kernel.open).request(request())
    expect([reply.errno, payloads(reply)]).toEqual([0, ['mine']])
    expect(kernel.sends[0]?.messages[0]?.flags).toBe(5)
  })

  it('answers the errno', async () => {
    const kernel = fakeKernel(refusing(() => 2))
    expect(await new Connection(kernel.open).request(request())).toEqual({ errno: 2, payloads: [] })
  })
})

describe('dump', () => {
  it('gathers parts over several datagrams, on a socket of its own', async () => {
    const kernel = fakeKernel(([one], purpose) => {
      if (purpose === 'requests') return [result(2, one!.sequence, 0)]
      const part = (text: string): Buffer => message(0x20, one!.sequence, Buffer.from(text), 2)
      return [
        Buffer.concat([part('a'), part('b')]),
        part('c'),
        Buffer.concat([part('d'), result(3, one!.sequence, 0, 2)]),
      ]
    })
    const connection = new Connection(kernel.open)
    await connection.request(request())
    expect(kernel.opened).toBe(1)
    const [one, two] = await Promise.all([connection.dump(request()), connection.dump(request())])
    expect(payloads(one)).toEqual(['a', 'b', 'c', 'd'])
    expect(payloads(two)).toEqual(['a', 'b', 'c', 'd'])
    expect(kernel.opened).toBe(2)
    expect(kernel.sends.map((send) => [send.purpose, send.messages[0]?.flags])).toEqual([
      ['requests', 5],
      ['dumps', 0x301],
      ['dumps', 0x301],
    ])
  })

  it.each([2, 3] as const)('answers the errno of message type %i', async (type) => {
    const kernel = fakeKernel(([one]) => [result(type, one!.sequence, 2)])
    expect((await new Connection(kernel.open).dump(request())).errno).toBe(2)
  })

  const interruptions: [string, (sequence: number) => Buffer[]][] = [
    ['the flag on a part', (seq) => [message(0x20, seq, Buffer.from('old'), 0x12), result(3, seq, 0, 2)]],
    ['the flag on the end', (seq) => [message(0x20, seq, Buffer.from('old'), 2), result(3, seq, 0, 0x12)]],
    ['EINTR', (seq) => [message(0x20, seq, Buffer.from('old'), 2), result(3, seq, 4, 2)]],
  ]
  it.each(interruptions)('starts over after %s', async (_what, interrupted) => {
    let left = 5
    const kernel = fakeKernel(([one]) => {
      if (left-- > 0) return interrupted(one!.sequence)
      return [message(0x20, one!.sequence, Buffer.from('new'), 2), result(3, one!.sequence, 0, 2)]
    })
    const reply = await new Connection(kernel.open).dump(request())
    expect([reply.errno, payloads(reply)]).toEqual([0, ['new']])
    expect(kernel.sends).toHaveLength(6)
  })

  it('gives up when interrupted for ever', async () => {
    const kernel = fakeKernel(([one]) => [result(3, one!.sequence, 0, 0x12)])
    await expect(new Connection(kernel.open).dump(request())).rejects.toThrow('interrupted by changes 8 times')
  })
})

describe('stream', () => {
  it('hands over payloads as they come and collects none', async () => {
    const kernel = fakeKernel(([one]) => {
      const part = (text: string): Buffer => message(0x20, one!.sequence, Buffer.from(text), 2)
      return [Buffer.concat([part('a'), part('b')]), part('c'), result(3, one!.sequence, 0, 2)]
    })
    const connection = new Connection(kernel.open)
    const taken: string[] = []
    const end = await connection.stream(request(), (payload) => taken.push(String(payload)))
    expect([end, taken]).toEqual([{ errno: 0, interrupted: false }, ['a', 'b', 'c']])
    expect(kernel.sends.map((send) => [send.purpose, send.messages[0]?.flags])).toEqual([['dumps', 0x301]])
  })

  const ends: [string, number, number, boolean][] = [
    ['an error', 2, 0, false],
    ['EINTR', 4, 0, true],
    ['the flag', 0, 0x10, true],
  ]
  it.each(ends)('says how it ended: %s', async (_what, errno, extra, interrupted) => {
    const kernel = fakeKernel(([one]) => [
      message(0x20, one!.sequence, Buffer.from('a'), 2),
      result(3, one!.sequence, errno, 2 | extra),
    ])
    const taken: string[] = []
    const end = await new Connection(kernel.open).stream(request(), (payload) => taken.push(String(payload)))
    expect([end, taken, kernel.sends.length]).toEqual([{ errno, interrupted }, ['a'], 1])
  })

  it('rejects with what the taker throws; the next call opens a new socket', async () => {
    const kernel = fakeKernel(([one]) => [
      message(0x20, one!.sequence, Buffer.from('a'), 2),
      result(3, one!.sequence, 0, 2),
    ])
    const connection = new Connection(kernel.open)
    const taker = (): void => {
      throw new ProxyError('CODEC', 'not what it says')
    }
    await expect(connection.stream(request(), taker)).rejects.toThrow('not what it says')
    expect(await connection.stream(request(), () => {})).toEqual({ errno: 0, interrupted: false })
    expect([kernel.opened, kernel.closed]).toEqual([2, 1])
  })

  describe('in a long dump', () => {
    beforeEach(() => void vi.useFakeTimers())
    afterEach(() => void vi.useRealTimers())

    /** Sends a part of a dump every 9 s, so many, and then comes to an end or does not. */
    async function dumped(parts: number, ends: boolean): Promise<unknown[]> {
      let hear = (_bytes: Buffer): void => {}
      const open: OpenSocket = (_purpose, handlers) => {
        hear = (bytes) => handlers.message(bytes)
        return { send: () => {}, close: () => {} }
      }
      let taken = 0
      const end = new Connection(open, { timeout: 10_000 }).stream(request(), () => taken++).catch(describeError)
      for (let part = 0; part < parts; part++) {
        await vi.advanceTimersByTimeAsync(9000)
        hear(message(0x20, 1, Buffer.from('part'), 2))
      }
      if (ends) hear(result(3, 1, 0, 2))
      else await vi.advanceTimersByTimeAsync(20_001)
      const answer = await end
      return [answer, taken, vi.getTimerCount()]
    }

    it('waits as long as the kernel goes on talking', async () => {
      expect(await dumped(8, true)).toEqual([{ errno: 0, interrupted: false }, 8, 0])
    })

    it('does not wait for a kernel that fell silent in the middle', async () => {
      expect(await dumped(3, false)).toEqual([
        expect.stringMatching(/^the kernel did not answer a netlink request within 10000 ms — .*dmesg/),
        3,
        0,
      ])
    })
  })
})

describe('failures', () => {
  it('reject after the timeout; the next call opens a new socket', async () => {
    let silent = true
    const kernel = fakeKernel((messages) => (silent ? [] : refusing(() => 0)(messages)))
    const connection = new Connection(kernel.open, { timeout: 20 })
    await expect(connection.batch(requests(2))).rejects.toThrow('did not answer a netlink request within 20 ms')
    expect([kernel.opened, kernel.closed]).toEqual([1, 1])
    silent = false
    expect(await connection.batch(requests(2))).toEqual([0, 0])
    expect(kernel.opened).toBe(2)
  })

  const broken: [string, Buffer | Error, string][] = [
    ['the socket fails', new Error('ENOBUFS'), 'the netlink socket failed'],
    ['a message is cut', Buffer.alloc(10), '10 bytes left'],
    ['answers were lost', message(4, 1, Buffer.alloc(0)), 'answers were lost'],
    ['an error has no number', message(2, 1, Buffer.alloc(2)), 'has no error number'],
  ]
  it.each(broken)('reject when %s', async (_what, answer, text) => {
    let first = true
    const kernel = fakeKernel((messages) => {
      if (!first) return refusing(() => 0)(messages)
      first = false
      return answer instanceof Error ? answer : [answer]
    })
    const connection = new Connection(kernel.open)
    await expect(connection.request(request())).rejects.toThrow(text)
    expect(await connection.request(request())).toEqual({ errno: 0, payloads: [] })
    expect([kernel.opened, kernel.closed]).toEqual([2, 1])
  })

  it('reject when no socket can be opened', async () => {
    const connection = new Connection(() => {
      throw new Error('EPERM')
    })
    await expect(connection.request(request())).rejects.toThrow('the netlink socket failed')
  })

  it('reject what waits when closed, and all afterwards', async () => {
    const kernel = fakeKernel(() => [])
    const connection = new Connection(kernel.open)
    const waiting = connection.request(request())
    await new Promise(setImmediate)
    connection.close()
    await expect(waiting).rejects.toThrow('was closed')
    await expect(connection.request(request())).rejects.toThrow('is closed')
    expect(kernel.closed).toBe(1)
  })
})

describe('resolveFamily', () => {
  it('finds the id of a family', async () => {
    const answer = Buffer.from('010200000900020049505653000000000600010020000000', 'hex')
    const kernel = fakeKernel(([one]) => [message(0x10, one!.sequence, answer), result(2, one!.sequence, 0)])
    expect(await resolveFamily(new Connection(kernel.open), 'IPVS', 'ip_vs')).toBe(0x20)
    const [sent] = kernel.sends[0]!.messages
    expect(sent?.payload.toString('hex')).toBe('03010000090002004950565300000000')
  })

  it('says what to load where there is none', async () => {
    const kernel = fakeKernel(refusing(() => 2))
    await expect(resolveFamily(new Connection(kernel.open), 'IPVS', 'ip_vs')).rejects.toMatchObject({
      message: 'find generic netlink family "IPVS": ENOENT (modprobe ip_vs)',
      errno: 2,
    })
  })
})

describe('the observer', () => {
  const heard: string[] = []
  const observer = {
    answered: (operation: string, milliseconds: number) => void heard.push(`${operation} ${milliseconds}`),
    refused: (operation: string, errno: number | 'failed') => void heard.push(`${operation} refused ${errno}`),
  }
  beforeEach(() => void (heard.length = 0))

  it('hears of each send, not of each message, and of each refusal', async () => {
    const kernel = fakeKernel(refusing((one) => (one.sequence === 2 || one.sequence === 300 ? 17 : 0)))
    await new Connection(kernel.open, { ...standing, observer }).batch(requests(300))
    expect(heard).toEqual(['send refused 17', 'send 0', 'send refused 17', 'send 0'])
  })

  it('hears of requests and dumps, and of the time that they took', async () => {
    let now = 0
    const kernel = fakeKernel(([one], purpose) => {
      now += 5
      return purpose === 'dumps' ? [result(3, one!.sequence, 0)] : [result(2, one!.sequence, 3)]
    })
    const connection = new Connection(kernel.open, { now: () => now, observer })
    await connection.request(request())
    await connection.dump(request())
    expect(heard).toEqual(['request 5', 'request refused 3', 'dump 5'])
  })

  it('hears of an interrupted dump, however the kernel says it', async () => {
    let left = 2
    const kernel = fakeKernel(([one]) => [
      left-- > 0 ? result(3, one!.sequence, 0, 0x12) : result(3, one!.sequence, 0, 2),
    ])
    await new Connection(kernel.open, { ...standing, observer }).dump(request())
    expect(heard).toEqual(['dump 0', 'dump refused 4', 'dump 0', 'dump refused 4', 'dump 0'])
  })

  it('hears of a socket that fails', async () => {
    const connection = new Connection(fakeKernel(() => new Error('gone')).open, { ...standing, observer })
    await expect(connection.batch(requests(1))).rejects.toThrow()
    await expect(connection.dump(request())).rejects.toThrow()
    expect(heard).toEqual(['send refused failed', 'dump refused failed'])
  })
})
