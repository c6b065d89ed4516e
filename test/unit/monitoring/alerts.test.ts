import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { alerts, asNumbers, readYaml } from '../../monitoring/manifests.ts'

const root = resolve(import.meta.dirname, '../../..')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const guide = read('docs/troubleshooting.md')
const page = read('docs/monitoring.md')

/** The anchors that a renderer of Markdown gives to headings. */
const anchors = new Set(
  [...guide.matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  ),
)

test.each(alerts)('$alert is whole: how long, how bad, what, where, and what to do', (one) => {
  expect(one.for).toMatch(/^\d+m$/)
  expect(['info', 'warning', 'critical']).toContain(one.labels.severity)
  expect(one.annotations.summary).toMatch(/\.$/)
  expect(one.annotations.description).toContain('{{ or $labels.node $labels.instance }}')
  const { runbook_url: runbook } = one.annotations
  expect(runbook).toMatch(/^https:\/\/kube-ipvs-proxy\.example\/docs\/troubleshooting\.md#./)
  expect(anchors).toContain(runbook.split('#')[1])
  // The guide names the alert where it is led to.
  const heading = [...guide.matchAll(/^## (.+)\n([^]*?)(?=^## |$(?![^]))/gm)].find(([, , text]) =>
    text!.includes(`\`${one.alert}\``),
  )
  expect(heading, one.alert).toBeDefined()
  expect(page).toMatch(new RegExp(`^\\| \`${one.alert}\` +\\| ${one.labels.severity} +\\|`, 'm'))
})

test('the page names no others', () => {
  const names = [...page.matchAll(/^\| `(KubeIPVS\w+)`/gm)].map(([, name]) => name)
  expect(names).toEqual(alerts.map(({ alert }) => alert))
})

test('the page’s command puts another address in the place of the runbooks’', () => {
  const command = /^(sed -i .*) manifests\/monitoring\/prometheusrule\.yaml$/m.exec(page)![1]!
  const folder = mkdtempSync(join(tmpdir(), 'kube-ipvs-proxy-'))
  try {
    cpSync(join(root, 'manifests/monitoring/prometheusrule.yaml'), join(folder, 'rules.yaml'))
    execFileSync('sh', ['-c', `${command} rules.yaml`], { cwd: folder })
    const text = readFileSync(join(folder, 'rules.yaml'), 'utf8')
    expect(text).not.toContain('kube-ipvs-proxy.example')
    const urls = [...text.matchAll(/runbook_url: (\S+)/g)].map(([, url]) => url)
    expect(urls.length).toBe(alerts.length)
    for (const url of urls) expect(url).toMatch(/^https:\/\/[^/]+\/.*docs\/troubleshooting\.md#/)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test.each([
  ['up{job="a"} == 0', 'up{job="a"} == bool 0'],
  ['a{b=~"x"} / c{d!="y"} > 0.5', 'a{b=~"x"} / c{d!="y"} > bool 0.5'],
  ['time() - a{} >= 3 and b{} < c{}', 'time() - a{} >= bool 3 and b{} < bool c{}'],
])('comparisons become numbers: %s', (expr, numbers) => expect(asNumbers(expr)).toBe(numbers))

test('the PodMonitor looks for the pods of the DaemonSet, and all of it goes where that does', () => {
  const daemonSet = parse(read('manifests/base/daemonset.yaml')) as {
    spec: { template: { metadata: { labels: Record<string, string> } } }
  }
  const monitor = readYaml('podmonitor.yaml') as {
    metadata: { namespace: string }
    spec: { jobLabel: string; selector: { matchLabels: object }; namespaceSelector: { matchNames: string[] } }
  }
  const { labels } = daemonSet.spec.template.metadata
  expect(labels).toMatchObject(monitor.spec.selector.matchLabels)
  expect(labels[monitor.spec.jobLabel]).toBe('kube-proxy')
  const { namespace } = parse(read('manifests/base/kustomization.yaml')) as { namespace: string }
  expect(monitor.spec.namespaceSelector.matchNames).toEqual([namespace])
  const kustomization = readYaml('kustomization.yaml') as {
    namespace: string
    resources: string[]
    configMapGenerator: { files: string[] }[]
  }
  expect(kustomization.namespace).toBe(namespace)
  const files = [...kustomization.resources, ...kustomization.configMapGenerator.flatMap((one) => one.files)]
  for (const file of files) expect(read(`manifests/monitoring/${file.split('=').at(-1)!}`)).not.toBe('')
})
