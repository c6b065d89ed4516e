#!/usr/bin/env bash
# The long campaigns, whole: the tests against the kernel of the next Debian, a real Prometheus that asks every query of ours,
# a million inputs for each decoder, load over restarts and take-overs, kill -9 at any moment, a million changes, churn with
# faults over the fakes and in a real kernel, and forecasts of explain against packets, in QEMU guests. Takes many hours.
# Writes the result of churn and explain into docs/campaigns.md; ends with 0 when every campaign came to its end and found
# nothing wrong.
#   scripts/verify-long.sh [-r ROUNDS] [-e COMBINATIONS] [-t SECONDS] [SEED ...]
# Rounds of churn and combinations of explain of each seed (-r 0, -e 0: none); time for the guests of each kind.
set -uo pipefail
project=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$project"

# A campaign in a guest of its own: ipvsadm skips and repeats servers where another namespace changes some meanwhile.
if [ "${1:-}" = --in-guest ]; then
  uname -r > /out/kernel
  CHURN_SEED=$2 CHURN_TELL=1 node test/kernel/churn/main.ts \
    2>&1 > "/out/kernel-$2.json" | tee "/out/kernel-$2.txt" | grep --line-buffered '^seed' | cut -c -160
  exit
fi
if [ "${1:-}" = --explain-in-guest ]; then
  uname -r > /out/kernel
  EXPLAIN_SEED=$2 node test/kernel/explain/main.ts \
    2>&1 > "/out/explain-$2.json" | tee "/out/explain-$2.txt" | grep --line-buffered '^seed' | cut -c -160
  exit
fi

rounds=500 combinations=600 limit=21600
while getopts r:e:t: option; do
  case $option in
    r) rounds=$OPTARG ;;
    e) combinations=$OPTARG ;;
    t) limit=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
seeds=("$@")
[ ${#seeds[@]} -gt 0 ] || seeds=(101 102 103 104)

failed=0
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
bash scripts/prepare.sh || exit 1
export PATH=$project/node_modules/.bin:$PATH
echo "== tests against the next Debian's kernel"
{ bash scripts/kernel.sh trixie &&
  GUEST_KERNEL=trixie bash scripts/guest.sh -m 4096 -t 5400 -- vitest run --project kernel; } || failed=1
echo '== every query of dashboards and alerts, asked of Prometheus'
bash scripts/guest.sh -m 4096 -t 1800 -- vitest run --project prometheus || failed=1
echo '== a million inputs for each decoder'
npm run --silent fuzz || failed=1
echo '== load over restarts, crashes and take-overs; killed at any moment, each start makes the kernel as planned'
npm run --silent build || failed=1
bash scripts/guest.sh -m 4096 -t 28800 -- \
  env HITLESS=whole FAULTS=whole GOLDEN=whole EXPLAIN=whole CRASH_KILLS=500 CRASH_SEED="${seeds[0]}" vitest run --project kernel \
  test/kernel/hitless test/kernel/crash test/kernel/daemon/api.test.ts test/kernel/daemon/golden.test.ts \
  test/kernel/explain/explain.test.ts || failed=1
echo '== a million changes at 5,000 Services'
npm run --silent bench -- --scenario soak --services 5000 --endpoints 10 --changes 1000000 --runs 1 || failed=1
[ "$rounds" -gt 0 ] && for seed in "${seeds[@]}"; do
  echo "== over the fakes, seed $seed"
  CHURN_SEED=$seed CHURN_ROUNDS=$((rounds * 4)) CHURN_OUT=$results/fakes-$seed vitest run --project unit test/unit/churn.test.ts \
    > "$results/fakes-$seed.txt" 2>&1 || tail -n 40 "$results/fakes-$seed.txt"
done
echo '== in a real kernel'
# Twice as many at a time as there are processors: each waits a good part of its time for the daemon's next look. Each ends
# in time to tell how far it came.
together=$((2 * $(nproc)))
share=$((limit / ((${#seeds[@]} + together - 1) / together)))
[ "$rounds" -gt 0 ] && for seed in "${seeds[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$together" ]; do wait -n; done
  mkdir "$results/guest-$seed"
  bash scripts/guest.sh -m 3072 -t "$share" -o "$results/guest-$seed" -- \
    env CHURN_SYNC_PERIOD=400 CHURN_ROUNDS="$rounds" CHURN_SECONDS=$((share - 300)) bash scripts/verify-long.sh --in-guest "$seed" &
done
wait
echo '== explain, in a real kernel'
[ "$combinations" -gt 0 ] && for seed in "${seeds[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$together" ]; do wait -n; done
  mkdir "$results/guest-explain-$seed"
  bash scripts/guest.sh -m 3072 -t "$share" -o "$results/guest-explain-$seed" -- \
    env EXPLAIN_COMBINATIONS="$combinations" EXPLAIN_SECONDS=$((share - 300)) bash scripts/verify-long.sh --explain-in-guest "$seed" &
done
wait
cp "$results"/guest-*/{kernel,explain}* "$results" 2> /dev/null
CHURN_ROUNDS=$rounds EXPLAIN_COMBINATIONS=$combinations \
  node scripts/campaigns.mjs "$results" "${seeds[@]}"
status=$?
oxfmt docs/campaigns.md
exit $((status > failed ? status : failed))
