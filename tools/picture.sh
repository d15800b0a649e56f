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
for id in 2 3 4 5; do # killed shortly before each snapshot, which is taken every 3 s
  said "^snapshot $id "
  sleep 2.2
  pkill -9 -f '/branch branch2 20502 ' || true
done
said '^snapshot 6 '
kill -INT "$launcher" && wait "$launcher"
launcher=
for id in 6 5 4 3; do
  bin/launcher show "$id" --data-dir "$dir/bank" --svg >"$dir/cut.svg"
  if grep -q 'kill -9' "$dir/cut.svg"; then
    mv "$dir/cut.svg" docs/cut.svg
    echo docs/cut.svg
    exit
  fi
done
echo 'no kill fell into a snapshot: try again' >&2
exit 1
