import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { tmpdir } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { KernelIpvs } from '../../src/ipvs/kernel-ipvs.ts'
import { Random } from '../random.ts'
import { ApiServer, Daemon } from './daemon.ts'
import { clusterIP, clusterOf, endpointIP, nodeOf, serviceName, serviceOf, sliceOf, type Size } from './objects.ts'
import { bareNode, ipvsadm, ownCommands, timeCommands } from './commands.ts'
import { dumpState, run } from './tools.ts'

/**
 * One run of one scenario in the network namespace that it is started in; prints one line of JSON. Numbers are seconds,
 * megabytes, or counts.
 */
const { values } = parseArgs({
  options: {
    scenario: { type: 'string', default: 'cold' },
    services: { type: 'string', default: '1000' },
    endpoints: { type: 'string', default: '10' },
    changes: { type: 'string', default: '1000' },
    'sync-period': { type: 'string', default: '30s' },
    minutes: { type: 'string', default: '2' },
    'command-runs': { type: 'string', default: '5' },
    tools: { type: 'boolean', default: false },
    profile: { type: 'string' },
  },
})
const size: Size = { services: Number(values.services), endpoints: Number(values.endpoints) }
const changes = Number(values.changes)
/** Milliseconds from the first sync to the first change: by then the garbage of the start is collected. */
const settling = 10_000
/** Milliseconds of changes that are not counted: a daemon that has run for a while, with a look at the kernel behind it. */
const warmUp = 35_000
/** Between two questions whether the kernel has it: asking takes a processor from those who are measured. */
const pause = 4
type Result = Record<string, number>

/** What the API server is told, and whether the kernel has it. */
interface KernelChange {
  readonly tell: unknown
  readonly done: () => Promise<boolean>
}

function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!
}

const server = (index: number) => ({ family: 'IPv4', protocol: 'TCP', address: clusterIP(index), port: 80 }) as const

class Bench {
  readonly #objects = join(tmpdir(), `objects-${process.pid}.json`)
  readonly ipvs = new KernelIpvs()
  api!: ApiServer
  daemon!: Daemon

  async prepare(): Promise<void> {
    run('ip', ['link', 'add', 'eth0', 'type', 'dummy'])
    run('ip', ['address', 'add', '192.168.60.1/24', 'dev', 'eth0'])
    run('ip', ['link', 'set', 'eth0', 'up'])
    run('ip', ['link', 'set', 'lo', 'up'])
    writeFileSync(this.#objects, JSON.stringify({ kind: 'List', items: [...clusterOf(size)] }))
    this.api = await ApiServer.start(this.#objects)
  }

  flags(syncPeriod = values['sync-period']): readonly string[] {
    return [
      `--master=${this.api.url}`,
      '--proxy-mode=ipvs',
      '--hostname-override=node1',
      '--cluster-cidr=10.128.0.0/10',
      `--ipvs-sync-period=${syncPeriod}`,
    ]
  }

  /** Starts the daemon; resolves when the first IPv4 pass has been acknowledged. */
  async start(syncPeriod = values['sync-period']): Promise<Result> {
    const daemon = new Daemon([...this.flags(syncPeriod), '-v=2'], values.profile)
    this.daemon = daemon
    const since = (): number => (performance.now() - daemon.started) / 1000
    const first = { waiting: true }
    const until = async (done: () => Promise<boolean>): Promise<number> => {
      while (first.waiting && !(await done())) await sleep(100)
      return since()
    }
    const own = until(async () => (await this.ipvs.listDestinations(server(0))).length > 0)
    const few = until(async () => (await this.ipvs.listServers()).length >= size.services / 100)
    // Blocks count from the first answer on: reading them starts them afresh.
    await daemon.answers()
    await daemon.metrics()
    const line = await daemon.said('In sync for the first time', { family: 'IPv4' })
    first.waiting = false
    const listed = await daemon.said(
      `/apis/discovery.k8s.io/v1/endpointslices: listed ${size.services} objects at version`,
    )
    const result: Result = {
      listed: (listed.at - daemon.started) / 1000,
      synced: (line.at - daemon.started) / 1000,
      firstPass: Number(line.milliseconds) / 1000,
      kubernetesService: await own,
      firstPercent: await few,
      cpu: daemon.cpu(),
      rssPeak: daemon.memory().peak,
      longestBlock: await daemon.metric('nodejs_eventloop_lag_max_seconds'),
      heap: (await daemon.metric('nodejs_heap_size_total_bytes')) / 2 ** 20,
      ...(await this.traffic()),
    }
    if (values.profile !== undefined) process.stderr.write(daemon.timeline())
    for (const error of daemon.errors()) throw new Error(JSON.stringify(error))
    return result
  }

  /** Netlink messages and system calls so far, and what was written of IPv4, by layer. */
  async traffic(): Promise<Result> {
    const metrics = await this.daemon.metrics()
    const sum = (pattern: RegExp): number =>
      [...metrics.matchAll(pattern)].reduce((total, [, count]) => total + Number(count), 0)
    return {
      messages: sum(/^kube_ipvs_netlink_messages_total\{[^}]*\} (\d+)/gm),
      sends: sum(/^kube_ipvs_netlink_sends_total\{[^}]*\} (\d+)/gm),
      written: sum(/^kube_ipvs_entries_written_total\{[^}]*ip_family="IPv4"[^}]*\} (\d+)/gm),
    }
  }

  /** Seconds from the API server's sending it to the kernel having it, one change after the other. */
  async latencies(count: number, change: (n: number) => KernelChange): Promise<Result> {
    const took: number[] = []
    for (let n = 0; n < count; n++) took.push(await this.#latency(change(n)))
    took.sort((a, b) => a - b)
    return { p50: quantile(took, 0.5), p99: quantile(took, 0.99), max: took.at(-1)! }
  }

  async #latency({ tell, done }: KernelChange): Promise<number> {
    const told = this.api.tell(tell)
    while (!(await done())) await sleep(pause)
    const now = Number(process.hrtime.bigint()) / 1e6
    return (now - (await told)) / 1000
  }

  /** Changes in pairs, one that takes something away and one that brings it back, until all runs warm. */
  async warmUp(change: (n: number) => KernelChange): Promise<void> {
    const end = performance.now() + warmUp
    while (performance.now() < end) for (const n of [0, 1]) await this.#latency(change(n))
  }

  async steady(seconds = 5): Promise<number> {
    await sleep(seconds * 1000)
    return this.daemon.memory().now
  }
}

