#!/usr/bin/env node
// Runs a root file system as manifests/ have the DaemonSet's pod run: first the init container, then the main one, with these
// arguments instead of the manifest's; podman does what kubelet would. Network and host paths are those of the caller.
//   CONTAINER_ROOT=FOLDER scripts/container.mjs ARGUMENT ...
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'yaml'

const root = process.env.CONTAINER_ROOT
const manifest = join(import.meta.dirname, '../manifests/base/daemonset.yaml')
const { spec } = parse(readFileSync(manifest, 'utf8')).spec.template
const folder = mkdtempSync(join(tmpdir(), 'pod-'))

/** A volume as an argument of podman. */
function mount({ name, mountPath, readOnly = false }) {
  const { hostPath, emptyDir } = spec.volumes.find((one) => one.name === name)
  const mode = readOnly ? 'ro' : 'rw'
  if (emptyDir !== undefined)
    return [
      '--mount',
      `type=tmpfs,destination=${mountPath},tmpfs-size=${emptyDir.sizeLimit.replace('i', '').toLowerCase()}`,
    ]
  if (hostPath === undefined) {
    const path = join(folder, name)
    mkdirSync(path, { recursive: true })
    return ['--volume', `${path}:${mountPath}:${mode}`]
  }
  if (hostPath.type === 'FileOrCreate') writeFileSync(hostPath.path, '', { flag: 'a' })
  return ['--volume', `${hostPath.path}:${mountPath}:${mode}`]
}

/** What podman is given for a container; its namespaces but the network are its own. */
function command({ command: [entry, ...rest], securityContext, volumeMounts }, args) {
  const {
    privileged = false,
    allowPrivilegeEscalation = true,
    readOnlyRootFilesystem = false,
    capabilities,
  } = securityContext
  const { drop = [], add = [] } = capabilities ?? {}
  return [
    '--storage-driver=vfs',
    'run',
    '--rm',
    '--network=host',
    '--cgroups=disabled',
    '--log-driver=none',
    '--runtime=crun',
    ...(privileged ? ['--privileged'] : []),
    ...(readOnlyRootFilesystem ? ['--read-only', '--read-only-tmpfs=false'] : []),
    ...(allowPrivilegeEscalation ? [] : ['--security-opt=no-new-privileges']),
    // What RuntimeDefault is where containers are run by CRI-O or podman.
    ...(privileged ? [] : ['--security-opt=seccomp=/usr/share/containers/seccomp.json']),
    ...drop.map((name) => `--cap-drop=${name}`),
    ...add.map((name) => `--cap-add=${name}`),
    ...volumeMounts.flatMap(mount),
    // The folder of manifests that the arguments name.
    `--volume=${tmpdir()}:${tmpdir()}:ro`,
    '--env=NODE_ENV=production',
    '--rootfs',
    root,
    entry,
    ...rest,
    ...args,
  ]
}

const args = process.argv.slice(2)
// `ip netns exec` mounts a /sys of its own, without what crun looks for.
if (!existsSync('/sys/fs/cgroup/cgroup.controllers')) execFileSync('mount', ['-t', 'cgroup2', 'none', '/sys/fs/cgroup'])
const [init] = spec.initContainers
const [main] = spec.containers
execFileSync('podman', command(init, [...args, '--init-only']), { stdio: 'inherit' })
const child = spawn('podman', command(main, args), { stdio: 'inherit' })
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => child.kill(signal))
child.on('exit', (code, signal) => process.exit(signal === null ? code : 1))
