import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'

export const root = resolve(import.meta.dirname, '../..')

/** Runs a command, gives its standard output; a failure carries its standard error. */
export function run(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 64 << 20 })
}

/**
 * Reads what `ipvsadm -Sn` prints until that is the same twice. The kernel goes on with a listing at an index of all
 * namespaces' servers: it skips and repeats some where another namespace's come or go meanwhile.
 */
export async function listServers(read: () => string | Promise<string>): Promise<string> {
  let last = await read()
  for (let i = 0; i < 20; i++) {
    const next = await read()
    if (next === last) return next
    last = next
  }
  throw new Error(`ipvsadm -Sn: never the same twice: ${last}`)
}

let counter = 0

/** A network namespace of its own: IPVS, sets, rules and addresses in it are nobody else's. */
export class Namespace {
  readonly name: string

  constructor(hint: string) {
    this.name = `${hint}-${process.pid % 10000}-${++counter}`
    run('ip', 'netns', 'add', this.name)
    this.run('ip', 'link', 'set', 'lo', 'up')
  }

  run(command: string, ...args: string[]): string {
    return run('ip', 'netns', 'exec', this.name, command, ...args)
  }

  /** Several ip(8) lines in one process. */
  ip(...lines: string[]): void {
    execFileSync('ip', ['-n', this.name, '-batch', '-'], { input: lines.join('\n'), stdio: ['pipe', 'ignore', 'pipe'] })
  }

  servers(): Promise<string> {
    return listServers(() => this.run('ipvsadm', '-Sn'))
  }

  spawn(command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): ChildProcess {
    return spawn('ip', ['netns', 'exec', this.name, command, ...args], { stdio: ['ignore', 'pipe', 'pipe'], env })
  }

  sysctl(name: string, value: number): void {
    this.run('sysctl', '-qw', `${name}=${value}`)
  }

  destroy(): void {
    run('ip', 'netns', 'delete', this.name)
  }
}

/**
 * A small program in a namespace that takes orders as lines of JSON, { id, … }, and answers each with { id, answer }. What it
 * leaves unanswered at its end is answered "the agent ended".
 */
export class Agent<Answer> {
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, (answer: Answer | string) => void>()
  #last = 0

  constructor(namespace: Namespace, program: string, ...args: readonly string[]) {
    this.#child = spawn('ip', ['netns', 'exec', namespace.name, process.execPath, program, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    createInterface({ input: this.#child.stdout! }).on('line', (line) => {
      const { id, answer } = JSON.parse(line) as { id: number; answer: Answer }
      this.#waiting.get(id)?.(answer)
      this.#waiting.delete(id)
    })
    this.#child.on('exit', () => {
      for (const answer of this.#waiting.values()) answer('the agent ended')
    })
  }

  order(order: Readonly<Record<string, unknown>>): Promise<Answer | string> {
    const id = ++this.#last
    return new Promise((settle) => {
      this.#waiting.set(id, settle)
      this.#child.stdin!.write(`${JSON.stringify({ ...order, id })}\n`)
    })
  }

  end(): void {
    this.#child.stdin!.end()
  }
}

/** A folder that is removed at the end. */
export async function temporaryFolder(copyOf?: string): Promise<{ path: string; remove: () => Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'kube-ipvs-proxy-'))
  if (copyOf !== undefined) await cp(copyOf, path, { recursive: true })
  return { path, remove: () => rm(path, { recursive: true, force: true }) }
}

export interface LogLine {
  readonly level: string
  readonly msg: string
  readonly [field: string]: unknown
}

/** The bundle where it was built: it starts faster in an emulated machine. */
export const program = existsSync(join(root, 'dist/kube-ipvs-proxy.cjs'))
  ? join(root, 'dist/kube-ipvs-proxy.cjs')
  : join(root, 'src/main.ts')

/** Where a process that does not go on stands: its threads with their system calls, and its children. */
function standing(pid: number): string[] {
  const script = `for task in /proc/${pid}/task/*; do
    echo "thread \${task##*/} $(cat $task/comm) $(cut -d' ' -f3 $task/stat) in $(cat $task/syscall)"
    head -8 $task/stack
  done
  ps --ppid ${pid} -o pid,stat,wchan:30,args || true`
  try {
    return run('sh', '-c', script).split('\n').filter(Boolean)
  } catch (error) {
    return [String(error)]
  }
}

/** The real daemon in a namespace. */
export class Daemon {
  readonly lines: LogLine[] = []
  /** What it wrote that is no log line: messages of start-up errors. */
  readonly text: string[] = []
  readonly exit: Promise<number | NodeJS.Signals>
  readonly #child: ChildProcess
  readonly #waiting = new Set<() => void>()
  exited = false

