# `make run` and `make test` are all that is needed; `make help` lists the rest.

.DEFAULT_GOAL := help
.PHONY: help run test drivers fmt lint doc unit it stack rings soak bench pgo

help: ## Lists these
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

run: ## PostgreSQL with Lingudesk's schemas and pgweir in front of it on port 6432; Ctrl-C ends both
	@scripts/run.sh

test: ## Everything that CI runs; installs what it needs
	@scripts/test.sh

drivers: ## The drivers from PyPI and npm that the tests use, under target/
	@scripts/drivers.sh

fmt: ## Formats the source
	cargo fmt

lint: ## Formatting and lints
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

doc: ## The documentation of the source
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

unit: ## Tests that need no PostgreSQL
	cargo test --lib --bins --test architecture --test documentation

it: ## Tests against real PostgreSQL clusters
	cargo test --test it

stack: ## Tests of the compose file, its scripts and servers
	cargo test --test stack

rings: ## Tests against real PostgreSQL clusters, over io_uring
	@scripts/rings.sh

soak: ## The simulation with new seeds; SOAK_SECONDS=3600 for an hour (default ten minutes)
	@scripts/soak.sh

bench: ## Microbenchmarks, then load: pgweir beside PostgreSQL and PgBouncer
	cargo bench

pgo: ## The fastest pgweir, laid out by what runs often: target/pgo/pgweir
	@scripts/pgo.sh
