import { readFileSync } from 'node:fs'
import { readSysctl } from '../lib/sysctl.ts'

/** How full the kernel's tables of connections are; undefined where the kernel does not tell. */
export interface TableFigures {
  readonly conntrackEntries: number | undefined
  readonly conntrackLimit: number | undefined
  readonly connectionTableBuckets: number | undefined
}

/** The seam to the host's files, replaced in tests: text, undefined where there is no such file. */
export interface TableFiles {
  sysctl(name: string): string | undefined
  read(path: string): string | undefined
}

const theFiles: TableFiles = {
  sysctl: readSysctl,
  read: (path) => {
    try {
      return readFileSync(path, 'utf8')
    } catch {
      return undefined
    }
  },
}

/** The size of IPVS's table is a parameter of its module, 2 to the power of it; connections beyond it share buckets. */
export function readTables(files: TableFiles = theFiles): TableFigures {
  const bits = numberOf(files.read('/sys/module/ip_vs/parameters/conn_tab_bits'))
  return {
    conntrackEntries: numberOf(files.sysctl('net/netfilter/nf_conntrack_count')),
    conntrackLimit: numberOf(files.sysctl('net/netfilter/nf_conntrack_max')),
    connectionTableBuckets: bits === undefined ? undefined : 2 ** bits,
  }
}

function numberOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d+\s*$/.test(text) ? Number(text) : undefined
}
