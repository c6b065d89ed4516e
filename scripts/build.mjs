// Bundles the program into dist/: one file to start from, others that it loads as they are needed, and next to them the
// netlink package's N-API binaries, one for each machine type.
import { chmodSync, cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { transform } from 'esbuild'
import { rolldown } from 'rolldown'

const root = resolve(import.meta.dirname, '..')
const dist = join(root, 'dist')
const program = 'kube-ipvs-proxy'
const netlink = dirname(createRequire(join(root, 'package.json')).resolve('netlink/package.json'))

/** Puts code of ours in the place of a module. */
function standIn(name, module, code) {
  const id = `\0${name}`
  return {
    name,
    resolveId: { filter: { id: module }, handler: () => id },
    load: { filter: { id: new RegExp(`^${id}$`) }, handler: () => ({ code, moduleType: 'js' }) },
  }
}

/** The netlink package finds its binary relative to its own folder, which the bundle does not have. */
const nativeBesideBundle = standIn(
  'native-beside-bundle',
  /^node-gyp-build$/,
  `
    const { join } = require('node:path')
    module.exports = () => require(join(__dirname, 'prebuilds', process.platform + '-' + process.arch, 'netlink.node'))`,
)

/** Our help is ASCII: its width needs no tables of Unicode, which are 3 MB in memory once loaded. */
const plainWidth = standIn('plain-width', /^string-width$/, 'export default (text) => text.length')

const bundle = await rolldown({
  input: { [program]: join(root, 'src/main.ts') },
  platform: 'node',
  // Loaded only for kubeconfigs with exec or OIDC credentials; an image that needs them adds the package.
  external: ['@kubernetes/client-node'],
  // yargs asks for it where a configuration file extends another, of which there is none.
  transform: { target: 'node24', define: { 'import.meta.resolve': 'undefined' } },
  plugins: [nativeBesideBundle, plainWidth],
  onLog: (level, log) => {
    throw new Error(`${level}: ${log.message}`)
  },
})
const { output } = await bundle.generate({
  // Node takes twice as long to load ES modules, and a command's start is most of its time. It loads neither the
  // daemon nor the other commands.
  format: 'cjs',
  entryFileNames: '[name].cjs',
  chunkFileNames: '[name]-[hash].cjs',
})
rmSync(dist, { recursive: true, force: true })
mkdirSync(dist)
for (const { fileName, code } of output) {
  // V8 keeps the text: without comments and blanks it is a third smaller. Names and lines stay, for stacks.
  const shorter = await transform(code, { minifyWhitespace: true, lineLimit: 160, legalComments: 'none' })
  writeFileSync(join(dist, fileName), shorter.code)
}
chmodSync(join(dist, `${program}.cjs`), 0o755)
for (const machine of ['linux-x64', 'linux-arm64']) {
  const from = join(netlink, 'prebuilds', machine)
  cpSync(join(from, 'node.napi.node'), join(dist, 'prebuilds', machine, 'netlink.node'))
}
