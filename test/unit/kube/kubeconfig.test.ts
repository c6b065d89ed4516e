import { mkdtempSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { loadAccess } from '../../../src/kube/kubeconfig.ts'
import { describeError } from '../../../src/lib/errors.ts'

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'kubeconfig-'))
})
afterEach(() => rmSync(directory, { recursive: true }))

function file(name: string, content: string): string {
  const path = join(directory, name)
  writeFileSync(path, content)
  return path
}

type Json = Record<string, unknown>

function kubeconfig(cluster: Json = {}, user: Json = {}, more: Json = {}): string {
  return file(
    'kubeconfig',
    stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'default', cluster: { server: 'https://10.0.0.1:6443', ...cluster } }],
      contexts: [{ name: 'default', context: { cluster: 'default', namespace: 'default', user: 'default' } }],
      users: [{ name: 'default', user }],
      'current-context': 'default',
      ...more,
    }),
  )
}

const base64 = (text: string): string => Buffer.from(text).toString('base64')

describe('servers', () => {
  const servers: readonly (readonly [string, Json, string])[] = [
    ['https://10.0.0.1:6443', {}, 'https://10.0.0.1:6443'],
    ['https://api.example/prefix/', {}, 'https://api.example/prefix'],
    ['https://[fd00::1]:6443', {}, 'https://[fd00::1]:6443'],
    ['10.0.0.1:8080', {}, 'http://10.0.0.1:8080'],
    ['10.0.0.1:6443', { 'insecure-skip-tls-verify': true }, 'https://10.0.0.1:6443'],
  ]
  for (const [server, cluster, expected] of servers) {
    test(server, async () => {
      const access = await loadAccess({ kubeconfig: kubeconfig({ server, ...cluster }) })
      expect(access.server).toBe(expected)
      const master = await loadAccess({ kubeconfig: kubeconfig(cluster), master: server })
      expect(master.server).toBe(expected)
    })
  }

  test('master alone', async () => {
    const access = await loadAccess({ master: 'http://127.0.0.1:8001' })
    expect([access.server, await access.tls(), await access.headers()]).toEqual(['http://127.0.0.1:8001', {}, {}])
  })
})

describe('credentials', () => {
  const users: readonly (readonly [string, Json, Json])[] = [
    ['none', {}, {}],
    ['token', { token: 't' }, { authorization: 'Bearer t' }],
    ['token file, relative', { tokenFile: 'token' }, { authorization: 'Bearer from-file' }],
    ['token file before token', { tokenFile: 'token', token: 't' }, { authorization: 'Bearer from-file' }],
    ['password', { username: 'u', password: 'p:ä' }, { authorization: `Basic ${base64('u:p:ä')}` }],
  ]
  for (const [name, user, expected] of users) {
    test(name, async () => {
      file('token', 'from-file\n')
      expect(await (await loadAccess({ kubeconfig: kubeconfig({}, user) })).headers()).toEqual(expected)
    })
  }

  test('TLS from data', async () => {
    const cluster = { 'certificate-authority-data': base64('CA'), 'tls-server-name': 'kube' }
    const user = { 'client-certificate-data': base64('CERT'), 'client-key-data': base64('KEY') }
    expect(await (await loadAccess({ kubeconfig: kubeconfig(cluster, user) })).tls()).toEqual({
      ca: Buffer.from('CA'),
      cert: Buffer.from('CERT'),
      key: Buffer.from('KEY'),
      servername: 'kube',
    })
  })

  test('insecure', async () => {
    const cluster = { 'insecure-skip-tls-verify': true }
    expect(await (await loadAccess({ kubeconfig: kubeconfig(cluster) })).tls()).toEqual({ rejectUnauthorized: false })
  })

  test('the CA is read again when its file changes, and kept while it is away', async () => {
    const path = file('ca.crt', 'one')
    const access = await loadAccess({ kubeconfig: kubeconfig({ 'certificate-authority': 'ca.crt' }) })
    const first = await access.tls()
    expect(String(first.ca)).toBe('one')
    expect(await access.tls()).toBe(first)
    unlinkSync(path)
    expect(await access.tls()).toBe(first)
    file('ca.crt', 'another')
    expect(String((await access.tls()).ca)).toBe('another')
  })

  test('a client certificate is read again when its files change: a renewed one needs no restart', async () => {
    file('client.crt', 'expired')
    file('client.key', 'old key')
    const user = { 'client-certificate': 'client.crt', 'client-key': 'client.key' }
    const access = await loadAccess({ kubeconfig: kubeconfig({}, user) })
    expect(String((await access.tls()).cert)).toBe('expired')
    file('client.crt', 'renewed one')
    file('client.key', 'another key')
    const { cert, key } = await access.tls()
    expect([String(cert), String(key)]).toEqual(['renewed one', 'another key'])
  })

  test('the token is read again with age and after a 401', async () => {
    let now = 0
    const clock = { now: () => now, sleep: () => Promise.resolve() }
    const path = file('token', 'one')
    const access = await loadAccess({ kubeconfig: kubeconfig({}, { tokenFile: 'token' }), clock })
    const token = async (): Promise<string | undefined> => (await access.headers()).authorization
    file('token', 'two')
    now = 59_999
    expect(await token()).toBe('Bearer one')
    now = 60_000
    expect(await token()).toBe('Bearer two')
    file('token', 'three')
    expect(await token()).toBe('Bearer two')
    access.rejected()
    expect(await token()).toBe('Bearer three')
    unlinkSync(path)
    now = 200_000
    expect(await token()).toBe('Bearer three')
  })

  test('a credential plug-in', async () => {
    const status = { token: 'plugged' }
    const answer = JSON.stringify({ apiVersion: 'client.authentication.k8s.io/v1', kind: 'ExecCredential', status })
    const exec = {
      apiVersion: 'client.authentication.k8s.io/v1',
      command: 'echo',
      args: [answer],
      interactiveMode: 'Never',
    }
    const access = await loadAccess({ kubeconfig: kubeconfig({}, { exec }) })
    expect(await access.headers()).toEqual({ authorization: 'Bearer plugged' })
  })
})

