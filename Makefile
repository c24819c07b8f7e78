# ctrsnap: `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS := -s -w -X github.com/ctrsnap/ctrsnap/cmd/internal/version.Version=$(VERSION) \
	-X github.com/ctrsnap/ctrsnap/cmd/internal/version.Commit=$(COMMIT)
PREFIX  ?= /usr/local
export CGO_ENABLED ?= 1
# sudo and su bring a PATH without the place where https://go.dev/doc/install puts Go, or without sbin.
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what build and demo need (system packages, CNI plugins, runc)
	@.ci/setup demo

# The helper that forks the processes of containers is embedded into what launches them. To build for another GOARCH, give its CC.
.PHONY: init
init: ## compile what `go build` embeds: without it the result builds, and starts no container
	@mkdir -p bin
	$(CC) -std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-stack-protector -fno-pie -fno-asynchronous-unwind-tables \
		-static -nostdlib -no-pie -s -Wl,--build-id=none,-z,noexecstack,-z,noseparate-code \
		-o bin/ctrsnap-init.$$$$ runtime/launch/helper/ctrsnap-init.c && \
		mv bin/ctrsnap-init.$$$$ runtime/launch/helper/ctrsnap-init-$$(go env GOARCH)

.PHONY: build
build: init ## build ctrsnap and ctrsnapd into bin/
	CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/ctrsnap ./cmd/ctrsnapd \
		./cmd/ctrsnap-shim ./cmd/containerd-shim-ctrsnap-v1 ./cmd/ctrsnap-proxy ./cmd/ctrsnap-bench

.PHONY: demo
demo: setup build ## show the whole thing: a golden with 1 GB of rows, five clones, nothing left
	@.ci/demo

.PHONY: test
test: ## run all tests; sets up all they need by itself (needs root)
	@.ci/setup test
	@$(MAKE) --no-print-directory build
	@.ci/test

.PHONY: test-network
test-network: ## run the tests of the network alone, flannel's too, and measure it (needs root)
	@.ci/setup test
	@.ci/flannel-setup
	@$(MAKE) --no-print-directory build
	@.ci/test-network

.PHONY: crash
crash: ## kill the daemon 500 times under load, at random and at each failpoint (needs root; KILLS, SEED)
	@.ci/setup test
	@$(MAKE) --no-print-directory build
	@.ci/crash
.PHONY: test-engines
test-engines: ## run the conformance suite against each engine, and measure its clones (needs root)
	@.ci/setup engines
	@$(MAKE) --no-print-directory build
	@.ci/test-engines

.PHONY: test-inputs
test-inputs: ## compare goldens of dumps with what psql and pg_restore make of them, and cut dumps at many places (needs root; CTRSNAP_TEST_CUTS)
	@.ci/test-inputs

.PHONY: soak
soak: ## have callers work for 20 minutes under kills, and compare what a daemon has before and after (needs root; SOAK, SEED)
	@.ci/setup test
	@$(MAKE) --no-print-directory build
	@.ci/soak

.PHONY: powercut
powercut: ## cut the power 100 times under load and check every golden (needs root; CUTS, SEED)
	@.ci/setup test
	@$(MAKE) --no-print-directory build
	@.ci/powercut

.PHONY: attack
attack: ## attack the daemon, the host and each other as ordinary users, and say why each attack fails (needs root; ATTACK)
	@.ci/setup test
	@$(MAKE) --no-print-directory build
	@.ci/attack

.PHONY: fuzz
fuzz: ## run each fuzz target for 20 seconds (needs root; FUZZTIME)
	@.ci/fuzz

.PHONY: lint
lint: ## run the linters
	@.ci/lint

.PHONY: install
install: build ## install below PREFIX (/usr/local), with the systemd unit
	install -D -t $(DESTDIR)$(PREFIX)/bin bin/ctrsnap bin/ctrsnapd bin/ctrsnap-bench
	install -D -t $(DESTDIR)$(PREFIX)/libexec/ctrsnap $(addprefix bin/,containerd-shim-ctrsnap-v1 ctrsnap-shim ctrsnap-proxy containerd-shim-runc-v2 runc bridge loopback macvlan ptp host-local static dhcp bandwidth portmap tuning)
	install -D -m 644 -t $(DESTDIR)/etc/systemd/system cmd/ctrsnapd/ctrsnapd.service

.PHONY: clean
clean: ## remove what was built
	rm -rf bin .cache bench/out runtime/launch/helper/ctrsnap-init-*

.PHONY: bench-clone
bench-clone: setup build ## measure clones beside what one would use instead (BENCH_FLAGS=--quick for a smoke run)
	CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags '-s -w' -o bin/ ./bench/noop
	bin/ctrsnap-bench clone $(BENCH_POSTGRES) $(BENCH_FLAGS)

# The PostgreSQL that setup unpacked where the system has none.
BENCH_POSTGRES = $(addprefix --postgres=,$(wildcard $(CURDIR)/.cache/postgres))

.PHONY: bench
bench: setup build ## measure everything; reports in bench/out; under 25 minutes on 2 cores (CTRSNAP_PG18=PREFIX for its templates)
	CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags '-s -w' -o bin/ ./bench/noop
	bin/ctrsnap-bench all --save bench/out $(BENCH_POSTGRES) $(BENCH_FLAGS)

.PHONY: bench-smoke
bench-smoke: setup build ## run every benchmark for a moment: fails on errors, never on a time; under 3 minutes
	CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags '-s -w' -o bin/ ./bench/noop
	timeout 600 bin/ctrsnap-bench all --quick --save bench/out/smoke $(BENCH_POSTGRES)
