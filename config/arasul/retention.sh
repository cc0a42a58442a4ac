#!/bin/bash
# Removes what is past its time: once with --once, else every RETENTION_INTERVAL seconds (an hour) until it is stopped.
set -euo pipefail

interval="${RETENTION_INTERVAL:-3600}"
trap 'exit 0' TERM INT
while true; do
    psql -XAt -F ' ' -v ON_ERROR_STOP=1 -c 'SELECT * FROM run_retention()'
    if [ "${1:-}" = --once ]; then exit; fi
    sleep "$interval" &
    wait $!
done
