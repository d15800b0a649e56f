#!/bin/sh
# Checks cutbank.pml with spin and prints a table. Usage: docs/model/run.sh [fast|all]
# fast (what CI runs) leaves out the rows that take longer. Needs spin and a C compiler.
# Each row: fast or slow, the outcome it must have (ok: no error in any
# state; error: spin must find one), a name, switches.
# A row whose outcome is not the expected one, or that was not searched to its end, fails the run.
set -u
set_of_rows=${1:-all}
here=$(cd "$(dirname "$0")" && pwd)

for tool in spin cc; do
  command -v "$tool" >/dev/null && continue
  echo "model: NOT CHECKED, $tool is missing (Debian: apt-get install spin gcc)" >&2
  [ "${CI:-}" = true ] && exit 1
  exit 0
done

work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
failures=0 rows=0 shown=0 begin=$(date +%s)
slots=2 # rows at a time; the slow ones take up to 4 GB each
[ "$set_of_rows" = fast ] || slots=1

title() { echo "-- $1" >>"$work/$((rows + 1)).text"; }

# row SPEED EXPECTED NAME SWITCHES...
row() {
  [ "$1" = slow ] && [ "$set_of_rows" = fast ] && return
  rows=$((rows + 1))
  check "$@" >>"$work/$rows.text" &
  eval "pid$rows=$!"
  [ $((rows - shown)) -lt "$slots" ] || show
}

# show waits for the oldest row that runs.
show() {
  shown=$((shown + 1))
  eval "wait \$pid$shown" || failures=$((failures + 1))
  cat "$work/$shown.text"
}

check() {
  speed=$1 expected=$2 name=$3 dir=$work/$rows
  shift 3
  mkdir "$dir" && cd "$dir" || return
  # Exhaustive: no reduction, no hashing away of states; COLLAPSE only packs them. 4 GB at most.
  # The compiler takes longer than most searches: it optimises only what runs long.
  pack=-O1
  [ "$expected" = error ] && pack=-O0
  [ "$speed" = slow ] && pack='-O2 -DCOLLAPSE'
  { spin -a "$@" "$here/cutbank.pml" && cc -w -DSAFETY -DNOREDUCE -DMEMLIM=4000 -DVECTORSZ=2048 $pack -o pan pan.c; } >log 2>&1 ||
    { echo "$name: does not compile  <-- NOT AS EXPECTED"; cat log >&2; return 1; }
  nice -n 10 ./pan -m2000000 -w22 >out 2>&1
  found=$(sed -n 's/.*assertion violated \([^ ]*\).*/\1/p' out | head -1)
  # Only a search that says "errors: 0" and hit no limit counts as ok.
  outcome=unfinished
  if [ -n "$found" ]; then outcome=error
  elif grep -q 'errors: 0$' out && ! grep -qE 'error: |Search not completed|out of memory|limit reached' out; then outcome=ok
  fi
  mark=
  [ "$outcome" = "$expected" ] || { mark='  <-- NOT AS EXPECTED'; tail -30 out >&2; }
  printf '%-66s %-8s %9s %7s %6s%s\n' "$name" "$outcome${found:+ $found}" \
    "$(sed -n 's/ *\([0-9]*\) states, stored.*/\1/p' out | head -1)" \
    "$(sed -n 's/.*depth reached \([0-9]*\),.*/\1/p' out | head -1)" \
    "$(sed -n 's/.*elapsed time \([0-9.]*\) .*/\1/p' out | head -1)" "$mark"
  cd / && rm -rf "$dir"
  [ -z "$mark" ]
}

printf '%-66s %-8s %9s %7s %6s\n' 'model (N=2 unless it says otherwise)' outcome states depth s

# What some rows share. Old directories need two amounts, so that histories can differ in content.
one=-DTRANSFERS=1
old="$one -DAMOUNTS=2 -DHELLO_WAITS"
three="-DN=3 $one -DRING -DNO_ACKS -DHELLO_WAITS"
third="-DN=3 $one -DHELLO_WAITS -DINITIATORS=0 -DRESTORES=3"

