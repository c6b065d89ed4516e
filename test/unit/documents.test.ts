// What the documents lead to and name is there.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { parseFlags } from '../../src/cli/flags.ts'
import { checks } from '../../src/inspect/checks.ts'
import { migrationCheckCount, migrationChecks } from '../../src/inspect/migrate-checks.ts'
import { mistakes } from './manifests/kubernetes-types.ts'

const root = resolve(import.meta.dirname, '../..')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const inDocs = readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' }).map((name) => `docs/${name}`)
const documents = [...readdirSync(root), ...inDocs].filter((path) => path.endsWith('.md'))

/** As GitHub makes them of headings. */
function anchorsOf(path: string): readonly string[] {
  const headings = [...read(path).matchAll(/^#+ (.+)$/gm)].map(([, heading]) => heading!)
  return headings.map((heading) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  )
}

test.each(documents)('links of %s lead somewhere', (path) => {
  const text = read(path).replaceAll(/^```[^]*?^```/gm, '')
  const dead = [...text.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, link]) => link!)
    .filter((link) => !/^https?:/.test(link))
    .filter((link) => {
      const [file = '', anchor] = link.split('#')
      const target = file === '' ? path : join(dirname(path), file)
      if (!existsSync(join(root, target))) return true
      return anchor !== undefined && target.endsWith('.md') && !anchorsOf(target).includes(anchor)
    })
  expect(dead).toEqual([])
})

test('README names every document', () => {
  const named = new Set([...read('README.md').matchAll(/\]\(([^)#]+)/g)].map(([, link]) => link))
  const missing = documents.filter((path) => !named.has(path) && !path.startsWith('docs/decisions/0'))
  expect(missing).toEqual(['README.md'])
})

test('every decision is in the list of decisions', () => {
  const list = read('docs/decisions/README.md')
  for (const path of documents) if (path.startsWith('docs/decisions/0')) expect(list).toContain(path.split('/').at(-1)!)
})

describe('docs/commands.md', () => {
  const section = (title: string): string =>
    new RegExp(`^## ${title}\n[^]*?(?=^## |$(?![^]))`, 'm').exec(read('docs/commands.md'))![0]
  const rows = (text: string): string[] => [...text.matchAll(/^\| `([\w-]+)` /gm)].map(([, id]) => id!)

  test('has doctor’s checks', () => {
    expect(rows(section('doctor')).sort()).toEqual(checks.map(({ id }) => id).sort())
  })

  test('has those of migrate check, and doctor’s that it makes, too', () => {
    const text = section('migrate check')
    expect(rows(text)).toEqual(migrationChecks.map(({ id }) => id))
    expect(text).toContain(`${migrationCheckCount} checks`)
    const also = text.slice(text.lastIndexOf('|')).match(/`[\w-]+`/g)!
    expect(also.length).toBe(migrationCheckCount - migrationChecks.length)
  })
})

test('the patch of docs/migration.md starts the daemon as our DaemonSet does', async () => {
  const [, text = ''] = /--patch '\n([^']*)'/.exec(read('docs/migration.md')) ?? []
  const patch = parse(text) as { spec: { template: { spec: { containers: { command: string[] }[] } } } }
  expect(mistakes(patch.spec.template, 'V1PodTemplateSpec')).toEqual([])
  const [program, ...args] = patch.spec.template.spec.containers[0]!.command
  expect(program).toBe('/opt/kube-ipvs-proxy/bin/kube-ipvs-proxy')
  const line = await parseFlags(args)
  expect(line).toMatchObject({ operation: 'run', config: '/var/lib/kube-proxy/config.conf' })
  expect([...line.flags.keys()]).toEqual(['hostname-override', 'proxy-mode'])
})
