import { execFileSync } from 'node:child_process'
import { afterAll, describe } from 'vitest'
import { KernelIpvs } from '../../src/ipvs/kernel-ipvs.ts'
import { ipvsContract } from '../contract/ipvs.ts'

const clear = (): void => {
  execFileSync('ipvsadm', ['-C'])
}

describe('KernelIpvs', () => {
  afterAll(clear)
  ipvsContract(
    async () => {
      const ipvs = await KernelIpvs.open()
      clear()
      return ipvs
    },
    () => execFileSync('ipvsadm', ['-Sn'], { encoding: 'utf8' }),
  )
})
