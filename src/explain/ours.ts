import { allRoles, setComment, setSpec } from '../ipset/catalogue.ts'
import { buildRules, parseDropRule } from '../iptables/rules.ts'
import { canonicalRule } from '../iptables/text.ts'

/** Leaves out what settings decide: who is no pod of this node, the mark's bit, --random-fully. */
function plain(rule: string): string {
  return canonicalRule(rule)
    .replace(/^! -(?:s|i) \S+ /, '')
    .replaceAll(/0x[0-9a-f]+/g, (word) => (/^0x0+$/.test(word) ? word : 'MARK'))
    .replace(' --random-fully', '')
}

/** Every rule and jump that this proxy may write, whatever its settings. */
function everyRule(): Set<string> {
  const rules = new Set<string>()
  for (const family of ['IPv4', 'IPv6'] as const) {
    const cidr = family === 'IPv4' ? '10.0.0.0/8' : 'fd00::/8'
    for (const localDetector of [undefined, { kind: 'cidr', cidr } as const]) {
      const { chains, jumps } = buildRules({
        family,
        setName: (role) => setSpec(role, family).name,
        comment: setComment,
        masqueradeBit: 14,
        masqueradeAll: false,
        randomFully: false,
        localDetector,
        nonEmpty: new Set(allRoles),
        outFilterDrops: [],
      })
      for (const { table, from, rule } of jumps) rules.add(`${table} ${from} ${plain(rule)}`)
      for (const { table, name, rules: texts } of chains) {
        for (const rule of texts) rules.add(`${table} ${name} ${plain(rule)}`)
      }
    }
  }
  return rules
}

let known: Set<string> | undefined

/** Whether a rule is one that this proxy, or a kube-proxy in IPVS mode, writes: others may write into its chains, too. */
export function isOurs(table: string, chain: string, rule: string): boolean {
  known ??= everyRule()
  if (known.has(`${table} ${chain} ${plain(rule)}`)) return true
  return table === 'filter' && chain === 'KUBE-IPVS-OUT-FILTER' && parseDropRule(`${rule} `) !== undefined
}
