// Servers and clients of the hitless campaign, on orders that come as lines of JSON.
//   { op: 'serve', name, address, ports }             echoes over TCP and UDP, its name first: "NAME TEXT"
//   { op: 'load', addresses, targets, long, rate }    `long` connections that stay, `rate` short ones a second, from addresses,
//                                                     spread over targets { protocol, address, port }. No port of an address is
//                                                     ever used for two targets: IPVS finds the connection of an answer by
//                                                     client and server alone, so of two with one port of a client and one
//                                                     server, by way of two virtual servers, only the newer one hears; and over
//                                                     UDP it remembers a connection for five minutes
//   { op: 'report' }                                  what has happened so far, one line of JSON
//   { op: 'end' }                                     no new short connections; reports once those under way have ended
// A connection over UDP is a socket that sends and hears one answer at a time. Ends with its standard input.
import { createSocket } from 'node:dgram'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { afterRunning } from '../patience.mjs'

/** Milliseconds: an answer that takes longer counts as none. Far above what an emulated machine needs under load. */
const patience = 10_000
/** Between two messages of a connection that stays. */
const pause = 1000
/** First port, and how many, of the two kinds of connections. */
const ports = { long: [2000, 8000], short: [10_000, 55_000] }

function serve({ name, address, ports: served }) {
  const ready = served.flatMap((port) => [
    new Promise((done, failed) => {
      const server = createServer({ noDelay: true }, (socket) => {
        socket.on('error', () => {})
        socket.on('data', (data) => socket.write(`${name} ${data}`))
      })
      server.on('error', failed)
      server.listen({ port, host: address, backlog: 1024 }, done)
    }),
    new Promise((done, failed) => {
      const socket = createSocket('udp4')
      socket.on('error', failed)
      socket.on('message', (data, client) => socket.send(`${name} ${data}`, client.port, client.address))
      // An answer would come from another address of the machine otherwise.
      socket.bind(port, address, () => {
        socket.setRecvBufferSize(1 << 20)
        done()
      })
    }),
  ])
  return Promise.all(ready)
}

/** `send` a text, `heard` for what comes, `lost` once when it broke, with why. */
const open = {
  TCP: ({ address, port }, from, heard, lost, opened) => {
    const socket = connect({ host: address, port, localAddress: from.address, localPort: from.port, noDelay: true })
    let rest = ''
    socket.on('connect', opened)
    socket.on('error', (error) => lost(error.code ?? error.message))
    socket.on('close', () => lost('closed'))
    socket.on('data', (data) => {
      const lines = (rest + data).split('\n')
      rest = lines.pop()
      for (const line of lines) heard(line)
    })
    return { send: (text) => socket.write(`${text}\n`), end: () => socket.end() }
  },
  UDP: ({ address, port }, from, heard, lost, opened) => {
    const socket = createSocket('udp4')
    let isOpen = true
    socket.on('error', (error) => lost(error.code ?? error.message))
    socket.on('message', (data) => heard(String(data).trim()))
    socket.on('connect', opened)
    socket.bind(from.port, from.address, () => socket.connect(port, address))
    return {
      send: (text) => isOpen && socket.send(`${text}\n`, (error) => error && isOpen && lost(error.code)),
      end: () => {
        if (isOpen) socket.close()
        isOpen = false
      },
    }
  },
}

const seen = { opened: 0, exchanged: 0, asked: 0, answered: 0, underWay: 0, failures: [] }
let isOver = false

function fail(target, kind, why) {
  seen.failures.push(`${new Date().toISOString()} ${kind} ${target.protocol} ${target.address}:${target.port}: ${why}`)
}

/** One that stays: asks, waits for the answer, pauses, asks again; always the same server has to answer. */
function stay(target, from) {
  let who
  let count = 0
  let timer
  const lost = (why) => {
    if (timer === undefined) return
    clearTimeout(timer)
    timer = undefined
    if (!isOver) fail(target, 'long', `${why} after ${count} answers`)
  }
  const ask = () => {
    timer = afterRunning(patience, () => lost('no answer'))
    connection.send(String(count))
  }
  const heard = (line) => {
    const [server, text] = line.split(' ')
    if (text !== String(count)) return lost(`"${line}" in answer to ${count}`)
    if (who !== undefined && server !== who) return lost(`${server} answers instead of ${who}`)
    if (who === undefined) seen.opened++
    who = server
    count++
    seen.exchanged++
    clearTimeout(timer)
    timer = setTimeout(ask, pause)
  }
  timer = afterRunning(patience, () => lost('not connected'))
  const connection = open[target.protocol](target, from, heard, lost, () => {
    clearTimeout(timer)
    ask()
  })
}

/** A short one: one question, one answer. */
function pass(target, from) {
  seen.asked++
  seen.underWay++
  let isDone = false
  const done = (why) => {
    if (isDone) return
    isDone = true
    clearTimeout(timer)
    seen.underWay--
    if (why === undefined) seen.answered++
    else fail(target, 'short', why)
    connection.end()
  }
  const timer = afterRunning(patience, () => done('no answer'))
  const connection = open[target.protocol](
    target,
    from,
    () => done(),
    done,
    () => connection.send('?'),
  )
}

/** The i-th connection of a kind: its target, and address and port for it, which come round for the same target only. */
function ends(kind, i, addresses, targets) {
  const [first, count] = ports[kind]
  const usable = count - (count % targets.length)
  const from = { address: addresses[Math.floor(i / usable) % addresses.length], port: first + (i % usable) }
  return [targets[i % targets.length], from]
}

function load({ addresses, targets, long, rate }) {
  const start = (i) => stay(...ends('long', i, addresses, targets))
  for (let i = 0; i < long; i++) setTimeout(start, (i / long) * 4000, i)
  const began = performance.now()
  let due = 0
  let count = 0
  const timer = setInterval(() => {
    if (isOver) return clearInterval(timer)
    const now = ((performance.now() - began) * rate) / 1000
    // What the machine could not do in time is not made up for in one burst.
    if (now - due > rate) due = now - rate
    for (; due < now; due++) pass(...ends('short', count++, addresses, targets))
  }, 20)
}

const operations = {
  serve,
  load,
  report: () => seen,
  end: async () => {
    isOver = true
    while (seen.underWay > 0) await new Promise((wake) => setTimeout(wake, 100))
    return seen
  },
}

createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const { id, op, ...order } = JSON.parse(line)
    const answer = await operations[op](order)
    process.stdout.write(`${JSON.stringify({ id, answer: answer ?? null })}\n`)
  })
  .on('close', () => process.exit())
