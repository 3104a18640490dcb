# Thin on purpose: what to run, not how. `make` alone lists the targets.

# Build output and downloads live outside the clone, so that a second clone is quick.
export LOCKGATE_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lockgate
export CARGO_TARGET_DIR ?= $(LOCKGATE_CACHE)/target
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(LOCKGATE_CACHE)/tools/bin:$(PATH)

# A stack of its own for each clone's tests, apart from a developer's.
TEST_STACK = $(LOCKGATE_CACHE)/stack-test-$(firstword $(shell pwd | cksum))

.DEFAULT_GOAL := help
.PHONY: help run test check bench stack-up stack-down

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

run: ## build Lockgate and serve a demo model on 127.0.0.1:8080
	@scripts/setup
	cargo build --release --locked --package lockgate
	$(CARGO_TARGET_DIR)/release/lockgate serve --config deploy/demo.yaml --demo

test: ## run all tests against a real stack, started and taken down here
	@scripts/setup test
	cargo build --workspace --bins --locked
	cargo test --workspace --locked --no-run
	@LOCKGATE_TEST_REQUIRE_STACK=1 deploy/local/stack run --dir $(TEST_STACK) -- cargo test --workspace --locked $(ARGS)

check: ## format, clippy, licences and the direction of dependencies
	@scripts/setup check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo deny --locked --log-level warn check --allow unused-wrapper bans licenses sources

bench: ## measure Lockgate on both logs; ARGS="…" goes to the bench binary
	@scripts/setup test
	cargo build --release --locked --package lockgate
	@deploy/local/stack run --dir $(TEST_STACK) -- cargo run --release --locked --package tests --bin bench -- run --out docs/benchmarks.md $(ARGS)

stack-up: ## start Kafka, schema registry, PostgreSQL and Redis for development
	@scripts/setup test
	@deploy/local/stack up $(ARGS)

stack-down: ## stop them; their data stays (ARGS=--purge removes it)
	@deploy/local/stack down $(ARGS)
