import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { ProxyError } from '../lib/errors.ts'
import { parseNftLine, type TraceEvent } from './events.ts'
import { helperEnd, startHelper } from './helper.ts'

/** NFNLGRP_NFTRACE of linux/netfilter/nfnetlink.h is the ninth. */
const traceGroup = 1 << 8
const netfilter = '12'

/** Sockets of /proc/net/netlink that hear trace events. */
export function traceListeners(table: string): readonly string[] {
  return table.split('\n').flatMap((line) => {
    const [socket, protocol, , groups] = line.trim().split(/\s+/)
    const hears = protocol === netfilter && (Number.parseInt(groups ?? '', 16) & traceGroup) !== 0
    return hears && socket !== undefined ? [socket] : []
  })
}

const readListeners = (): readonly string[] => traceListeners(readFileSync('/proc/net/netlink', 'utf8'))

/** nft hears the kernel's events, with a receive buffer far larger than ours may be; it ends with us. */
const script = 'nft -a -nn monitor trace & nft=$!; cat > /dev/null; kill $nft; wait'

/** Trace events as they come. */
export interface Monitor {
  /** What went wrong while it ran: "events were lost". */
  readonly remarks: readonly string[]
  close(): Promise<void>
}

/** Begins to hear events; resolves once the kernel has somebody to tell them to. Throws ProxyError PREFLIGHT. */
export async function openMonitor(take: (event: TraceEvent) => void): Promise<Monitor> {
  const before = new Set(readListeners())
  const child = startHelper(script)
  const remarks = new Set<string>()
  let errors = ''
  createInterface({ input: child.stdout }).on('line', (line) => {
    const event = parseNftLine(line)
    if (event !== undefined) take(event)
    else if (/lost|ENOBUFS/i.test(line)) remarks.add(line.replace(/^#\s*/, ''))
  })
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString()
    if (/lost|ENOBUFS/i.test(errors)) remarks.add('the kernel told more events than could be read: some are missing')
  })
  const close = async (): Promise<void> => {
    const end = helperEnd(child)
    child.stdin.end()
    await end
  }
  const deadline = Date.now() + 20_000
  while (!readListeners().some((socket) => !before.has(socket))) {
    if (child.exitCode === null && Date.now() < deadline && errors === '') {
      await new Promise((wake) => setTimeout(wake, 20))
      continue
    }
    await close()
    throw new ProxyError('PREFLIGHT', `nft does not hear trace events: ${errors.trim() || 'no answer'}`, {
      object: 'nft monitor trace',
      operation: 'run',
      advice: 'needs CAP_NET_ADMIN and a kernel with nf_tables: modprobe nf_tables',
    })
  }
  return {
    get remarks() {
      return [...remarks]
    },
    close,
  }
}
