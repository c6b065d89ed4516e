import { canonicalAddress, parseCidr } from '../model/address.ts'
import { durationText, parseDuration } from './duration.ts'

/** How a value is read and checked. `read` answers the value or what is allowed instead. */
export interface Kind<T> {
  readonly name: string
  read(value: unknown): { value: T } | { allowed: string }
  /** For a flag's text. */
  fromText(text: string): unknown
  /** As a file would have it. */
  show(value: unknown): unknown
  /** Whether 0 in a file means "not set". */
  readonly zeroIsUnset: boolean
}

function kind<T>(
  name: string,
  test: (value: unknown) => T | undefined,
  fromText: (text: string) => unknown,
  { show = (value: unknown): unknown => value, zeroIsUnset = false } = {},
): Kind<T> {
  return {
    name,
    read: (raw) => {
      const value = test(raw)
      return value === undefined ? { allowed: name } : { value }
    },
    fromText,
    show,
    zeroIsUnset,
  }
}

const plain = (text: string): unknown => text
const asNumber = (text: string): unknown => (/^[+-]?\d+(\.\d+)?$/.test(text) ? Number(text) : text)
/** The words of Go's ParseBool; a flag without a value is true. */
const asBoolean = (text: string): unknown =>
  /^(|1|t|T|true|TRUE|True)$/.test(text) ? true : /^(0|f|F|false|FALSE|False)$/.test(text) ? false : text
const asList = (text: string): unknown => (text === '' ? [] : text.split(','))

const text = kind('a text', (value) => (typeof value === 'string' ? value : undefined), plain)
export const boolean = kind('true or false', (value) => (typeof value === 'boolean' ? value : undefined), asBoolean)
const anything = kind<unknown>('anything', (value) => value, plain)
const duration = (least: number, what: string, zeroIsUnset: boolean) =>
  kind(
    what,
    (value) => {
      const milliseconds = typeof value === 'string' ? parseDuration(value) : value === 0 ? 0 : undefined
      return milliseconds !== undefined && milliseconds >= least ? milliseconds : undefined
    },
    plain,
    { show: (value) => durationText(value as number), zeroIsUnset },
  )
const positive = duration(0.000001, 'a duration above 0, such as 30s', true)
const notNegative = duration(0, 'a duration of 0 or more, such as 30s', false)
const integer = (least: number, most: number, zeroIsUnset = false) =>
  kind(
    `a whole number from ${least} to ${most}`,
    (value) =>
      Number.isInteger(value) && (value as number) >= least && (value as number) <= most
        ? (value as number)
        : undefined,
    asNumber,
    { zeroIsUnset },
  )
const number = kind(
  'a number',
  (value) => (typeof value === 'number' && Number.isFinite(value) ? value : undefined),
  asNumber,
  { zeroIsUnset: true },
)
const oneOf = (...words: string[]) =>
  kind(
    `one of ${words.map((word) => (word === '' ? '""' : word)).join(', ')}`,
    (value) => (typeof value === 'string' && words.includes(value) ? value : undefined),
    plain,
  )
const scheduler = kind(
  'the name of a kernel scheduler, such as rr, wrr, lc, wlc, sh, dh, sed, nq, mh',
  (value) => (typeof value === 'string' && /^[a-z0-9_]{0,16}$/.test(value) ? value || 'rr' : undefined),
  plain,
)
const minorVersion = kind(
  'a Kubernetes minor version, such as "1.36"',
  (value) => (typeof value === 'string' && /^(1\.\d{1,3})?$/.test(value) ? value : undefined),
  plain,
)
const detectLocalModes = oneOf('', 'ClusterCIDR', 'NodeCIDR', 'BridgeInterface', 'InterfaceNamePrefix')
const detectLocalMode = kind(
  detectLocalModes.name,
  (value) => {
    const result = detectLocalModes.read(value)
    return 'value' in result ? result.value || 'ClusterCIDR' : undefined
  },
  plain,
)
const address = kind(
  'an IP address',
  (value) => (typeof value === 'string' && canonicalAddress(value) !== undefined ? value : undefined),
  plain,
)
const listen = kind(
  'IP:port with a port from 1 to 65535, or an IP',
  (value) => (typeof value === 'string' && (value === '' || parseListen(value, 1) !== undefined) ? value : undefined),
  plain,
)
const cidrs = kind(
  'a list of CIDRs, such as [10.0.0.0/8]',
  (value) =>
    Array.isArray(value) && value.every((item) => typeof item === 'string' && parseCidr(item))
      ? (value as string[])
      : undefined,
  asList,
)
const clusterCIDR = kind(
  'a CIDR, or two of different families with a comma between them',
  (value) => {
    if (typeof value !== 'string') return undefined
    if (value === '') return value
    const parts = value.split(',').map((part) => parseCidr(part))
    if (parts.length > 2 || parts.includes(undefined)) return undefined
    return parts.length === 2 && parts[0]!.family === parts[1]!.family ? undefined : value
  },
  plain,
)
const nodePorts = kind(
  'a list of CIDRs, or the single word primary',
  (value) => {
    if (!Array.isArray(value)) return undefined
    if (value.length === 1 && value[0] === 'primary') return value as string[]
    return value.every((item) => typeof item === 'string' && parseCidr(item)) ? (value as string[]) : undefined
  },
  asList,
)
const gates = kind(
  'a map of gate names to true or false',
  (value) =>
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((v) => typeof v === 'boolean')
      ? (value as Record<string, boolean>)
      : undefined,
  (text) =>
    Object.fromEntries(
      (text === '' ? [] : text.split(',')).map((pair) => {
        const [name = '', value = ''] = pair.split('=').map((part) => part.trim())
        // Other than a flag, a gate needs its value.
        return [name, value === '' ? value : asBoolean(value)]
      }),
    ),
)

