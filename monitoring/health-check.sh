#!/usr/bin/env bash
# How Lingudesk's services are: one line each, `ok` or `ALERT`. Exits 1 where anything needs someone.
#
# The limits are those of Lingudesk's documentation: disks above 80 %, memory above 90 %, a failed backup, a service that
# is down. Takes no arguments; where the stack runs in Docker, PostgreSQL's programs are those of its container.
set -uo pipefail
# shellcheck source=../scripts/stack.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/stack.sh"

DISK_PERCENT_MAX=80 MEMORY_PERCENT_MAX=90 CONNECTIONS_PERCENT_MAX=90
# A day, and some for a backup that takes long.
BACKUP_AGE_MAX_SECONDS=93600

if [ $# != 0 ]; then fail 2 "Usage: health-check.sh (settings come from .env)"; fi
cd "$STACK" || exit 1
load_env "${STACK_ENV:-$STACK/.env}"
HOST="${BIND_ADDRESS:-127.0.0.1}"
ALERTS=0

good() { printf 'ok     %-11s %s\n' "$1" "$2"; }
alert() {
    printf 'ALERT  %-11s %s\n' "$1" "$2"
    ALERTS=$((ALERTS + 1))
}
# judge NAME TEXT COMMAND…: `ok` where the command succeeds.
judge() {
    local name="$1" text="$2"
    shift 2
    if "$@"; then good "$name" "$text"; else alert "$name" "$text"; fi
}

in_docker() { [ -z "${STACK_INSIDE:-}" ] && command -v docker >/dev/null; }
# query HOST-IN-DOCKER PORT-THERE PORT-HERE DATABASE SQL, as `monitor`.
query() {
    local arguments=(--no-psqlrc --quiet --no-align --tuples-only --field-separator ' ' --username monitor --dbname "$4" --command "$5")
    export PGPASSWORD="${MONITOR_PASSWORD:-}" PGCONNECT_TIMEOUT=5 PGAPPNAME=health-check
    if in_docker; then
        docker compose exec -T -e PGPASSWORD -e PGCONNECT_TIMEOUT -e PGAPPNAME postgres \
            psql --host "$1" --port "$2" "${arguments[@]}" 2>&1
    else
        psql --host "$HOST" --port "$3" "${arguments[@]}" 2>&1
    fi
}

# http PORT PATH: the status, such as 200.
http() {
    local status=''
    {
        exec 3<>"/dev/tcp/$HOST/$1" || return 1
        printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$2" "$HOST" >&3
        read -r -t 5 _ status _ <&3
        exec 3>&-
    } 2>/dev/null
    say "${status:-no answer}"
}

check_postgres() {
    local port="${POSTGRES_PORT:-5432}" database="${POSTGRES_DB:-lingudesk}" answer used limit size
    answer="$(query 127.0.0.1 5432 "$port" "$database" "
        SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
               current_setting('max_connections'), pg_size_pretty(pg_database_size(current_database()))")"
    read -r used limit size <<<"$answer"
    if [[ ! "$used" =~ ^[0-9]+$ ]]; then
        alert postgres "down: $(head -n 1 <<<"$answer")"
        return
    fi
    judge postgres "$used of $limit connections, $database has $size" \
        [ $((used * 100)) -le $((limit * CONNECTIONS_PERCENT_MAX)) ]
}

check_pgweir() {
    local ready answer waiting
    ready="$(http "${PGWEIR_HTTP_PORT:-9930}" /ready)" || ready="no answer"
    if [ "$ready" != 200 ]; then
        alert pgweir "down: /ready gives $ready"
        return
    fi
    answer="$(query pgweir 6432 "${PGWEIR_PORT:-6432}" pgweir "SHOW POOLS")"
    if ! waiting="$(awk '$3 ~ /^[0-9]+$/ { active += $3; waiting += $4; pools++ } END { if (!pools) exit 1; print active + 0, waiting + 0 }' <<<"$answer")"; then
        alert pgweir "the console refuses monitor: $(head -n 1 <<<"$answer")"
        return
    fi
    good pgweir "ready; clients with a server: ${waiting% *}, waiting: ${waiting#* }"
}

check_minio() {
    local live
    live="$(http "${MINIO_PORT:-9000}" /minio/health/live)" || live="no answer"
    judge minio "/minio/health/live gives $live" [ "$live" = 200 ]
}

check_redis() {
    local info line name value memory='' limit='' keys=0 hits=0 misses=0 rdb='' aof=''
    info="$({
        exec 3<>"/dev/tcp/$HOST/${REDIS_PORT:-6379}" || exit
        printf 'AUTH %s\r\nINFO\r\nQUIT\r\n' "${REDIS_PASSWORD:-}" >&3
        timeout 5 cat <&3
    } 2>/dev/null | tr -d '\r')"
    while IFS= read -r line; do
        name="${line%%:*}" value="${line#*:}"
        case "$name" in
            used_memory_human) memory="$value" ;;
            maxmemory_human) limit="$value" ;;
            keyspace_hits) hits="$value" ;;
            keyspace_misses) misses="$value" ;;
            rdb_last_bgsave_status) rdb="$value" ;;
            aof_last_write_status) aof="$value" ;;
            db[0-9]*)
                value="${value#keys=}"
                keys=$((keys + ${value%%,*}))
                ;;
        esac
    done <<<"$info"
    if [ -z "$memory" ]; then
        alert redis "down: $(head -n 1 <<<"${info:-no answer}")"
        return
    fi
    judge redis "$memory of $limit, $keys keys, $((hits + misses > 0 ? hits * 100 / (hits + misses) : 100)) % hits, snapshot $rdb, log $aof" \
        [ "$rdb$aof" = okok ]
}

