// The pods: one server on all addresses of its namespace, which answers each client with the address that it reached.
import { createServer } from 'node:net'

createServer((socket) => {
  socket.on('error', () => {})
  socket.end(`${socket.localAddress}\n`)
}).listen({ port: 8080, host: '0.0.0.0', backlog: 1024 }, () => console.log('up'))