const bench = new Bench()
const random = new Random(42)

/** What the changes made so far need to be written. */
let needed = 0

let changed = 0

/** One endpoint leaves a Service; the next time it comes back: the same mix of changes at every size. */
function endpointChange(n: number) {
  const without = 1 - (n % 2)
  if (without === 1) changed = random.below(size.services)
  const index = changed
  // A destination is made in one step and taken away in two: weight 0, and gone. One on this node is in a set, too.
  const isLocal = (index + size.endpoints - 1) % 10 === 0
  needed += (without === 1 ? 2 : 1) + (isLocal ? 1 : 0)
  return {
    tell: { put: sliceOf(index, size.endpoints, without) },
    done: async () => {
      const standing = await bench.ipvs.listDestinations(server(index))
      return standing.filter(({ weight }) => weight > 0).length === size.endpoints - without
    },
  }
}

async function endpoint(): Promise<Result> {
  await bench.start()
  await sleep(settling)
  await bench.warmUp(endpointChange)
  // Those that left are looked at once more before they go.
  await sleep(1000)
  needed = 0
  const before = await bench.traffic()
  const cpu = bench.daemon.cpu()
  const result = await bench.latencies(changes, endpointChange)
  await sleep(1000)
  const after = await bench.traffic()
  const written = after.written! - before.written!
  if (written !== needed) throw new Error(`${written} things were written where ${needed} were needed`)
  return {
    ...result,
    messagesPerChange: (after.messages! - before.messages!) / changes,
    writtenPerChange: written / changes,
    cpuPerChange: (bench.daemon.cpu() - cpu) / changes,
    rss: bench.daemon.memory().now,
  }
}

interface Changes {
  readonly put: readonly unknown[]
  readonly delete?: readonly [kind: string, key: string]
}

/** Endpoints of some Service come or go. */
const flip = (): unknown => sliceOf(random.below(size.services), size.endpoints, random.below(2))

