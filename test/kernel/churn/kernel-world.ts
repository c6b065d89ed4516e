import { readFile } from 'node:fs/promises'
import { openKernel, type Kernel } from '../../../src/open.ts'
import { chooseVariant, IptablesTool, type Host } from '../../../src/iptables/restore.ts'
import type { Family } from '../../../src/model/address.ts'
import { listServers } from '../lab.ts'
import type { World } from './campaign.ts'
import type { Dump } from './plan.ts'
import { Shells } from './shells.ts'

/** The kernel of the network namespace that this process is in. Read by the tools that people use. */
export class KernelWorld implements World {
  readonly ports: World['ports']
  readonly #kernel: Kernel
  readonly #shells: Shells

  static async open(): Promise<KernelWorld> {
    const shells = new Shells(4)
    const host: Host = { run: shells.run, read: (path) => readFile(path, 'utf8').catch(() => '') }
    const choice = await chooseVariant(host)
    const iptables = new Map<Family, IptablesTool>()
    for (const family of ['IPv4', 'IPv6'] as const) {
      iptables.set(family, await IptablesTool.open(family, choice, host))
    }
    return new KernelWorld(openKernel(), iptables, shells)
  }

  constructor(kernel: Kernel, iptables: World['ports']['iptables'], shells: Shells) {
    this.#kernel = kernel
    this.#shells = shells
    this.ports = { ...kernel, iptables }
  }

  async dump(): Promise<Dump> {
    const [servers, sets, v4, v6, addresses] = await Promise.all([
      listServers(() => this.#output('ipvsadm', '-Sn')),
      this.#output('ipset', 'save'),
      this.#output('iptables-save'),
      this.#output('ip6tables-save'),
      this.#output('ip', '-o', 'addr'),
    ])
    return { servers, sets, rules: { IPv4: v4, IPv6: v6 }, addresses }
  }

  async addAddress(device: string, address: string): Promise<void> {
    await this.#output('ip', 'addr', 'add', address, 'dev', device)
  }

  pause(milliseconds: number): Promise<void> {
    return new Promise((wake) => setTimeout(wake, milliseconds))
  }

  close(): void {
    this.#kernel.close()
    this.#shells.close()
  }

  async #output(command: string, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.#shells.run(command, args)
    if (code !== 0) throw new Error(`${command} ${args.join(' ')} exited with ${code}: ${stderr}`)
    return stdout
  }
}
