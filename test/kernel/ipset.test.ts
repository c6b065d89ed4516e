import { execFileSync } from 'node:child_process'
import { afterAll, describe, expect, it } from 'vitest'
import { IpsetLayer } from '../../src/ipset/layer.ts'
import { KernelIpset } from '../../src/ipset/kernel-ipset.ts'
import { silentLog } from '../../src/lib/log.ts'
import { ipsetContract } from '../contract/ipset.ts'

const run = (...args: string[]): string => execFileSync('ipset', args, { encoding: 'utf8' })

describe('KernelIpset', () => {
  afterAll(() => {
    run('destroy')
  })
  ipsetContract(
    async () => {
      const ipset = await KernelIpset.open()
      run('destroy')
      return ipset
    },
    () => run('save'),
  )

  it('lists a foreign set by type and without entries', async () => {
    const ipset = await KernelIpset.open()
    run('create', 'foreign', 'hash:net')
    run('add', 'foreign', '10.0.0.0/8')
    expect(await ipset.list('foreign')).toMatchObject({ spec: { type: 'hash:net', family: 'IPv4' }, entries: [] })
    await ipset.destroy('foreign')
    ipset.close()
  })

  describe('a set that is full', () => {
    const layerOf = (ipset: KernelIpset, sizes?: { hashsize: number; maxelem: number }): IpsetLayer => {
      const options = { family: 'IPv4', ipset, log: silentLog, ownersOf: () => ['someone'] } as const
      return new IpsetLayer(sizes === undefined ? options : { ...options, sizes })
    }
    const pass = async (layer: IpsetLayer): Promise<number> =>
      (await layer.add(new Set())).refused.size + (await layer.remove(new Set())).refused.size

    it('is swapped for a larger one while a rule names it; a half-made one of a killed process goes', async () => {
      run('destroy')
      const ipset = await KernelIpset.open()
      run('create', 'KUBE-CLUSTER-IP-TMP', 'hash:ip')
      const layer = layerOf(ipset, { hashsize: 64, maxelem: 8 })
      await layer.resync()
      expect(run('list', '-n')).toBe('')
      const entry = (n: number): string => `10.96.0.${n},tcp:80`
      for (let n = 1; n <= 8; n++) layer.want('clusterIP', entry(n))
      expect(await pass(layer)).toBe(0)
      const rule = ['OUTPUT', '-m', 'set', '--match-set', 'KUBE-CLUSTER-IP', 'dst,dst', '-j', 'ACCEPT']
      execFileSync('iptables', ['-A', ...rule])
      try {
        layer.want('clusterIP', entry(9))
        expect(await pass(layer)).toBe(0)
        expect(run('list', '-t', 'KUBE-CLUSTER-IP')).toMatch(/maxelem 16\b[^]*References: 1\n[^]*Number of entries: 9/)
        expect(run('list', '-n')).not.toContain('TMP')
      } finally {
        execFileSync('iptables', ['-D', ...rule])
      }
      ipset.close()
    })

    it('70,000 members, more than kube-proxy’s sets take', async () => {
      run('destroy')
      const ipset = await KernelIpset.open()
      const layer = layerOf(ipset)
      await layer.resync()
      for (let n = 0; n < 70_000; n++)
        layer.want('clusterIP', `10.${96 + (n >> 16)}.${(n >> 8) & 255}.${n & 255},tcp:80`)
      expect(await pass(layer)).toBe(0)
      expect(run('list', '-t', 'KUBE-CLUSTER-IP')).toMatch(
        /hashsize 32768 maxelem 131072\b[^]*Number of entries: 70000/,
      )
      ipset.close()
    })
  })
})
