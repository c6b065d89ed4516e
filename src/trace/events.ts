import { canonicalAddress, type Protocol } from '../model/address.ts'

/** A packet as it is at one place. Ports are 0 where the protocol has none. */
export interface SeenPacket {
  /** "ICMP" for errors of either family. */
  readonly protocol: Protocol | 'ICMP'
  readonly source: string
  readonly sourcePort: number
  readonly destination: string
  readonly destinationPort: number
  /** "" where it has none at this place. */
  readonly inLink: string
  readonly outLink: string
  /** Of TCP: "syn", "syn ack", "rst"; of ICMP what it says, "destination-unreachable 3". */
  readonly flags: string
}

export type Verdict = 'continue' | 'accept' | 'drop' | 'return' | 'jump' | 'goto' | 'queue' | 'stolen'

/** One thing that the kernel told of a packet that is followed. */
export type TraceEvent = {
  /** "nft": a trace event of nftables; "legacy": a line of the kernel log about a table of iptables-legacy. */
  readonly variant: 'nft' | 'legacy'
  /** Equal for events of one packet that follow each other. */
  readonly id: string
  /** "ip", "ip6", "inet" */
  readonly family: string
  readonly table: string
  readonly chain: string
} & (
  | { readonly kind: 'packet'; readonly packet: SeenPacket }
  | {
      readonly kind: 'rule'
      /** nft: the rule's handle. */
      readonly handle?: number
      /** legacy: its number in the chain, from 1. */
      readonly number?: number
      /** nft: as nft prints it; "" where it could not. */
      readonly text: string
      /** legacy does not tell it. */
      readonly verdict?: Verdict
      /** Of jump and goto. */
      readonly to?: string
    }
  /** The end of a chain: back to the one that led here. */
  | { readonly kind: 'end'; readonly mark?: number }
  /** The end of a base chain; legacy does not tell which policy. */
  | { readonly kind: 'policy'; readonly policy?: 'accept' | 'drop'; readonly mark?: number }
)

const tcpFlags = ['fin', 'syn', 'rst', 'psh', 'ack', 'urg', 'ecn', 'cwr']

/** "syn ack" of 0x12. */
function flagNames(bits: number): string {
  return tcpFlags.filter((_, i) => (bits & (1 << i)) !== 0 && i < 6).join(' ')
}

/** The text after "packet: " of `nft -nn monitor trace`; undefined where it has no addresses. */
function readPacket(text: string): SeenPacket | undefined {
  const link = (name: string): string => new RegExp(`\\b${name} "([^"]*)"`).exec(text)?.[1] ?? ''
  const [, source, destination] = /\bip6? saddr (\S+) ip6? daddr (\S+)/.exec(text) ?? []
  if (source === undefined || destination === undefined) return undefined
  const [, l4, sourcePort, destinationPort] =
    /\b(tcp|udp|sctp) sport (\d+) (?:tcp|udp|sctp) dport (\d+)/.exec(text) ?? []
  const inLink = link('iif')
  const outLink = link('oif')
  if (l4 === undefined) {
    const [, type, code] = /\bicmp(?:v6)? type (\S+)(?: icmp(?:v6)? code (\S+))?/.exec(text) ?? []
    if (type === undefined) return undefined
    const flags = code === undefined ? type : `${type} ${code}`
    return { protocol: 'ICMP', source, sourcePort: 0, destination, destinationPort: 0, inLink, outLink, flags }
  }
  const bits = /\btcp flags (?:== )?(0x[0-9a-f]+)/.exec(text)?.[1]
  return {
    protocol: l4 === 'tcp' ? 'TCP' : l4 === 'udp' ? 'UDP' : 'SCTP',
    source,
    sourcePort: Number(sourcePort),
    destination,
    destinationPort: Number(destinationPort),
    inLink,
    outLink,
    flags: bits === undefined ? '' : flagNames(Number(bits)),
  }
}

