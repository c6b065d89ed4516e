// What `explain` says of a packet, and what becomes of the packet: on node-a, whose daemon has ended, so that nothing is
// repaired meanwhile.
import { spawn, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Explanation, ExplainRequest } from '../../../src/explain/explain.ts'
import type { End } from '../../../src/explain/walk.ts'
import type { Finding } from '../../../src/inspect/checks.ts'
import type { Family } from '../../../src/model/address.ts'
import { destinationKey } from '../../../src/model/virtual-server.ts'
import type { Namespace } from '../lab.ts'
import { addressOf, clusterCIDRs, Network, nodes, pods, type Actor, type Transport } from '../traffic/network.ts'
import { silence } from '../traffic/rows.ts'
import type { Answer } from './explain-main.ts'

export type { Answer }

/** A question of one actor, and the packet that it begins with. */
export interface Probe {
  readonly from: Actor
  /** Of the client and of node-a, which have several; without it node-a's kernel chooses. */
  readonly source?: string
  /** The link that it comes in by, where that is not the one to its source. */
  readonly inLink?: string
  readonly address: string
  readonly port: number
  readonly transport: Transport
  readonly family: Family
}

/** What the asker hears by the explanation. */
export interface Forecast {
  /** "a1 10.244.1.1 8080" as the servers say it, or one of a kind: "refused", "no route", "timeout", "leaves", "unknown". */
  readonly texts: readonly string[]
  /** False where it may be any of them. */
  readonly isCertain: boolean
  /** A chain of nftables is on the way, into which nobody has looked. */
  readonly isBlind: boolean
  /** One of them, and the same each time. */
  readonly isSticky: boolean
}

const kinds: Readonly<Record<string, string>> = {
  refused: 'refused',
  nothing: 'timeout',
  unreachable: 'no route',
}

export function forecast(explanation: Explanation, family: Family): Forecast {
  const { ways } = explanation
  const textOf = ({ answer, seen }: End, address: string, port: number): string => {
    if (answer !== 'answered') return kinds[answer] ?? answer
    const who = [...pods, ...nodes].find((one) => addressOf(one, family) === address) ?? 'node-a'
    return `${who} ${seen} ${port}`
  }
  const texts = ways.flatMap((way) => {
    const { address, port } = explanation.target
    if (way.balanced === undefined) return [textOf(way.end!, address, port)]
    return way.balanced.results.flatMap(({ destination, ways: own }) =>
      own.map(({ end }) => textOf(end!, destination.address, destination.port)),
    )
  })
  const branches = ways.flatMap(({ balanced }) => balanced?.results.map((one) => one.ways.length) ?? [])
  return {
    texts: [...new Set(texts)].sort(),
    isCertain: ways.length === 1 && branches.every((count) => count === 1) && !texts.includes('unknown'),
    isBlind: explanation.verdict.text.includes('unless nftables decides otherwise'),
    isSticky: ways.some(({ balanced }) => (balanced?.server.server.timeout ?? 0) > 0),
  }
}

/** V8 breaks now and then under emulation, at no line of ours: it ends by one of these, and another start does well. */
const emulationSignals = new Set<string>(['SIGSEGV', 'SIGTRAP', 'SIGILL'])

/** The program's `explain` and `doctor` in a namespace, in one process for all questions. */
export class Explainer {
  readonly #command: readonly string[]
  #child!: ChildProcess
  #answers!: AsyncIterator<string>
  #ended!: Promise<string>

  constructor(namespace: Namespace, folder: string, node: string, ...flags: readonly string[]) {
    const given = ['--proxy-mode=ipvs', `--hostname-override=${node}`, clusterCIDRs, ...flags]
    const program = [join(import.meta.dirname, 'explain-main.ts'), folder, ...given]
    // By its name: see scripts/guest.sh.
    this.#command = ['netns', 'exec', namespace.name, 'node', ...program]
    this.#start()
  }

  explain(requests: readonly ExplainRequest[]): Promise<readonly Answer[]> {
    return this.#order(requests)
  }

  doctor(): Promise<readonly Finding[]> {
    return this.#order('doctor')
  }

  end(): void {
    this.#child.stdin!.end()
  }

