#!/usr/bin/env bash
# Unpacks Debian's stock kernel for scripts/guest.sh: that of this machine's release into .cache/kernel, after an update of
# apt's lists, as scripts/prepare.sh does it; or that of another release, from the archive that this machine's apt uses, into
# .cache/kernels/RELEASE, for GUEST_KERNEL=RELEASE. Nothing of this machine's own apt is changed.
#   scripts/kernel.sh [RELEASE]
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd -P)
release=${1:-}
folder=$project/.cache/kernel${release:+s/$release}
if ls "$folder"/boot/vmlinuz-* > /dev/null 2>&1; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/kernel"
if [ -n "$release" ]; then
  site=$(apt-get indextargets --format '$(SITE)' | grep -v security | sort -u | head -1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $release main" > "$work/sources.list"
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  cat > "$work/apt.conf" <<APT
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$work/lists";
Dir::Cache "$work/cache";
APT
  export APT_CONFIG=$work/apt.conf
  apt-get update -qq -o APT::Sandbox::User=root
fi
package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
[ -n "$package" ] || { echo 'kernel.sh: no package linux-image-amd64 to be had' >&2; exit 3; }
echo "kernel.sh: unpacking $package into ${folder#"$project/"}"
# apt drops its privileges to download; a folder it may not write to only makes it complain.
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package")
dpkg -x "$work"/*.deb "$work/kernel"
# Since Debian 13 modules are compressed, and where they are: /usr/lib alone.
[ -e "$work/kernel/lib" ] || ln -s usr/lib "$work/kernel/lib"
find "$work/kernel/lib/modules/" -name '*.ko.xz' -exec xz -d {} +
for modules in "$work"/kernel/lib/modules/*; do PATH=$PATH:/usr/sbin:/sbin depmod -b "$work/kernel" "${modules##*/}"; done
mkdir -p "${folder%/*}"
rm -rf "$folder"
mv "$work/kernel" "$folder"
