#!/usr/bin/env bash
# The monthly care for audit.logs, to be run as often as one likes: partitions for this month and the next three, and
# none that is older than AUDIT_KEEP_MONTHS. Takes no arguments. Exit codes are in common.sh.
set -uo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ $# != 0 ]; then fail "$USAGE" "Usage: maintenance.sh (settings come from .env)"; fi
enter_service maintenance.sh
settings
KEEP="${AUDIT_KEEP_MONTHS:-12}"
[[ "$KEEP" =~ ^[1-9][0-9]{0,3}$ ]] ||
    fail "$USAGE" "AUDIT_KEEP_MONTHS is \"$KEEP\": it must be a number of months, 1 at least"

lock
need_database
# As the owner of the tables, and with patience for a lock that ends: nobody waits behind this for long.
if ! dropped="$(sql "$DATABASE" -c "SET lock_timeout = '30s'" -c "SET ROLE admin" -c "SELECT audit.maintain($KEEP, 3)" 2>&1)"; then
    log_fail "$FAILED" "audit.maintain failed: $dropped"
fi
log "audit.logs has its partitions; dropped, as older than $KEEP months: $(paste -sd ' ' <<<"${dropped:-nothing}")"
