/** What we need of iptables of one family. */
export interface Iptables {
  /** "nft" or "legacy", and the tool's version: "1.8.9". */
  readonly variant: 'nft' | 'legacy'
  readonly version: string
  /** Text of `iptables-save` for one table. */
  save(table: 'nat' | 'filter' | 'mangle'): Promise<string>
  /** Feeds `iptables-restore --noflush -w`. Throws ProxyError COMMAND with the tool's words and the lines around the fault. */
  restore(input: string): Promise<void>
}
