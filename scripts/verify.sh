#!/usr/bin/env bash
# All checks: format, lint, types, bundle, unit tests, rules of alerts, the web page in Chromium, and the tests against a real
# kernel in the guest. Installs what is missing. The last line is "N passed, M failed": tests of all runs, and one failure for
# each other step that fails.
set -uo pipefail
project=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$project"
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
failed=0
step() {
  echo "== $1"
  shift
  "$@" || { echo "verify: FAILED: $*"; return 1; }
}
finish() {
  if [ -x node_modules/.bin/node ]; then
    node_modules/.bin/node scripts/count.mjs "$failed" "$results"/unit.json "$results"/browser.json "$results"/guest/kernel.json
  else
    echo "0 passed, $failed failed"
  fi
}

step 'prepare' bash scripts/prepare.sh --browser || { failed=1; finish; exit 1; }
export PATH=$project/node_modules/.bin:$PATH
step 'format' npm run --silent format:check || failed=$((failed + 1))
step 'lint' npm run --silent lint || failed=$((failed + 1))
step 'types' npm run --silent types || failed=$((failed + 1))
step 'bundle' npm run --silent build || failed=$((failed + 1))
# What the runs count is in their JSON; a run that leaves none counts as one failure.
step 'unit tests, and promtool on the rules' vitest run --project unit --project monitoring \
  --reporter=default --reporter=json --outputFile.json="$results/unit.json" || true
step 'the web page in Chromium' vitest run --project browser \
  --reporter=default --reporter=json --outputFile.json="$results/browser.json" || true
# One guest: two side by side take as long on the same processors, and make tests wait for what comes too late.
step 'tests against a real kernel, in a QEMU guest' bash scripts/guest.sh -m 4096 -t 3000 -o "$results/guest" -- \
  vitest run --project kernel --reporter=verbose --reporter=json --outputFile.json=/out/kernel.json || true
finish
