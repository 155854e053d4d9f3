# Trakr's data-lifecycle service. `make help` lists what can be done.

SHELL := /bin/sh
GO ?= go
GOFLAGS_BUILD := -trimpath -buildvcs=false
LDFLAGS := -s -w -X main.version=$(shell git describe --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 10s
PACKAGES := ./...
# Nothing in these runs beside anything else (internal/imports_test.go sees to it): the
# race detector would find nothing, and take ten times as long.
PURE := trakr/internal/proof/auditfile trakr/internal/proof/certificate trakr/internal/proof/merkle

.DEFAULT_GOAL := help
.PHONY: help build run demo test check fmt vet lint tidy fuzz fuzz-long bench cover clean postgres

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/trakr, static
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -ldflags "$(LDFLAGS)" -o bin/trakr ./cmd/trakr

run: build ## start the service on a private PostgreSQL in ./data
	@bin=$$(deploy/postgres-binaries.sh) && TRAKR_POSTGRES_BIN="$$bin" exec bin/trakr serve --dev

demo: build ## run, simulate Bitbucket, sweep, both reports; leaves everything in ./data/demo
	@bin=$$(deploy/postgres-binaries.sh) && TRAKR_POSTGRES_BIN="$$bin" deploy/demo.sh

# The packages' tests start their PostgreSQL on copies of one migrated cluster, which the
# first that needs it makes. `make test` gives the run a directory of its own for it. To
# keep it over several runs of single packages:
#   export TRAKR_TEST_CLUSTERS=$PWD/.tmp/clusters
test: ## all tests, on a real PostgreSQL of their own, with the race detector and shuffled
	@bin=$$(deploy/postgres-binaries.sh) && run=$$(mktemp -d) && trap 'rm -rf "$$run"' EXIT && evidence=$$run/evidence && : > "$$evidence" && \
	export TRAKR_POSTGRES_BIN="$$bin" TRAKR_TEST_EVIDENCE="$$evidence" TRAKR_TEST_CLUSTERS="$$run/clusters" && \
	$(GO) test -shuffle=on -count=1 $(PURE) && \
	$(GO) test -race -shuffle=on -count=1 -timeout 25m $$($(GO) list $(PACKAGES) | grep -vxF $(PURE:%=-e %)) && \
	n=$$(wc -l < "$$evidence") && { [ "$$n" -gt 0 ] || { echo "no test ran on PostgreSQL" >&2; exit 1; }; } && \
	echo "$$n databases were made for tests on PostgreSQL"

check: fmt vet lint tidy fuzz ## every check but the tests

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

clean: ## remove what was built; keeps ./data
	rm -rf bin .tmp
