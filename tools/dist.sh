#!/usr/bin/env bash
# Builds the release archives of VERSION into dist/: static programs for linux and darwin, amd64 and arm64,
# and their checksums. The same source gives the same bytes, wherever and whenever it is built.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?usage: tools/dist.sh VERSION [OUT [TARGETS]]} out=${2:-dist}
targets=${3:-"linux/amd64 linux/arm64 darwin/amd64 darwin/arm64"}
tar --version 2>/dev/null | grep -q GNU || { echo "dist needs GNU tar (macOS: brew install gnu-tar)" >&2; exit 1; }
epoch=$(git log -1 --format=%ct)
mkdir -p "$out" && out=$(cd "$out" && pwd)
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
for target in $targets; do
  name=cutbank-$version-${target/\//-}
  mkdir -p "$work/$name"
  # The programs stand where the scripts stand in the source: ./launcher 4000 branches.txt runs here too.
  GOWORK=off CGO_ENABLED=0 GOOS=${target%/*} GOARCH=${target#*/} go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X cutbank/internal/version.stamp=$version" \
    -o "$work/$name/" ./cmd/launcher ./cmd/branch ./cmd/controller
  git archive HEAD LICENSE README.md CHANGELOG.md branches.txt examples docs proto | tar -x -C "$work/$name"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rw,go=u-w --mtime="@$epoch" -C "$work" -cf - "$name" |
    gzip -9n > "$out/$name.tar.gz"
done
(cd "$out" && sha256sum cutbank-"$version"-*.tar.gz > SHA256SUMS && cat SHA256SUMS)