  #start(): void {
    const child = spawn('ip', this.#command, { stdio: ['pipe', 'pipe', 'inherit'] })
    // What cannot be written any more is told by the missing answer.
    child.stdin.on('error', () => {})
    this.#answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    this.#ended = new Promise((settle) => {
      child.on('exit', (code, signal) => settle(signal ?? `exit code ${code}`))
    })
    this.#child = child
  }

  async #order<T>(order: unknown, starts = 3): Promise<T> {
    this.#child.stdin!.write(`${JSON.stringify(order)}\n`)
    const { value } = await this.#answers.next()
    if (typeof value !== 'string') {
      const how = await this.#ended
      if (starts === 1 || !emulationSignals.has(how))
        throw new Error(`the explainer ended on ${JSON.stringify(order)}: ${how}`)
      console.log(`the explainer ended by ${how} and is started again`)
      this.#start()
      return this.#order(order, starts - 1)
    }
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- explain-main.ts writes it
    return JSON.parse(value) as T
  }
}

export class ExplainLab {
  readonly network: Network
  readonly #explainer: Explainer

  private constructor(network: Network) {
    this.network = network
    this.#explainer = new Explainer(network.namespace('node-a'), network.folder, 'node-a')
  }

  static async start(objects: readonly unknown[]): Promise<ExplainLab> {
    const network = await Network.start(objects)
    await network.daemons.get('node-a')!.stop()
    return new ExplainLab(network)
  }

  async end(): Promise<void> {
    this.#explainer.end()
    await this.network.destroy()
  }

  /** Runs shell lines in node-a, up to the first that fails. */
  shell(lines: readonly string[]): string {
    return lines.length === 0 ? '' : this.network.namespace('node-a').run('sh', '-ec', lines.join('\n'))
  }

  explain(probes: readonly Probe[]): Promise<readonly Answer[]> {
    const targetOf = (one: Probe): string => `${destinationKey(one)}/${one.transport}`
    return this.#explainer.explain(probes.map((one) => ({ target: targetOf(one), from: fromOf(one) })))
  }

  doctor(): Promise<readonly Finding[]> {
    return this.#explainer.doctor()
  }

  /** What the asker hears: two rounds of the scheduler. Long is waited for what is to come, not for what is not. */
  async heard(
    { from, source, address, port, transport }: Probe,
    { texts }: Forecast,
    timeout = silence,
  ): Promise<string[]> {
    const question = { transport, address, port, ...(source === undefined ? {} : { source }) }
    const count = texts.length === 1 ? 1 : 2 * texts.length
    const comes = texts.every((text) => / /.test(text) || text === 'refused')
    const heard = await this.network.askMany(from, count, { ...question, ...(comes ? {} : { timeout }) })
    return heard.map((text) => (/^(EHOSTUNREACH|ENETUNREACH|EACCES|EPERM)$/.test(text) ? 'no route' : text))
  }

  /** How forecasts and truth differ, as text. Asked again alone before it counts: others share a scheduler's round. */
  async mistakes(probes: readonly Probe[], answers: readonly Answer[]): Promise<string[]> {
    const check = async (probe: Probe, timeout?: number): Promise<string | undefined> => {
      const { explanation, text } = answers[probes.indexOf(probe)]!
      const said = forecast(explanation, probe.family)
      if (said.texts.includes('leaves')) return undefined
      const was = [...new Set(await this.heard(probe, said, timeout))].sort()
      if (fits(said, was)) return undefined
      return `${JSON.stringify(probe)}: said ${said.texts.join()}, was ${was.join()}\n${text}`
    }
    const suspects: Probe[] = []
    for (const wave of waves(probes)) {
      const wrong = await Promise.all(wave.map(async (probe) => ((await check(probe)) === undefined ? [] : [probe])))
      suspects.push(...wrong.flat())
    }
    const found: string[] = []
    for (const probe of suspects) found.push((await check(probe, 2 * silence)) ?? '')
    return found.filter(Boolean)
  }
}

function fromOf({ from, source, inLink, family, transport }: Probe): string {
  // SCTP's sockets are bound.
  if (from === 'node-a' && transport !== 'SCTP') return source ?? 'node'
  return `${source ?? addressOf(from, family)}${inLink === undefined ? '' : `@${inLink}`}`
}

function fits({ texts, isCertain, isSticky, isBlind }: Forecast, was: readonly string[]): boolean {
  if (isBlind || texts.includes('unknown')) return true
  if (!was.every((text) => texts.includes(text))) return false
  return isSticky ? was.length === 1 : !isCertain || was.length === texts.length
}

/** Side by side only what goes to different addresses: those of one virtual server would share its rounds. */
function waves(probes: readonly Probe[]): Probe[][] {
  const found: Probe[][] = []
  for (const probe of probes) {
    const key = (one: Probe): string => `${destinationKey(one)}/${one.transport}`
    const free = found.find((wave) => wave.every((one) => key(one) !== key(probe)))
    if (free === undefined) found.push([probe])
    else free.push(probe)
  }
  return found
}
