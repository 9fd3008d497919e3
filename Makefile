# Needs Go, Node (for the ClickHouse engine) and, for the tests, Java with Maven and a Debian-like system. All else is installed here.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build parts demo test check lint bench soak generate

# Tools are pinned by the modules under tools/ and built into .tools/ (not in git). A stamp keeps repeated calls quick.
TOOLS := $(CURDIR)/.tools
export PATH := $(TOOLS):$(PATH)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)

build: ## Build bin/onhand and one program per service
	go build -ldflags '-X main.version=$(VERSION)' -o bin/ ./cmd/onhand $(foreach s,$(notdir $(wildcard services/*)),./services/$(s)/cmd/$(s))

parts: ## Install what the tests run against: ClickHouse engine, Kafka, Redis, outside clients
	go run ./e2e/testbed/cmd/parts

demo: build ## Run the whole system in one process on real input
	go run ./e2e/testbed/cmd/parts "ClickHouse engine"
	bin/onhand up

test: parts .tools/schemas.stamp .tools/helm.stamp ## Run every test, all but the days and faults of e2e under the race detector; what CI runs
	@GOWORK=off go -C tools build -o $(TOOLS)/testall ./cmd/testall
	@$(TOOLS)/testall -race -root $(CURDIR)

check: lint test ## Lint, then test

lint: .tools/schemas.stamp .tools/lint.stamp ## Check format and code with strict linters, and look for known vulnerabilities
	@tools/lint/lint.sh

bench: parts ## Run the benchmarks; NAME=… runs one. Figures go to bench/out/
	go run ./bench/cmd/bench $(if $(NAME),--name $(NAME))

soak: build parts ## Run the ledger through 200 schedules of faults (SCHEDULES=… SEED=…), and simulate 10 million orders, all checked; takes hours
	FAULT_SCHEDULES=$(or $(SCHEDULES),200) FAULT_SEED=$(SEED) go test -count=1 -v -timeout 24h -run TestSchedules ./e2e/faults
	bin/onhand simulate --seeds $(or $(SEEDS),1000) --modes $(or $(MODES),strict) --check

generate: .tools/schemas.stamp ## Regenerate code and docs from the schemas; RELEASE=1 also makes these the released ones
	cd schemas && buf lint && buf generate && go run ./internal/record
	$(if $(RELEASE),cd schemas && buf build -o released.binpb)

.tools/schemas.stamp: tools/go.mod tools/go.sum
	@mkdir -p .tools
	GOWORK=off go -C tools build -o $(TOOLS)/ tool
	@touch $@

.tools/%.stamp: tools/%/go.mod tools/%/go.sum
	@mkdir -p .tools
	GOWORK=off go -C tools/$* build -o $(TOOLS)/ tool
	@touch $@
