#!/usr/bin/env bash
# Installs what is missing, after saying what: npm packages, Debian packages, and Debian's kernel for the guest and its
# Prometheus, unpacked into .cache/ of the project; nothing goes into this machine's /boot, and no service is started.
#   scripts/prepare.sh [--no-guest] [--browser]
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$project"
say() { echo "prepare: $*"; }

if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  say 'installing npm packages (npm ci)'
  npm ci --no-audit --no-fund --loglevel=error
  touch node_modules/.package-lock.json
fi

guest=yes browser=no
for option in "$@"; do
  case $option in
    --no-guest) guest=no ;;
    --browser) browser=yes ;;
    *) say "unknown option $option" >&2; exit 2 ;;
  esac
done
tools=(ipvsadm:ipvsadm ipset:ipset iptables:iptables ip:iproute2 curl:curl modprobe:kmod sysctl:procps)
[ $guest = no ] || tools+=(qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio gzip:gzip
  conntrack:conntrack socat:socat nft:nftables)
[ $browser = no ] || tools+=("${CHROMIUM:-chromium}:chromium")
missing=()
for tool in "${tools[@]}"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "${tool%%:*}" > /dev/null || missing+=("${tool##*:}")
done
need_kernel=no
[ $guest = no ] || ls .cache/kernel/boot/vmlinuz-* > /dev/null 2>&1 || need_kernel=yes

need_prometheus=no
[ $guest = no ] || [ -x .cache/prometheus/usr/bin/promtool ] || need_prometheus=yes

if [ ${#missing[@]} -gt 0 ] || [ $need_kernel = yes ] || [ $need_prometheus = yes ]; then
  if ! command -v apt-get > /dev/null; then
    say "this is not Debian; please install: ${missing[*]:-}, and put Debian's packages of its kernel and of prometheus, unpacked, into .cache/kernel and .cache/prometheus" >&2
    exit 3
  fi
  if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" != 0 ]; then
    say "not root; please run: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 3
  fi
fi
updated=no
update() {
  [ $updated = yes ] || apt-get update -qq
  updated=yes
}
if [ ${#missing[@]} -gt 0 ]; then
  say "installing Debian packages: ${missing[*]}"
  update
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi
if [ $need_kernel = yes ]; then
  [ "$(id -u)" != 0 ] || update
  bash scripts/kernel.sh
fi
if [ $need_prometheus = yes ]; then
  [ "$(id -u)" != 0 ] || update
  say 'unpacking prometheus into .cache/prometheus'
  rm -rf .cache/prometheus .cache/download
  mkdir -p .cache/download
  # apt drops its privileges to download; a folder it may not write to only makes it complain.
  (cd .cache/download && apt-get download -qq -o APT::Sandbox::User=root prometheus)
  dpkg -x .cache/download/*.deb .cache/prometheus
  rm -rf .cache/download
fi
