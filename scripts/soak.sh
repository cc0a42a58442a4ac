#!/usr/bin/env bash
# The simulation with seeds that no run has had before, for SOAK_SECONDS (default 600).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
export PGWEIR_SOAK_SECONDS="${1:-${SOAK_SECONDS:-600}}"
exec cargo test --release --locked --test simulation -- --nocapture soak