title 'the protocol'
row fast ok 'any number of crashes and resets' 
row fast ok 'the same, hello waits for the sync' -DHELLO_WAITS
row slow ok 'both branches start the snapshot' $one -DINITIATORS=3
row fast ok 'drain after 2 faults' $one -DFAULTS=2
row slow ok 'drain after 2 faults, 2 transfers each' -DFAULTS=2
row slow ok 'drain after 4 faults' $one -DFAULTS=4
row fast ok 'an old directory put in place' $old -DRESTORES=1
row slow ok 'an old directory, hello does not wait' $one -DAMOUNTS=2 -DRESTORES=1
row slow ok 'an old directory, and the newer one put back' $old -DRESTORES=2
row fast ok 'N=3, ring of transfers, no faults' $three -DFAULTS=0
row slow ok 'N=3, ring of transfers, 1 fault' $three -DFAULTS=1
row fast ok 'N=3, ring, old directories back and forth, drain after 1 fault' $third -DRING -DFAULTS=1
row slow ok 'N=3, all pay all, old directories back and forth, drain' $third -DFAULTS=0

title 'one rule removed'
row fast error 'send before durable' $one -DSEND_BEFORE_DURABLE
row fast ok    'ack before durable: I1 to I3 do not see it' $one -DACK_BEFORE_DURABLE
row fast error 'ack before durable: the drain does' $one -DACK_BEFORE_DURABLE -DFAULTS=2
row fast error 'no dedupe' $one -DNO_DEDUPE
row fast error 'position per connection' $one -DPOSITION_PER_CONNECTION
row fast error 'recording not journaled' $one -DRECORDING_NOT_JOURNALED -DFAULTS=1 -DNO_ACKS
row fast error 'markers in a separate batch (drain)' $one -DMARKERS_IN_SEPARATE_BATCH -DFAULTS=2
row fast error 'marker overtaken by a transfer' $one -DMARKER_OVERTAKEN
row fast error 'no count fence, old directory' $old -DRESTORES=1 -DNO_COUNT_FENCE -DI1_ONLY
row fast error 'no hash fence, old directory and back' $old -DRESTORES=2 -DNO_HASH_FENCE -DI1_ONLY
row fast error 'stale reader not retired, old directory' $old -DRESTORES=1 -DSTALE_READER -DI1_ONLY
row fast error 'no barrier of hellos after a start, old directory' $old -DRESTORES=1 -DNO_BARRIER
row fast error 'acknowledged at the position, N=3, ring, back and forth (drain)' $third -DRING -DFAULTS=0 -DACK_AT_POSITION
row slow error 'hello does not wait for the sync, old directory and back' $one -DAMOUNTS=2 -DRESTORES=2
row fast error 'answer before the markers are acked, old directory' $old -DRESTORES=1 -DCONTROLLER_REMEMBERS -DINITIATORS=2
row slow ok    '... and answered only when they are' $old -DRESTORES=1 -DCONTROLLER_REMEMBERS -DINITIATORS=2 -DANSWER_WHEN_MARKERS_ACKED

title 'rules that cover for each other'
row fast ok    'any newer number accepted' $one -DANY_NEWER
row fast error '... with ack before durable and no count fence' $one -DANY_NEWER -DACK_BEFORE_DURABLE -DNO_COUNT_FENCE
row fast ok    'no dedupe, hello waits for the sync' $one -DNO_DEDUPE -DHELLO_WAITS
row fast error '... with a stale reader' $one -DNO_DEDUPE -DHELLO_WAITS -DSTALE_READER
row slow ok    'position per connection, hello waits for the sync' $one -DPOSITION_PER_CONNECTION -DHELLO_WAITS
row slow ok    'stale reader not retired, no old directory' $one -DSTALE_READER
row slow ok    'no hash fence, old directory put in place once' $old -DRESTORES=1 -DNO_HASH_FENCE
row slow ok    'no barrier, old directory: I1 and I2 do not see it' $old -DRESTORES=1 -DNO_BARRIER -DI1_ONLY

while [ "$shown" -lt "$rows" ]; do show; done
echo "$rows rows, $failures not as expected, $(($(date +%s) - begin)) s"
[ "$failures" = 0 ]
