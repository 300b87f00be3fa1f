# `make` without a target lists the targets.
# Every cargo command uses --locked. With PROFILE=release, `make demo` uses the release build.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
PREFIX ?= $(HOME)/.local
PROFILE ?= dev
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)
# The directory of the builds. Cargo is asked for it, so that CARGO_TARGET_DIR and the user's settings are respected.
TARGET = $(shell $(CARGO) metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

.PHONY: help demo test integration-test soak fuzz bench lint install clean build kit

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: kit ## show the main feature on real MCP servers: kill server, instance and hub under one open agent session
	$(CARGO) build --locked --profile $(PROFILE) -p linchpin -p linchpin-tests --bins
	@$(TARGET)/$(subst dev,debug,$(PROFILE))/demo

# All targets are built together, so that the binary that the tests start has the current source and the same features.
build: ## build everything in the development profile
	$(CARGO) build --locked --workspace --all-targets

test: kit build ## install what the tests need and run all tests
ifeq ($(NEXTEST),yes)
	$(CARGO) nextest run --workspace --locked
else
	$(CARGO) test --workspace --locked --all-targets --no-fail-fast
endif
	$(CARGO) test --workspace --locked --doc

# The scenarios with process faults (kill -9, corrupt records, stopped processes) and with network faults.
FAULTS := cli continuity links processes registry
integration-test: kit build ## run only the scenarios with process faults and with network faults (in network namespaces)
	@$(TARGET)/debug/lab-netns
ifeq ($(NEXTEST),yes)
	$(CARGO) nextest run --locked -p linchpin-tests $(addprefix --test ,$(FAULTS))
else
	$(CARGO) test --locked -p linchpin-tests --no-fail-fast $(addprefix --test ,$(FAULTS))
endif

soak: ## run random races of the registry: SEED=first seed (default random), ROUNDS=300 per seed, SECONDS=600 in total
	$(CARGO) build --locked -p linchpin-tests --bin soak --bin registry-worker
	@SEED='$(SEED)' ROUNDS='$(ROUNDS)' SECONDS='$(SECONDS)' $(TARGET)/debug/soak

fuzz: ## feed mutated messages to the gateway's parsers: SEED=seed (default random), SECONDS=60
	$(CARGO) build --locked -p linchpin-tests --bin fuzz
	@SEED='$(SEED)' SECONDS='$(SECONDS)' $(TARGET)/debug/fuzz

bench: kit ## measure the release build and print each number beside its target
	$(CARGO) build --locked --release -p linchpin -p linchpin-tests --bins
	@$(TARGET)/release/bench

# Each feature of the library has to compile on its own, and none too.
INSTANCE_FEATURES := supervisor mcp tls fuzzing
lint: ## check formatting, clippy, documentation, dependencies and the house rules
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@for feature in '' $(INSTANCE_FEATURES); do \
	  echo "linchpin-instance with the features [$$feature]"; \
	  $(CARGO) clippy --locked --quiet -p linchpin-instance --lib --features "$$feature" -- -D warnings; \
	done
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet
	@tests/kit/install.sh lint
# Cargo-deny looks at the crates of all platforms, which a build does not fetch. This does nothing when they are there.
	$(CARGO) fetch --locked
	tests/kit/lint/.venv/bin/cargo-deny --offline --locked check licenses sources bans
	python3 .ci/house.py

install: ## build linchpin in release mode and install it into PREFIX/bin (default ~/.local/bin)
	$(CARGO) build --locked --release -p linchpin --bin linchpin
	install -D -m 755 $(TARGET)/release/linchpin $(PREFIX)/bin/linchpin
	@echo "installed $(PREFIX)/bin/linchpin"

clean: ## remove the builds and what the tests have installed into tests/kit
	$(CARGO) clean
	rm -rf tests/kit/node_modules tests/kit/node22/node_modules tests/kit/.venv tests/kit/lint/.venv

kit: ## install what the tests need, in pinned versions
	@tests/kit/install.sh
