import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { promisify } from 'node:util'
import type { Kernel } from '../open.ts'
import { externalForm } from '../config/external.ts'
import { allRoles, setSpec } from '../ipset/catalogue.ts'
import { destinationKey, serverFlags, type ObservedServer } from '../ipvs/ipvs.ts'
import { describeError, ProxyError } from '../lib/errors.ts'
import { runCommand, type RunCommand } from '../lib/process.ts'
import { readSysctl } from '../lib/sysctl.ts'
import { version } from '../lib/version.ts'
import { checks, examine } from './checks.ts'
import { askDaemon, type Answer } from './daemon.ts'
import { diffResult } from './diff.ts'
import { readFacts } from './facts.ts'
import { lookAtKernel, withKernel } from './look.ts'
import { json } from './output.ts'
import { kubeconfigSecrets, redact } from './redact.ts'
import { proxyOf, reportOf } from './report.ts'
import type { Inspection } from './setup.ts'
import { statusFacts, statusOf } from './status.ts'
import { tarArchive, type TarFile } from './tar.ts'

/** One file of the bundle and how it is made. */
export interface Part {
  readonly name: string
  readonly make: () => Promise<string>
}

const tokenOfPod = '/var/run/secrets/kubernetes.io/serviceaccount/token'

/**
 * Makes all parts, one after the other. One that fails becomes a file that says why. Nothing of `secrets` is in any of them,
 * nor what looks like a secret.
 */
export async function makeParts(parts: readonly Part[], secrets: readonly string[]): Promise<readonly TarFile[]> {
  const files: TarFile[] = []
  for (const { name, make } of parts) {
    try {
      files.push({ name, content: redact(await make(), secrets) })
    } catch (error) {
      files.push({ name: `${name}.failed.txt`, content: redact(`${describeError(error)}\n`, secrets) })
    }
  }
  return files
}

/** Everything about this node in one archive. Answers 0 also where parts failed: each says so itself. */
export async function runSupportBundle(inspection: Inspection): Promise<number> {
  const path = inspection.command.argument
  const secrets = readSecrets(inspection)
  const began = new Date()
  const files = await withKernel((kernel) => makeParts(partsOf(inspection, kernel), secrets))
  // Loaded only here: the daemon has no use for it.
  const { gzip } = await import('node:zlib')
  const archive = await promisify(gzip)(
    tarArchive(
      files.map(({ name, content }) => ({ name: `support-bundle/${name}`, content })),
      began,
    ),
  )
  if (path === '-') {
    // Out of a pod there is no other way.
    await new Promise<void>((done) => process.stdout.write(archive, () => done()))
    return 0
  }
  try {
    // Not for every user of the node: it tells much about the cluster.
    writeFileSync(path, archive, { mode: 0o600 })
  } catch (error) {
    throw new ProxyError(
      'CONFIG',
      `cannot write ${path}`,
      { object: path, advice: 'name a file that can be written' },
      error,
    )
  }
  const failed = files.filter(({ name }) => name.endsWith('.failed.txt')).length
  process.stdout.write(`${path}: ${files.length} files${failed === 0 ? '' : `, ${failed} of them say what failed`}\n`)
  return 0
}

/** What must not be in the bundle whatever says it. */
function readSecrets({ config }: Inspection): readonly string[] {
  const kubeconfig = config['clientConnection.kubeconfig']
  const ofConfig = kubeconfig === '' ? [] : kubeconfigSecrets(kubeconfig)
  try {
    return [...ofConfig, readFileSync(tokenOfPod, 'utf8').trim()].filter((secret) => secret !== '')
  } catch {
    return ofConfig
  }
}

function partsOf(inspection: Inspection, kernel: Kernel): readonly Part[] {
  return [...resultParts(inspection, kernel), ...kernelParts(kernel), ...nodeParts()]
}

/** What the other commands say, out of one look. */
function resultParts(inspection: Inspection, kernel: Kernel): readonly Part[] {
  const { config, nodeName, notes } = inspection
  const answers = askDaemon(config)
  // Each part that needs it says what failed.
  const look = lookAtKernel(inspection, kernel)
  look.catch(() => {})
  const body = async (name: 'metrics' | 'healthz'): Promise<string> => {
    const answer: Answer | Error = (await answers)[name]
    if (answer instanceof Error) throw answer
    return name === 'healthz' ? `${answer.status}\n${answer.body}\n` : answer.body
  }
  return [
    { name: 'configuration.json', make: async () => json(externalForm(config)) },
    {
      name: 'status.json',
      make: async () => json(statusOf(await look, statusFacts(inspection, await reportOf(inspection)))),
    },
    { name: 'diff.json', make: async () => json(diffResult(nodeName, await look, notes.lines)) },
    {
      name: 'doctor.json',
      make: async () => {
        const findings = examine(await readFacts(inspection, kernel, await look, await proxyOf(inspection)))
        return json({ node: nodeName, checks: checks.length, findings })
      },
    },
    { name: 'daemon/metrics.txt', make: () => body('metrics') },
    { name: 'daemon/healthz.txt', make: () => body('healthz') },
  ]
}

