import { attributes, be32 } from '../netlink/attributes.ts'
import { Connection } from '../netlink/connection.ts'
import { protocols } from '../netlink/header.ts'

/** NFNL_SUBSYS_NFTABLES of linux/netfilter/nfnetlink.h and NFT_MSG_GETGEN of linux/netfilter/nf_tables.h. */
const getGeneration = (10 << 8) | 16
/** struct nfgenmsg: family u8, version u8, resource be16. */
const headerLength = 4

/** NFTA_GEN_* of linux/netfilter/nf_tables.h. */
export const generationAttributes = attributes('nftables generation', { id: [1, be32] })

/** The number of the kernel's nftables rules, which each change of any of them raises; the namespace has but one. */
export class RuleGeneration {
  readonly #connection: Connection

  /** `connect` gives a connection of NETLINK_NETFILTER; its socket is opened at the first question. */
  constructor(connect: () => Connection = () => Connection.open(protocols.netfilter)) {
    this.#connection = connect()
  }

  /** Undefined where the kernel does not tell. */
  async read(): Promise<number | undefined> {
    const reply = await this.#connection.request({
      type: getGeneration,
      write: (writer) => writer.word32(writer.reserve(headerLength), 0),
    })
    const [payload] = reply.payloads
    if (reply.errno !== 0 || payload === undefined) return undefined
    return generationAttributes.decode(payload, headerLength).id
  }

  close(): void {
    this.#connection.close()
  }
}
