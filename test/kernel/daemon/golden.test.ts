import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { cp, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'vitest'
import { normaliseIpset, normaliseIptables, normaliseIpvs } from '../../golden/compare.ts'
import { Daemon, Namespace, root, temporaryFolder } from '../lab.ts'

const golden = join(root, 'test/golden')

/** Case folders that hold a full dump of kube-proxy 1.36. */
const cases = readdirSync(golden)
  .filter((name) => existsSync(join(golden, name, 'objects.json')))
  .sort()

/** The machine the dumps were made on: see test/golden/README.md. */
function makeMachine(namespace: Namespace): void {
  namespace.ip(
    'link add eth0 type dummy',
    'link set eth0 up',
    'address add 10.0.2.15/24 dev eth0',
    'address add fec0::15/64 dev eth0 nodad',
    'link add cni0 type bridge',
    'link set cni0 up',
    'address add 10.160.1.1/24 dev cni0',
    'address add fd00:10:160:1::1/64 dev cni0 nodad',
    'link add veth11 type veth peer name veth12',
    'link set veth11 master cni0 up',
    'link set veth12 up',
    'link add dummy0 type dummy',
  )
}

function serviceAddresses(text: string): string[] {
  const tokens = text.split(/\s+/)
  return tokens
    .filter((_, i) => tokens[i - 1] === 'inet' || (tokens[i - 1] === 'inet6' && !tokens[i]!.startsWith('fe80')))
    .sort()
}

/** Those of a namespace's own; nf_conntrack_max and the hash size are the whole machine's. */
const sysctlNames = [
  'net.ipv4.vs.conntrack',
  'net.ipv4.vs.conn_reuse_mode',
  'net.ipv4.vs.expire_nodest_conn',
  'net.ipv4.vs.expire_quiescent_template',
  'net.ipv4.ip_forward',
  'net.ipv4.conf.all.arp_ignore',
  'net.ipv4.conf.all.arp_announce',
  'net.ipv4.conf.all.route_localnet',
  'net.netfilter.nf_conntrack_tcp_timeout_established',
  'net.netfilter.nf_conntrack_tcp_timeout_close_wait',
  'net.netfilter.nf_conntrack_tcp_be_liberal',
  'net.netfilter.nf_conntrack_udp_timeout',
  'net.netfilter.nf_conntrack_udp_timeout_stream',
]

function sysctls(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => sysctlNames.includes(line.split(' = ')[0]!))
    .sort()
}

const read = (name: string, file: string): string => readFileSync(join(golden, name, file), 'utf8')

/** Differences that we want, by case: see docs/deviations.md. */
const deviations: Readonly<Record<string, { sets: string[] }>> = {
  '27-nodeportaddresses-lo': { sets: ['add KUBE-HEALTH-CHECK-NODE-PORT 32100'] },
}

async function stateOf(namespace: Namespace): Promise<unknown> {
  return {
    servers: normaliseIpvs(await namespace.servers()),
    sysctls: sysctls(namespace.run('sysctl', ...sysctlNames)),
    sets: normaliseIpset(namespace.run('ipset', 'save')).toSorted(),
    rules: normaliseIptables(namespace.run('iptables-save')),
    rules6: normaliseIptables(namespace.run('ip6tables-save')),
    addresses: serviceAddresses(namespace.run('ip', 'address', 'show', 'kube-ipvs0')),
  }
}

function wantedOf(name: string): unknown {
  return {
    servers: normaliseIpvs(read(name, 'ipvsadm-Sn.txt')),
    sysctls: sysctls(read(name, 'sysctls.txt')),
    sets: [...normaliseIpset(read(name, 'ipset-save.txt')), ...(deviations[name]?.sets ?? [])].sort(),
    rules: normaliseIptables(read(name, 'iptables-save.txt')),
    rules6: normaliseIptables(read(name, 'ip6tables-save.txt')),
    addresses: serviceAddresses(read(name, 'ip-addr-kube-ipvs0.txt')),
  }
}

/**
 * A daemon for each configuration: it starts on the first case and is led from one to the next, each of which has to leave
 * what kube-proxy has after a start. GOLDEN=whole: each case has its own, too.
 */
const runs: readonly (readonly string[])[] = [
  ...Map.groupBy(cases, (name) => read(name, 'kube-proxy-config.yaml')).values(),
  ...(process.env.GOLDEN === 'whole' ? cases.map((name) => [name]) : []),
]

describe.concurrent('leaves the kernel as kube-proxy 1.36 does', () => {
  test.for(runs.map((run) => ({ run, text: run.join(', ') })))('$text', async ({ run }, { expect }) => {
    const namespace = new Namespace('golden')
    const folder = await temporaryFolder()
    let daemon: Daemon | undefined
    try {
      makeMachine(namespace)
      for (const name of run) {
        const wanted = wantedOf(name)
        const objects = join(folder.path, 'objects.json')
        // Put in place at once: half a file is refused.
        await cp(join(golden, name, 'objects.json'), `${objects}.new`)
        await rename(`${objects}.new`, objects)
        if (daemon === undefined) {
          const config = join(golden, name, 'kube-proxy-config.yaml')
          daemon = new Daemon(namespace, [
            `--config=${config}`,
            `--manifests=${folder.path}`,
            '--hostname-override=vm1',
          ])
          await daemon.synced()
          expect(await stateOf(namespace), name).toEqual(wanted)
        }
        await expect.poll(() => stateOf(namespace), { timeout: 60_000, interval: 500, message: name }).toEqual(wanted)
      }
    } finally {
      await daemon?.stop()
      await folder.remove()
      namespace.destroy()
    }
  })
})