/** What the kernel has, by our own readers where the image has no tool. */
function kernelParts(kernel: Kernel): readonly Part[] {
  return [
    { name: 'kernel/ipvsadm-Sn.txt', make: async () => ipvsText(await kernel.ipvs.listAll()) },
    { name: 'kernel/ip_vs.txt', make: async () => readFileSync('/proc/net/ip_vs', 'utf8') },
    { name: 'kernel/ip_vs_stats.txt', make: async () => readFileSync('/proc/net/ip_vs_stats', 'utf8') },
    { name: 'kernel/ipset-save.txt', make: () => ipsetText(kernel) },
    ...['iptables', 'ip6tables'].flatMap((tool) =>
      ['', '-nft', '-legacy'].map((variant) =>
        command(`kernel/${tool}${variant}-save.txt`, `${tool}${variant}-save`, []),
      ),
    ),
    command('kernel/nft-list-tables.txt', 'nft', ['list', 'tables']),
    command('kernel/ip-address.txt', 'ip', ['-details', 'address', 'show']),
    command('kernel/ip-route.txt', 'ip', ['route', 'show', 'table', 'all']),
    command('kernel/ip6-route.txt', 'ip', ['-6', 'route', 'show', 'table', 'all']),
    command('kernel/ip-rule.txt', 'ip', ['rule', 'show']),
    command('kernel/ip6-rule.txt', 'ip', ['-6', 'rule', 'show']),
    { name: 'kernel/sysctl-net.txt', make: async () => sysctlText() },
  ]
}

/** Not those of each link: there are as many as pods. */
const sysctlFolders = ['ipv4', 'ipv4/vs', 'ipv4/conf/all', 'ipv4/conf/default', 'ipv6/conf/all', 'bridge', 'netfilter']

/** As `sysctl -a` prints them; the image need not have the tool. */
function sysctlText(): string {
  const lines: string[] = []
  for (const folder of sysctlFolders) {
    const path = `/proc/sys/net/${folder}`
    if (!existsSync(path)) continue
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const name = `net/${folder}/${entry.name}`
      const value = entry.isFile() ? readSysctl(name) : undefined
      if (value !== undefined) lines.push(`${name.replaceAll('/', '.')} = ${value}\n`)
    }
  }
  return lines.join('')
}

function nodeParts(): readonly Part[] {
  return [
    {
      name: 'node/versions.json',
      make: async () =>
        json({
          program: version,
          node: process.version,
          kernel: release(),
          machine: process.arch,
          cpus: cpus().length,
          memory: totalmem(),
        }),
    },
    { name: 'node/kernel-version.txt', make: async () => readFileSync('/proc/version', 'utf8') },
    { name: 'node/modules.txt', make: async () => readFileSync('/proc/modules', 'utf8') },
  ]
}

/** The output of a command of the node. */
export function command(name: string, program: string, args: readonly string[], run: RunCommand = runCommand): Part {
  return {
    name,
    make: async () => {
      const { code, stdout, stderr } = await run(program, args, { timeoutMs: 20_000 })
      // sysctl and ip complain about single things and tell the rest.
      if (code !== 0 && stdout === '')
        throw new Error(`${program} ${args.join(' ')} exited with ${code}: ${stderr.trim()}`)
      return stdout
    },
  }
}

/** As `ipvsadm -Sn` prints it. */
export function ipvsText(servers: readonly ObservedServer[]): string {
  const methods = ['m', 'l', 'i', 'g', 'b']
  return servers
    .flatMap(({ server, destinations }) => {
      const option = server.protocol === 'SCTP' ? '--sctp-service' : `-${server.protocol[0]!.toLowerCase()}`
      const at = `${option} ${destinationKey(server)}`
      const persistence = (server.flags & serverFlags.persistent) === 0 ? '' : ` -p ${server.timeout}`
      return [
        `-A ${at} -s ${server.scheduler}${persistence}\n`,
        ...destinations.map(
          (one) => `-a ${at} -r ${destinationKey(one)} -${methods[one.forwarding] ?? '?'} -w ${one.weight}\n`,
        ),
      ]
    })
    .join('')
}

/** As `ipset save` prints it, our own sets. */
async function ipsetText({ ipset }: Pick<Kernel, 'ipset'>): Promise<string> {
  const names = new Set(await ipset.names())
  const lines: string[] = []
  for (const family of ['IPv4', 'IPv6'] as const) {
    for (const role of allRoles) {
      const { name } = setSpec(role, family)
      const set = names.has(name) ? await ipset.list(name) : undefined
      if (set === undefined) continue
      const { type, hashsize, maxelem } = set.spec
      const inet = family === 'IPv4' ? 'inet' : 'inet6'
      const options =
        type === 'bitmap:port' ? 'range 0-65535' : `family ${inet} hashsize ${hashsize} maxelem ${maxelem}`
      lines.push(`create ${name} ${type} ${options}\n`, ...set.entries.map((entry) => `add ${name} ${entry}\n`))
    }
  }
  const ours = new Set(lines.filter((line) => line.startsWith('create')).map((line) => line.split(' ')[1]))
  const others = [...names].filter((name) => !ours.has(name))
  return `${lines.join('')}${others.length === 0 ? '' : `# sets of others: ${others.join(', ')}\n`}`
}
