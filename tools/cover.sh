#!/usr/bin/env bash
# Which statement blocks of the heart no test of its own and no simulated bank runs. They have to be the list in
# docs/correctness.md, each with its reason.
set -euo pipefail
cd "$(dirname "$0")/.."
heart=(snapshot ledger engine link journal)
doc=docs/correctness.md
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT

# What is left out is long, and repeats what the rest runs. internal/record reads journals and follows ledgers.
packages=("${heart[@]/#/./internal/}")
CGO_ENABLED=0 go test -coverpkg="$(IFS=, && echo "${packages[*]}")" -coverprofile="$dir/profile" \
  -skip '^(TestCrashAtEveryStep|TestCompleteAndOnce)$' "${packages[@]}" ./internal/sim ./internal/record

awk 'NR > 1 { n[$1] += $3 } END { for (block in n) { all++; if (!n[block]) print block }; print all, "blocks" > "/dev/stderr" }' \
  "$dir/profile" | sort | while IFS=:. read -r name _ line _; do
  awk -v file="${name#cutbank/}.go" -v line="$line" '
    /^func / { f = $0; sub(/^func (\([^)]*\) )?/, "", f); sub(/[[(].*/, "", f) }
    NR == line { sub(/^[ \t]+/, ""); print "- `" file "`, `" f "`: `" $0 "`" }' "${name#cutbank/}.go"
done > "$dir/found"
grep -oE '^- `internal/[^`]+`, `[^`]+`: `[^`]+`' "$doc" | sort > "$dir/listed" || true
diff -u --label "listed in $doc" --label 'not run' "$dir/listed" <(sort "$dir/found") && echo "not run, as listed:" && cat "$dir/found"
