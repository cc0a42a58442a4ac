#!/usr/bin/env bash
# The tests against real PostgreSQL clusters, over io_uring; those named by arguments, or all.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

has_io_uring || die "this kernel has no io_uring, or forbids it (sysctl kernel.io_uring_disabled, a container's seccomp filter)"
need_postgres
export PGBIN PGWEIR_TEST_RELAY_DRIVER=io_uring
cargo test --locked --test it -- "$@"
