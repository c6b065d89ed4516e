import { afterEach, describe, expect, test } from 'vitest'
import { Echo } from '../../../src/trace/echo.ts'
import type { SeenPacket, TraceEvent } from '../../../src/trace/events.ts'

let echo: Echo

afterEach(() => {
  echo.close()
})

function seen(packet: Partial<SeenPacket> = {}, variant: TraceEvent['variant'] = 'nft', id = 'a'): TraceEvent {
  const { address, port } = echo.target
  const ours: SeenPacket = {
    protocol: 'UDP',
    source: address,
    sourcePort: 1,
    destination: address,
    destinationPort: port,
    inLink: '',
    outLink: 'lo',
    flags: '',
  }
  return {
    variant,
    id,
    family: 'ip',
    table: 't',
    chain: 'output_first',
    kind: 'packet',
    packet: { ...ours, ...packet },
  }
}

function tellOfAllPorts(variant: TraceEvent['variant']): void {
  for (let sourcePort = 1; sourcePort < 65_536; sourcePort++) echo.take(seen({ sourcePort }, variant))
}

describe.each(['IPv4', 'IPv6'] as const)('our own datagrams over %s', (family) => {
  test('are waited for, and are of no flow', async () => {
    echo = await Echo.open(family)
    let said: string | undefined
    const told = echo.caughtUp().then((trouble) => (said = trouble))
    await new Promise((wake) => setTimeout(wake, 50))
    // The kernel's log is read beside nft: what it tells does not say how far nft is.
    tellOfAllPorts('legacy')
    await new Promise((wake) => setTimeout(wake, 50))
    expect(said).toBeUndefined()
    tellOfAllPorts('nft')
    expect(await told).toBe('')
  })

  test('are told from others', async () => {
    echo = await Echo.open(family)
    const rule: TraceEvent = { variant: 'nft', id: 'a', family: 'ip', table: 't', chain: 'c', kind: 'policy' }
    expect(echo.take(rule)).toBe(false)
    expect(echo.take(seen())).toBe(true)
    expect(echo.take(rule)).toBe(true)
    for (const other of [{ protocol: 'TCP' }, { source: '10.0.0.1' }, { destinationPort: 1 }] as const)
      expect(echo.take(seen(other, 'nft', 'b'))).toBe(false)
    expect(echo.take({ ...rule, id: 'b' })).toBe(false)
  })

  test('do not hold up for ever', async () => {
    echo = await Echo.open(family)
    expect(await echo.caughtUp(50)).toBe('nft did not tell of a datagram of ours within 0.05 s: events may be missing')
  })
})
