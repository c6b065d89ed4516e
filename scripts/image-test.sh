#!/usr/bin/env bash
# Builds the image without any registry of images, and runs its root file system in the guest as the DaemonSet has it: the
# quick start's traffic has to pass. Prints the image's size and how long the daemon takes to its first sync.
# On Debian as root: bases are made with debootstrap, the image by buildah, containers are run by podman.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$project"
say() { echo "image: $*"; }
bash scripts/prepare.sh
missing=()
for tool in buildah debootstrap podman crun; do command -v $tool > /dev/null || missing+=("$tool"); done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing Debian packages: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi
# Neither overlay nor user namespaces are to be had everywhere.
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
cache=$project/.cache/image
mkdir -p "$cache"

if [ ! -e "$cache/base.tar" ]; then
  say 'a base from Debian packages (debootstrap)'
  rm -rf "$cache/base"
  debootstrap --variant=minbase bookworm "$cache/base" > "$cache/debootstrap.log" || { tail "$cache/debootstrap.log"; exit 1; }
  tar -C "$cache/base" --exclude=./var/cache/apt/archives/*.deb --exclude=./dev/* -cf "$cache/base.tar.new" .
  rm -rf "$cache/base"
  mv "$cache/base.tar.new" "$cache/base.tar"
fi
container=$(buildah from scratch)
buildah add -q "$container" "$cache/base.tar" / > /dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit -q "$container" kube-ipvs-proxy-base > /dev/null
# To build with: the Node and npm of this machine, and what it trusts.
buildah copy -q "$container" "$(readlink -f "$(command -v node)")" /usr/local/bin/node > /dev/null
buildah copy -q "$container" "$(dirname "$(dirname "$(readlink -f "$(command -v npm)")")")" /usr/local/lib/node_modules/npm > /dev/null
buildah run "$container" ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
if [ -n "${NODE_EXTRA_CA_CERTS:-}" ]; then
  buildah copy -q "$container" "$NODE_EXTRA_CA_CERTS" /etc/extra-ca.pem > /dev/null
  buildah config --env NODE_EXTRA_CA_CERTS=/etc/extra-ca.pem "$container"
fi
buildah commit -q "$container" kube-ipvs-proxy-build > /dev/null
buildah rm "$container" > /dev/null

say 'the image (make image)'
BUILD_IMAGE=localhost/kube-ipvs-proxy-build BASE_IMAGE=localhost/kube-ipvs-proxy-base \
  make --no-print-directory image IMAGE=kube-ipvs-proxy:test > "$cache/build.log" 2>&1 || { tail -n 40 "$cache/build.log"; exit 1; }
container=$(buildah from kube-ipvs-proxy:test)
rm -rf "$cache/root"
cp -a "$(buildah mount "$container")" "$cache/root"
buildah rm "$container" > /dev/null
say "$(du -sm --apparent-size "$cache/root" | cut -f1) MB, of which $(du -sm --apparent-size "$cache/root/usr/local/bin/node" | cut -f1) MB are Node and $(du -sm --apparent-size "$cache/root/opt" | cut -f1) MB are ours"
began=$(date +%s%N)
NODE_ENV=production chroot "$cache/root" /opt/kube-ipvs-proxy/bin/kube-ipvs-proxy --version > /dev/null
say "the program starts and ends (--version) in $((($(date +%s%N) - began) / 1000000)) ms on this machine"

say 'its daemon in the guest, as the DaemonSet runs it, under the traffic of the quick start'
bash scripts/guest.sh -m 3072 -t "${IMAGE_TEST_LIMIT:-400}" -- \
  env CONTAINER_ROOT="$cache/root" QUICKSTART_PROGRAM="$project/scripts/container.mjs" node scripts/quickstart-demo.mjs
