import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { cp } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
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

/** Differences that we want, by case: see docs/deviations.md. */
const deviations: Readonly<Record<string, { sets: string[] }>> = {
  '27-nodeportaddresses-lo': { sets: ['add KUBE-HEALTH-CHECK-NODE-PORT 32100'] },
}

describe.concurrent('leaves the kernel as kube-proxy 1.36 does', () => {
  test.each(cases)('%s', async (name) => {
    const read = (file: string): string => readFileSync(join(golden, name, file), 'utf8')
    const namespace = new Namespace('golden')
    const folder = await temporaryFolder()
    let daemon: Daemon | undefined
    try {
      makeMachine(namespace)
      await cp(join(golden, name, 'objects.json'), join(folder.path, 'objects.json'))
      daemon = new Daemon(namespace, [
        `--config=${join(golden, name, 'kube-proxy-config.yaml')}`,
        `--manifests=${folder.path}`,
        '--hostname-override=vm1',
      ])
      await daemon.synced()
      expect({
        servers: normaliseIpvs(namespace.run('ipvsadm', '-Sn')),
        sysctls: sysctls(namespace.run('sysctl', ...sysctlNames)),
        sets: normaliseIpset(namespace.run('ipset', 'save')).toSorted(),
        rules: normaliseIptables(namespace.run('iptables-save')),
        rules6: normaliseIptables(namespace.run('ip6tables-save')),
        addresses: serviceAddresses(namespace.run('ip', 'address', 'show', 'kube-ipvs0')),
      }).toEqual({
        servers: normaliseIpvs(read('ipvsadm-Sn.txt')),
        sysctls: sysctls(read('sysctls.txt')),
        sets: [...normaliseIpset(read('ipset-save.txt')), ...(deviations[name]?.sets ?? [])].sort(),
        rules: normaliseIptables(read('iptables-save.txt')),
        rules6: normaliseIptables(read('ip6tables-save.txt')),
        addresses: serviceAddresses(read('ip-addr-kube-ipvs0.txt')),
      })
    } finally {
      await daemon?.stop()
      await folder.remove()
      namespace.destroy()
    }
  })
})