/** A thousand changes a second, so many or for so many milliseconds; with the memory at its end. */
async function flood(most: number, milliseconds: number, change: () => Changes) {
  const began = performance.now()
  const elapsed = (): number => performance.now() - began
  let sent = 0
  // One moment may stand right before a collection of garbage or right after it.
  const rss: number[] = []
  const sampling = setInterval(() => rss.push(bench.daemon.memory().now), 1000)
  while (sent < most && elapsed() < milliseconds) {
    const due = Math.min(most, Math.floor(elapsed()))
    let put: unknown[] = []
    for (; sent < due; sent++) {
      const one = change()
      put.push(...one.put)
      if (one.delete === undefined) continue
      await bench.api.tell({ put, delete: one.delete })
      put = []
    }
    if (put.length > 0) await bench.api.tell({ put })
    await sleep(20)
  }
  clearInterval(sampling)
  const late = rss.slice(-20).sort((a, b) => a - b)
  return { sent, rss: quantile(late, 0.5) }
}

const scenarios: Record<string, () => Promise<Result>> = {
  cold: async () => {
    const result = await bench.start()
    return { ...result, rssSteady: await bench.steady(75) }
  },
  restart: async () => {
    const cold = await bench.start()
    await bench.daemon.stop()
    const warm = await bench.start()
    return { cold: cold.synced!, coldPass: cold.firstPass!, ...warm, share: warm.firstPass! / cold.firstPass! }
  },
  endpoint,
  /**
   * The same without the kernel's statistics: before Linux 6.2 it works out the rates of all virtual servers and
   * destinations every 2 s in one go, with soft interrupts held off.
   */
  'endpoint-unestimated': async () => {
    await bench.ipvs.listServers()
    run('sysctl', ['-qw', 'net.ipv4.vs.run_estimation=0'])
    return endpoint()
  },
  /** Changes while nothing else goes on, then while the whole kernel state is looked at without a pause. */
  check: async () => {
    await bench.start('1h')
    await sleep(settling)
    const quiet = await bench.latencies(changes, endpointChange)
    await bench.daemon.stop()
    await bench.start('1s')
    await sleep(settling)
    const busy = await bench.latencies(changes, endpointChange)
    return {
      quietP50: quiet.p50!,
      quietP99: quiet.p99!,
      busyP50: busy.p50!,
      busyP99: busy.p99!,
      ratioP50: busy.p50! / quiet.p50!,
      ratioP99: busy.p99! / quiet.p99!,
    }
  },
  /** All endpoints of some Services are replaced, a thousand in all. */
  rollout: async () => {
    await bench.start()
    await sleep(3000)
    const services = Math.max(1, Math.min(size.services, Math.round(1000 / size.endpoints)))
    const before = await bench.traffic()
    const began = performance.now()
    await bench.api.tell({ put: Array.from({ length: services }, (_, n) => sliceOf(n, size.endpoints, 0, 1)) })
    const isReplaced = async (n: number): Promise<boolean> => {
      const standing = await bench.ipvs.listDestinations(server(n))
      const wanted = new Set(Array.from({ length: size.endpoints }, (_, i) => endpointIP(n, i, size.endpoints, 1)))
      return standing.filter(({ address, weight }) => weight > 0 && wanted.has(address)).length === size.endpoints
    }
    for (let n = 0; n < services; n++) while (!(await isReplaced(n))) await sleep(2)
    const seconds = (performance.now() - began) / 1000
    await sleep(1000)
    const after = await bench.traffic()
    return { seconds, messages: after.messages! - before.messages!, written: after.written! - before.written! }
  },
  service: async () => {
    await bench.start()
    await sleep(3000)
    const result = await bench.latencies(changes, (n) => {
      const index = size.services + n
      return {
        tell: { put: [serviceOf(index), sliceOf(index, size.endpoints)] },
        done: async () => (await bench.ipvs.listDestinations(server(index))).length === size.endpoints,
      }
    })
    const removed = await bench.latencies(changes, (n) => ({
      tell: { delete: ['Service', `default/service-${size.services + n}`] },
      done: async () => (await bench.ipvs.listDestinations(server(size.services + n))).length === 0,
    }))
    return { ...result, removedP50: removed.p50!, removedP99: removed.p99! }
  },
  node: async () => {
    await bench.start()
    await sleep(3000)
    const before = bench.daemon.cpu()
    await bench.api.tell({ put: nodeOf('b') })
    await sleep(5000)
    return {
      cpu: bench.daemon.cpu() - before,
      longestBlock: await bench.daemon.metric('nodejs_eventloop_lag_max_seconds'),
    }
  },
  storm: async () => {
    await bench.start()
    await sleep(2000)
    const minute = async (): Promise<Result> => {
      const cpu = bench.daemon.cpu()
      const { sent, rss } = await flood(Number.POSITIVE_INFINITY, 60_000, () => ({ put: [flip()] }))
      return { sent, cpu: bench.daemon.cpu() - cpu, rss }
    }
    const minutes: Result[] = []
    while (minutes.length < Number(values.minutes)) minutes.push(await minute())
    const [first, second] = minutes
    return {
      events: first!.sent!,
      cpu: first!.cpu!,
      rss: first!.rss!,
      rssSecond: second!.rss!,
      rssLast: minutes.at(-1)!.rss!,
      peak: bench.daemon.memory().peak,
    }
  },
  /**
   * A day's changes: endpoints come and go, and one change in twenty takes a Service away or brings it back. In the end all is
   * as it was, and the kernel as wanted.
   */
  soak: async () => {
    await bench.start()
    await sleep(settling)
    const handles = bench.daemon.handles()
    const gone = new Set<number>()
    const change = (): Changes => {
      if (random.below(20) > 0) return { put: [flip()] }
      const index = 1 + random.below(size.services - 1)
      if (gone.delete(index)) return { put: [serviceOf(index)] }
      gone.add(index)
      return { put: [], delete: ['Service', `default/${serviceName(index)}`] }
    }
    const tenths: { rss: number; lines: number }[] = []
    while (tenths.length < 10) {
      const lines = bench.daemon.lineCount
      const { rss } = await flood(changes / 10, Number.POSITIVE_INFINITY, change)
      tenths.push({ rss, lines: bench.daemon.lineCount - lines })
      const facts = { handles: bench.daemon.handles(), messages: bench.daemon.linesSince(lines) }
      process.stderr.write(`${JSON.stringify({ ...tenths.at(-1)!, ...facts })}\n`)
    }
    for (const index of gone) await bench.api.tell({ put: [serviceOf(index)] })
    const isBack = async (): Promise<boolean> => (await bench.ipvs.listServers()).length === size.services
    const end = performance.now() + 120_000
    while (!(await isBack()) && performance.now() < end) await sleep(1000)
    await sleep(settling)
    const [, diff] = ownCommands('', '', [])
    await timeCommands([diff!], 1)
    const servers = (await bench.ipvs.listServers()).length
    if (servers !== size.services) throw new Error(`${servers} virtual servers of ${size.services} Services`)
    const [first, last] = [tenths[0]!, tenths.at(-1)!]
    const growth = last.rss / first.rss - 1
    if (growth > 0.05) throw new Error(`${last.rss} MB after the last tenth, ${first.rss} MB after the first`)
    return {
      changes,
      rss: first.rss,
      rssLast: last.rss,
      growth,
      lines: first.lines,
      linesLast: last.lines,
      handles,
      handlesLast: bench.daemon.handles(),
      cpu: bench.daemon.cpu(),
    }
  },
  /** Beside `ipvsadm -Ln`, with the daemon alive and after its end. */
  commands: async () => {
    await bench.start()
    await sleep(settling)
    const runs = Number(values['command-runs'])
    const service = 'default/service-1'
    const beside = await timeCommands([ipvsadm, bareNode, ...ownCommands('', service, [])], runs)
    const blocked = await bench.daemon.metric('nodejs_eventloop_lag_max_seconds')
    const rss = bench.daemon.memory().now
    await bench.daemon.stop()
    const alone = await timeCommands(ownCommands('alone-', service, bench.flags()), 1)
    return { ...beside, ...alone, blocked, rss }
  },
  idle: async () => {
    await bench.start()
    const period = Number.parseInt(values['sync-period'], 10) * 1000
    await sleep(period)
    const [cpu, began] = [bench.daemon.cpu(), performance.now()]
    await sleep(10 * period)
    const seconds = (performance.now() - began) / 1000
    const used = bench.daemon.cpu() - cpu
    return { cpuPerPeriod: used / 10, share: used / seconds, rss: bench.daemon.memory().now }
  },
}

const scenario = scenarios[values.scenario]
if (scenario === undefined)
  throw new Error(`no scenario ${values.scenario}; there are ${Object.keys(scenarios).join(', ')}`)
await bench.prepare()
const result = await scenario()
if (values.tools) writeFileSync(join(tmpdir(), 'tool-input.json'), JSON.stringify(dumpState()))
await bench.daemon.stop()
bench.api.stop()
bench.ipvs.close()
process.stdout.write(`${JSON.stringify(result)}\n`)
