#!/usr/bin/env bash
# Unpacks the stock kernel of another Debian release, from the archive that this machine's apt uses, into
# .cache/kernels/RELEASE, for scripts/guest.sh with GUEST_KERNEL=RELEASE. Nothing of this machine's own apt is changed.
#   scripts/kernel.sh RELEASE
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd -P)
release=${1:?"kernel.sh: which release of Debian? (bullseye, trixie, …)"}
folder=$project/.cache/kernels/$release
if ls "$folder"/boot/vmlinuz-* > /dev/null 2>&1; then exit 0; fi
echo "kernel.sh: unpacking the kernel of Debian $release into .cache/kernels/$release"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$(apt-get indextargets --format '$(SITE)' | grep -v security | sort -u | head -1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $release main" > "$work/sources.list"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/kernel"
cat > "$work/apt.conf" <<APT
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$work/lists";
Dir::Cache "$work/cache";
APT::Sandbox::User "root";
APT
export APT_CONFIG=$work/apt.conf
apt-get update -qq
package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
[ -n "$package" ] || { echo "kernel.sh: Debian $release has no package linux-image-amd64" >&2; exit 3; }
(cd "$work" && apt-get download -qq "$package")
dpkg -x "$work"/*.deb "$work/kernel"
# Since Debian 13 modules are compressed, and where they are: /usr/lib alone.
[ -e "$work/kernel/lib" ] || ln -s usr/lib "$work/kernel/lib"
find "$work/kernel/lib/modules/" -name '*.ko.xz' -exec xz -d {} +
for modules in "$work"/kernel/lib/modules/*; do PATH=$PATH:/usr/sbin:/sbin depmod -b "$work/kernel" "${modules##*/}"; done
mkdir -p "${folder%/*}"
mv "$work/kernel" "$folder"
