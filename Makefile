# Trakr's data-lifecycle service. `make help` lists what can be done.

SHELL := /bin/sh
GO ?= go
GOFLAGS_BUILD := -trimpath -buildvcs=false
LDFLAGS := -s -w -X main.version=$(shell git describe --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 10s
PACKAGES := ./...
# How many packages are tested at a time. Tests wait for servers and processes, so it is
# more than the processors.
TESTED_AT_ONCE ?= 4
# Packages whose tests need no database: those that start no PostgreSQL.
WITHOUT_DATABASE = $$($(GO) list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}' $(PACKAGES) | \
	awk '!/\/(storetest|erasuretest|devpg)( |$$)/ { print $$1 }')
# Packages where things run concurrently: their code or their tests start a goroutine, use
# a channel or use sync. Only there can the race detector find something.
CONCURRENT = $$($(GO) list -f '{{$$dir := .Dir}}{{range .GoFiles}}{{$$dir}}/{{.}} {{end}}{{range .TestGoFiles}}{{$$dir}}/{{.}} {{end}}{{range .XTestGoFiles}}{{$$dir}}/{{.}} {{end}}' $(PACKAGES) | \
	xargs grep -lE '^[[:space:]]*go [[:alpha:](]|[[:space:](]chan |"sync(/atomic)?"|\.Go\(func' | xargs -n1 dirname | sort -u)
.DEFAULT_GOAL := help
.PHONY: help build run demo test test-fast race check fmt vet lint tidy vuln generate generated golden house fuzz fuzz-long bench bench-smoke clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/trakr, static
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -ldflags "$(LDFLAGS)" -o bin/trakr ./cmd/trakr

run: build ## start the service on a private PostgreSQL in ./data
	@bin=$$(deploy/postgres-binaries.sh) && TRAKR_POSTGRES_BIN="$$bin" exec bin/trakr serve --dev

demo: build ## run, simulate Bitbucket, sweep, both reports; leaves everything in ./data/demo
	@bin=$$(deploy/postgres-binaries.sh) && TRAKR_POSTGRES_BIN="$$bin" deploy/demo.sh

# The packages' tests start their PostgreSQL on copies of one migrated cluster, which the
# first that needs it makes. A run has a directory of its own for the databases, in memory
# where that is possible; t.TempDir follows GOTMPDIR and stays on the disk. To keep the cluster over several runs of single packages:
#   export TRAKR_TEST_CLUSTERS=$PWD/.tmp/clusters
# Vet is a target of its own, and the test binaries need no symbols.
define run-tests
bin=$$(deploy/postgres-binaries.sh) && run=$$(.tools/test-dir.sh) && trap 'rm -rf "$$run"' EXIT && : > "$$run/evidence" && \
	export TRAKR_POSTGRES_BIN="$$bin" TRAKR_TEST_EVIDENCE="$$run/evidence" TRAKR_TEST_CLUSTERS="$$run/clusters" && \
	export GOTMPDIR="$${GOTMPDIR:-$${TMPDIR:-/tmp}}" TMPDIR="$$run" && \
	$(GO) test -vet=off -ldflags='-s -w' -shuffle=on -count=1 -p $(TESTED_AT_ONCE) -parallel 4 $(1) && \
	n=$$(wc -l < "$$run/evidence") && { [ "$$n" -gt 0 ] || { echo "no test ran on PostgreSQL" >&2; exit 1; }; } && \
	echo "$$n databases were made for tests on PostgreSQL"
endef

test: ## all tests, on a real PostgreSQL of their own, shuffled
	@$(call run-tests,-timeout 15m $(PACKAGES))

test-fast: ## the tests that need no database
	@$(GO) test -vet=off -ldflags='-s -w' -shuffle=on $(WITHOUT_DATABASE)

race: ## the tests of what runs concurrently, with the race detector
	@$(call run-tests,-race -timeout 25m $(CONCURRENT))

check: fmt vet lint tidy vuln generated house fuzz ## every check but the tests

generate: ## rewrite what is generated from the code
	$(GO) generate $(PACKAGES)

generated: # what is generated is what the code generates
	@state() { git diff HEAD; git ls-files --others --exclude-standard; }; before=$$(state | git hash-object --stdin) && \
	$(MAKE) --no-print-directory generate && after=$$(state | git hash-object --stdin) && \
	{ [ "$$before" = "$$after" ] || { echo "make generate changed files; commit what it wrote:" >&2; git status --short >&2; exit 1; }; }

golden: ## rewrite the golden files of the tests that have some
	$(GO) test $$(grep -rl --include=*_test.go 'flag.Bool("update"' . | xargs -n1 dirname | sort -u) -update

house: # imports, the map, lengths, words
	$(GO) test -count=1 ./internal

vuln: # a known vulnerability fails; a database that cannot be reached is reported and does not
	@out=$$($(GO) tool -modfile=.tools/go.mod govulncheck $(PACKAGES) 2>&1) && echo "govulncheck: no known vulnerability" || \
	case "$$out" in *"fetching vulnerabilities"*) printf '%s\n' "NOT CHECKED for known vulnerabilities: their database cannot be reached" "$$out" ;; \
	*) echo "$$out" >&2; exit 1 ;; esac

fmt:
	@files=$$(gofmt -l cmd internal policy migrations reports deploy) && { [ -z "$$files" ] || { echo "run gofmt on:"; echo "$$files"; exit 1; }; }

vet:
	$(GO) vet $(PACKAGES)

lint: # staticcheck lives in a module of its own, so that its needs are not ours
	$(GO) tool -modfile=.tools/go.mod staticcheck $(PACKAGES)

tidy:
	$(GO) mod tidy -diff
	$(GO) mod verify

fuzz: ## each fuzz target for $(FUZZTIME)
	@for t in connect:FuzzToken connect:FuzzQSH connect:FuzzPayload proof/merkle:FuzzParseCheckpoint proof/merkle:FuzzOpen proof/auditfile:FuzzParse proof/auditfile:FuzzVerify proof/certificate:FuzzVerify; do \
		$(GO) test ./internal/$${t%%:*} -run '^$$' -fuzz "^$${t##*:}$$" -fuzztime $(FUZZTIME) || exit 1; done
	$(GO) test ./policy -run '^$$' -fuzz '^FuzzLoad$$' -fuzztime $(FUZZTIME)

fuzz-long: ## each fuzz target for an hour
	$(MAKE) fuzz FUZZTIME=1h

bench: ## figures of the audit and the orphan sweep as ratios from one run, also in bin/bench.md
	@mkdir -p bin && $(GO) build -o bin/trakr-bench ./cmd/trakr-bench && \
	bin=$$(deploy/postgres-binaries.sh) && TRAKR_POSTGRES_BIN="$$bin" exec bin/trakr-bench $(BENCHFLAGS)

bench-smoke: ## each measurement of make bench once, over small tables: that it can be made
	@mkdir -p bin && $(GO) build -o bin/trakr-bench ./cmd/trakr-bench && \
	bin=$$(deploy/postgres-binaries.sh) && TRAKR_POSTGRES_BIN="$$bin" exec bin/trakr-bench -smoke -out bin/bench-smoke

clean: ## remove what was built; keeps ./data
	rm -rf bin .tmp
