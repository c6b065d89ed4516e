import { writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { run, runShown } from './tools.ts'

/**
 * Runs scenarios, each run in a fresh network namespace, beside the C tools that write the same state; prints medians.
 *   main.ts [--scenario NAME] [--services N] [--endpoints M] [--runs R] [--changes N] [--minutes M]
 *     [--sync-period 30s] [--json FILE]
 */
const { values } = parseArgs({
  options: {
    scenario: { type: 'string' },
    services: { type: 'string' },
    endpoints: { type: 'string', default: '10' },
    runs: { type: 'string', default: '1' },
    changes: { type: 'string', default: '1000' },
    'sync-period': { type: 'string', default: '30s' },
    minutes: { type: 'string', default: '2' },
    'command-runs': { type: 'string', default: '5' },
    json: { type: 'string' },
    profile: { type: 'string' },
  },
})

interface Plan {
  readonly scenario: string
  readonly services: number
  readonly endpoints: number
}
type Numbers = Record<string, number>
interface Outcome extends Plan {
  /** "6.1" */
  readonly kernel: string
  readonly runs: number
  readonly medians: Numbers
  readonly tools: Numbers
}

const sizes = [
  [100, 10],
  [1000, 10],
  [10_000, 10],
  [44_125, 1],
  [5006, 50],
] as const

function plans(): Plan[] {
  if (values.scenario !== undefined || values.services !== undefined) {
    return [
      {
        scenario: values.scenario ?? 'cold',
        services: Number(values.services ?? 1000),
        endpoints: Number(values.endpoints),
      },
    ]
  }
  const of = (scenario: string, list: readonly (readonly [number, number])[]): Plan[] =>
    list.map(([services, endpoints]) => ({ scenario, services, endpoints }))
  return [
    ...of('cold', sizes),
    ...of('restart', [[10_000, 10]]),
    ...['endpoint', 'service', 'node'].flatMap((scenario) => of(scenario, sizes.slice(0, 4))),
    ...of('storm', [[10_000, 10]]),
    ...of('idle', [[10_000, 10]]),
    ...of('commands', [
      [10_000, 1],
      [10_000, 10],
    ]),
  ]
}

let counter = 0

/** Signals by which V8 dies now and then under emulation, never on a machine. */
const emulatorFaults: readonly unknown[] = ['SIGSEGV', 'SIGTRAP']

/** The last line of JSON that a script prints in a namespace of its own; told and run anew where the emulation broke it. */
function inNamespace(script: string, args: readonly string[], triesLeft = 3): Numbers {
  const name = `bench-${process.pid}-${++counter}`
  run('ip', ['netns', 'add', name])
  try {
    const program = [process.execPath, ...process.execArgv, join(import.meta.dirname, script)]
    const output = runShown('ip', ['netns', 'exec', name, ...program, ...args])
    return JSON.parse(output.trim().split('\n').at(-1)!) as Numbers
  } catch (error) {
    const signal = error instanceof Error && 'signal' in error ? error.signal : undefined
    if (!emulatorFaults.includes(signal) || triesLeft === 0) throw error
    process.stderr.write(`${script} died of ${String(signal)}: once more\n`)
    // What it started outlives it; some of that may be ending by itself.
    run('sh', ['-c', `ip netns pids ${name} | xargs -r kill -9 2> /dev/null || true`])
  } finally {
    run('ip', ['netns', 'delete', name])
  }
  return inNamespace(script, args, triesLeft - 1)
}

function medians(runs: readonly Numbers[]): Numbers {
  const result: Numbers = {}
  for (const key of Object.keys(runs[0] ?? {})) {
    const sorted = runs.map((one) => one[key] ?? 0).sort((a, b) => a - b)
    result[key] = sorted[sorted.length >> 1]!
  }
  return result
}

function show(numbers: Numbers): string {
  return Object.entries(numbers)
    .map(([key, value]) => `${key} ${Number.isInteger(value) ? value : value.toPrecision(3)}`)
    .join(', ')
}

const outcomes: Outcome[] = []
const kernel = release().split('.', 2).join('.')
for (const plan of plans()) {
  const { scenario, services, endpoints } = plan
  const ours: Numbers[] = []
  const theirs: Numbers[] = []
  for (let i = 0; i < Number(values.runs); i++) {
    const args = ['--scenario', scenario, '--services', String(services), '--endpoints', String(endpoints)]
    if (values.profile !== undefined) args.push('--profile', values.profile)
    args.push('--changes', values.changes, '--sync-period', values['sync-period'])
    args.push('--command-runs', values['command-runs'], '--minutes', values.minutes)
    ours.push(inNamespace('run.ts', scenario === 'cold' ? [...args, '--tools'] : args))
    if (scenario === 'cold') theirs.push(inNamespace('tool-run.ts', []))
  }
  const outcome = { ...plan, kernel, runs: ours.length, medians: medians(ours), tools: medians(theirs) }
  outcomes.push(outcome)
  process.stdout.write(`${scenario} ${services} x ${endpoints}: ${show(outcome.medians)}\n`)
  if (theirs.length > 0) {
    const sum = Object.values(outcome.tools).reduce((a, b) => a + b, 0)
    const share = (outcome.medians.firstPass! / sum).toFixed(2)
    process.stdout.write(`  C tools: ${show(outcome.tools)}; sum ${sum.toPrecision(3)}; first pass / sum ${share}\n`)
  }
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(outcomes, undefined, 2)}\n`)
