import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { LineSink } from '../../../src/lib/line-sink.ts'

describe('a reader', () => {
  let taken: string
  /** Bytes that it has room for; undefined: it refuses with the code. */
  let room: number
  let refusal: string

  beforeEach(() => {
    vi.useFakeTimers()
    taken = ''
    room = Number.POSITIVE_INFINITY
    refusal = 'EAGAIN'
  })
  afterEach(() => void vi.useRealTimers())

  const now = (bytes: Buffer): number => {
    if (room <= 0) throw Object.assign(new Error(refusal), { code: refusal })
    const part = bytes.subarray(0, room)
    room -= part.length
    taken += part.toString()
    return part.length
  }

  test('that keeps up has each line at once', () => {
    const sink = new LineSink({ now })
    sink.write('a\n')
    sink.write('b\n')
    expect(taken).toBe('a\nb\n')
    expect(vi.getTimerCount()).toBe(0)
  })

  test('that takes half of a line gets the other half before the next', async () => {
    const sink = new LineSink({ now })
    room = 3
    sink.write('first\n')
    sink.write('second\n')
    expect(taken).toBe('fir')
    room = 1000
    await vi.advanceTimersByTimeAsync(250)
    expect(taken).toBe('first\nsecond\n')
  })

  test.each(['EAGAIN', 'ENOSPC', 'EPIPE', 'EIO'])(
    'that takes nothing (%s): few lines wait, the others are dropped, counted, and told of once it reads',
    async (code) => {
      const sink = new LineSink({ now })
      room = 0
      refusal = code
      const line = `${'x'.repeat(1023)}\n`
      for (let i = 0; i < 10_000; i++) sink.write(line)
      expect(sink.dropped).toBe(10_000 - 256)
      room = Number.POSITIVE_INFINITY
      await vi.advanceTimersByTimeAsync(250)
      const lines = taken.split('\n')
      expect(lines).toHaveLength(256 + 2)
      expect(JSON.parse(lines.at(-2)!)).toMatchObject({ level: 'warn', dropped: 10_000 - 256 })
      sink.write('next\n')
      expect(taken).toMatch(/\nnext\n$/)
      expect(vi.getTimerCount()).toBe(0)
    },
  )
})

// What the daemon's log is, in a process of its own: it writes far more than a pipe holds, and says by its exit code whether
// the event loop went on, how many lines were dropped and that memory stayed small.
const module = resolve(import.meta.dirname, '../../../src/lib/line-sink.ts')
const script = `
  const { createLog } = await import(${JSON.stringify(resolve(import.meta.dirname, '../../../src/lib/log.ts'))})
  const { LineSink } = await import(${JSON.stringify(module)})
  const sink = LineSink.standardError()
  const log = createLog(0, sink)
  const before = process.memoryUsage().rss
  let turns = 0
  for (let i = 0; i < 20; i++) {
    for (let n = 0; n < 1000; n++) log.info('x'.repeat(1000))
    await new Promise((wake) => setTimeout(wake, 1))
    turns++
  }
  const grown = (process.memoryUsage().rss - before) / 2 ** 20
  process.exit(turns === 20 && sink.dropped > 15_000 && grown < 100 ? 42 : 1)
`
const node = [process.execPath, '--input-type=module', '-e', script]

describe('a process whose standard error nobody reads goes on', () => {
  let child: ChildProcess
  afterEach(() => void child.kill('SIGKILL'))

  test('a pipe that is full', async () => {
    // A shell's pipe; what Node gives its children are sockets.
    child = spawn(
      'bash',
      ['-c', `exec 4>&1; { { "$@" 2>&1 >/dev/null; echo "ended $?" >&4; } | sleep 60; }`, 'bash', ...node],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
        detached: true,
      },
    )
    const [chunk] = (await once(child.stdout!, 'data')) as [Buffer]
    expect(chunk.toString()).toBe('ended 42\n')
    process.kill(-child.pid!, 'SIGKILL')
  })

  test('a socket that is full', async () => {
    const [command, ...args] = node
    child = spawn(command!, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    child.stderr!.pause()
    expect(await once(child, 'exit')).toEqual([42, null])
  })

  test('a disk that is full', async () => {
    child = spawn('sh', ['-c', 'exec "$@" 2>/dev/full', 'sh', ...node], { stdio: 'ignore' })
    expect(await once(child, 'exit')).toEqual([42, null])
  })

  test('a file keeps one place to write at, whoever writes', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'line-sink-'))
    const path = join(folder, 'log')
    const lines = `
      const { LineSink } = await import(${JSON.stringify(module)})
      const sink = LineSink.standardError()
      sink.write('first\\n'); process.stderr.write('second\\n'); sink.write('third\\n')`
    const [command, ...args] = [process.execPath, '--input-type=module', '-e', lines]
    child = spawn('sh', ['-c', `exec "$@" 2>${path}`, 'sh', command, ...args], { stdio: 'ignore' })
    await once(child, 'exit')
    expect(readFileSync(path, 'utf8')).toBe('first\nsecond\nthird\n')
    rmSync(folder, { recursive: true })
  })

  test('a reader that is gone', async () => {
    const [command, ...args] = node
    child = spawn(command!, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    child.stderr!.destroy()
    expect(await once(child, 'exit')).toEqual([42, null])
  })
})
