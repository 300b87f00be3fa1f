# Linchpin's verbs. `make` alone lists them.
# Every call of cargo is --locked; PROFILE=release makes `demo` use the release build.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
PREFIX ?= $(HOME)/.local
PROFILE ?= dev
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)
# Where the builds are: cargo's own answer, so CARGO_TARGET_DIR and the user's settings count.
TARGET = $(shell $(CARGO) metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

.PHONY: help demo test integration-test soak fuzz bench lint install clean build kit

help: ## list these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: kit ## the main job on real servers: call a tool, kill server, instance and hub, call again
	$(CARGO) build --locked --profile $(PROFILE) -p linchpin-hub -p linchpin-tests --bins
	@$(TARGET)/$(subst dev,debug,$(PROFILE))/demo

# All targets at once: so the binary that the scenarios start is of this tree, and built with the same features.
build: ## everything, in the development profile
	$(CARGO) build --locked --workspace --all-targets

test: kit build ## all tests: units, properties, documentation, and the scenarios on real processes
ifeq ($(NEXTEST),yes)
	$(CARGO) nextest run --workspace --locked
else
	$(CARGO) test --workspace --locked --all-targets --no-fail-fast
endif
	$(CARGO) test --workspace --locked --doc

# The faults of whole processes (kill -9, corrupt records, stopped processes) and of the network between them.
FAULTS := continuity continuity_matrix fleet bad_input stopping stopped starts links crowd clocks proxy netns_packets netns_interfaces
integration-test: kit build ## only the scenarios of process faults and of simulated network drops (in network namespaces)
	@$(TARGET)/debug/lab-netns
ifeq ($(NEXTEST),yes)
	$(CARGO) nextest run --locked -p linchpin-tests $(addprefix --test ,$(FAULTS))
else
	$(CARGO) test --locked -p linchpin-tests --no-fail-fast $(addprefix --test ,$(FAULTS))
endif

soak: ## races for as long as one likes: SEED=first seed (else random), ROUNDS=300 a seed, SECONDS=600 in all
	$(CARGO) build --locked -p linchpin-tests --bin soak --bin registry-worker
	@SEED='$(SEED)' ROUNDS='$(ROUNDS)' SECONDS='$(SECONDS)' $(TARGET)/debug/soak

fuzz: ## the gateway's readers against bytes nobody chose: SEED=seed (else random), SECONDS=60
	$(CARGO) build --locked -p linchpin-tests --bin fuzz
	@SEED='$(SEED)' SECONDS='$(SECONDS)' $(TARGET)/debug/fuzz

bench: kit ## measure against the numbers to hold (release build)
	$(CARGO) build --locked --release -p linchpin-hub -p linchpin-tests --bins
	@$(TARGET)/release/bench

lint: ## formatting, clippy, documentation, licences, house rules
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet
	python3 .ci/house.py

install: ## the release build of linchpin into PREFIX/bin (default ~/.local/bin)
	$(CARGO) build --locked --release -p linchpin-hub --bin linchpin
	install -D -m 755 $(TARGET)/release/linchpin $(PREFIX)/bin/linchpin
	@echo "installed $(PREFIX)/bin/linchpin"

clean: ## remove the builds and the test kit
	$(CARGO) clean
	rm -rf tests/kit/node_modules tests/kit/node22/node_modules tests/kit/.venv

kit: ## install what the tests need, pinned (at once when nothing changed)
	@tests/kit/install.sh
