// Asks served addresses over TCP without a pause, and judges who answers. Orders come as lines of JSON:
//   { expect: { "ADDRESS:PORT": { from: { SOURCE: { by: [POD], must } } } } }   replaces what is right from now on
//   { report: true }                                                             answers one line of JSON
// `by`: addresses of the pods that may answer the client with that source; `must`: one of them has to.
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { afterRunning } from '../patience.mjs'

const patience = 5000
const abreast = 6

let expected = new Map()
const counts = { asked: 0, answered: 0, silent: 0, wrong: [] }

/** What is right at one moment of the question is right. */
function judge(target, source, before, { answer, stages }) {
  const now = expected.get(target)?.from[source]
  const allowed = [before, now].filter(Boolean)
  const isPod = answer.startsWith('pod ')
  if (isPod) counts.answered++
  else counts.silent++
  const isRight = isPod
    ? allowed.some(({ by }) => by.includes(answer.slice(4)))
    : !(before.must && (now === undefined || now.must))
  if (isRight) return
  const what = `${source} → ${target}: ${answer} (${stages.join(', ')})`
  counts.wrong.push(`${new Date().toISOString()} ${what}; right: ${JSON.stringify(allowed)}`)
}

function ask(target, source) {
  counts.asked++
  const begun = performance.now()
  const stages = []
  const reached = (stage) => stages.push(`${stage} after ${Math.round(performance.now() - begun)} ms`)
  const [host, port] = target.split(':')
  return new Promise((done) => {
    let text = ''
    const socket = connect({ host, port: Number(port), localAddress: source })
    const end = (answer) => {
      clearInterval(timer)
      socket.destroy()
      reached('end')
      done({ answer, stages })
    }
    socket.on('connect', () => reached('connected'))
    const timer = afterRunning(patience, () => end('no answer'))
    socket.on('data', (data) => {
      text += data
      if (text.endsWith('\n')) end(`pod ${text.trim()}`)
    })
    socket.on('error', (error) => end(error.code ?? error.message))
    socket.on('end', () => end('closed'))
  })
}

async function keepAsking(offset) {
  for (let i = offset; ; i += abreast) {
    const targets = [...expected.keys()]
    if (targets.length > 0) {
      const target = targets[i % targets.length]
      for (const source of Object.keys(expected.get(target).from)) {
        const before = expected.get(target)?.from[source]
        if (before !== undefined) judge(target, source, before, await ask(target, source))
      }
    }
    await new Promise((wake) => setTimeout(wake, 50))
  }
}
for (let i = 0; i < abreast; i++) void keepAsking(i)

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const { expect } = JSON.parse(line)
    if (expect !== undefined) expected = new Map(Object.entries(expect))
    process.stdout.write(`${JSON.stringify(counts)}\n`)
  })
  .on('close', () => process.exit())
