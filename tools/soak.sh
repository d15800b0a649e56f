#!/usr/bin/env bash
# Runs the long campaigns and writes into docs/soak.md what each of them really made, against its target:
# tools/soak.sh [PART ...], parts: sim faults kills restarts directories mutants fuzz hostile. Fails below a target.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
doc=docs/soak.md failed=0 log=$(mktemp) commit=$(git rev-parse --short=9 HEAD)
git diff --quiet HEAD -- . ":!$doc" || commit+=' and changes'
trap 'rm -f "$log"' EXIT
machine="$(nproc) × $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)"

run() { # command ...: its output on the terminal and in the log
  began=$SECONDS
  "$@" 2>&1 | tee "$log"
}
sum() { sed -nE "s/.*$1.*/\1/p" "$log" | awk '{n += $1} END {print n + 0}'; } # of the numbers that a pattern finds
note() { # what, target, made
  local row="| $1 | $2 | $3 | $((SECONDS - began)) s | $(date +%F) | $commit | $machine |"
  echo "$row"
  awk -v what="| $1 |" -v row="$row" 'index($0, what) == 1 {print row; next} {print}' "$doc" >"$log.doc"
  cat "$log.doc" >"$doc" && rm "$log.doc"
  grep -qF "$row" "$doc" || { echo "$doc has no row for: $1" >&2; failed=1; }
  [ "$3" -ge "$2" ] || { echo "below the target: $1" >&2; failed=1; }
}

simulator() { mkdir -p bin && go build -buildvcs=false -o bin/sim ./cmd/sim && run bin/sim "$@"; }
go_test() { run go test -count=1 -timeout 0 -v "$@"; }

sim() {
  simulator --first 1000001 --seeds "${SEEDS:-100000}" || true
  note 'simulator seeds with all faults, none failed' 100000 "$(sum '^([0-9]+) seeds, 0 failed')"
}
mutants() {
  simulator --mutants
  note 'rules taken out, each found by the simulator' 12 "$(grep -cE ' [0-9.]+s$' "$log")"
}
faults() { # the table of the faults stands below that of the targets
  CUTBANK_TEST_SOAK=${SOAK:-24} go_test -run '^TestSoak$' ./cmd/branch
  awk -v made="$log" '/^<!-- faults -->/ {print; skip = 1; print "\n| what | how often |\n| --- | ---: |"
    while ((getline line < made) > 0) if (line ~ /^ *\| [^|]* \| [0-9]+ \|$/) {sub(/^ */, "", line); print line}; print ""}
    /^<!-- end -->/ {skip = 0} !skip' "$doc" >"$log.doc"
  cat "$log.doc" >"$doc" && rm "$log.doc"
  note 'branches paused (SIGSTOP, SIGCONT)' 1000 "$(sum '\| branch stopped for up to 300 ms, and continued \| ([0-9]+)')"
  note 'connections reset' 5000 "$(sum '\| connections reset at a proxy \| ([0-9]+)')"
  note 'branches partitioned' 1000 "$(sum '\| nothing passed a proxy for up to 1 s \| ([0-9]+)')"
  note 'times that the rarest of all pairs of faults happened at once' 20 "$(sum '\| the rarest of these pairs \| ([0-9]+)')"
}
kills() {
  CUTBANK_TEST_KILLS=${KILLS:-20000} go_test -run '^TestKill' ./cmd/branch
  note 'branches killed (-9), no transfer lost or doubled' 20000 "$(sum ' ([0-9]+) kills (in|at) ')"
  note 'snapshots under these kills, all exact' 20000 "$(sum ' ([0-9]+) snapshots, all exact')"
}
restarts() {
  CUTBANK_TEST_RESTARTS=${RESTARTS:-2000} go_test -run '^TestRestarts$' ./internal/branch
  note 'branches stopped in order at full load, and started again' 2000 "$(sum ' ([0-9]+) branches stopped at full load')"
}
directories() {
  go_test -run '^TestOldDirectory$' -count=34 ./internal/branch
  note 'old or swapped directories refused before money moved' 1000 "$(sum ' ([0-9]+) directories refused')"
}
fuzz() { # a minute of each target, again until they are enough: their rates differ too much for a number of each
  local start=$SECONDS target=20000000 made=0
  while [ "$made" -lt "${FUZZED:-$target}" ]; do
    run make -s fuzz FUZZTIME=60s
    made=$((made + $(sum ': ([0-9]+) inputs$')))
    echo "$made fuzzed inputs"
  done
  began=$start
  note 'fuzzed inputs' "$target" "$made"
}
hostile() {
  CUTBANK_TEST_HOSTILE=10000 go_test -run '^TestHostile' ./internal/branch
  note 'hostile connections to a paying bank, 80 % of its throughput left' 10000 "$(sum ' ([0-9]+) connections of [0-9]+ kinds')"
}

for part in ${*:-sim faults kills restarts directories mutants fuzz hostile}; do
  "$part"
done
exit "$failed"
