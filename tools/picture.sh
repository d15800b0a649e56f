#!/usr/bin/env bash
# docs/cut.svg, the picture of the README: a real bank, a branch killed while a snapshot is taken, and that
# snapshot, which completes when the branch is back.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d) launcher=
trap '[ -z "$launcher" ] || kill "$launcher" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
for i in 1 2 3 4; do echo "branch$i 127.0.0.1 $((20500 + i))"; done >"$dir/branches.txt"
bin/launcher 4000 "$dir/branches.txt" --data-dir "$dir/bank" --record --http '' --interval 300ms \
  --snapshot-interval 3s --link-delay 100ms-300ms >/dev/null 2>"$dir/said" &
launcher=$!
said() { for _ in $(seq 600); do grep -qE "$1" "$dir/said" && return; sleep 0.05; done; cat "$dir/said" >&2; exit 1; }
said '^snapshot 2 '
sleep 2.35 # the next one begins 3 s after this one began
pkill -9 -f "^$PWD/bin/branch branch2 20502 " || pkill -9 -f '/branch branch2 20502 '
said 'branch2 is back'
said '^snapshot 4 '
kill -INT "$launcher" && wait "$launcher"
launcher=
bin/launcher show 3 --data-dir "$dir/bank" --svg >docs/cut.svg
head -c 200 docs/cut.svg | grep -q svg && echo "docs/cut.svg"
