import type { CommandLine } from '../cli/flags.ts'
import { loadConfig, type Problem } from '../config/load.ts'
import type { ProxyConfig } from '../config/schema.ts'
import { readConfigFile } from '../read-config.ts'
import { ask, metricValues, urlOf } from './daemon.ts'

/** The proxy that runs on this node, as it says itself. */
export interface RunningProxy {
  readonly isOurs: boolean
  /** "ipvs", "iptables", "nftables"; "" where it does not say. */
  readonly mode: string
  /** "v1.36.2"; "" where it does not say. */
  readonly version: string
}

/** What is to be taken over. */
export interface MigrationSettings {
  /** As our daemon will have it; a wrong field has its default. */
  readonly config: ProxyConfig
  /** Where the settings are from, in words; "" where these are defaults. */
  readonly from: string
  /** The mode that they name; "" for none. */
  readonly mode: string
  readonly problems: readonly Problem[]
  readonly running: RunningProxy | undefined
}

type Get = (url: string) => Promise<{ readonly status: number; readonly body: string }>

/** Both defaults of metricsBindAddress; somebody who has set another gives it by flag or file. */
const usualAddresses = ['127.0.0.1:10249', '[::1]:10249']

/** The file that is named, or what the running kube-proxy says that it has. Throws ProxyError CONFIG for a file that is not there. */
export async function settingsToMigrate(line: CommandLine, get: Get = ask): Promise<MigrationSettings> {
  const { flags, config: path } = line
  const file = readConfigFile(path)
  const named = loadConfig({ file, flags }).config
  const bases = [named.metricsBindAddress, ...usualAddresses].map((bind) => urlOf(bind, 10249))
  const base = await firstThatAnswers(new Set(bases.filter((one) => one !== undefined)), get)
  const running = base === undefined ? undefined : await runningAt(base, get)
  const said = file === undefined && base !== undefined ? await configOf(base, get) : undefined
  const text = file ?? said
  // The DaemonSet's flag: the mode of the file does not count.
  const { config, problems } = loadConfig({ file: text, flags: new Map([...flags, ['proxy-mode', 'ipvs']]) })
  const from = path ?? (said === undefined ? '' : 'the kube-proxy that runs here')
  return { config, from, mode: loadConfig({ file: text, flags }).config.mode, problems, running }
}

async function textOf(url: string, get: Get): Promise<string | undefined> {
  try {
    const { status, body } = await get(url)
    return status === 200 ? body : undefined
  } catch {
    return undefined
  }
}

async function firstThatAnswers(bases: ReadonlySet<string>, get: Get): Promise<string | undefined> {
  for (const base of bases) if ((await textOf(`${base}/proxyMode`, get)) !== undefined) return base
  return undefined
}

async function runningAt(base: string, get: Get): Promise<RunningProxy> {
  const metrics = (await textOf(`${base}/metrics`, get)) ?? ''
  const [labels = ''] = metricValues(metrics, 'kubernetes_build_info').keys()
  return {
    isOurs: metricValues(metrics, 'kube_ipvs_config_in_force').size > 0,
    mode: ((await textOf(`${base}/proxyMode`, get)) ?? '').trim(),
    version: /git_version="([^"]*)"/.exec(labels)?.[1] ?? '',
  }
}

/** Undefined where it says none, or in the form of older releases, which is no KubeProxyConfiguration. */
async function configOf(base: string, get: Get): Promise<string | undefined> {
  const text = await textOf(`${base}/configz`, get)
  try {
    const { 'kubeproxy.config.k8s.io': config } = JSON.parse(text ?? '{}') as Record<string, unknown>
    const isConfig = typeof config === 'object' && config !== null && 'kind' in config
    return isConfig ? JSON.stringify(config) : undefined
  } catch {
    return undefined
  }
}
