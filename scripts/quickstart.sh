#!/usr/bin/env bash
# Shows the main job with real traffic: see scripts/quickstart-demo.mjs. Uses throw-away network namespaces on this
# machine where its kernel has IPVS and dummy devices, else a QEMU guest with Debian's kernel.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$project"
PATH=$PATH:/usr/sbin:/sbin
host_can() {
  [ "$(id -u)" = 0 ] && modprobe ip_vs 2> /dev/null && modprobe dummy 2> /dev/null && [ -e /proc/net/ip_vs ]
}
if host_can; then
  echo 'quickstart: this kernel has IPVS and dummy devices: using throw-away network namespaces here'
  bash scripts/prepare.sh --no-guest
  exec node_modules/.bin/node scripts/quickstart-demo.mjs
fi
echo "quickstart: this kernel lacks IPVS or dummy devices, or this is not root: using a QEMU guest with Debian's kernel"
bash scripts/prepare.sh
echo 'quickstart: starting the guest (software emulation, a few seconds)'
exec bash scripts/guest.sh -m 2048 -t 170 -- node scripts/quickstart-demo.mjs
