import { ownChains } from '../iptables/rules.ts'
import { targetOf } from '../iptables/text.ts'
import type { Family } from '../model/address.ts'
import type { SavedRules } from './present.ts'

/** Somebody else whose chains stand in nat or filter. */
export interface OtherWriter {
  readonly who: string
  readonly chains: number
  readonly rules: number
  /** "IPv4 nat" */
  readonly tables: readonly string[]
}

/** Programs by the names of their chains. The first that matches has it. */
const programs: readonly (readonly [RegExp, string])[] = [
  [/^KUBE-(ROUTER|NWPLCY|POD-FW|DEFAULT-NETPOL)/, 'kube-router'],
  [/^KUBE-(SVC|SVL|EXT|SEP|FW|XLB)-|^KUBE-(EXTERNAL-SERVICES|NODEPORTS|PROXY-CANARY)$/, 'kube-proxy in iptables mode'],
  [/^KUBE-(KUBELET-CANARY|IPTABLES-HINT|FIREWALL|MARK-DROP)$/, 'kubelet'],
  [/^(OLD_)?CILIUM_/, 'Cilium'],
  [/^cali-/, 'Calico'],
  [/^ANTREA-/, 'Antrea'],
  [/^WEAVE/, 'Weave Net'],
  [/^FLANNEL-/, 'flannel'],
  [/^OVN-KUBE-/, 'OVN-Kubernetes'],
  [/^OVN-/, 'Kube-OVN'],
  [/^AWS-(SNAT|CONNMARK)-CHAIN/, 'Amazon VPC CNI'],
  [/^IP-MASQ(-AGENT)?$/, 'ip-masq-agent'],
  [/^CNI-(HOSTPORT|DN|SN|ADMIN|FORWARD)/, 'CNI plugins'],
  [/^CNI-[0-9a-f]{16,}/, 'CNI plugins'],
  [/^(ISTIO_|PROXY_INIT_)/, 'a service mesh'],
  [/^DOCKER/, 'Docker'],
  [/^(NETAVARK|PODMAN)/, 'Podman'],
  [/^(LIBVIRT|LXD|LXC)[_-]/, 'a hypervisor'],
  [/^ufw6?-/, 'ufw'],
  [/^(IN|FWD|FWDI|FWDO|PRE|POST)_[A-Za-z0-9-]+(_(log|deny|allow|pre|post))?$/, 'firewalld'],
  [
    /^(INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING)_(direct|ZONES|ZONES_SOURCE|POLICIES|IN_ZONES|OUT_ZONES)/,
    'firewalld',
  ],
  [/^(f2b|fail2ban)-/, 'fail2ban'],
  [/^ts-/, 'Tailscale'],
]

/** Whose chain it is by its name; "others" where no program that we know has such names. */
export function writerOf(chain: string): string {
  return programs.find(([pattern]) => pattern.test(chain))?.[1] ?? 'others'
}

const mine = new Set(Object.values(ownChains).flat())

interface Tally {
  chains: number
  rules: number
  readonly tables: Set<string>
}

/**
 * Who else writes rules beside us: chains by their names, and the rules of built-in chains that lead to none of them, which
 * somebody has written by hand or by a program without chains of its own.
 */
export function otherWriters(rules: SavedRules): readonly OtherWriter[] {
  const found = new Map<string, Tally>()
  const note = (who: string, family: Family, table: string, chains: number, count: number): void => {
    const tally = found.get(who) ?? { chains: 0, rules: 0, tables: new Set<string>() }
    tally.chains += chains
    tally.rules += count
    tally.tables.add(`${family} ${table}`)
    found.set(who, tally)
  }
  for (const [family, tables] of rules) {
    if (tables instanceof Error) continue
    for (const [table, saved] of tables) {
      for (const [name, chain] of saved) {
        if (mine.has(name)) continue
        if (chain.policy === '-') {
          note(writerOf(name), family, table, 1, chain.rules.length)
          continue
        }
        const plain = chain.rules.filter((rule) => saved.get(targetOf(rule) ?? '')?.policy !== '-')
        if (plain.length > 0) note('rules in built-in chains', family, table, 0, plain.length)
      }
    }
  }
  return [...found].map(([who, { chains, rules: count, tables }]) => ({
    who,
    chains,
    rules: count,
    tables: [...tables],
  }))
}