/** Address and port of "1.2.3.4:80", "[::1]:80" or a lone address with the default port. */
export function parseListen(text: string, defaultPort: number): { host: string; port: number } | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text)
  const host = canonicalAddress(match ? (match[1] ?? match[2])! : text)
  const port = match ? Number(match[3]) : defaultPort
  return host !== undefined && port >= 1 && port <= 65535 ? { host, port } : undefined
}

/** Whether a field does something here, or belongs to another mode or system. */
export type Use = 'now' | 'never'

export interface FieldSpec<T = unknown> {
  readonly kind: Kind<T>
  readonly preset: T
  readonly flag: string | undefined
  readonly use: Use
}

function field<T>(kind: Kind<T>, preset: T, flag: string | undefined, use: Use = 'now'): FieldSpec<T> {
  return { kind, preset, flag, use }
}

/** Where the daemon answers the commands on its node. */
export const defaultSocket = '/run/kube-ipvs-proxy/status.sock'

/** KubeProxyConfiguration v1alpha1 and our own section: path, kind, default, flag, use. Empty in a file: the default. */
export const fields = {
  featureGates: field(gates, {}, 'feature-gates'),
  'clientConnection.kubeconfig': field(text, '', 'kubeconfig'),
  'clientConnection.acceptContentTypes': field(text, '', undefined, 'never'),
  'clientConnection.contentType': field(text, 'application/vnd.kubernetes.protobuf', 'kube-api-content-type', 'never'),
  'clientConnection.qps': field(number, 5, 'kube-api-qps', 'never'),
  'clientConnection.burst': field(integer(0, 2147483647, true), 10, 'kube-api-burst', 'never'),
  'logging.format': field(oneOf('text', 'json'), 'text', 'logging-format', 'never'),
  'logging.flushFrequency': field(anything, '5s', 'log-flush-frequency', 'never'),
  'logging.verbosity': field(integer(0, 2147483647), 0, 'v'),
  'logging.vmodule': field(anything, [], 'vmodule', 'never'),
  'logging.options': field(anything, {}, undefined, 'never'),
  hostnameOverride: field(text, '', 'hostname-override'),
  bindAddress: field(address, '0.0.0.0', 'bind-address'),
  healthzBindAddress: field(listen, '0.0.0.0:10256', 'healthz-bind-address'),
  metricsBindAddress: field(listen, '127.0.0.1:10249', 'metrics-bind-address'),
  bindAddressHardFail: field(boolean, false, 'bind-address-hard-fail'),
  enableProfiling: field(boolean, false, 'profiling'),
  showHiddenMetricsForVersion: field(minorVersion, '', 'show-hidden-metrics-for-version', 'never'),
  mode: field(oneOf('', 'ipvs', 'iptables', 'nftables', 'kernelspace'), '', 'proxy-mode'),
  detectLocalMode: field(detectLocalMode, 'ClusterCIDR', 'detect-local-mode'),
  'detectLocal.bridgeInterface': field(text, '', 'pod-bridge-interface'),
  'detectLocal.interfaceNamePrefix': field(text, '', 'pod-interface-name-prefix'),
  clusterCIDR: field(clusterCIDR, '', 'cluster-cidr'),
  nodePortAddresses: field(nodePorts, [] as string[], 'nodeport-addresses'),
  oomScoreAdj: field(integer(-1000, 1000), -999, 'oom-score-adj'),
  configSyncPeriod: field(positive, 900_000, 'config-sync-period', 'never'),
  portRange: field(text, '', undefined, 'never'),
  windowsRunAsService: field(boolean, false, 'windows-service', 'never'),
  'ipvs.syncPeriod': field(positive, 30_000, 'ipvs-sync-period'),
  'ipvs.minSyncPeriod': field(notNegative, 0, 'ipvs-min-sync-period'),
  'ipvs.scheduler': field(scheduler, 'rr', 'ipvs-scheduler'),
  'ipvs.excludeCIDRs': field(cidrs, [] as string[], 'ipvs-exclude-cidrs'),
  'ipvs.strictARP': field(boolean, false, 'ipvs-strict-arp'),
  'ipvs.tcpTimeout': field(notNegative, 0, 'ipvs-tcp-timeout'),
  'ipvs.tcpFinTimeout': field(notNegative, 0, 'ipvs-tcpfin-timeout'),
  'ipvs.udpTimeout': field(notNegative, 0, 'ipvs-udp-timeout'),
  'iptables.masqueradeBit': field(integer(0, 31), 14, 'iptables-masquerade-bit'),
  'iptables.masqueradeAll': field(boolean, false, 'masquerade-all'),
  'iptables.localhostNodePorts': field(boolean, true, 'iptables-localhost-nodeports', 'never'),
  'iptables.syncPeriod': field(positive, 30_000, 'iptables-sync-period', 'never'),
  'iptables.minSyncPeriod': field(notNegative, 1000, 'iptables-min-sync-period', 'never'),
  'nftables.masqueradeBit': field(integer(0, 31), 14, undefined, 'never'),
  'nftables.masqueradeAll': field(boolean, false, undefined, 'never'),
  'nftables.syncPeriod': field(positive, 30_000, undefined, 'never'),
  'nftables.minSyncPeriod': field(notNegative, 1000, undefined, 'never'),
  'winkernel.networkName': field(text, '', undefined, 'never'),
  'winkernel.sourceVip': field(text, '', undefined, 'never'),
  'winkernel.enableDSR': field(boolean, false, undefined, 'never'),
  'winkernel.rootHnsEndpointName': field(text, '', undefined, 'never'),
  'winkernel.forwardHealthCheckVip': field(boolean, false, undefined, 'never'),
  'conntrack.maxPerCore': field(integer(0, 2147483647), 32768, 'conntrack-max-per-core'),
  'conntrack.min': field(integer(0, 2147483647), 131072, 'conntrack-min'),
  'conntrack.tcpEstablishedTimeout': field(notNegative, 86_400_000, 'conntrack-tcp-timeout-established'),
  'conntrack.tcpCloseWaitTimeout': field(notNegative, 3_600_000, 'conntrack-tcp-timeout-close-wait'),
  'conntrack.tcpBeLiberal': field(boolean, false, 'conntrack-tcp-be-liberal'),
  'conntrack.udpTimeout': field(notNegative, 0, 'conntrack-udp-timeout'),
  'conntrack.udpStreamTimeout': field(notNegative, 0, 'conntrack-udp-timeout-stream'),
  // Ours alone. kube-proxy decodes v1alpha1 leniently and passes over the section with one line.
  'kubeIpvsProxy.strictExternalTrafficPolicy': field(boolean, false, 'strict-external-traffic-policy'),
  'kubeIpvsProxy.drainTimeout': field(notNegative, 0, 'drain-timeout'),
  'kubeIpvsProxy.connReuseMode': field(oneOf('', '0', '1', '2'), '', 'conn-reuse-mode'),
  'kubeIpvsProxy.serviceMetricsLimit': field(integer(0, 1_000_000), 500, 'service-metrics-limit'),
  'kubeIpvsProxy.statusSocket': field(text, defaultSocket, 'status-socket'),
  'kubeIpvsProxy.webPage': field(boolean, false, 'web-page'),
  'kubeIpvsProxy.allowedExternalCIDRs': field(cidrs, [] as string[], 'allowed-external-cidrs'),
  'kubeIpvsProxy.deniedExternalCIDRs': field(cidrs, [] as string[], 'denied-external-cidrs'),
  'kubeIpvsProxy.metricsTLSCertFile': field(text, '', 'metrics-tls-cert-file'),
  'kubeIpvsProxy.metricsTLSKeyFile': field(text, '', 'metrics-tls-key-file'),
  'kubeIpvsProxy.metricsTokenReview': field(boolean, false, 'metrics-token-review'),
} as const

export type FieldPath = keyof typeof fields

/** The effective configuration, by field path. Durations in milliseconds. */
export type ProxyConfig = {
  readonly [P in FieldPath]: (typeof fields)[P] extends FieldSpec<infer T> ? T : never
}
