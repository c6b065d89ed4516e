import {
  chainAttributes,
  getChain,
  headerLength,
  hooks,
  iptablesTables,
  nftFamilies,
} from '../explain/foreign-chains.ts'
import type { KernelState } from '../explain/kernel-state.ts'
import { attributes, count64, text, type FieldCodec } from '../netlink/attributes.ts'
import { Connection } from '../netlink/connection.ts'
import { kernelError } from '../netlink/errno.ts'
import { flags, protocols } from '../netlink/header.ts'

/** NFT_MSG_GETRULE of linux/netfilter/nf_tables.h. */
const getRule = (10 << 8) | 7

/** A 64-bit number in network order: exact up to 2^53. */
const be64: FieldCodec<number> = {
  write: (writer, type, value) => count64.write(writer, type, value),
  read: (buffer, start) => buffer.readUInt32BE(start) * 2 ** 32 + buffer.readUInt32BE(start + 4),
}

/** NFTA_RULE_* of linux/netfilter/nf_tables.h. */
export const ruleAttributes = attributes('nftables rule', { table: [1, text], chain: [2, text], handle: [3, be64] })

const familyNames: Readonly<Record<number, string>> = {
  [nftFamilies.inet]: 'inet',
  [nftFamilies.IPv4]: 'ip',
  [nftFamilies.IPv6]: 'ip6',
}

export interface BaseChain {
  /** PREROUTING, INPUT, … */
  readonly hook: string
  readonly priority: number
}

/** What the kernel calls by handles, by numbers and texts: rules of nftables, those of iptables-nft among them. */
export class RuleBook {
  /** "ip filter INPUT" → handles in order. */
  readonly #handles = new Map<string, number[]>()
  readonly #bases = new Map<string, BaseChain>()
  readonly #kernel: Pick<KernelState, 'ruleSets'>
  /** Read later: has what has come meanwhile. */
  later: RuleBook | undefined

  constructor(kernel: Pick<KernelState, 'ruleSets'>) {
    this.#kernel = kernel
  }

  /** Payloads after nlmsghdr of a dump of chains and one of rules. */
  add(chains: readonly Buffer[], rules: readonly Buffer[]): void {
    for (const payload of chains) {
      const { table = '', name = '', hook } = chainAttributes.decode(payload, headerLength)
      const at = hooks[hook?.number ?? -1]
      const family = familyNames[payload[0] ?? 0]
      if (at === undefined || family === undefined) continue
      this.#bases.set(`${family} ${table} ${name}`, { hook: at, priority: (hook?.priority ?? 0) | 0 })
    }
    for (const payload of rules) {
      const { table = '', chain = '', handle = 0 } = ruleAttributes.decode(payload, headerLength)
      const key = `${familyNames[payload[0] ?? 0] ?? ''} ${table} ${chain}`
      const handles = this.#handles.get(key) ?? []
      handles.push(handle)
      this.#handles.set(key, handles)
    }
  }

  /** Undefined where it is none that is known. */
  base(family: string, table: string, chain: string): BaseChain | undefined {
    return this.#bases.get(`${family} ${table} ${chain}`)
  }

  /** Whether a handle is known. */
  knows(family: string, table: string, chain: string, handle: number): boolean {
    return this.#handles.get(`${family} ${table} ${chain}`)?.includes(handle) ?? false
  }

  /**
   * A rule by its handle: its number in the chain, from 1, and its text as `iptables-save` prints it; no text where it is
   * none of iptables. Undefined where it is not known, as it came and went meanwhile.
   */
  byHandle(
    family: string,
    table: string,
    chain: string,
    handle: number,
  ): { number: number; text?: string } | undefined {
    if (!this.knows(family, table, chain, handle)) return this.later?.byHandle(family, table, chain, handle)
    const number = this.#handles.get(`${family} ${table} ${chain}`)!.indexOf(handle) + 1
    const saved = this.isIptables(family, table) ? this.text('nft', table, chain, number) : undefined
    return { number, ...(saved === undefined ? {} : { text: saved }) }
  }

  /** As `iptables-save` prints it; undefined where it is not known. */
  text(variant: string, table: string, chain: string, number: number): string | undefined {
    return this.#tables(variant)?.get(table)?.get(chain)?.rules[number - 1]
  }

  policy(variant: string, table: string, chain: string): string | undefined {
    return this.#tables(variant)?.get(table)?.get(chain)?.policy
  }

  isChain(variant: string, table: string, name: string): boolean {
    return this.#tables(variant)?.get(table)?.has(name) ?? false
  }

  /** Whether a table is one of iptables-nft. */
  isIptables(family: string, table: string): boolean {
    return family !== 'inet' && iptablesTables.has(table)
  }

  /** Packets pass tables of both variants. */
  get isMixed(): boolean {
    return this.#kernel.ruleSets.length > 1
  }

  #tables(variant: string): ReadonlyMap<string, ReadonlyMap<string, { policy: string; rules: string[] }>> | undefined {
    return this.#kernel.ruleSets.find((one) => one.variant === variant || one.variant === '')?.tables
  }
}

/** Reads chains and rules of nftables; the texts of iptables are those of the kernel's state. Throws ProxyError KERNEL. */
export async function readRuleBook(
  kernel: Pick<KernelState, 'ruleSets'>,
  connection: Connection = Connection.open(protocols.netfilter),
): Promise<RuleBook> {
  const book = new RuleBook(kernel)
  const dump = async (type: number): Promise<readonly Buffer[]> => {
    const reply = await connection.dump({
      type,
      flags: flags.dump,
      write: (writer) => writer.word32(writer.reserve(headerLength), 0),
    })
    if (reply.errno !== 0) throw kernelError(reply.errno, 'list', 'nftables rules', 'modprobe nf_tables')
    return reply.payloads
  }
  try {
    book.add(await dump(getChain), await dump(getRule))
  } finally {
    connection.close()
  }
  return book
}
