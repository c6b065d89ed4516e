// Writes the last run into docs/campaigns.md: campaigns.mjs FOLDER SEED... reads the results of churn and explain that
// scripts/verify-long.sh left in the folder, prints what it writes, and ends with 1 when a campaign is missing or found
// something. CHURN_ROUNDS or EXPLAIN_COMBINATIONS of 0 say that there was none of that kind.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const [folder, ...seeds] = process.argv.slice(2)
const read = (name) => (existsSync(join(folder, name)) ? readFileSync(join(folder, name), 'utf8').trim() : '')
const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0)
const git = (...args) => execFileSync('git', args, { encoding: 'utf8' }).trim()
const failures = []

function row(where, seed, text, trouble) {
  if (text === '') {
    failures.push(`${where}, seed ${seed}: ${trouble.split('\n').find((line) => line.includes('seed')) ?? 'no end'}`)
    return `| ${where} | ${seed} | failed | | | | | | | | |`
  }
  const { rounds, seconds, events, tamperings, faults, restarts, passes, servers } = JSON.parse(text)
  const objects = sum(events) - (events.tamper ?? 0) - (events.pause ?? 0) - (events.restart ?? 0) - (events.die ?? 0)
  return (
    `| ${where} | ${seed} | ${rounds} | ${seconds} | ${(seconds / rounds).toFixed(2)} | ${objects} | ` +
    `${sum(tamperings)} | ${sum(faults)} | ${restarts} | ${passes} | ${servers} |`
  )
}

const isRun = (name) => process.env[name] !== '0'

function explainRow(seed) {
  const text = read(`explain-${seed}.json`)
  if (text === '') {
    failures.push(`explain, seed ${seed}: ${read(`explain-${seed}.txt`).split('\n').at(-1) ?? 'no end'}`)
    return `| ${seed} | failed | | | | | | | |`
  }
  const { combinations, states, healthy, verdicts, cannotTell, leaves, seconds, mistakes } = JSON.parse(text)
  if (mistakes > 0) failures.push(`explain, seed ${seed}: ${mistakes} forecasts were wrong`)
  const codes = Object.keys(verdicts).length
  return `| ${seed} | ${combinations} | ${states} | ${healthy} | ${codes} | ${leaves} | ${cannotTell} | ${mistakes} | ${seconds} |`
}

const rows = []
for (const seed of isRun('CHURN_ROUNDS') ? seeds : []) {
  const lines = read(`fakes-${seed}`).split('\n')
  for (const [i, where] of ['fakes, events amid passes', 'fakes, each write judged'].entries()) {
    rows.push(row(where, seed, lines[i] ?? '', read(`fakes-${seed}.txt`)))
  }
}
for (const seed of isRun('CHURN_ROUNDS') ? seeds : [])
  rows.push(row('kernel', seed, read(`kernel-${seed}.json`), read(`kernel-${seed}.txt`)))

const page = 'docs/campaigns.md'
const [begin, end] = ['<!-- last run -->', '<!-- end of last run -->']
const text = readFileSync(page, 'utf8')
if (!text.includes(begin) || !text.includes(end)) throw new Error(`${page} has no lines ${begin} and ${end}`)
const churn = `| Where | Seed | Rounds | Seconds | A round | Object and address events | Tamperings | Faults injected | Restarts | Passes | Most virtual servers |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
${rows.join('\n')}
`
const explain = `| Seed | Combinations | States | In good order | Verdicts seen | Not asked | Cannot tell | Wrong | Seconds |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
${isRun('EXPLAIN_COMBINATIONS') ? seeds.map(explainRow).join('\n') : ''}
`
const lastRun = `
${new Date().toISOString().slice(0, 10)}, at commit ${git('rev-parse', '--short', 'HEAD')}, guest kernel ${read('kernel') || 'unknown'}.

${isRun('CHURN_ROUNDS') ? churn : ''}
${isRun('EXPLAIN_COMBINATIONS') ? explain : ''}
${failures.length === 0 ? 'No difference was found.' : `Found:\n\n${failures.map((failure) => `- ${failure}`).join('\n')}`}
`
writeFileSync(page, text.slice(0, text.indexOf(begin) + begin.length) + lastRun + text.slice(text.indexOf(end)))
process.stdout.write(lastRun)
process.exitCode = failures.length === 0 ? 0 : 1
