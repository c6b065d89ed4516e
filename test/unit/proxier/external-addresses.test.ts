import { afterEach, describe, expect, test } from 'vitest'
import { loadConfig } from '../../../src/config/load.ts'
import { parseCidr } from '../../../src/model/address.ts'
import { admit, type ExternalRanges } from '../../../src/proxier/external-addresses.ts'
import { settingsOf } from '../../../src/settings.ts'
import { summarize } from '../../../src/wanted/local.ts'
import { port, service } from './objects.ts'
import { Rig } from './rig.ts'

let rig: Rig | undefined
afterEach(async () => {
  await rig?.stop()
  rig = undefined
})

const ranges = (allowed: readonly string[], denied: readonly string[] = []): ExternalRanges => ({
  allowed: allowed.map((text) => parseCidr(text)!),
  denied: denied.map((text) => parseCidr(text)!),
})
const notAllowed = 'kubeIpvsProxy.allowedExternalCIDRs has no range of it'

describe('which external addresses are served', () => {
  test.each<{ name: string; given: ExternalRanges; address: string; refused: string | undefined }>([
    { name: 'without settings any', given: ranges([]), address: '10.96.0.10', refused: undefined },
    { name: 'one that is allowed', given: ranges(['203.0.113.0/24']), address: '203.0.113.7', refused: undefined },
    { name: 'one that is not', given: ranges(['203.0.113.0/24']), address: '203.0.114.7', refused: notAllowed },
    {
      name: 'of a family without a range',
      given: ranges(['203.0.113.0/24']),
      address: '2001:db8::7',
      refused: notAllowed,
    },
    { name: 'IPv6 allowed', given: ranges(['2001:db8::/32']), address: '2001:db8::7', refused: undefined },
    {
      name: 'the address of DNS',
      given: ranges([], ['192.168.0.0/16', '10.96.0.0/12']),
      address: '10.96.0.10',
      refused: 'kubeIpvsProxy.deniedExternalCIDRs has 10.96.0.0/12',
    },
    {
      name: 'a single node',
      given: ranges([], ['192.168.60.1/32']),
      address: '192.168.60.1',
      refused: 'kubeIpvsProxy.deniedExternalCIDRs has 192.168.60.1/32',
    },
    { name: 'its neighbour', given: ranges([], ['192.168.60.1/32']), address: '192.168.60.2', refused: undefined },
    {
      name: 'allowed and denied',
      given: ranges(['0.0.0.0/0'], ['10.96.0.0/12']),
      address: '10.96.0.10',
      refused: 'kubeIpvsProxy.deniedExternalCIDRs has 10.96.0.0/12',
    },
  ])('$name', ({ given, address, refused }) => {
    for (const field of ['externalIPs', 'loadBalancerIPs'] as const) {
      const answer = admit(service({ [field]: [address] }), given)
      expect(answer.service[field]).toEqual(refused === undefined ? [address] : [])
      expect(answer.refused).toEqual(refused === undefined ? [] : [{ address, reason: refused }])
    }
  })

  test('cluster IPs are nobody else’s affair', () => {
    const given = service({ clusterIPs: ['10.96.0.10'] })
    expect(admit(given, ranges(['203.0.113.0/24'], ['10.96.0.0/12'])).service).toBe(given)
  })
})

