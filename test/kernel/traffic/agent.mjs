// Serves and asks in one namespace, on orders that come as lines of JSON; each answer is a line with the order's id.
//   { id, op: 'serve', protocol, port, addresses? }         answers clients with "NAME CLIENT PORT", one line
//   { id, op: 'ask', protocol, address, port, source?, sourcePort?, timeout, reset? }
// What an ask found: the server's line, "refused", "no route", "timeout", or the name of the error. Ends with its standard input.
import { execFile, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { afterRunning } from '../patience.mjs'

const name = process.argv[2]
const children = new Set()
const six = (address) => address.includes(':')
const plain = (address) => address.replace(/^::ffff:(?=\d+\.)/, '')

const serve = {
  tcp: ({ port }) =>
    new Promise((done, failed) => {
      const server = createServer((socket) => {
        socket.on('error', () => {})
        socket.write(`${name} ${plain(socket.remoteAddress ?? '?')} ${port}\n`)
      })
      server.on('error', failed)
      server.listen({ port, host: '::', backlog: 512 }, done)
    }),
  udp: ({ port }) =>
    Promise.all(
      ['udp4', 'udp6'].map(
        (type) =>
          new Promise((done, failed) => {
            const socket = createSocket({ type, ipv6Only: type === 'udp6' })
            socket.on('error', failed)
            socket.on('message', (_, { address, port: to }) => socket.send(`${name} ${address} ${port}\n`, to, address))
            socket.bind(port, done)
          }),
      ),
    ),
  // Bound to one address each: an SCTP socket tells the peer all addresses it is bound to, and no NAT corrects them.
  sctp: async ({ port, addresses }) => {
    for (const address of addresses) {
      const listen = six(address)
        ? `SCTP6-LISTEN:${port},fork,bind=[${address}]`
        : `SCTP4-LISTEN:${port},fork,bind=${address}`
      const child = spawn('socat', ['-U', listen, 'EXEC:printenv NAME SOCAT_PEERADDR PORT'], {
        stdio: ['ignore', 'ignore', 'inherit'],
        env: { ...process.env, NAME: name, PORT: String(port) },
      })
      children.add(child)
    }
  },
}

const ask = {
  tcp: ({ address, port, source, timeout, reset }) =>
    new Promise((done) => {
      let text = ''
      const socket = connect({ host: address, port, ...(source && { localAddress: source }) })
      const end = (answer) => {
        clearInterval(timer)
        if (reset) socket.resetAndDestroy()
        else socket.end()
        done(answer)
      }
      const timer = afterRunning(timeout, () => {
        socket.destroy()
        done('timeout')
      })
      socket.on('data', (data) => {
        text += data
        if (text.endsWith('\n')) end(text.trim())
      })
      socket.on('error', (error) => end(meaning(error)))
    }),
  udp: ({ address, port, source, sourcePort, timeout }) =>
    new Promise((done) => {
      const socket = createSocket(six(address) ? 'udp6' : 'udp4')
      let isOpen = true
      const end = (answer) => {
        if (!isOpen) return
        isOpen = false
        clearInterval(timer)
        socket.close()
        done(answer)
      }
      const timer = afterRunning(timeout, () => end('timeout'))
      socket.on('error', (error) => end(meaning(error)))
      socket.on('message', (data) => end(String(data).trim()))
      // Connected, so that it hears of ICMP errors and of nobody else.
      // A datagram that is dropped on its way out is told by the callback alone; of one that is refused there an ICMP error
      // tells as well, which counts.
      const wait = (error) => error && setTimeout(() => end(meaning(error)), 300)
      socket.on('connect', () => socket.send('?', wait))
      if (source) socket.bind({ address: source, port: sourcePort }, () => socket.connect(port, address))
      else socket.connect(port, address)
    }),
  sctp: ({ address, port, source, timeout }) =>
    new Promise((done) => {
      const to = six(address) ? `SCTP6-CONNECT:[${address}]` : `SCTP4-CONNECT:${address}`
      const from = source ? `,bind=${six(source) ? `[${source}]` : source}` : ''
      const child = execFile('socat', ['-u', `${to}:${port}${from}`, 'STDOUT'], (error, stdout, stderr) => {
        clearInterval(timer)
        if (stdout.trim() !== '') done(sctpAnswer(stdout))
        else if (error?.killed) done('timeout')
        else done(/Connection refused/.test(stderr) ? 'refused' : stderr.trim() || 'nothing')
      })
      const timer = afterRunning(timeout, () => child.kill())
    }),
}

/** What printenv wrote, one value a line, as the other servers say it. */
function sctpAnswer(text) {
  const [who, client, port] = text.trim().split('\n')
  return `${who} ${client.startsWith('[') ? new URL(`http://${client}/`).hostname.slice(1, -1) : client} ${port}`
}

function meaning({ code, message }) {
  return { ECONNREFUSED: 'refused', ENETUNREACH: 'no route' }[code] ?? code ?? message
}

createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const order = JSON.parse(line)
    try {
      const answer = await { serve, ask }[order.op][order.protocol](order)
      process.stdout.write(`${JSON.stringify({ id: order.id, answer: order.op === 'ask' ? answer : 'done' })}\n`)
    } catch (error) {
      process.stdout.write(`${JSON.stringify({ id: order.id, answer: `agent: ${error.message}` })}\n`)
    }
  })
  .on('close', () => {
    for (const child of children) child.kill()
    process.exit()
  })
