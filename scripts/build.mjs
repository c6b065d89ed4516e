// Bundles the program into dist/: one file to start from, others that it loads as they are needed, and next to them the
// netlink package's N-API binaries, one for each machine type.
import { cpSync, mkdirSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { build } from 'esbuild'

const root = resolve(import.meta.dirname, '..')
const dist = join(root, 'dist')
const netlink = dirname(createRequire(join(root, 'package.json')).resolve('netlink/package.json'))

/** The netlink package finds its binary relative to its own folder, which the bundle does not have. */
const nativeBesideBundle = {
  name: 'native-beside-bundle',
  setup(builder) {
    builder.onResolve({ filter: /^node-gyp-build$/ }, () => ({ path: 'node-gyp-build', namespace: 'native' }))
    builder.onLoad({ filter: /.*/, namespace: 'native' }, () => ({
      contents: `
        const { join } = require('node:path')
        module.exports = () => require(join(bundleFolder, 'prebuilds', process.platform + '-' + process.arch, 'netlink.node'))`,
      resolveDir: root,
    }))
  },
}

/** Our help is ASCII: its width needs no tables of Unicode, which are 3 MB in memory once loaded. */
const plainWidth = {
  name: 'plain-width',
  setup(builder) {
    builder.onResolve({ filter: /^string-width$/ }, () => ({ path: 'string-width', namespace: 'width' }))
    builder.onLoad({ filter: /.*/, namespace: 'width' }, () => ({ contents: 'export default (text) => text.length' }))
  },
}

/**
 * Importing one of these as an ES module reads all that it exports, which loads undici and web crypto: 4 MB that nobody
 * here uses.
 */
const lazyBuiltins = {
  name: 'lazy-builtins',
  setup(builder) {
    builder.onResolve({ filter: /^(node:)?(http|https|crypto)$/ }, ({ path }) => ({ path, namespace: 'builtin' }))
    builder.onLoad({ filter: /.*/, namespace: 'builtin' }, ({ path }) => ({
      contents: `module.exports = process.getBuiltinModule('${path}')`,
    }))
  },
}

rmSync(dist, { recursive: true, force: true })
mkdirSync(dist)
await build({
  entryPoints: [join(root, 'src/main.ts')],
  outdir: dist,
  entryNames: 'kube-ipvs-proxy',
  chunkNames: '[name]-[hash]',
  outExtension: { '.js': '.mjs' },
  bundle: true,
  // A command loads neither the daemon nor the other commands: its start is most of its time.
  splitting: true,
  platform: 'node',
  target: 'node24',
  format: 'esm',
  legalComments: 'none',
  // V8 keeps the text: without comments and blanks it is a third smaller. Names and lines stay, for stacks.
  minifyWhitespace: true,
  lineLimit: 160,
  logLevel: 'warning',
  // Loaded only for kubeconfigs with exec or OIDC credentials; an image that needs them adds the package.
  external: ['@kubernetes/client-node'],
  define: { __dirname: 'import.meta.dirname' },
  plugins: [nativeBesideBundle, plainWidth, lazyBuiltins],
  banner: {
    js: [
      "import { createRequire as bundleCreateRequire } from 'node:module'",
      'const require = bundleCreateRequire(import.meta.url)',
      'const bundleFolder = import.meta.dirname',
    ].join('\n'),
  },
})
for (const machine of ['linux-x64', 'linux-arm64']) {
  const from = join(netlink, 'prebuilds', machine)
  cpSync(join(from, 'node.napi.node'), join(dist, 'prebuilds', machine, 'netlink.node'))
}