test('the settings come from file and flags', () => {
  const file = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
kubeIpvsProxy: {allowedExternalCIDRs: ["2001:db8::/32"]}
`
  const { config, problems } = loadConfig({ file, flags: new Map([['denied-external-cidrs', '10.96.0.0/12,::1/128']]) })
  expect(problems).toEqual([])
  expect(settingsOf(config, 'node1').externalRanges).toEqual(ranges(['2001:db8::/32'], ['10.96.0.0/12', '::1/128']))
  const wrong = loadConfig({ flags: new Map([['allowed-external-cidrs', '10.0.0.1']]) })
  expect(wrong.problems.map(({ path }) => path)).toEqual(['--allowed-external-cidrs'])
})

describe('a refused address', () => {
  const grabbing = service({
    externalIPs: ['10.96.0.53', '203.0.113.7', '2001:db8::7'],
    loadBalancerIPs: ['192.168.0.9'],
    ports: [port({ name: 'a', nodePort: 30080 }), port({ name: 'b', port: 81 })],
  })

  async function start(): Promise<Rig> {
    rig = new Rig({ externalRanges: ranges(['203.0.113.0/24'], ['10.96.0.0/12']) })
    rig.proxier.serviceChanged('default/web', grabbing)
    rig.proxier.synced('services')
    rig.proxier.synced('endpointslices')
    rig.start()
    await rig.next()
    return rig
  }

  test('is in nothing that the kernel has; the rest of the Service is served', async () => {
    const { ipvs, ipset, dummy } = await start()
    const state = `${ipvs.dump()}${ipset.dump()}${dummy.dump('kube-ipvs0')}`
    expect(state).not.toMatch(/10\.96\.0\.53|192\.168\.0\.9/)
    for (const served of ['10.96.0.10:80', '10.96.0.10:81', '203.0.113.7:80', '192.168.0.1:30080']) {
      expect(state).toContain(`-A -t ${served} `)
    }
  })

  test('is told once, with Service, address and setting, and again when it comes back', async () => {
    const { proxier, told, warnings } = await start()
    const refusals = (): string[] => told.splice(0).filter((line) => line.startsWith('refused'))
    const both = [
      'refused default/web 10.96.0.53: kubeIpvsProxy.deniedExternalCIDRs has 10.96.0.0/12',
      `refused default/web 192.168.0.9: ${notAllowed}`,
    ]
    expect(refusals()).toEqual(both)
    expect(warnings.filter((line) => line.includes('refused by the settings'))).toHaveLength(2)
    expect(warnings[0]).toContain('"object":"Service default/web","address":"10.96.0.53"')
    proxier.serviceChanged('default/web', { ...grabbing, affinitySeconds: 5 })
    await rig!.next()
    expect(refusals()).toEqual([])
    expect(rig!.reports.at(-1)!.refusedAddresses).toBe(2)
    proxier.serviceChanged('default/web', undefined)
    expect((await rig!.next()).refusedAddresses).toBe(0)
    proxier.serviceChanged('default/web', grabbing)
    await rig!.next()
    expect(refusals()).toEqual(both)
  })

  test('stands in what the commands are told', async () => {
    const { stack } = await start()
    const { refused } = await summarize(stack.wanted)
    expect(refused.map(({ owner, address }) => `${owner} ${address}`)).toEqual([
      'default/web:a/TCP 10.96.0.53',
      'default/web:a/TCP 192.168.0.9',
      'default/web:b/TCP 10.96.0.53',
      'default/web:b/TCP 192.168.0.9',
    ])
  })

  test('a thousand of them are not a thousand lines', async () => {
    const { proxier, warnings, told } = await start()
    warnings.length = told.length = 0
    const many = Array.from({ length: 1000 }, (_, i) => `10.97.${i >> 8}.${i & 255}`)
    proxier.serviceChanged('default/web', { ...grabbing, externalIPs: many })
    await rig!.next()
    expect(told.filter((line) => line.startsWith('refused'))).toHaveLength(10)
    expect(warnings).toHaveLength(11)
    expect(warnings.at(-1)).toContain('"left":990')
  })
})

describe('who has a virtual server that two Services claim', () => {
  const dns = service({
    key: 'kube-system/kube-dns',
    clusterIPs: ['10.96.0.53'],
    ports: [port({ port: 53, protocol: 'UDP' })],
  })
  const web = service({ key: 'shop/web', clusterIPs: ['10.96.0.20'], ports: [port({ nodePort: 30080 })] })
  const first = { key: 'aaa/first', clusterIPs: ['10.96.0.66'] }
  test.each([
    {
      name: 'the one whose cluster IP it is',
      other: dns,
      claim: { externalIPs: ['10.96.0.53'], ports: [port({ port: 53, protocol: 'UDP' })] },
      server: 'UDP 10.96.0.53:53',
    },
    {
      name: 'the one whose cluster IP it is, against a load balancer',
      other: dns,
      claim: { loadBalancerIPs: ['10.96.0.53'], ports: [port({ port: 53, protocol: 'UDP' })] },
      server: 'UDP 10.96.0.53:53',
    },
    {
      name: 'the one whose cluster IP it is, which names it as an external IP, too',
      other: { ...dns, externalIPs: ['10.96.0.53'] },
      claim: { externalIPs: ['10.96.0.53'], ports: [port({ port: 53, protocol: 'UDP' })] },
      server: 'UDP 10.96.0.53:53',
    },
    {
      name: 'the one whose node port it is',
      other: web,
      claim: { externalIPs: ['192.168.0.1'], ports: [port({ port: 30080 })] },
      server: 'TCP 192.168.0.1:30080',
    },
  ])('$name', async ({ other, claim, server }) => {
    rig = new Rig()
    for (const one of [service({ ...first, ...claim }), other]) rig.proxier.serviceChanged(one.key, one)
    rig.proxier.synced('services')
    rig.proxier.synced('endpointslices')
    rig.start()
    await rig.next()
    const conflicts = [...rig.stack.ledger.conflicts()]
    expect(conflicts).toHaveLength(1)
    expect(conflicts[0]!.winner.startsWith(other.key)).toBe(true)
    expect(conflicts[0]!.server).toContain(server.split(' ')[1])
    // It is there as it is wanted by the one who has it, and stays when the other goes.
    rig.proxier.serviceChanged(first.key, undefined)
    await rig.next()
    expect(rig.ipvs.dump()).toContain(` ${server.split(' ')[1]} `)
  })
})
