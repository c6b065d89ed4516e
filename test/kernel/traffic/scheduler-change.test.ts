import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually, Namespace } from '../lab.ts'

// IPVS alone, without a daemon: what any proxy that uses it has to live with (docs/packet-path.md).
let node: Namespace
let server: ChildProcess

beforeAll(async () => {
  node = new Namespace('node')
  node.ip('link set lo up', 'address add 10.96.0.1/32 dev lo', 'address add 10.244.1.2/32 dev lo')
  node.run('ipvsadm', '-A', '-t', '10.96.0.1:80', '-s', 'rr')
  node.run('ipvsadm', '-a', '-t', '10.96.0.1:80', '-r', '10.244.1.2:80', '-m')
  server = node.spawn(process.execPath, ['-e', "require('net').createServer((s) => s.end()).listen(80, '10.244.1.2')"])
  await eventually('the server to listen', () => node.run('ss', '-ltn').includes('10.244.1.2:80'))
})

afterAll(() => {
  server?.kill('SIGKILL')
  node?.destroy()
})

/** Connects again and again until its standard input ends, then tells how often what came of it. */
const knock = `
  const count = {}
  let goesOn = true
  const more = () => {
    if (!goesOn) return
    let outcome = 'served'
    require('net').connect(80, '10.96.0.1').on('error', ({ code }) => (outcome = code)).resume().on('close', () => {
      count[outcome] = (count[outcome] ?? 0) + 1
      more()
    })
  }
  for (let i = 0; i < 4; i++) more()
  process.stdin.resume().on('end', () => { goesOn = false; process.on('exit', () => console.log(JSON.stringify(count))) })`

// ip_vs_edit_service (net/netfilter/ipvs/ip_vs_ctl.c) unbinds the scheduler and waits for a grace period before it binds the
// new one; ip_vs_schedule has none to ask meanwhile. The same scheduler again is left bound.
test.each([
  { change: 'to another scheduler', schedulers: ['lc', 'rr'], refuses: true },
  { change: 'of the time-out, the scheduler the same', schedulers: ['rr -p 60', 'rr -p 90'], refuses: false },
])('a change $change: new connections refused meanwhile: $refuses', async ({ schedulers, refuses }) => {
  const client = spawn('ip', ['netns', 'exec', node.name, process.execPath, '-e', knock], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const told = text(client.stdout)
  await sleep(500)
  for (let i = 0; i < 16; i++) {
    const words = schedulers[i % schedulers.length]!.split(' ')
    node.run('ipvsadm', '-E', '-t', '10.96.0.1:80', '-s', ...words)
    await sleep(20)
  }
  client.stdin.end()
  await once(client, 'close')
  const { served = 0, ECONNREFUSED: refused = 0, ...others } = JSON.parse(await told) as Record<string, number>
  expect(served).toBeGreaterThan(0)
  expect(refused > 0).toBe(refuses)
  expect(others).toEqual({})
})
