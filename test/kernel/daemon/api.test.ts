import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { eventually, serviceObject, sliceObject } from '../lab.ts'
import type { Command } from '../../fake-apiserver/server.ts'
import { Cluster, port } from './cluster.ts'

const seconds = (count: number): Promise<void> => new Promise((wake) => setTimeout(wake, count * 1000))

interface Fault {
  name: string
  inject: (cluster: Cluster) => void
  /** How long the fault lasts, in seconds. */
  lasts: number
  lift: (cluster: Cluster) => void | Promise<void>
}

/** What takes a minute and more is run by scripts/verify-long.sh. */
const isWhole = process.env.FAULTS === 'whole'

describe.concurrent('a fault of the API server leaves the kernel alone; afterwards it converges', () => {
  const faults: readonly Fault[] = [
    // Three go on at a time: the longest first.
    {
      name: '500s for a minute',
      inject: (cluster) => void cluster.tell({ failAll: 500, disconnectAll: true }),
      lasts: 60,
      lift: (cluster) => void cluster.tell({ failAll: null }),
    },
    {
      name: 'a half-open connection',
      inject: (cluster) => {
        // The peer falls silent without a word: only TCP's own probes can tell.
        cluster.namespace.run('iptables', '-I', 'INPUT', '1', '-p', 'tcp', '--sport', String(port), '-j', 'DROP')
        cluster.namespace.run('iptables', '-I', 'INPUT', '1', '-p', 'tcp', '--dport', String(port), '-j', 'DROP')
      },
      lasts: 75,
      lift: (cluster) => {
        cluster.namespace.run('iptables', '-D', 'INPUT', '1')
        cluster.namespace.run('iptables', '-D', 'INPUT', '1')
      },
    },
    {
      name: '410 Gone on the next watch',
      inject: (cluster) => {
        cluster.tell({ failAll: 503, disconnectAll: true })
        cluster.tell({ gone: 'status' })
      },
      lasts: 2,
      lift: (cluster) => void cluster.tell({ failAll: null }),
    },
    {
      name: '410 Gone as an event of a running watch',
      inject: (cluster) => {
        cluster.tell({ failAll: 503 })
        cluster.tell({ gone: 'event' })
      },
      lasts: 2,
      lift: (cluster) => void cluster.tell({ failAll: null }),
    },
    {
      name: 'a disconnect in mid-list',
      inject: (cluster) => {
        cluster.tell({ failAll: 503, noWatchList: 400, gone: 'event' })
        cluster.tell({ disconnectAll: true })
      },
      lasts: 2,
      lift: (cluster) => {
        cluster.tell({ cutNextList: 300 })
        cluster.tell({ failAll: null })
      },
    },
    {
      name: 'a token that is no longer accepted, then a new one in the file',
      inject: (cluster) => void cluster.tell({ accept: ['second'], disconnectAll: true }),
      lasts: 5,
      lift: (cluster) => writeFile(join(cluster.folder.path, 'token'), 'second'),
    },
  ]
  test.each(faults.filter(({ lasts }) => isWhole || lasts < 60))('$name', async ({ name, inject, lasts, lift }) => {
    const cluster = await Cluster.start()
    try {
      const before = await cluster.state()
      const halfOpen = name.startsWith('a half-open')
      const change = (): void => {
        cluster.tell({ delete: ['Service', 'default/web'] })
        cluster.tell({
          put: [
            serviceObject({ name: 'api', clusterIP: '10.96.1.2' }),
            sliceObject('api', ['10.244.1.3']),
          ] as NonNullable<Command['put']>,
        })
      }
      inject(cluster)
      // Out of its sight, one Service goes and another comes. Through a dead network nobody can tell the server.
      if (!halfOpen) change()
      for (let waited = 0; waited < lasts; waited += 5) {
        await seconds(Math.min(5, lasts - waited))
        expect(await cluster.state()).toBe(before)
      }
      await lift(cluster)
      if (halfOpen) change()
      await eventually(
        'the kernel to converge',
        async () => {
          const now = await cluster.state()
          return now.includes('-a -t 10.96.1.2:80 -r 10.244.1.3:8080') && !now.includes('10.96.1.1')
        },
        90_000,
      )
      expect(cluster.daemon.exited).toBe(false)
    } finally {
      await cluster.stop()
    }
  })
})