const verdicts: ReadonlySet<string> = new Set('continue accept drop return jump goto queue stolen'.split(' '))

function asVerdict(text: string): Verdict {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- looked up
  return (verdicts.has(text) ? text : 'continue') as Verdict
}

/** A line of `nft -a -nn monitor trace`; undefined for what is none, such as its remarks. */
export function parseNftLine(line: string): TraceEvent | undefined {
  const [, id, family, table, chain, rest] = /^trace id (\w+) (\w+) (\S+) (\S+) (.*)$/.exec(line) ?? []
  if (id === undefined || family === undefined || table === undefined || chain === undefined) return undefined
  const base = { variant: 'nft', id, family, table, chain } as const
  const text = rest!.trim()
  if (text.startsWith('packet: ')) {
    const packet = readPacket(text)
    return packet && { ...base, kind: 'packet', packet }
  }
  const mark = /\bmeta mark (0x[0-9a-f]+)/.exec(text)?.[1]
  const marked = mark === undefined ? {} : { mark: Number(mark) }
  const policy = /^policy (accept|drop)/.exec(text)?.[1]
  if (policy !== undefined) return { ...base, kind: 'policy', policy: policy === 'drop' ? 'drop' : 'accept', ...marked }
  if (text.startsWith('verdict ')) return { ...base, kind: 'end', ...marked }
  const [, shown, handle, verdict, to] =
    /^(?:unknown )?rule (?:(.*) # )?handle (\d+) \(verdict (\w+)(?: (\S+))?\)$/.exec(text) ?? []
  if (handle === undefined) return undefined
  return {
    ...base,
    kind: 'rule',
    handle: Number(handle),
    text: (shown ?? '').trim(),
    verdict: asVerdict(verdict!),
    ...(to === undefined ? {} : { to }),
  }
}

/** A line of the target TRACE in the kernel log, as nf_log_syslog writes it; undefined for other lines. */
export function parseLegacyLine(line: string): readonly TraceEvent[] {
  const [, table, chain, kind, number, rest] =
    /\bTRACE: (\w+):(.+):(rule|return|policy):(\d+) (IN=.*)$/.exec(line) ?? []
  if (table === undefined || chain === undefined || rest === undefined) return []
  const field = (name: string): string => new RegExp(`(?:^| )${name}=(\\S*)`).exec(rest)?.[1] ?? ''
  const name = field('PROTO')
  const protocol = (['TCP', 'UDP', 'SCTP'] as const).find((one) => one === name)
  const isError = name.startsWith('ICMP')
  if (protocol === undefined && !isError) return []
  const source = shortAddress(field('SRC'))
  const destination = shortAddress(field('DST'))
  const packet: SeenPacket = {
    protocol: protocol ?? 'ICMP',
    source,
    sourcePort: Number(field('SPT')),
    destination,
    destinationPort: Number(field('DPT')),
    inLink: field('IN'),
    outLink: field('OUT'),
    flags: isError
      ? `${field('TYPE')} ${field('CODE')}`
      : ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG']
          .filter((flag) => new RegExp(` ${flag} `).test(rest))
          .join(' ')
          .toLowerCase(),
  }
  const id = `legacy ${source} ${packet.sourcePort} ${destination} ${packet.destinationPort}`
  const base = { variant: 'legacy', id, family: source.includes(':') ? 'ip6' : 'ip', table, chain } as const
  const mark = field('MARK') === '' ? {} : { mark: Number(field('MARK')) }
  const told: TraceEvent =
    kind === 'rule'
      ? { ...base, kind, number: Number(number), text: '' }
      : kind === 'policy'
        ? { ...base, kind, ...mark }
        : { ...base, kind: 'end', ...mark }
  return [{ ...base, kind: 'packet', packet }, told]
}

/** The log has IPv6 addresses in full. */
function shortAddress(text: string): string {
  return text.includes(':') ? (canonicalAddress(text) ?? text) : text
}
