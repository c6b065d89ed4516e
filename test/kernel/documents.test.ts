// Every command that README and docs/ print, run as printed beside a daemon that is started as README says; or why not.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { Namespace, root, temporaryFolder } from './lab.ts'

const inDocs = readdirSync(join(root, 'docs')).map((name) => `docs/${name}`)
const documents = ['README.md', 'CONTRIBUTING.md', ...inDocs].filter((path) => path.endsWith('.md'))

/** Lines of shell blocks, and those behind a prompt; a line that goes on is one. */
function commandsOf(document: string): string[] {
  const text = readFileSync(join(root, document), 'utf8')
  return [...text.matchAll(/^ *```(\w*)\n([^]*?)^ *```$/gm)].flatMap(([, language = '', body = '']) => {
    const whole = body.replaceAll(/\\\n\s*/g, '').replaceAll(/'\n[^']*'/g, "'…'")
    const lines = whole.split('\n').map((line) => line.trim())
    const printed = language === 'sh' ? lines : lines.filter((line) => line.startsWith('$ '))
    return printed.map((line) => line.replace(/^\$ /, '').replace(/\s+#.*$/, '')).filter(Boolean)
  })
}

const all = [...new Set(documents.flatMap(commandsOf))]
/** What a command is piped into does not make it another one. */
const commandIn = (line: string): string => line.replace(/( \||;) .*/, '')
const start = all.find((line) => line.startsWith('bin/kube-ipvs-proxy --manifests'))!

/** Why a command is not run here. */
const elsewhere: readonly [RegExp, string][] = [
  [/(^|\| )kubectl /, 'takes a cluster; what it applies is built and checked in test/unit/manifests'],
  [/^(helm|kubeadm|systemctl|git|cosign) /, 'takes a cluster, systemd or a release'],
  [/^npm /, 'the checks themselves, or hours of benchmark'],
  [/test\/bench\/fleet/, 'minutes'],
  [/--config \/var\/lib\/kube-proxy/, 'test/kernel/daemon/kubeadm.test.ts starts it so'],
  [/shop\/|203\.0\.113\.1/, 'asks for a Pod or an address of another cluster'],
  [/ oneway /, 'test/kernel/trace.test.ts has that Service, and that rule'],
  [/^bin\/kube-ipvs-proxy --manifests/, 'the daemon beside which the others run'],
]
const reasonOf = (line: string): string | undefined => elsewhere.find(([pattern]) => pattern.test(line))?.[1]

let node: Namespace
let folder: { path: string; remove: () => Promise<void> }

/** As printed, but for what stands for something of the reader's, and a minute of waiting. */
function run(line: string) {
  const meant = line
    .replace(' DIR', ' examples/quickstart')
    .replace('--manifests . ', '--manifests examples/quickstart ')
  return spawnSync('ip', ['netns', 'exec', node.name, 'sh', '-c', meant.replace('--for 1m', '--for 1s')], {
    cwd: folder.path,
    encoding: 'utf8',
    env: { ...process.env, NODE_ENV: 'production', PATH: `${join(folder.path, 'path')}:${process.env.PATH}` },
  })
}

beforeAll(async () => {
  node = new Namespace('documents')
  node.ip('link add eth0 type dummy', 'link set eth0 up', 'address add 192.168.50.1/24 dev eth0')
  folder = await temporaryFolder()
  for (const name of ['bin', 'dist', 'docs', 'examples', 'manifests', 'scripts'])
    cpSync(join(root, name), join(folder.path, name), { recursive: true })
  mkdirSync(join(folder.path, 'path'))
  symlinkSync(join(folder.path, 'bin/kube-ipvs-proxy'), join(folder.path, 'path/kube-ipvs-proxy'))
  symlinkSync(process.execPath, join(folder.path, 'path/node'))
  symlinkSync(join(root, 'node_modules'), join(folder.path, 'node_modules'))
  run(`${start} > log 2>&1 & echo $! > pid`)
  const log = (): string => readFileSync(join(folder.path, 'log'), 'utf8')
  await vi.waitUntil(() => /"family":"IPv4".*In sync for the first time/.test(log()), {
    timeout: 60_000,
    interval: 500,
  })
}, 90_000)
afterAll(async () => {
  run('kill $(cat pid)')
  node.destroy()
  await folder.remove()
})

const runnable = all.filter((line) => reasonOf(line) === undefined)
test.each([...new Map(runnable.map((line) => [commandIn(line), line])).values()])('as printed: %s', (line) => {
  const { status, stderr, stdout } = run(line)
  // trace says there for how long it waits.
  expect(stderr.replace(/^Following packets .*\n/, '')).toBe('')
  // Those that look for trouble end with 1 where they find some, and so does grep where it finds nothing.
  expect([0, 1], stdout).toContain(status)
})

test('npm knows its scripts, and each reason is one of a command that is printed', () => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  const named = all.flatMap((line) => /^npm (?:run (\S+)|(test)\b)/.exec(line)?.slice(1).filter(Boolean) ?? [])
  expect(Object.keys(scripts)).toEqual(expect.arrayContaining(named))
  for (const [pattern] of elsewhere)
    expect(
      all.filter((line) => pattern.test(line)),
      String(pattern),
    ).not.toEqual([])
})
