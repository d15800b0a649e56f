#!/usr/bin/env bash
# Fuzzes one target: tools/fuzz.sh PACKAGE TARGET TIME. With one worker Go's fuzzer sometimes takes its own
# deadline for a failure ("context deadline exceeded", and no failing input): such a run is made again.
# Each interesting input is made smaller a hundred times at most, not for a minute: the time is for new ones.
set -uo pipefail
log=$(mktemp) && trap 'rm -f "$log"' EXIT
for _ in 1 2 3; do
  echo "$1 $2"
  go test -run '^$' -fuzz "^$2\$" -fuzztime "$3" -fuzzminimizetime 100x -parallel 1 "$1" 2>&1 | tee "$log" && {
    echo "$1 $2: $(sed -nE 's/.*execs: ([0-9]+) .*/\1/p' "$log" | tail -1) inputs"
    exit 0
  }
  grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log" || exit 1
done
exit 1
