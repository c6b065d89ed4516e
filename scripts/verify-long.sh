#!/usr/bin/env bash
# The long campaigns, whole: churn with faults over the fakes and in a real kernel, in a QEMU guest. Takes hours. Writes
# the result to docs/campaigns.md; ends with 0 when every campaign came to its end and found nothing wrong.
#   scripts/verify-long.sh [-r ROUNDS] [-t SECONDS] [SEED ...]     rounds of each seed; time for the guest
set -uo pipefail
project=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$project"

# Campaigns in the guest, two at a time: each waits a good part of its time for the daemon's next look.
if [ "${1:-}" = --in-guest ]; then
  shift
  uname -r > /out/kernel
  for seed in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
    ip netns add "churn-$seed"
    ip -n "churn-$seed" link set lo up
    CHURN_SEED=$seed CHURN_TELL=1 ip netns exec "churn-$seed" node test/kernel/churn/main.ts \
      2>&1 > "/out/kernel-$seed.json" | tee "/out/kernel-$seed.txt" | grep --line-buffered '^seed' | cut -c -160 &
  done
  wait
  exit
fi

rounds=500 limit=21600
while getopts r:t: option; do
  case $option in
    r) rounds=$OPTARG ;;
    t) limit=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
seeds=("$@")
[ ${#seeds[@]} -gt 0 ] || seeds=(101 102 103 104)

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
bash scripts/prepare.sh || exit 1
export PATH=$project/node_modules/.bin:$PATH
for seed in "${seeds[@]}"; do
  echo "== over the fakes, seed $seed"
  CHURN_SEED=$seed CHURN_ROUNDS=$((rounds * 4)) CHURN_OUT=$results/fakes-$seed vitest run --project unit test/unit/churn.test.ts \
    > "$results/fakes-$seed.txt" 2>&1 || tail -n 40 "$results/fakes-$seed.txt"
done
echo '== in a real kernel'
# Each ends in time to tell how far it came.
share=$(((limit - 300) / ((${#seeds[@]} + 1) / 2)))
bash scripts/guest.sh -m 4096 -t "$limit" -o "$results" -- \
  env CHURN_ROUNDS="$rounds" CHURN_SECONDS="$share" bash scripts/verify-long.sh --in-guest "${seeds[@]}"
node scripts/campaigns.mjs "$results" "${seeds[@]}" > docs/campaigns.md
status=$?
cat docs/campaigns.md
exit $status
