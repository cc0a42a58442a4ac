#!/usr/bin/env bash
# Connections, slow queries, table sizes, locks, Redis, the machine. Exits 1 where something needs a person. For cron:
#   */5 * * * * /path/to/spike/packages/database/scripts/monitor.sh
set -uo pipefail

export PGHOST="${PGHOST:-localhost}" PGPORT="${PGPORT:-6432}" PGUSER="${PGUSER:-spike_monitor}"
database="${PGDATABASE:-spike_dev}"
failures=0
problem() { echo "PROBLEM: $*"; failures=$((failures + 1)); }
ask() { PGDATABASE="$database" psql -XAt -F ' ' -c "$1"; }

if ask 'SELECT 1' >/dev/null 2>&1; then
    echo "== connections"; ask 'SELECT * FROM monitoring.connections ORDER BY 3 DESC'
    echo "== largest tables"; ask 'SELECT schemaname, relname, bytes, rows FROM monitoring.tables ORDER BY bytes DESC LIMIT 10'
    echo "== tables read without an index"
    ask 'SELECT relname, seq_scan, idx_scan FROM monitoring.tables WHERE seq_scan > 1000 AND coalesce(idx_scan, 0) < seq_scan'
    echo "== queries that run longer than a minute"
    ask "SELECT pid, usename, now() - query_start, left(query, 80) FROM pg_stat_activity WHERE state = 'active' AND query_start < now() - interval '1 minute'"
    locked="$(ask 'SELECT count(*) FROM monitoring.locks')"
    if [ "$locked" != 0 ]; then
        problem "$locked queries wait for locks"
        ask 'SELECT pid, since, blocked_by, query FROM monitoring.locks'
    fi
    echo "== pgweir"
    PGDATABASE=pgweir psql -XAt -c 'SHOW POOLS' || problem "pgweir's console does not answer"
else
    problem "PostgreSQL does not answer through pgweir at $PGHOST:$PGPORT"
fi

redis() { REDISCLI_AUTH="${REDIS_PASSWORD:-password}" redis-cli -h "${REDIS_HOST:-localhost}" -p "${REDIS_PORT:-6379}" "$@" 2>/dev/null; }
if [ "$(redis ping)" = PONG ]; then
    echo "== redis"
    redis info | tr -d '\r' | grep -E '^(role|connected_slaves|used_memory_human|maxmemory_human|keyspace_hits|keyspace_misses|evicted_keys|db[0-9]+):'
else
    problem "Redis does not answer"
fi

echo "== machine"
read -r load _ </proc/loadavg
echo "load $load"
awk '/^MemTotal/ {total = $2} /^MemAvailable/ {free = $2} END {printf "memory used %.0f %%\n", 100 * (1 - free / total)}' /proc/meminfo
awk '$3 ~ /^((s|v|xv)d[a-z]+|nvme[0-9]+n[0-9]+|mmcblk[0-9]+)$/ {read += $6; written += $10}
    END {printf "disks have read %.0f MB, written %.0f MB since the start\n", read / 2048, written / 2048}' /proc/diskstats
awk 'NR > 2 {sub(/:/, " ")} NR > 2 && $1 != "lo" {received += $2; sent += $10}
    END {printf "network has received %.0f MB, sent %.0f MB since the start\n", received / 1048576, sent / 1048576}' /proc/net/dev
used="$(df --output=pcent "${DATA_DIR:-/}" | tail -n 1 | tr -dc 0-9)"
echo "disk used $used %"
if [ "$used" -gt 80 ]; then problem "the disk is $used % full"; fi

[ "$failures" = 0 ]