check_backup() {
    local text success status age
    if in_docker; then
        text="$(docker compose exec -T backup cat /metrics/backup.prom 2>/dev/null)"
    else
        text="$(cat "${METRICS_DIR:-${BACKUP_DIR:-/backup}}/backup.prom" 2>/dev/null)"
    fi
    success="$(published backup_last_success_timestamp_seconds /dev/stdin <<<"$text")"
    status="$(published backup_last_exit_status /dev/stdin <<<"$text")"
    if [ -z "$success" ] || [ "$success" = 0 ]; then
        alert backup "there has been no good one yet"
        return
    fi
    age=$(($(date +%s) - success))
    if [ "$status" != 0 ]; then
        alert backup "the last one failed with $status, see backup.log; the last good one is $((age / 3600)) hours old"
    else
        judge backup "the last one is $((age / 3600)) hours old" [ "$age" -le "$BACKUP_AGE_MAX_SECONDS" ]
    fi
}

check_disks() {
    local place percent root=''
    if in_docker; then root="$(docker info --format '{{.DockerRootDir}}' 2>/dev/null)"; fi
    for place in "$STACK" "$root" "${BACKUP_DIR:-/backup}"; do
        [ -n "$place" ] && [ -d "$place" ] || continue
        percent="$(df -P "$place" | awk 'NR == 2 { sub(/%/, "", $5); print $5 }')"
        judge disk "$place is $percent % full" [ "$percent" -le "$DISK_PERCENT_MAX" ]
    done
}

check_memory() {
    local percent
    percent="$(awk '/^MemTotal:/ { total = $2 } /^MemAvailable:/ { free = $2 } END { printf "%d", (total - free) * 100 / total }' /proc/meminfo)"
    judge memory "$percent % used, load $(cut -d' ' -f1-3 /proc/loadavg)" [ "$percent" -le "$MEMORY_PERCENT_MAX" ]
}

check_postgres
check_pgweir
check_minio
check_redis
check_backup
check_disks
check_memory
if [ "$ALERTS" != 0 ]; then
    say "$ALERTS need attention"
    exit 1
fi
say "All is well"
