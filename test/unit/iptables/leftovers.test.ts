import { describe, expect, test } from 'vitest'
import {
  findLeftovers,
  findNftLeftovers,
  removeLeftovers,
  removeNftLeftovers,
} from '../../../src/iptables/leftovers.ts'
import { parseSave } from '../../../src/iptables/text.ts'
import { FakeIptables } from '../../../src/iptables/fake-iptables.ts'
import { ProxyError } from '../../../src/lib/errors.ts'
import type { RunCommand } from '../../../src/lib/process.ts'

/** What iptables mode leaves, after our own rules were written over the chains that both have. */
const nat = `*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-SVL-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-EXT-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SEP-BBBBBBBBBBBBBBBB - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp cluster IP" -m tcp --dport 53 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web" -m tcp --dport 30080 -j KUBE-EXT-ERIFXISQEP7F7OF4
-A KUBE-EXT-ERIFXISQEP7F7OF4 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns-tcp -> 10.244.0.2:53" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-ERIFXISQEP7F7OF4 -j KUBE-SEP-BBBBBBBBBBBBBBBB
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:53
-A KUBE-SEP-BBBBBBBBBBBBBBBB -p tcp -m tcp -j DNAT --to-destination 10.244.0.3:53
COMMIT
`
const filter = `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-PROXY-CANARY - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-EXTERNAL-SERVICES -d 203.0.113.7/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
COMMIT
`
const mangle = `*mangle
:PREROUTING ACCEPT [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
`

const saving = (texts: Readonly<Record<string, string>>) => ({
  save: (table: string) => Promise.resolve(texts[table] ?? ''),
})

async function removal(
  texts: Readonly<Record<string, string>>,
): Promise<{ inputs: string[]; removed: readonly string[] }> {
  const inputs: string[] = []
  const restore = (input: string): Promise<void> => {
    inputs.push(input)
    return Promise.resolve()
  }
  return { removed: await removeLeftovers({ restore }, await findLeftovers(saving(texts))), inputs }
}

describe('iptables mode', () => {
  test('everything that only it has, in one restore', async () => {
    const { inputs, removed } = await removal({ nat, filter, mangle })
    expect(inputs).toHaveLength(1)
    expect(removed).toEqual([
      '1 × KUBE-NODEPORTS of table nat',
      '1 × KUBE-SVC-* of table nat',
      '1 × KUBE-SVL-* of table nat',
      '1 × KUBE-EXT-* of table nat',
      '2 × KUBE-SEP-* of table nat',
      '1 × KUBE-PROXY-CANARY of table nat',
      '1 × KUBE-SERVICES of table filter',
      '1 × KUBE-EXTERNAL-SERVICES of table filter',
      '1 × KUBE-NODEPORTS of table filter',
      '1 × KUBE-PROXY-CANARY of table filter',
      '1 × KUBE-PROXY-CANARY of table mangle',
    ])
    const lines = inputs[0]!.split('\n')
    // The chains of both modes, kubelet's and the CNI's are neither emptied nor deleted.
    for (const kept of ['KUBE-MARK-MASQ', 'KUBE-POSTROUTING', 'KUBE-FORWARD', 'KUBE-PROXY-FIREWALL', 'KUBE-FIREWALL']) {
      expect(lines.filter((line) => line.startsWith(`:${kept} `) || line === `-X ${kept}`)).toEqual([])
    }
    expect(inputs[0]).not.toMatch(/CANARY.*KUBELET|KUBELET-CANARY|CNI-/)
    // A chain can be deleted only when all are empty and no rule leads to it.
    for (const table of inputs[0]!.split('COMMIT\n').filter(Boolean)) {
      const rows = table.split('\n')
      const lastDeclared = rows.findLastIndex((line) => line.startsWith(':'))
      const firstDeleted = rows.findIndex((line) => line.startsWith('-X'))
      const lastJump = rows.findLastIndex((line) => line.startsWith('-D'))
      expect(firstDeleted).toBeGreaterThan(Math.max(lastDeclared, lastJump))
    }
    // The jump to the firewall chain is among them: ours to that chain has other words.
    expect(lines.filter((line) => line.startsWith('-D INPUT') || line.startsWith('-D FORWARD'))).toHaveLength(5)
    expect(lines.filter((line) => line.startsWith('-D OUTPUT'))).toHaveLength(1)
    expect(lines.filter((line) => line.startsWith('-D KUBE-SERVICES'))).toHaveLength(2)
  })

  test('nothing there: nothing is written', async () => {
    expect(await removal({ nat: '*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n' })).toEqual({ inputs: [], removed: [] })
  })

  test('a second time there is nothing left', async () => {
    const iptables = new FakeIptables()
    for (const [name, text] of [
      ['nat', nat],
      ['filter', filter],
    ] as const) {
      iptables.tables.set(name, parseSave(text).get(name)!)
    }
    expect((await removeLeftovers(iptables, await findLeftovers(iptables))).length).toBeGreaterThan(0)
    expect(iptables.tables.get('filter')!.has('KUBE-SERVICES')).toBe(false)
    expect(iptables.tables.get('nat')!.has('KUBE-SERVICES')).toBe(true)
    expect(await findLeftovers(iptables)).toEqual([])
  })

  test('a chain that somebody else leads to is emptied but stays', async () => {
    const texts = {
      filter: `*filter
:INPUT ACCEPT [0:0]
:KUBE-NODEPORTS - [0:0]
-A INPUT -s 10.0.0.0/8 -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30000 -j ACCEPT
COMMIT
`,
    }
    const { inputs, removed } = await removal(texts)
    expect(inputs).toEqual(['*filter\n:KUBE-NODEPORTS - [0:0]\nCOMMIT\n'])
    expect(removed).toEqual([])
  })
})

describe('nftables mode', () => {
  const answering =
    (calls: string[], tables: string, code = 0): RunCommand =>
    (command, args) => {
      calls.push([command, ...args].join(' '))
      return Promise.resolve({ code, stdout: tables, stderr: code === 0 ? '' : 'Operation not permitted' })
    }
  test.each([
    ['IPv4', 'table ip filter\ntable ip kube-proxy\ntable ip6 kube-proxy\n', ['ip kube-proxy']],
    ['IPv6', 'table ip filter\ntable ip kube-proxy\ntable ip6 kube-proxy\n', ['ip6 kube-proxy']],
    ['IPv4', 'table ip filter\ntable inet kube-proxy\n', []],
    ['IPv4', '', []],
  ] as const)('%s of %j', async (family, tables, found) => {
    expect(await findNftLeftovers(answering([], tables), family)).toEqual(found)
  })

  test('without the tool there is nothing to find', async () => {
    const run: RunCommand = () => Promise.reject(new ProxyError('COMMAND', 'nft: no such command', { errno: 'ENOENT' }))
    expect(await findNftLeftovers(run, 'IPv4')).toEqual([])
  })

  test('deleted by its name; a refusal is an error', async () => {
    const calls: string[] = []
    expect(await removeNftLeftovers(answering(calls, ''), ['ip kube-proxy'])).toEqual(['nftables table ip kube-proxy'])
    expect(calls).toEqual(['nft delete table ip kube-proxy'])
    await expect(removeNftLeftovers(answering([], '', 1), ['ip kube-proxy'])).rejects.toThrow(/not permitted/)
  })
})
