#!/usr/bin/env bash
# A bank of its own, and kill -9 of one of its branches: it comes back, and the books of the next snapshots balance.
#   examples/kill-a-branch.sh [ROSTER [BRANCH]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
roster=$(realpath "${1:-$here/branches-4.txt}") branch=${2:-branch2} launcher=$(realpath "${LAUNCHER:-$here/../launcher}")
dir=$(mktemp -d) bank=
trap '[ -z "$bank" ] || { kill -INT "$bank"; wait "$bank"; } || true; rm -rf "$dir"' EXIT

"$launcher" 4000 "$roster" --data-dir "$dir/bank" --snapshot-interval 500ms --http '' >/dev/null 2>"$dir/said" &
bank=$!
said() { # waits for a line of the launcher, from line $1 on
  until tail -n "+$1" "$dir/said" | grep -qE "$2"; do
    kill -0 "$bank" 2>/dev/null || { cat "$dir/said" >&2; exit 1; }
    sleep 0.05
  done
}
said 1 '^snapshot 2 '
from=$(wc -l <"$dir/said")
pkill -9 -f "/branch $branch .*--data-dir $dir/"
said "$from" "^$branch is back"
said "$((from + $(tail -n "+$from" "$dir/said" | grep -nEm1 "^$branch is back" | cut -d: -f1)))" '^snapshot .*✓'
tail -n "+$from" "$dir/said"
