// What docs/troubleshooting.md names is there, and what somebody may come from leads into it.
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'
import { commandNames } from '../../../src/cli/commands.ts'
import { checks } from '../../../src/inspect/checks.ts'
import { dashboard } from '../../monitoring/manifests.ts'

const root = resolve(import.meta.dirname, '../../..')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const guide = read('docs/troubleshooting.md')
const source = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => read(join('src', file)))
  .join('\n')

const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replaceAll(/[^\w\- ]/g, '')
    .replaceAll(' ', '-')
const anchors = [...guide.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => anchorOf(heading!))

const verdicts = [
  .../export type VerdictCode =([^]*?)\n\n/.exec(read('src/explain/verdict.ts'))![1]!.matchAll(/^ {2}\| '([\w-]+)'/gm),
].map(([, code]) => code!)

test.each(verdicts)('the verdict %s leads to a cause', (code) => {
  expect(guide).toMatch(new RegExp(`^\\|.*\`${code}\``, 'm'))
})

test.each(checks.map(({ id }) => id))('doctor’s %s leads to a fix', (id) => {
  expect(guide).toMatch(new RegExp(`doctor\`?: [^)]*\`${id}[:\`]|error {2}${id}:|warning {2}${id}:`))
})

const messages = [...guide.matchAll(/^log: (.+)$/gm)].map(([, message]) => message!)
test.each([...new Set(messages)])('the daemon logs “%s”', (message) => {
  expect(source).toContain(message)
})

test('links lead somewhere, and no two headings have one anchor', () => {
  expect(new Set(anchors).size).toBe(anchors.length)
  const links = [...guide.matchAll(/\]\(([^)]*)\)/g)].map(([, link]) => link!)
  for (const link of links) {
    if (link.startsWith('#')) expect(anchors).toContain(link.slice(1))
    else expect(() => read(join('docs', link.split('#')[0]!)), link).not.toThrow()
  }
})

test('what it names is there: commands, settings, panels', () => {
  const commands = [...guide.matchAll(/kube-ipvs-proxy ([a-z][\w-]+)(?= |`|\n|;)/g)].map(([, name]) => name!)
  for (const name of commands) expect([...commandNames, 'status'], name).toContain(name)
  const schema = read('src/config/schema.ts')
  for (const [, name] of guide.matchAll(
    /`((?:kubeIpvsProxy|ipvs|conntrack|iptables)\.[a-z]\w+)(?!: is no field)[:`]/g,
  )) {
    expect(schema, name).toMatch(new RegExp(`'${name!.replace('.', '\\.')}'`))
  }
  const titles = dashboard.panels.map(({ title }) => title)
  for (const [, named] of guide.matchAll(/panels? ((?:“[^”]+”(?: and )?)+)/g)) {
    for (const [, title] of named!.matchAll(/“([^”]+)”/g)) {
      expect(
        titles.some((one) => one.startsWith(title!)),
        title,
      ).toBe(true)
    }
  }
  const series = read('docs/metrics.md')
  for (const [, name] of guide.matchAll(/\b(kube(?:_ipvs|proxy)_[a-z_]+[a-z])\b(?!…)/g)) {
    if (!name!.endsWith('api_')) expect(series, name).toContain(name!)
  }
})
