#!/usr/bin/env bash
# Everything that CI runs. Goes on after a failure, and closes with one line: N passed, N failed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

need_postgres
need_pam
need_slapd
need_stack
export PGBIN
scripts/drivers.sh

PASSED=0 FAILED=0 FAILURES=()
STARTED=$SECONDS

# check NAME COMMAND…: one test that is the command's exit code.
check() {
    local name="$1" began=$SECONDS
    shift
    say "=== $name"
    if "$@"; then
        PASSED=$((PASSED + 1))
        say "=== $name: ok, $((SECONDS - began)) s"
    else
        FAILED=$((FAILED + 1))
        FAILURES+=("$name")
        say "=== $name: FAILED"
    fi
}

# cargo_tests NAME ARGUMENTS…: `cargo test`, whose own counts are added up.
cargo_tests() {
    local name="$1" began=$SECONDS output="$TARGET/test-output.txt" passed failed status=0
    shift
    say "=== $name"
    cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$output" || status=1
    passed=$(sed -nE 's/^test result: .* ([0-9]+) passed; .*/\1/p' "$output" | paste -sd+ | bc_sum)
    failed=$(sed -nE 's/^test result: .* ([0-9]+) failed; .*/\1/p' "$output" | paste -sd+ | bc_sum)
    # Something that does not compile, or dies, has no counts.
    if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
    if [ "$failed" != 0 ]; then
        FAILURES+=("$name")
        mapfile -t -O "${#FAILURES[@]}" FAILURES < <(sed -nE 's/^test (.*) \.\.\. FAILED$/  \1/p' "$output")
    fi
    PASSED=$((PASSED + passed))
    FAILED=$((FAILED + failed))
    say "=== $name: $passed passed, $failed failed, $((SECONDS - began)) s"
}
bc_sum() { local sum; read -r sum || true; say "$((${sum:-0}))"; }

check "formatting" cargo fmt --check
check "lints" cargo clippy --locked --all-targets -- -D warnings
check "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
cargo_tests "tests"
# Where the kernel has io_uring, that has moved the bytes: the tests against real clusters run over tokio as well.
if has_io_uring; then
    PGWEIR_TEST_RELAY_DRIVER=tokio cargo_tests "tests over tokio" --test it
else
    say "=== tests over io_uring: skipped, the kernel has none or forbids it"
fi
# Locks and atomics of the pools by a scheduler that tries one order of steps after the other.
cargo_tests "interleavings" --features interleavings --lib interleavings
if cargo deny --version >/dev/null 2>&1; then
    check "dependencies" cargo deny --offline --log-level error check bans licenses sources
else
    say "=== dependencies: skipped, cargo-deny is not installed (cargo install --locked cargo-deny)"
fi

say
if [ "${#FAILURES[@]}" != 0 ]; then
    say "Failed:"
    printf '  %s\n' "${FAILURES[@]}"
fi
say "The whole took $((SECONDS - STARTED)) s."
say "$PASSED passed, $FAILED failed"
[ "$FAILED" = 0 ]
