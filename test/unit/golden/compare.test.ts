import { describe, expect, test } from 'vitest'
import {
  diffLines,
  goldenCases,
  goldenFile,
  normaliseAddresses,
  normaliseIpset,
  normaliseIptables,
  normaliseIpvs,
} from '../../golden/compare.ts'

/** A table with these rules. */
const save = (rules: string) => `# at noon\n*nat\n:INPUT ACCEPT [1:2]\n:KUBE-A - [0:0]\n${rules}COMMIT\n`

describe('normalised dumps', () => {
  test('ipvs', () => {
    const text = '-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 1\n-A -t [fd00::1]:80  -s rr\n-A -t 10.0.0.1:80 -s rr \n'
    expect(normaliseIpvs(text, { family: 'IPv4' })).toEqual([
      '-A -t 10.0.0.1:80 -s rr',
      '-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 1',
    ])
    expect(normaliseIpvs(text)).toHaveLength(3)
  })

  test('ipset', () => {
    const text = [
      'create KUBE-X hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1',
      'add KUBE-X 10.0.0.1',
      'create KUBE-6-X hash:ip family inet6 hashsize 1024 maxelem 65536',
      'create OTHER hash:ip',
    ].join('\n')
    expect(normaliseIpset(text, { family: 'IPv4' })).toEqual([
      'add KUBE-X 10.0.0.1',
      'create KUBE-X hash:ip family inet hashsize 1024 maxelem 65536',
    ])
    expect(normaliseIpset(text)).toHaveLength(3)
  })

  test('iptables: counters and dates are nothing, order of rules is', () => {
    const [a, b] = ['-A KUBE-A -j DROP\n', '-A KUBE-A -j RETURN\n']
    expect(normaliseIptables(save(a + b))).toEqual([
      'nat :INPUT',
      'nat :KUBE-A',
      'nat KUBE-A 01 -j DROP',
      'nat KUBE-A 02 -j RETURN',
    ])
    expect(diffLines(normaliseIptables(save(a + b)), normaliseIptables(save(b + a)))).toHaveLength(4)
    const foreign = save(`-A INPUT -j ACCEPT\n-A INPUT -j KUBE-A\n${a}`)
    expect(normaliseIptables(foreign, { kubeOnly: true })).toEqual([
      'nat :KUBE-A',
      'nat INPUT 01 -j KUBE-A',
      'nat KUBE-A 01 -j DROP',
    ])
  })

  test('addresses', () => {
    const text =
      '9: x:\n    inet 10.96.0.1/32 scope global x\n    inet6 fd00::1/128 scope global\n    inet6 fe80::1/64\n'
    expect(normaliseAddresses(text)).toEqual(['10.96.0.1/32', 'fd00::1/128'])
    expect(normaliseAddresses(text, { family: 'IPv6' })).toEqual(['fd00::1/128'])
  })

  test('differences count repeated lines', () => {
    expect(diffLines(['a', 'b', 'b'], ['b', 'c'])).toEqual(['- a', '- b', '+ c'])
    expect(diffLines(['a', 'b'], ['b', 'a'])).toEqual([])
  })

  test('every case has its dumps', () => {
    expect(goldenCases()).toHaveLength(28)
    for (const name of goldenCases()) {
      expect(normaliseIpvs(goldenFile(name, 'ipvsadm-Sn.txt'))).not.toEqual([])
      expect(normaliseIpset(goldenFile(name, 'ipset-save.txt'))).not.toEqual([])
      expect(normaliseAddresses(goldenFile(name, 'ip-addr-kube-ipvs0.txt'))).not.toEqual([])
    }
  })
})
