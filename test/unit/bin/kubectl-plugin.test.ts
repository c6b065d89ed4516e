import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const plugin = resolve(import.meta.dirname, '../../../bin/kubectl-ipvs_proxy')

/** A kubectl that writes its arguments down, one line a call, and answers as PODS, NODE and ADDRESSES say. */
const stub = `#!/bin/sh
line=
for word in "$@"; do line="$line[$word]"; done
printf '%s\\n' "$line" >> "$CALLS"
case $line in
  *'[get][pod]'*podIPs*) printf '%s' "$ADDRESSES"; exit "\${GET_POD:-0}" ;;
  *'[get][pod]'*) printf '%s' "$NODE"; exit "\${GET_POD:-0}" ;;
  *'[get][pods]'*) [ -z "$PODS" ] || printf '%s\\n' $PODS ;;
  *'[exec]'*) echo ran; exit "\${EXEC:-0}" ;;
esac
`

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'plugin-'))
  writeFileSync(join(folder, 'kubectl'), stub)
  chmodSync(join(folder, 'kubectl'), 0o755)
})

afterEach(() => {
  rmSync(folder, { recursive: true, force: true })
})

function run(args: readonly string[], env: Record<string, string> = {}) {
  const calls = join(folder, 'calls')
  writeFileSync(calls, '')
  const { status, stdout, stderr } = spawnSync('sh', [plugin, ...args], {
    encoding: 'utf8',
    env: {
      PATH: `${folder}:${process.env.PATH}`,
      CALLS: calls,
      PODS: 'kube-proxy-abcde',
      NODE: 'node2',
      ADDRESSES: '10.244.1.2 fd44:1::2',
      ...env,
    },
  })
  return { status, stdout, stderr, calls: readFileSync(calls, 'utf8').trimEnd().split('\n').filter(Boolean) }
}

const list = (field: string, namespace = 'kube-system'): string =>
  `[get][pods][--namespace][${namespace}][--selector][k8s-app=kube-proxy][--field-selector][${field}status.phase=Running]` +
  '[--output][jsonpath={range .items[*]}{.metadata.name}{"\\n"}{end}]'
const addresses = (namespace: string, pod: string): string =>
  `[get][pod][--namespace][${namespace}][${pod}][--output][jsonpath={.status.podIPs[*].ip}]`
const exec = (words: string, namespace = 'kube-system'): string =>
  `[exec][--namespace][${namespace}][kube-proxy-abcde][--container][kube-proxy][--][/opt/kube-ipvs-proxy/bin/kube-ipvs-proxy]${words}`

test('it is a script for any POSIX shell', () => {
  execFileSync('sh', ['-n', plugin])
})

describe('finds the pod and runs the command there, word by word', () => {
  test.each([
    {
      args: ['--node', 'node1', 'status', '-o', 'json'],
      calls: [list('spec.nodeName=node1,'), exec('[status][-o][json]')],
    },
    { args: ['--node=node1', 'diff'], calls: [list('spec.nodeName=node1,'), exec('[diff]')] },
    {
      args: ['--from-pod', 'shop/cart-0', 'explain', 'shop/web', '--from', 'shop/cart-0'],
      calls: [
        '[get][pod][--namespace][shop][cart-0][--output][jsonpath={.spec.nodeName}]',
        list('spec.nodeName=node2,'),
        addresses('shop', 'cart-0'),
        exec('[explain][shop/web][--from][10.244.1.2,fd44:1::2]'),
      ],
    },
    {
      args: ['--node=node1', 'trace', '--from=cart-0@eth0', 'shop/web', '--for', '5s'],
      calls: [
        list('spec.nodeName=node1,'),
        addresses('default', 'cart-0'),
        exec('[trace][--from=10.244.1.2,fd44:1::2@eth0][shop/web][--for][5s]'),
      ],
    },
    ...['outside', 'node', '10.244.1.9', '10.244.1.9@eth0', 'fd44:1::9'].map((source) => ({
      args: ['--node=node1', 'explain', 'shop/web', '--from', source],
      calls: [list('spec.nodeName=node1,'), exec(`[explain][shop/web][--from][${source}]`)],
    })),
    {
      args: ['--from-pod=cart-0', 'doctor'],
      calls: [
        '[get][pod][--namespace][default][cart-0][--output][jsonpath={.spec.nodeName}]',
        list('spec.nodeName=node2,'),
        exec('[doctor]'),
      ],
    },
    { args: ['-n', 'net', 'conns', 'a b', "it's"], calls: [list('', 'net'), exec("[conns][a b][it's]", 'net')] },
    {
      args: ['--context', 'c', 'status'],
      calls: [`[--context][c]${list('')}`, `[--context][c]${exec('[status]')}`],
    },
    { args: ['status', '--node', 'x'], calls: [list(''), exec('[status][--node][x]')] },
  ])('$args', ({ args, calls }) => {
    const result = run(args)
    expect(result).toMatchObject({ status: 0, stdout: 'ran\n', calls })
  })

  test('the exit code is that of the command', () => {
    expect(run(['diff'], { EXEC: '1' }).status).toBe(1)
  })

  test('program and label can be others', () => {
    const { calls } = run(['diff'], { IPVS_PROXY_SELECTOR: 'app=x', IPVS_PROXY_PROGRAM: '/p' })
    expect(calls[0]).toContain('[--selector][app=x]')
    expect(calls[1]).toMatch(/\[--\]\[\/p\]\[diff\]$/)
  })
})

describe('says what is wrong', () => {
  test.each([
    { args: [], env: {}, says: /COMMAND/, calls: 0 },
    { args: ['--node'], env: {}, says: /--node needs a value/, calls: 0 },
    { args: ['--node=', 'diff'], env: {}, says: /--node needs a value/, calls: 0 },
    { args: ['--nod', 'x', 'diff'], env: {}, says: /unknown flag --nod/, calls: 0 },
    { args: ['--node', 'a', '--from-pod', 'b', 'diff'], env: {}, says: /give one/, calls: 0 },
    { args: ['--node', 'a', 'diff'], env: { PODS: '' }, says: /no running pod .* on node a/, calls: 1 },
    { args: ['diff'], env: { PODS: 'a b' }, says: /2 pods .* --node/, calls: 1 },
    { args: ['--from-pod', 'x', 'diff'], env: { NODE: '' }, says: /pod default\/x is on no node/, calls: 1 },
    { args: ['explain', 'web', '--from', 'x'], env: { GET_POD: '1' }, says: /pod default\/x cannot be read/, calls: 2 },
    { args: ['explain', 'web', '--from=x'], env: { ADDRESSES: '' }, says: /pod default\/x has no address/, calls: 2 },
    { args: ['--from-pod', 'x', 'diff'], env: { GET_POD: '1' }, says: /pod default\/x cannot be read/, calls: 1 },
  ])('$args', ({ args, env, says, calls }) => {
    const result = run(args, env)
    expect(result.status).toBe(1)
    expect(result.stderr).toMatch(says)
    expect(result.calls).toHaveLength(calls)
  })

  test('its help is no error', () => {
    expect(run(['--help'])).toMatchObject({
      status: 0,
      stdout: expect.stringContaining('kubectl ipvs-proxy [--node NODE'),
    })
  })
})
