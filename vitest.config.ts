import { defineConfig } from 'vitest/config'

const prometheus = 'test/kernel/daemon/monitoring.test.ts'

export default defineConfig({
  test: {
    // Many tests wait more than they work; vitest's own choice is one process fewer than processors.
    maxWorkers: 3,
    projects: [
      { test: { name: 'unit', include: ['test/unit/**/*.test.ts'] } },
      // Needs promtool, which scripts/prepare.sh unpacks.
      { test: { name: 'monitoring', include: ['test/monitoring/**/*.test.ts'] } },
      {
        // A real Chromium reads the web page.
        test: { name: 'browser', include: ['test/browser/**/*.test.ts'], testTimeout: 300_000, hookTimeout: 300_000 },
      },
      {
        // In the guest, by verify:long: Prometheus takes minutes to see everything happen.
        test: {
          name: 'prometheus',
          include: [prometheus],
          testTimeout: 300_000,
          hookTimeout: 600_000,
        },
      },
      {
        // In the guest: one process, files one after the other, for starting processes is dear there.
        test: {
          name: 'kernel',
          include: ['test/kernel/**/*.test.ts'],
          exclude: [prometheus],
          pool: 'threads',
          isolate: false,
          fileParallelism: false,
          maxConcurrency: 3,
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
})
