#!/usr/bin/env bash
# Benchmarks in the guest: npm run bench [-- --scenario NAME --services N --endpoints M --runs R --json FILE]
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$project"
bash scripts/prepare.sh
export PATH=$project/node_modules/.bin:$PATH
npm run --silent build
json='' args=()
while [ $# -gt 0 ]; do
  if [ "$1" = --json ]; then json=$2; shift 2; else args+=("$1"); shift; fi
done
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
bash scripts/guest.sh -m 8192 -t "${BENCH_LIMIT:-7200}" -o "$out" -- node test/bench/main.ts "${args[@]}" --json /out/bench.json
[ -z "$json" ] || cp "$out/bench.json" "$json"
