import ipaddr from 'ipaddr.js'

export type Family = 'IPv4' | 'IPv6'
export type Protocol = 'TCP' | 'UDP' | 'SCTP'

/**
 * Canonical text of an IP address, or undefined where the text is none. An IPv4-mapped IPv6 address becomes its
 * IPv4 form; leading zeros in IPv4 octets are read as decimal, as kube-proxy does (KEP-2433-era "sloppy" parsing).
 */
export function canonicalAddress(text: string): string | undefined {
  if (text.includes(':')) {
    if (text.includes('%') || !ipaddr.IPv6.isValid(text)) return undefined
    const address = ipaddr.IPv6.parse(text)
    return address.isIPv4MappedAddress() ? address.toIPv4Address().toString() : address.toRFC5952String()
  }
  return canonicalIPv4(text)
}

/** By character: every address of every endpoint comes through here. */
function canonicalIPv4(text: string): string | undefined {
  let dots = 0
  let digits = 0
  let octet = 0
  let isCanonical = true
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (c === 46) {
      if (digits === 0 || ++dots > 3) return undefined
      digits = 0
      octet = 0
      continue
    }
    if (c < 48 || c > 57 || digits === 3) return undefined
    if (digits > 0 && octet === 0) isCanonical = false
    octet = octet * 10 + c - 48
    digits++
    if (octet > 255) return undefined
  }
  if (dots !== 3 || digits === 0) return undefined
  return isCanonical ? text : text.split('.').map(Number).join('.')
}

/** Family of a canonical address. */
export function familyOf(address: string): Family {
  return address.includes(':') ? 'IPv6' : 'IPv4'
}

/** Network-order bytes of a canonical address: 4 or 16. */
export function addressBytes(address: string): Uint8Array {
  const bytes = new Uint8Array(address.includes(':') ? 16 : 4)
  putAddress(bytes, 0, address)
  return bytes
}

/** Canonical text of 4 or 16 network-order bytes. */
export function addressText(bytes: Uint8Array): string {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`
  return new ipaddr.IPv6([...bytes]).toRFC5952String()
}

/** Puts the network-order bytes of a canonical address into a buffer; answers how many: 4 or 16. */
export function putAddress(buffer: Uint8Array, at: number, address: string): number {
  if (address.includes(':')) {
    buffer.set(ipaddr.IPv6.parse(address).toByteArray(), at)
    return 16
  }
  let octet = 0
  let index = at
  for (let i = 0; i < address.length; i++) {
    const c = address.charCodeAt(i)
    if (c === 46) {
      buffer[index++] = octet
      octet = 0
    } else octet = octet * 10 + c - 48
  }
  buffer[index] = octet
  return 4
}

/** Canonical text of an address kept as 4 or 16 characters up to U+00FF, from `at` on. */
export function unpackAddress(packed: string, at: number, length: number): string {
  if (length === 4) {
    return `${packed.charCodeAt(at)}.${packed.charCodeAt(at + 1)}.${packed.charCodeAt(at + 2)}.${packed.charCodeAt(at + 3)}`
  }
  return addressText(Uint8Array.from({ length }, (_, i) => packed.charCodeAt(at + i)))
}

export interface Cidr {
  readonly address: string
  readonly prefix: number
  readonly family: Family
}

/** A CIDR with its host bits cleared, or undefined where the text is none. */
export function parseCidr(text: string): Cidr | undefined {
  const slash = text.lastIndexOf('/')
  if (slash < 0) return undefined
  const address = canonicalAddress(text.slice(0, slash))
  const digits = text.slice(slash + 1)
  if (address === undefined || !/^(0|[1-9][0-9]{0,2})$/.test(digits)) return undefined
  const prefix = Number(digits)
  const family = familyOf(address)
  if (prefix > (family === 'IPv4' ? 32 : 128)) return undefined
  const bytes = addressBytes(address)
  for (let bit = prefix; bit < bytes.length * 8; bit++) bytes[bit >> 3]! &= ~(0x80 >> (bit & 7))
  return { address: addressText(bytes), prefix, family }
}

export function cidrText(cidr: Cidr): string {
  return `${cidr.address}/${cidr.prefix}`
}

export function cidrContains(cidr: Cidr, address: string): boolean {
  if (familyOf(address) !== cidr.family) return false
  const network = addressBytes(cidr.address)
  const bytes = addressBytes(address)
  const whole = cidr.prefix >> 3
  for (let i = 0; i < whole; i++) if (network[i] !== bytes[i]) return false
  const rest = cidr.prefix & 7
  if (rest === 0) return true
  const mask = 0xff & ~(0xff >> rest)
  return (network[whole]! & mask) === (bytes[whole]! & mask)
}

/** 127.0.0.0/8 or ::1. */
export function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1'
}

/** fe80::/10. */
export function isIPv6LinkLocal(address: string): boolean {
  return /^fe[89ab]/.test(address) && address.includes(':')
}

/** What makes an address useless or dangerous as one of a Service or an endpoint; undefined: nothing. */
export function specialUse(address: string): 'unspecified' | 'loopback' | 'link-local' | 'multicast' | undefined {
  if (address.includes(':')) {
    if (address === '::') return 'unspecified'
    if (isIPv6LinkLocal(address)) return 'link-local'
    // Canonical text has no leading zeros: "ff" is the first byte only where four digits follow one another.
    if (/^ff[0-9a-f]{2}:/.test(address)) return 'multicast'
  } else {
    const first = Number(address.slice(0, address.indexOf('.')))
    if (first === 0) return 'unspecified'
    if (address.startsWith('169.254.')) return 'link-local'
    if ((first >= 224 && first < 240) || address === '255.255.255.255') return 'multicast'
  }
  return isLoopback(address) ? 'loopback' : undefined
}
