# Building and testing need Go alone; race needs a C compiler besides.
# The other tools are pinned in tools/go.mod and built on first use, which takes minutes.

TOOL := go tool -modfile=tools/go.mod
# What make check and .ci/run do, one target after another.
CHECKS := test race examples fuzz sim mutants model-fast vet-darwin lint generated
# Packages whose tests run under the race detector.
CORE := $(filter-out %/simfs,$(shell go list ./internal/...))
TESTFLAGS ?=
FUZZTIME ?= 10s
PARTS ?=
SOAK ?=

.PHONY: help
help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: build
build: ## bin/launcher, bin/branch, bin/controller, as the scripts at the root do
	@mkdir -p bin
	CGO_ENABLED=0 go build -buildvcs=false -o bin/ ./cmd/...

.PHONY: test
test: ## all tests: Go and git are enough
	CGO_ENABLED=0 go test -timeout 30m $(TESTFLAGS) ./...

.PHONY: race
race: ## the tests of internal/ under the race detector (needs a C compiler)
	go test -timeout 30m -short -race $(CORE)

.PHONY: examples
examples: ## the manifests and the image of examples/kubernetes (a module of its own; the image needs root and buildah)
	cd examples/kubernetes && go test $(TESTFLAGS) ./...

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (10s), three at a time
	@for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do echo "$$package $$target"; done; \
	done | xargs -P 3 -L 1 sh -c 'tools/fuzz.sh $$0 $$1 $(FUZZTIME)'

.PHONY: soak
soak: ## the long campaigns (hours), into docs/soak.md; PARTS='sim faults kills restarts directories mutants fuzz hostile'. SOAK=10m: faults on real banks for a time, and no more
ifeq (,$(filter %s %m %h,$(SOAK)))
	tools/soak.sh $(PARTS)
else
	CGO_ENABLED=0 CUTBANK_TEST_SOAK=$(SOAK) go test -count=1 -timeout 0 -v -run '^TestSoak$$' ./cmd/branch
endif

SEEDS ?= 2000
SEED ?=
.PHONY: sim mutants
sim: ## the simulator, SEEDS (2000) seeds with all faults; SEED=n runs one and prints its steps
	@mkdir -p bin && CGO_ENABLED=0 go build -buildvcs=false -o bin/sim ./cmd/sim
	@bin/sim $(if $(SEED),--seed $(SEED) --trace,--seeds $(SEEDS))
mutants: ## each rule of --break removed: which checker of the simulator finds it, and how soon
	@mkdir -p bin && CGO_ENABLED=0 go build -buildvcs=false -o bin/sim ./cmd/sim
	@bin/sim --mutants

.PHONY: cover
cover: ## what of snapshot, ledger, engine, link and journal nothing runs; fails when it is not what docs/correctness.md lists
	@tools/cover.sh

.PHONY: model model-fast
model: ## the protocol and its mutants under the model checker spin (needs spin, a C compiler, 4 GB)
	@docs/model/run.sh all
model-fast: ## the rows of it that CI runs; without spin they are left out, and said so (CI: an error)
	@docs/model/run.sh fast

.PHONY: vet-darwin
vet-darwin: ## that macOS compiles it too
	GOOS=darwin CGO_ENABLED=0 go vet ./...

.PHONY: lint
lint: ## the linters of .golangci.yml, among them the directions of imports
	$(TOOL) golangci-lint run --allow-parallel-runners ./...
	cd tools/raftwal && go vet ./...

.PHONY: fmt
fmt: ## gofumpt and the order of imports
	$(TOOL) golangci-lint fmt ./...

.PHONY: gen
gen: ## proto/bankpb from proto/bank.proto, and with protoc the Python example's
	$(TOOL) buf generate
	@if command -v protoc >/dev/null; then protoc -Iproto --python_out=examples/python bank.proto; \
	else echo "no protoc here: examples/python/bank_pb2.py stays as it is, a test compares it"; fi

.PHONY: tidy
tidy: ## go.mod and go.sum, of the tools too
	go mod tidy
	cd tools && go mod tidy
	cd examples/kubernetes && go mod tidy
	cd tools/raftwal && go mod tidy

.PHONY: generated
generated: ## fails when gen or tidy would change something
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	$(TOOL) buf lint && $(TOOL) buf generate -o "$$dir" && diff -r "$$dir/proto/bankpb" proto/bankpb
	go mod tidy -diff

.PHONY: dist dist-check
dist: ## release archives of VERSION=v1.0.0 in dist/: linux and darwin, amd64 and arm64, with checksums
	tools/dist.sh $(VERSION)
dist-check: ## that two builds of them, from two caches and two folders, are the same bytes (takes long)
	@rm -rf dist/check && mkdir -p dist/check && git clone -q . dist/check/clone && \
	tools/dist.sh v0.0.0 dist/check/one && GOCACHE=$(CURDIR)/dist/check/cache dist/check/clone/tools/dist.sh v0.0.0 dist/check/two && \
	diff dist/check/one/SHA256SUMS dist/check/clone/dist/check/two/SHA256SUMS && rm -rf dist/check

.PHONY: picture
picture: build ## docs/cut.svg, the picture of the README, from a real bank with a kill in the middle of a snapshot
	@tools/picture.sh

.PHONY: check
check: $(CHECKS) ## everything that CI runs
	@git status --short

.PHONY: checks
checks:
	@echo $(CHECKS)

ROWS ?= 1,2,3,4,5,6,7,8,9,10,11
BENCHFLAGS ?=
.PHONY: bench bench-docs profile
bench: build ## measures this machine: a table, and bench.json; ROWS=1,5 takes some rows; BENCHFLAGS='--rounds 3 --span 300ms' all in seven minutes
	@bin/bench --rows $(ROWS) $(BENCHFLAGS)
bench-docs: build ## the same, and the table and the curves in docs/
	@bin/bench --doc docs/performance.md --svg docs/scale.svg $(BENCHFLAGS)
profile: build ## where the CPU of two branches under full load goes
	@rm -rf bin/profile && bin/bench --profile bin/profile --json '' && go tool pprof -top -nodecount 40 bin/branch bin/profile/*

.PHONY: clean
clean: ## removes bin/; banks in data/ stay
	rm -rf bin