  /** `through`: a command that the daemon is started by, such as setpriv. */
  constructor(namespace: Namespace, args: readonly string[], env?: NodeJS.ProcessEnv, through: readonly string[] = []) {
    // exec: the process that gets our signals is the daemon itself.
    const [command, ...rest] = [...through, process.execPath, program, ...args]
    this.#child = namespace.spawn(command!, rest, env)
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      createInterface({ input: stream }).on('line', (line) => {
        if (line.startsWith('{')) this.lines.push(JSON.parse(line) as LogLine)
        else this.text.push(line)
        for (const wake of this.#waiting) wake()
      })
    }
    this.exit = new Promise((settle) => {
      this.#child.on('exit', (code, signal) => {
        this.exited = true
        settle(code ?? signal!)
        for (const wake of this.#waiting) wake()
      })
    })
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Ends it and waits for the end. One that does not end is killed, and the error tells where it stood. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | NodeJS.Signals> {
    this.signal(signal)
    const late = setTimeout(() => {
      this.text.push(...standing(this.#child.pid!))
      this.signal('SIGKILL')
    }, 60_000)
    const code = await this.exit
    clearTimeout(late)
    if (code === 'SIGKILL' && signal !== 'SIGKILL') {
      throw new Error(`the daemon did not end on ${signal}; it said:\n${this.#tail()}`)
    }
    return code
  }

  /** Until a log line of the message (and fields) has come; `after` leaves out earlier ones. */
  async said(message: string, fields: Record<string, unknown> = {}, after = 0): Promise<LogLine> {
    return this.#until(
      () =>
        this.lines
          .slice(after)
          .find((line) => line.msg.includes(message) && Object.entries(fields).every(([k, v]) => line[k] === v)),
      `log line "${message}" ${JSON.stringify(fields)}`,
    )
  }

  /** Until the daemon has written everything once. */
  async synced(families: readonly string[] = ['IPv4', 'IPv6']): Promise<void> {
    for (const family of families) await this.said('In sync for the first time', { family })
  }

  #tail(): string {
    return [...this.text, ...this.lines.slice(-20).map((line) => JSON.stringify(line))].join('\n')
  }

  async #until<T>(probe: () => T | undefined, what: string): Promise<T> {
    const deadline = Date.now() + 120_000
    for (;;) {
      const found = probe()
      if (found !== undefined) return found
      if (this.exited || Date.now() > deadline) {
        if (!this.exited) this.text.push(...standing(this.#child.pid!))
        throw new Error(
          `${this.exited ? 'the daemon ended' : 'timed out'} waiting for ${what}; it said:\n${this.#tail()}`,
        )
      }
      await new Promise<void>((wake) => {
        const timer = setTimeout(done, 500)
        const waiting = this.#waiting
        function done(): void {
          clearTimeout(timer)
          waiting.delete(done)
          wake()
        }
        waiting.add(done)
      })
    }
  }
}

/** Polls until the probe answers something truthy; the error tells what it answered last. */
export async function eventually<T>(what: string, probe: () => T | Promise<T>, limit = 60_000): Promise<T> {
  const deadline = Date.now() + limit
  for (;;) {
    const found = await probe()
    if (found) return found
    if (Date.now() > deadline) throw new Error(`timed out waiting for ${what}`)
    await new Promise((wake) => setTimeout(wake, 200))
  }
}

/**
 * Takes IPVS out of the kernel, with its schedulers and the match of iptables. Namespaces of other tests may still be on
 * their way out, and their rules and servers hold the modules.
 */
export async function unloadIpvs(): Promise<void> {
  let refused = ''
  const isUnloaded = (): boolean => {
    const loaded = run('sh', '-c', "awk '/^(xt_ipvs|ip_vs)/ { print $1 }' /proc/modules").split('\n').filter(Boolean)
    if (loaded.length === 0) return true
    try {
      run('modprobe', '-r', '-a', ...loaded)
    } catch (error) {
      refused = String(error)
    }
    return false
  }
  try {
    await eventually('ip_vs to be unloaded', isUnloaded)
  } catch (error) {
    const holders = run('sh', '-c', 'grep -E "^(xt_ipvs|ip_vs)" /proc/modules; ip netns; pgrep -a node || true')
    throw new Error(`${refused}\n${holders}`, { cause: error })
  }
}

/** Objects as a manifest file. */
export async function writeManifest(folder: string, name: string, ...objects: unknown[]): Promise<void> {
  await writeFile(join(folder, name), JSON.stringify({ kind: 'List', apiVersion: 'v1', items: objects }))
}

export interface SimpleService {
  readonly name: string
  readonly clusterIP: string
  readonly port?: number
  readonly nodePort?: number
  readonly protocol?: string
  readonly spec?: Record<string, unknown>
}

export function serviceObject({
  name,
  clusterIP,
  port = 80,
  nodePort,
  protocol = 'TCP',
  spec,
}: SimpleService): unknown {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: 'default' },
    spec: {
      type: nodePort === undefined ? 'ClusterIP' : 'NodePort',
      clusterIP,
      clusterIPs: [clusterIP],
      ports: [{ port, protocol, ...(nodePort === undefined ? {} : { nodePort }) }],
      ...spec,
    },
  }
}

export function sliceObject(service: string, addresses: readonly string[], port = 8080, protocol = 'TCP'): unknown {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: { name: `${service}-1`, namespace: 'default', labels: { 'kubernetes.io/service-name': service } },
    addressType: 'IPv4',
    ports: [{ name: '', port, protocol }],
    endpoints: addresses.map((address) => ({ addresses: [address], conditions: { ready: true } })),
  }
}

export function nodeObject(name: string, ...addresses: string[]): unknown {
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name },
    status: { addresses: addresses.map((address) => ({ type: 'InternalIP', address })) },
  }
}
