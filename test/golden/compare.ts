import { readdirSync, readFileSync } from 'node:fs'
import { parseSave, targetOf } from '../../src/iptables/text.ts'
import type { Family } from '../../src/model/address.ts'

/** Names of the cases that are dumps, in order. */
export function goldenCases(): string[] {
  return readdirSync(import.meta.dirname, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && entry.name !== '43-graceful')
    .map((entry) => entry.name)
    .sort()
}

/** Text of one file of a case; "" where the case has none. */
export function goldenFile(name: string, file: string): string {
  try {
    return readFileSync(`${import.meta.dirname}/${name}/${file}`, 'utf8')
  } catch {
    return ''
  }
}

function linesOf(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim().replace(/\s+/g, ' '))
    .filter((line) => line !== '' && !line.startsWith('#'))
}

interface FamilyOption {
  /** Only what belongs to this family. */
  readonly family?: Family
}

/** Output of `ipvsadm -Sn`. */
export function normaliseIpvs(text: string, options: FamilyOption = {}): string[] {
  return linesOf(text)
    .filter((line) => options.family === undefined || line.includes('[') === (options.family === 'IPv6'))
    .sort()
}

/** Output of `ipset save`; sets that are not a proxy's are left out, and options that a user cannot choose. */
export function normaliseIpset(text: string, options: FamilyOption = {}): string[] {
  return linesOf(text)
    .map((line) => line.replace(/ (initval|bucketsize) \S+/g, ''))
    .filter((line) => {
      const name = line.split(' ')[1] ?? ''
      if (!name.startsWith('KUBE-')) return false
      return options.family === undefined || name.startsWith('KUBE-6-') === (options.family === 'IPv6')
    })
    .sort()
}

interface IptablesOption {
  /** Only chains KUBE-… and the jumps to them. */
  readonly kubeOnly?: boolean
}

/**
 * Output of `iptables-save`, tables nat and filter: "TABLE :CHAIN" and "TABLE CHAIN NUMBER RULE". Rules are numbered
 * by their place in the chain, those of a chain whose order means nothing by their text.
 */
export function normaliseIptables(text: string, options: IptablesOption = {}): string[] {
  const lines: string[] = []
  for (const [table, chains] of parseSave(text)) {
    if (table !== 'nat' && table !== 'filter') continue
    for (const [name, chain] of chains) {
      const kube = name.startsWith('KUBE-')
      if (kube || !options.kubeOnly) lines.push(`${table} :${name}`)
      const rules = chain.rules.filter((rule) => !options.kubeOnly || kube || targetOf(rule)?.startsWith('KUBE-'))
      if (name === 'KUBE-IPVS-OUT-FILTER') rules.sort()
      for (const [i, rule] of rules.entries()) lines.push(`${table} ${name} ${String(i + 1).padStart(2, '0')} ${rule}`)
    }
  }
  return lines.sort()
}

/** Output of `ip addr show`: addresses with their prefix, without the kernel's own link-local ones. */
export function normaliseAddresses(text: string, options: FamilyOption = {}): string[] {
  return [...text.matchAll(/^\s+inet(6?) (\S+)/gm)]
    .filter((match) => options.family === undefined || (match[1] === '6') === (options.family === 'IPv6'))
    .map((match) => match[2]!)
    .filter((address) => !/^fe[89ab]/.test(address))
    .sort()
}

/** What is in `a` alone ("-") and in `b` alone ("+"), counting repeated lines; empty where they are the same. */
export function diffLines(a: readonly string[], b: readonly string[]): string[] {
  const count = new Map<string, number>()
  for (const line of a) count.set(line, (count.get(line) ?? 0) - 1)
  for (const line of b) count.set(line, (count.get(line) ?? 0) + 1)
  return [...count]
    .filter(([, n]) => n !== 0)
    .flatMap(([line, n]) => Array.from({ length: Math.abs(n) }, () => `${n < 0 ? '-' : '+'} ${line}`))
    .sort((x, y) => x.slice(2).localeCompare(y.slice(2)))
}
