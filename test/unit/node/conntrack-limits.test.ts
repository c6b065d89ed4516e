import { expect, test } from 'vitest'
import { silentLog, type Log } from '../../../src/lib/log.ts'
import {
  applyConntrackLimits,
  wantedConntrackSettings,
  type ConntrackConfig,
} from '../../../src/node/conntrack-limits.ts'

const nothing: ConntrackConfig = {
  maxPerCore: 0,
  min: 131072,
  tcpEstablishedTimeout: 0,
  tcpCloseWaitTimeout: 0,
  tcpBeLiberal: false,
  udpTimeout: 0,
  udpStreamTimeout: 0,
}
const sysctls = '/proc/sys/net/netfilter/'
const hashsize = '/sys/module/nf_conntrack/parameters/hashsize'

test.each<[string, Partial<ConntrackConfig>, number, Record<string, number>]>([
  ['nothing asked', {}, 4, {}],
  ['by cores', { maxPerCore: 65536 }, 4, { max: 262144, hashsize: 65536 }],
  ['the floor', { maxPerCore: 32768 }, 2, { max: 131072, hashsize: 32768 }],
  ['no floor', { maxPerCore: 32768, min: 0 }, 2, { max: 65536, hashsize: 16384 }],
  ['the bound for large machines', { maxPerCore: 32768 }, 96, { max: 1048576, hashsize: 262144 }],
  ['a floor above that bound', { maxPerCore: 32768, min: 4_000_000 }, 96, { max: 4000000, hashsize: 1000000 }],
  [
    'times, in seconds',
    { tcpEstablishedTimeout: 86_400_000, tcpCloseWaitTimeout: 3_600_000, udpTimeout: 400, udpStreamTimeout: 120_000 },
    1,
    { tcp_timeout_established: 86400, tcp_timeout_close_wait: 3600, udp_timeout: 1, udp_timeout_stream: 120 },
  ],
  ['liberal', { tcpBeLiberal: true }, 1, { tcp_be_liberal: 1 }],
])('%s', (_name, config, cpus, wanted) => {
  const found = wantedConntrackSettings({ ...nothing, ...config }, cpus)
  expect(
    Object.fromEntries(
      found.map(({ path, value }) => [
        path === hashsize ? 'hashsize' : path.slice(`${sysctls}nf_conntrack_`.length),
        value,
      ]),
    ),
  ).toEqual(wanted)
})

function run(files: Record<string, string | Error>, config: Partial<ConntrackConfig>) {
  const written: Record<string, string> = {}
  const warnings: string[] = []
  const log: Log = { ...silentLog, warn: (_message, fields) => void warnings.push(JSON.stringify(fields)) }
  const port = {
    read: (path: string): string => {
      const value = files[path]
      if (value === undefined) throw Object.assign(new Error(`ENOENT: ${path}`), { code: 'ENOENT' })
      return value instanceof Error ? '1' : value
    },
    write: (path: string, value: string): void => {
      const present = files[path]
      if (present === undefined) throw Object.assign(new Error(`ENOENT: ${path}`), { code: 'ENOENT' })
      if (present instanceof Error) throw present
      written[path] = value
    },
  }
  applyConntrackLimits({ ...nothing, ...config }, log, port, 4)
  return { written, warnings }
}

const max = `${sysctls}nf_conntrack_max`
const established = `${sysctls}nf_conntrack_tcp_timeout_established`

test.each<[string, Record<string, string>, Partial<ConntrackConfig>, Record<string, string>]>([
  [
    'raised',
    { [max]: '65536\n', [hashsize]: '16384' },
    { maxPerCore: 65536 },
    { [max]: '262144', [hashsize]: '65536' },
  ],
  ['no limit is enough', { [max]: '0\n', [hashsize]: '131072' }, { maxPerCore: 65536 }, {}],
  ['never lowered', { [max]: '524288\n', [hashsize]: '131072' }, { maxPerCore: 65536 }, {}],
  ['right already', { [established]: '86400\n' }, { tcpEstablishedTimeout: 86_400_000 }, {}],
  [
    'a time is set up or down',
    { [established]: '432000\n' },
    { tcpEstablishedTimeout: 60_000 },
    { [established]: '60' },
  ],
])('%s', (_name, files, config, written) => {
  expect(run(files, config)).toEqual({ written, warnings: [] })
})

test.each(['EACCES', 'EROFS', 'EPERM'])('%s is told with what to do, and the others are written', (code) => {
  const refusal = Object.assign(new Error(`${code}: refused`), { code })
  const { written, warnings } = run(
    { [max]: refusal, [hashsize]: '16', [established]: '1' },
    { maxPerCore: 65536, tcpEstablishedTimeout: 2000 },
  )
  expect(written).toEqual({ [hashsize]: '65536', [established]: '2' })
  expect(warnings).toHaveLength(1)
  expect(warnings[0]).toMatch(new RegExp(`nf_conntrack_max.*262144.*${code}.*--init-only`))
})

test('a kernel without the file', () => {
  const { warnings } = run({}, { udpTimeout: 1000 })
  expect(warnings).toHaveLength(1)
  expect(warnings[0]).toMatch(/nf_conntrack_udp_timeout.*ENOENT/)
})