describe('in the cluster', () => {
  const env = { KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT: '443' }

  test('service account', async () => {
    file('token', 't')
    file('ca.crt', 'CA')
    const access = await loadAccess({ env, serviceAccountDirectory: directory })
    expect(access.server).toBe('https://[fd00::1]:443')
    expect(await access.headers()).toEqual({ authorization: 'Bearer t' })
    expect(await access.tls()).toEqual({ ca: Buffer.from('CA') })
  })

  test('no service account', async () => {
    await expect(loadAccess({ env, serviceAccountDirectory: directory })).rejects.toMatchObject({ code: 'CONFIG' })
    await expect(loadAccess({ env: {} })).rejects.toThrow('KUBERNETES_SERVICE_HOST')
  })
})

describe('faults', () => {
  const faults: readonly (readonly [string, () => string, RegExp])[] = [
    ['no file', () => join(directory, 'none'), /none: cannot be read/],
    ['no YAML', () => file('kubeconfig', '{'), /cannot be read/],
    ['no object', () => file('kubeconfig', 'x'), /not an object/],
    ['no current context', () => kubeconfig({}, {}, { 'current-context': '' }), /current-context is not set/],
    ['an unknown context', () => kubeconfig({}, {}, { 'current-context': 'x' }), /contexts has no entry "x"/],
    ['no clusters', () => kubeconfig({}, {}, { clusters: null }), /clusters has no entry "default"/],
    ['no server', () => kubeconfig({ server: '' }), /no server/],
    ['not a URL', () => kubeconfig({ server: 'ftp://x' }), /not an http or https URL/],
    ['a proxy', () => kubeconfig({ 'proxy-url': 'http://x' }), /proxy-url is not supported/],
    ['a wrong type', () => kubeconfig({}, { token: 7 }), /token is not a string/],
    ['no CA file', () => kubeconfig({ 'certificate-authority': 'none' }), /kubeconfig .*cannot be used/],
    ['no token file', () => kubeconfig({}, { tokenFile: 'none' }), /kubeconfig .*cannot be used/],
  ]
  for (const [name, path, message] of faults) {
    test(name, async () => {
      const error: unknown = await loadAccess({ kubeconfig: path() }).catch((reason: unknown) => reason)
      expect(error).toMatchObject({ code: 'CONFIG', message: expect.stringMatching(message) as unknown })
    })
  }

  test('neither an error nor a warning shows what the file has in it', async () => {
    const warned: Error[] = []
    const hear = (warning: Error): void => void warned.push(warning)
    process.on('warning', hear)
    try {
      for (const text of [
        'users:\n- user: {token: hunter2\n  x: y',
        'a: &hunter2: 1',
        'users: !hunter2 [1]\n',
        'a: *hunter2',
      ]) {
        const error: unknown = await loadAccess({ kubeconfig: file('kubeconfig', text) }).catch(
          (reason: unknown) => reason,
        )
        expect(describeError(error)).toMatch(/^kubeconfig .* — correct the kubeconfig/)
        expect(describeError(error)).not.toMatch(/hunter2: 1|token: hunter2/)
      }
      await new Promise(setImmediate)
      expect(warned).toEqual([])
    } finally {
      process.off('warning', hear)
    }
  })
})
